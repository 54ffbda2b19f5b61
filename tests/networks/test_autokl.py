"""AutoKL against the original's numbers, PIL's resizing and a known posterior."""

import numpy as np
import pytest
import torch
from golden_parts import autokl_config, golden_network, photographs, read_golden
from PIL import Image

from nbutils.networks.autokl import AutoKL

CALL = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def net() -> AutoKL:
    return golden_network("autokl")


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(n) for n in numbers]


def test_posterior_equals_the_original(net):
    golden = read_golden("autokl_tiny")
    mean, logvar = net.posterior(2 * golden.inputs["image_0_1"] - 1)
    torch.testing.assert_close(mean, golden.outputs["posterior_mean"], **CALL)
    torch.testing.assert_close(logvar, golden.outputs["posterior_logvar_clamped"], **CALL)


def test_decoder_equals_the_original(net):
    golden = read_golden("autokl_tiny")
    latents = golden.inputs["z"] * net.scaling_factor
    torch.testing.assert_close(net.decode_float(latents), golden.outputs["decode_raw"], **CALL)
    levels = (255 * golden.outputs["decode_0_1_clamped"]).permute(0, 2, 3, 1).numpy()
    assert np.abs(net.decode(latents) - levels).max() <= 0.501


@pytest.mark.parametrize("photograph", photographs(), ids=["512x512", "400x600", "300x451"])
def test_photographs_are_resized_by_pil_and_come_back_as_images(net, photograph):
    resized = Image.fromarray(photograph).resize((16, 16), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(net.preprocess(photograph[None]), expected, atol=1e-6, rtol=0)
    latents = net.encode(photograph[None])
    assert latents.shape == (1, 4, 8, 8) and torch.isfinite(latents).all()
    assert torch.equal(latents, net.encode(photograph[None]))
    image = net.decode(latents)
    assert image.shape == (1, 16, 16, 3) and image.dtype == np.uint8
    assert np.array_equal(image, net.decode(latents))


def test_mode_is_the_scaled_posterior_mean(net):
    images = np.stack([p[:300, :300] for p in photographs()])
    mean, _ = net.posterior(net.preprocess(images))
    torch.testing.assert_close(net.encode(images), mean * net.scaling_factor, **CALL)


def test_drawn_latents_have_the_posterior_spread(net):
    image = photographs()[0][None, ::32, ::32]
    mean, logvar = net.posterior(net.preprocess(image))
    drawn = net.encode(image.repeat(200, axis=0), torch.Generator().manual_seed(0))
    standard = (drawn / net.scaling_factor - mean) / torch.exp(0.5 * logvar)
    # 51,200 draws: three standard errors are .013 for the mean and .009 for the spread
    assert standard.mean().item() == pytest.approx(0, abs=0.013)
    assert standard.std().item() == pytest.approx(1, abs=0.009)


def test_a_drawn_latent_does_not_depend_on_its_batch(net):
    images = np.stack([p[:300, :300] for p in photographs()])
    together = net.encode(images, seeds(5, 6, 7))
    torch.testing.assert_close(net.encode(images[1:2], seeds(6)), together[1:2], **CALL)
    with pytest.raises(ValueError, match="one generator per item"):
        net.encode(images, seeds(5))


def test_gradient_flows_from_pixels_to_latents(net):
    latents = torch.zeros(1, 4, 8, 8, requires_grad=True)
    net.decode_float(latents).square().mean().backward()
    assert latents.grad.abs().max() > 0


def test_float_images_are_refused(net):
    with pytest.raises(TypeError, match="float32: pass uint8"):
        net.encode(np.zeros((1, 16, 16, 3), np.float32))


def test_autoencoder_without_the_two_1x1_convolutions_works():
    config = {**autokl_config(), "use_quant_conv": False, "use_post_quant_conv": False}
    net = AutoKL(config).eval()
    assert not any(key.startswith(("quant_conv", "post_quant_conv")) for key in net.state_dict())
    assert net.decode(net.encode(np.zeros((1, 16, 16, 3), np.uint8))).shape == (1, 16, 16, 3)
