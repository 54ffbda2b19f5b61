"""Half precision against the golden float32 numbers: how far each network's output moves.

Tolerances are the largest error in units of the standard deviation of the float32 output. Seen on
a CPU at tiny size: at most .047 in bfloat16 (8 bits of mantissa), .0062 in float16 (11 bits).
"""

import copy

import pytest
import torch
from golden_parts import golden_network, read_golden
from torch import Tensor

from nbutils.networks.versatile import image_flow, mixers, text_flow

LARGEST = {torch.bfloat16: 0.08, torch.float16: 0.01}


def check(found: Tensor, golden: Tensor, dtype: torch.dtype) -> None:
    assert torch.isfinite(found).all()
    error = (found.float() - golden).abs().max() / golden.std()
    # An error of nothing would mean that the network did not compute in this precision.
    assert 0 < error < LARGEST[dtype]


@pytest.fixture(params=LARGEST, ids=["bfloat16", "float16"])
def dtype(request) -> torch.dtype:
    return request.param


def halved(name: str, dtype: torch.dtype):
    return copy.deepcopy(golden_network(name)).to(dtype), read_golden(f"{name}_tiny")


@torch.no_grad()
def test_clip_in_half_precision(dtype):
    net, golden = halved("clip", dtype)
    text = net.project_ids(golden.inputs["input_ids"])
    image = net.project_pixels(golden.inputs["pixel_values"].to(dtype))
    check(text, golden.outputs["text_tokens_vd"], dtype)
    check(image, golden.outputs["image_tokens_vd"], dtype)


@torch.no_grad()
def test_autokl_in_half_precision(dtype):
    net, golden = halved("autokl", dtype)
    mean, logvar = net.posterior((2 * golden.inputs["image_0_1"] - 1).to(dtype))
    check(mean, golden.outputs["posterior_mean"], dtype)
    check(logvar, golden.outputs["posterior_logvar_clamped"], dtype)
    image = net.decode_float(golden.inputs["z"] * net.scaling_factor)
    check(image, golden.outputs["decode_raw"], dtype)


@torch.no_grad()
def test_optimus_in_half_precision(dtype):
    net, golden = halved("optimus", dtype)
    mu, logvar = net.encode_ids(golden.inputs["bert_ids"])
    check(mu, golden.outputs["enc_mu"], dtype)
    check(logvar, golden.outputs["enc_logvar"], dtype)
    logits = net.decoder_logits(golden.inputs["gpt2_ids"], golden.inputs["z"])
    check(logits, golden.outputs["dec_logits"], dtype)
    assert torch.equal(net.decode_ids(golden.inputs["z"]), golden.outputs["greedy_tokens"])


@torch.no_grad()
def test_both_flows_in_half_precision(vd, dtype):
    image, text = (copy.deepcopy(net).to(dtype) for net in (vd.unet, vd.text))
    text._shared = (tuple(mixers(image)), image.time_embedding)
    given = {k: (vd.io[f"in/ctx_{k}"], w) for k, w in (("image", 0.6), ("text", 0.4))}
    noise = image_flow(image, vd.io["in/x"], vd.io["in/t"], given)
    check(noise, vd.io["out/image_flow.eps_dual_0.6img_0.4txt"], dtype)
    noise = text_flow(text, vd.io["in/z"], vd.io["in/t"], given)
    check(noise, vd.io["out/text_flow.eps_dual_0.6img_0.4txt"], dtype)
    assert noise.dtype == torch.float32  # the sampler adds up in float32
