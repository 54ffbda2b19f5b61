"""A batch of n equals n batches of one, network by network and through whole systems.

Every image has its noise from its own seed, so only rounding may differ: 1e-4 for numbers that a
guided run of the shipped networks returns (they are about 1 in size), one level of 255 for pixels,
nothing for words.
"""

from functools import partial

import numpy as np
import pytest
import torch

from nbutils.decoding.encoders import generators
from nbutils.networks.loading import Networks
from nbutils.networks.sampling import ddim, noise_for
from nbutils.networks.versatile import image_flow, text_flow
from nbutils.study import Study
from nbutils.systems import brain_diffuser, unibrain
from nbutils.systems.settings import Settings

IDS = np.array([31, 4, 15])
WEIGHTS = {"image": 0.6, "text": 0.4}


@pytest.fixture(scope="module")
def networks() -> Networks:
    """The networks that ship with the package."""
    return Networks.of(Study(device="cpu"))


@pytest.fixture(scope="module")
def predicted(networks) -> dict[str, np.ndarray]:
    """Features of three images, of the size that the networks have."""
    rng = np.random.default_rng(0)
    shapes = {
        "autokl": networks.config.versatile.image_latent_shape,
        "optimus": networks.config.versatile.text_latent_shape,
        "clip_image": networks.clip.image_shape,
        "clip_text": networks.clip.text_shape,
        "vdvae": (networks.vdvae.count_features(3),),
    }
    return {name: rng.normal(size=(3, *shape)).astype("f4") for name, shape in shapes.items()}


def one_by_one(work) -> list:
    """Run some work on each row alone; it takes the rows."""
    return [work(slice(i, i + 1)) for i in range(len(IDS))]


def sample(networks, predicted, kind: str, rows: slice) -> torch.Tensor:
    """Run a guided flow from noise or, for images, from a latent."""
    flows = {"image": (image_flow, networks.image_unet), "text": (text_flow, networks.text_unet)}
    config, flow = networks.config.versatile, partial(*flows[kind])
    image = kind == "image"
    shape = config.image_latent_shape if image else config.text_latent_shape
    start = torch.from_numpy(predicted["autokl" if image else "optimus"])
    contexts = {k: torch.from_numpy(predicted[f"clip_{k}"])[rows] for k in WEIGHTS}
    return ddim(
        flow, start[rows], contexts, networks.unconditional("grey"), WEIGHTS,
        config=config, noise=noise_for(7, IDS[rows], shape), steps=5, strength=0.75,
        guidance_scale=4.0,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["image", "text"])
def test_latents_of_a_flow_do_not_depend_on_the_batch(networks, predicted, kind):
    together = sample(networks, predicted, kind, slice(None))
    alone = torch.cat(one_by_one(lambda rows: sample(networks, predicted, kind, rows)))
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_words_do_not_depend_on_the_batch(networks, predicted, temperature):
    z = torch.from_numpy(predicted["optimus"])

    def write(rows):
        drawn = generators(0, IDS[rows], "words") if temperature else None
        return networks.optimus.decode(z[rows], temperature, drawn)

    assert write(slice(None)) == sum(one_by_one(write), [])


@pytest.mark.parametrize("drawn", [False, True], ids=["mean", "drawn"])
def test_low_level_images_do_not_depend_on_the_batch(networks, predicted, drawn):
    flat = torch.from_numpy(predicted["vdvae"])

    def paint(rows):
        return networks.vdvae.decode(flat[rows], generators(0, IDS[rows], "x") if drawn else None)

    levels_apart(paint(slice(None)), np.concatenate(one_by_one(paint)))


def test_drawn_image_latents_do_not_depend_on_the_batch(networks):
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)

    def encode(rows):
        return networks.autokl.encode(images[rows], generators(0, IDS[rows], "autokl"))

    together, alone = encode(slice(None)), torch.cat(one_by_one(encode))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


SETTINGS = {
    "careful": Settings.careful(steps=4),
    "drawn": Settings.careful(
        steps=4, vdvae_prior="sample", autokl_latent="sample", caption_temperature=1.0
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("system", [brain_diffuser, unibrain], ids=lambda system: system.__name__)
def test_reconstructions_do_not_depend_on_the_batch(networks, predicted, system, name):
    def paint(rows, batch_size=1):
        given = {key: values[rows] for key, values in predicted.items()}
        found = system.reconstruct(
            networks, given, SETTINGS[name], IDS[rows], batch_size=batch_size, progress=False
        )
        return found["images"] if isinstance(found, dict) else found

    together = paint(slice(None), batch_size=3)
    levels_apart(together, paint(slice(None), batch_size=1))
    levels_apart(together, np.concatenate(one_by_one(paint)))


@pytest.mark.parametrize("name", SETTINGS)
def test_captions_do_not_depend_on_the_batch(networks, predicted, name):
    def write(rows, batch_size=1):
        given = {key: values[rows] for key, values in predicted.items()}
        return unibrain.caption(
            networks, given, SETTINGS[name], IDS[rows], batch_size=batch_size, progress=False
        )

    together = write(slice(None), batch_size=3)
    assert together == write(slice(None), batch_size=1) == sum(one_by_one(write), [])


def levels_apart(found: np.ndarray, expected: np.ndarray) -> None:
    """At most one of 255 levels apart, from rounding."""
    assert found.shape == expected.shape and found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1
