"""Brain-Diffuser: low-level image first, then the image flow."""

import numpy as np
import pytest
import torch

from nbutils.decoding.encoders import generators
from nbutils.systems import brain_diffuser, unibrain
from nbutils.systems.settings import Settings

IDS = np.array([31, 4, 15, 92, 6])


def run(networks, predicted, preset="careful", ids=IDS, inputs=brain_diffuser.INPUTS, **changes):
    settings = Settings.preset(preset, steps=4, guidance_scale=2.0, **changes)
    return brain_diffuser.reconstruct(
        networks, predicted, settings, ids, inputs=inputs, progress=False
    )


def test_low_level_image_is_vdvaes_decoding_of_the_predicted_layers(networks, predicted):
    found = run(networks, predicted)["low_level"]
    expected = networks.vdvae.decode(torch.from_numpy(predicted["vdvae"]))
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (5, 16, 16, 3)


def test_image_is_unibrains_image_from_the_encoded_low_level_image(networks, predicted):
    pictures = run(networks, predicted)
    latents = networks.autokl.encode(pictures["low_level"]).numpy()
    expected = unibrain.reconstruct(
        networks, {**predicted, "autokl": latents},
        Settings.careful(steps=4, guidance_scale=2.0), IDS, progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(pictures["images"], expected)


def test_published_draws_come_from_seed_and_image(networks, predicted):
    found = run(networks, predicted, "published")["low_level"]
    expected = networks.vdvae.decode(
        torch.from_numpy(predicted["vdvae"][2:3]), generators(0, IDS[2:3], "vdvae prior")
    )
    np.testing.assert_array_equal(found[2:3], expected)
    again = run(networks, predicted, "published")
    np.testing.assert_array_equal(again["low_level"], found)
    assert (run(networks, predicted)["low_level"] != found).any()


def test_without_vdvae_there_is_no_low_level_image(networks, predicted):
    contexts = ("clip_image", "clip_text")
    pictures = run(networks, predicted, inputs=contexts)
    assert set(pictures) == {"images"}
    expected = unibrain.reconstruct(
        networks, predicted, Settings.careful(steps=4, guidance_scale=2.0), IDS,
        inputs=contexts, progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(pictures["images"], expected)


def test_only_vdvae_is_the_low_level_image_through_the_autoencoder(networks, predicted):
    pictures = run(networks, predicted, inputs=("vdvae",))
    expected = networks.autokl.decode(networks.autokl.encode(pictures["low_level"]))
    np.testing.assert_array_equal(pictures["images"], expected)


def test_inputs_of_another_system_are_refused(networks, predicted):
    with pytest.raises(ValueError, match="'autokl': choose from vdvae, clip_image, clip_text"):
        run(networks, predicted, inputs=("autokl",))
