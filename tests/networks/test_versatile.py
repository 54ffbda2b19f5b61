"""The two flows against the original implementation's numbers and parameter counts."""

import copy
import json
from functools import partial
from pathlib import Path

import pytest
import torch

from nbutils.networks.config import FULL, VersatileConfig
from nbutils.networks.versatile import (
    block_plan,
    build_flows,
    image_flow,
    mixers,
    set_attention,
    text_flow,
)

GOLDEN = Path(__file__).parents[1] / "golden"
MIXTURES = {
    "eps_dual_0.6img_0.4txt": {"image": 0.6, "text": 0.4},
    "eps_image_ctx_only": {"image": 1.0, "text": 0.0},
    "eps_text_ctx_only": {"image": 0.0, "text": 1.0},
}
SMALL = VersatileConfig(
    latent_channels=16,
    latent_size=8,
    channels=(64, 128),
    layers_per_block=1,
    attention=(True, True),
    heads=4,
    context_dim=64,
    text_latent_dim=64,
)


def contexts(io, weights):
    return {k: (io[f"in/ctx_{k}"], w) for k, w in weights.items()}


def small_contexts(n=2):
    return {"image": (torch.randn(n, 17, 64), 0.6), "text": (torch.randn(n, 16, 64), 0.4)}


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
@pytest.mark.parametrize("name", MIXTURES)
@torch.no_grad()
def test_image_flow_equals_original(vd, name, attention):
    set_attention(vd.unet, attention)
    out = image_flow(vd.unet, vd.io["in/x"], vd.io["in/t"], contexts(vd.io, MIXTURES[name]))
    torch.testing.assert_close(out, vd.io[f"out/image_flow.{name}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
@pytest.mark.parametrize("name", MIXTURES)
@torch.no_grad()
def test_text_flow_equals_original(vd, name, attention):
    set_attention(vd.unet, attention)
    out = text_flow(vd.text, vd.io["in/z"], vd.io["in/t"], contexts(vd.io, MIXTURES[name]))
    torch.testing.assert_close(out, vd.io[f"out/text_flow.{name}"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_time_embedding_equals_original(vd):
    projected = vd.text.time_proj(vd.io["in/t"])
    torch.testing.assert_close(projected, vd.io["out/timestep_embedding_32"], atol=1e-5, rtol=0)
    embedded = vd.unet.time_embedding(projected)
    torch.testing.assert_close(embedded, vd.io["out/time_embed"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_zero_weight_branch_is_not_run(vd):
    # Tokens of an impossible width would fail in any transformer that saw them.
    given = {"image": (vd.io["in/ctx_image"], 1.0), "text": (torch.zeros(2, 5, 3), 0.0)}
    out = image_flow(vd.unet, vd.io["in/x"], vd.io["in/t"], given)
    alone = image_flow(vd.unet, vd.io["in/x"], vd.io["in/t"], {"image": given["image"]})
    assert torch.equal(out, alone)


@torch.no_grad()
def test_weight_may_differ_between_samples(vd):
    weight = torch.tensor([0.6, 1.0]).reshape(2, 1, 1, 1)
    given = {
        "image": (vd.io["in/ctx_image"], weight),
        "text": (vd.io["in/ctx_text"], 1 - weight),
    }
    out = image_flow(vd.unet, vd.io["in/x"], vd.io["in/t"], given)
    dual, single = (vd.io[f"out/image_flow.{k}"] for k in list(MIXTURES)[:2])
    torch.testing.assert_close(out, torch.stack([dual[0], single[1]]), atol=1e-5, rtol=0)


def test_no_context_is_refused(vd):
    with pytest.raises(ValueError, match="no context given"):
        image_flow(vd.unet, vd.io["in/x"], vd.io["in/t"], {})


def test_unknown_context_is_named(vd):
    given = {"sound": (vd.io["in/ctx_image"], 1.0)}
    with pytest.raises(KeyError, match="sound"):
        image_flow(vd.unet, vd.io["in/x"], vd.io["in/t"], given)


def test_full_size_has_published_parameter_counts():
    with torch.device("meta"):
        unet, text = build_flows(FULL)
    assert sum(p.numel() for p in unet.parameters()) == 1_126_760_324
    assert sum(p.numel() for p in text.parameters()) == 1_439_558_528
    assert len(mixers(unet)) == 16


def test_plan_follows_original_block_order():
    letters = {"in": "d", "res": "d", "resample": "d", "mix": "c"}
    letters |= {"save": "save_hidden_feature", "load": "load_hidden_feature"}
    order = json.loads((GOLDEN / "vd_block_order.json").read_text())
    plan = [letters[kind] for kind, *_ in block_plan(FULL)]
    # The original lists its output layer as one more data block.
    assert [*plan, "d"] == order["i"] + order["m"] + order["o"]


def test_text_flow_owns_data_layers_only(vd):
    own = {id(p) for p in vd.text.parameters()}
    assert not own & {id(p) for p in vd.unet.parameters()}


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
@pytest.mark.parametrize("autocast", [False, True])
def test_every_parameter_learns(attention, autocast):
    torch.manual_seed(0)
    unet, text = build_flows(SMALL)
    set_attention(unet, attention)
    t = torch.tensor([10, 900])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = (
            image_flow(unet, torch.randn(2, 16, 8, 8), t, small_contexts()).float().square().mean()
        )
        loss = (
            loss + text_flow(text, torch.randn(2, 64), t, small_contexts()).float().square().mean()
        )
    loss.backward()
    for net in (unet, text):
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", ["image", "text"])
@torch.no_grad()
def test_half_precision_network_keeps_latents_in_float32(vd, kind):
    unet, text = (copy.deepcopy(net).bfloat16() for net in (vd.unet, vd.text))
    text._shared = (tuple(mixers(unet)), unet.time_embedding)
    flow, start = {
        "image": (partial(image_flow, unet), "in/x"),
        "text": (partial(text_flow, text), "in/z"),
    }[kind]
    out = flow(vd.io[start], vd.io["in/t"], contexts(vd.io, {"image": 0.6, "text": 0.4}))
    expected = vd.io[f"out/{kind}_flow.eps_dual_0.6img_0.4txt"]
    assert out.dtype == torch.float32
    assert (out - expected).norm() < 0.03 * expected.norm()


def test_three_levels_without_attention_at_the_coarsest():
    config = VersatileConfig(4, 8, (32, 32, 64), 2, (True, False, False), 2, 16, text_latent_dim=12)
    unet, text = build_flows(config)
    given = {"text": (torch.randn(3, 7, 16), 1.0)}
    assert image_flow(unet, torch.randn(3, 4, 8, 8), 500, given).shape == (3, 4, 8, 8)
    assert text_flow(text, torch.randn(3, 12), 500, given).shape == (3, 12)


def test_config_names_the_level_that_does_not_fit():
    with pytest.raises(ValueError, match="multiple of"):
        VersatileConfig(4, 8, (32, 50), 1, (True, True), 4, 16)
    with pytest.raises(ValueError, match="one per entry"):
        VersatileConfig(4, 8, (32, 64), 1, (True,), 4, 16)
