"""Images that no network can take are refused in one sentence, at every entry."""

import numpy as np
import pytest

from nbutils.networks.loading import load
from nbutils.world import WORLDS

GOOD = np.zeros((2, 64, 64, 3), np.uint8)
ENTRIES = {
    "clip": lambda networks, images: networks.clip.image_tokens(images),
    "autokl": lambda networks, images: networks.autokl.encode(images),
    "vdvae": lambda networks, images: networks.vdvae.latents(images, 2),
    "classifier": lambda networks, images: networks.classifier.classify(images),
}


@pytest.fixture(scope="module")
def networks():
    """The miniature networks."""
    return load(WORLDS["miniature"].networks)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("images", "error", "remedy"),
    [
        (GOOD[0], ValueError, r"shape \(64, 64, 3\): .* goes in as `image\[None\]`"),
        (GOOD[..., :1], ValueError, r"shape \(2, 64, 64, 1\): expected \(n, height, width, 3\)"),
        (GOOD.transpose(0, 3, 1, 2), ValueError, r"shape \(2, 3, 64, 64\)"),
        (GOOD[:0], ValueError, "not empty"),
        (GOOD[:, :0], ValueError, "not empty"),
        (GOOD / 255, TypeError, "float64: pass uint8 .*np.round"),
    ],
    ids=["single", "grey", "channels first", "none", "no pixel", "float"],
)
def test_bad_images_are_refused_in_one_sentence(networks, entry, images, error, remedy):
    with pytest.raises(error, match=remedy) as caught:
        ENTRIES[entry](networks, images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", ["clip", "autokl", "vdvae"])
def test_images_of_any_size_are_brought_to_the_networks(networks, entry):
    large, wide = np.zeros((1, 425, 425, 3), np.uint8), np.zeros((1, 30, 90, 3), np.uint8)
    expected = ENTRIES[entry](networks, GOOD).shape[1:]
    for images in (large, wide):
        assert ENTRIES[entry](networks, images).shape[1:] == expected
