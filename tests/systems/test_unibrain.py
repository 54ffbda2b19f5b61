"""UniBrain: its flows equal the original code, and its results depend on what they should."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nbutils.systems import generation, unibrain
from nbutils.systems.settings import Settings

IDS = np.array([31, 4, 15, 92, 6])
FAST = {"steps": 4, "guidance_scale": 2.0}


def paint(networks, predicted, ids=IDS, **changes):
    inputs = changes.pop("inputs", unibrain.IMAGE_INPUTS)
    batch_size = changes.pop("batch_size", 8)
    settings = Settings.careful(**{**FAST, **changes})
    return unibrain.reconstruct(
        networks, predicted, settings, ids, inputs=inputs, batch_size=batch_size, progress=False
    )


def write(networks, predicted, ids=IDS, **changes):
    inputs = changes.pop("inputs", unibrain.CAPTION_INPUTS)
    settings = Settings.careful(**{**FAST, **changes})
    return unibrain.caption(networks, predicted, settings, ids, inputs=inputs, progress=False)


def choose(predicted, rows):
    return {name: values[rows] for name, values in predicted.items()}


def use_golden(golden, monkeypatch, noise):
    """Give the systems the golden flows, contexts and noise; keep the latents they end with."""
    io, seen = golden.io, {}

    def keep(latents, **_):
        seen["latents"] = latents
        return [""] * len(latents) if latents.ndim == 2 else np.zeros((len(latents), 1, 1, 3))

    uncond = {k: torch.from_numpy(io[f"in/uctx_{k}"]).float() for k in ("image", "text")}
    networks = golden.networks
    monkeypatch.setattr(networks, "unconditional", lambda kind: uncond)
    for name in ("autokl", "optimus"):
        monkeypatch.setattr(type(networks), name, SimpleNamespace(decode=keep))
    fixed = torch.from_numpy(io[noise]).float()
    monkeypatch.setattr(generation, "noise_for", lambda seed, ids, shape: fixed)
    features = {
        "autokl": io["in/x0"], "clip_image": io["in/ctx_image"], "clip_text": io["in/ctx_text"],
    }  # fmt: skip
    return networks, features, seen


def test_image_from_latent_and_contexts_equals_the_original_code(golden, monkeypatch):
    networks, features, seen = use_golden(golden, monkeypatch, "in/noise")
    settings = Settings.careful(steps=5, img2img_start="published")
    unibrain.reconstruct(networks, features, settings, [0, 1], progress=False)
    expected = golden.io["out/img2img_5steps_s0.75.final"]
    np.testing.assert_allclose(seen["latents"], expected, atol=2e-4)


def test_caption_from_contexts_equals_the_original_code(golden, monkeypatch):
    networks, features, seen = use_golden(golden, monkeypatch, "in/zT")
    settings = Settings.careful(steps=5, mix_caption=0.6)
    inputs = ("clip_image", "clip_text")
    unibrain.caption(networks, features, settings, [0, 1], inputs=inputs, progress=False)
    expected = golden.io["out/txt_5steps.final"]
    np.testing.assert_allclose(seen["latents"], expected, atol=2e-4)


def test_images_are_uint8_of_the_autoencoders_size(networks, predicted):
    images = paint(networks, predicted)
    assert images.dtype == np.uint8
    assert images.shape == (5, 32, 32, 3)


def test_an_image_depends_on_its_own_row_and_id_only(networks, predicted):
    together = paint(networks, predicted).astype(int)
    one_by_one = paint(networks, predicted, batch_size=1).astype(int)
    assert abs(together - one_by_one).max() <= 1  # rounding to 8 bits
    rows = np.array([3, 0])
    subset = paint(networks, choose(predicted, rows), IDS[rows]).astype(int)
    assert abs(together[rows] - subset).max() <= 1
    other = paint(networks, predicted, IDS + 1)
    assert (other != together).any(axis=(1, 2, 3)).all()


def test_published_noise_depends_on_the_images_before():
    settings = Settings.published()
    noise = generation.start_noise(settings, IDS, (2, 3))
    torch.manual_seed(0)
    np.testing.assert_array_equal(noise[:1], torch.randn(1, 2, 3))
    swapped = generation.start_noise(settings, IDS[::-1].copy(), (2, 3))
    np.testing.assert_array_equal(noise, swapped)
    careful = generation.start_noise(Settings.careful(), IDS, (2, 3))
    swapped = generation.start_noise(Settings.careful(), IDS[::-1].copy(), (2, 3))
    np.testing.assert_array_equal(careful.flip(0), swapped)


@pytest.mark.parametrize("name", unibrain.IMAGE_INPUTS)
def test_an_input_left_out_has_no_influence_and_one_used_has(networks, predicted, name):
    changed = {**predicted, name: -predicted[name]}
    without = generation.ablations(unibrain.IMAGE_INPUTS)[f"without {name}"]
    left_out = [paint(networks, features, inputs=without) for features in (predicted, changed)]
    np.testing.assert_array_equal(*left_out)
    assert (paint(networks, predicted) != paint(networks, changed)).any()


def test_latent_alone_is_decoded_as_it_is(networks, predicted):
    found = paint(networks, predicted, inputs=("autokl",))
    expected = networks.autokl.decode(torch.from_numpy(predicted["autokl"]))
    np.testing.assert_array_equal(found, expected)
    denoised = paint(networks, predicted, inputs=("autokl",), latent_only="denoise")
    assert (denoised != expected).any()


def test_one_context_gets_all_the_weight(networks, predicted):
    alone = paint(networks, predicted, inputs=("autokl", "clip_text"))
    all_text = paint(networks, predicted, mix_image=0.0)
    np.testing.assert_array_equal(alone, all_text)


def test_latent_alone_is_decoded_to_the_caption_optimus_gives(networks, predicted):
    found = write(networks, predicted, inputs=("optimus",))
    expected = networks.optimus.decode(torch.from_numpy(predicted["optimus"]), keep_last_word=True)
    assert len(found) == 5
    for short, full in zip(found, expected, strict=True):
        assert short == unibrain.remove_repeated_phrases(full)


def test_drawn_captions_are_reproducible_and_independent_of_the_others(networks, predicted):
    changes = {"caption_temperature": 3.0}
    captions = write(networks, predicted, **changes)
    assert captions == write(networks, predicted, **changes)
    rows = np.array([4, 1])
    subset = write(networks, choose(predicted, rows), IDS[rows], **changes)
    assert subset == [captions[4], captions[1]]
    assert captions != write(networks, predicted, seed=1, **changes)


def test_ablation_names_are_those_of_the_published_table():
    rows = generation.ablations(unibrain.IMAGE_INPUTS)
    assert len(rows) == 7
    assert rows["only autokl"] == ("autokl",)
    assert rows["without clip_text"] == ("autokl", "clip_image")


def test_callback_sees_every_step(networks, predicted):
    steps = []
    unibrain.reconstruct(
        networks, predicted, Settings.careful(**FAST), IDS, progress=False,
        callback=lambda step, t, x, pred_x0: steps.append((step, t, tuple(pred_x0.shape))),
    )  # fmt: skip
    assert [step for step, _, _ in steps] == [0, 1, 2]  # int(.75 * 4) of 4
    assert {shape for _, _, shape in steps} == {(5, 4, 8, 8)}


def test_bad_input_is_refused_with_a_reason(networks, predicted):
    with pytest.raises(ValueError, match="4 rows for 5 nsd_ids"):
        paint(networks, {**predicted, "clip_image": predicted["clip_image"][:4]})
    with pytest.raises(ValueError, match="'vdvae': choose from autokl"):
        paint(networks, predicted, inputs=("vdvae",))
    with pytest.raises(ValueError, match="nothing: choose from"):
        paint(networks, predicted, inputs=())
    with pytest.raises(ValueError, match="was not predicted"):
        paint(networks, {"autokl": predicted["autokl"]})
    with pytest.raises(ValueError, match=r"start latents .* have \(4, 8, 8\) each"):
        paint(networks, {**predicted, "autokl": predicted["autokl"][:, :, :4]})
    with pytest.raises(ValueError, match=r"text contexts .* have \(n, tokens, 16\)"):
        paint(networks, {**predicted, "clip_text": predicted["clip_text"][..., :8]})
    predicted["clip_text"][0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="clip_text holds NaN"):
        paint(networks, predicted)
    with pytest.raises(ValueError, match="batch_size=0"):
        paint(networks, predicted, inputs=("autokl",), batch_size=0)
