"""Images by number, in the order asked for."""

import h5py
import numpy as np
import pytest

from nbutils.nsd.layout import Layout
from nbutils.nsd.stimuli import Stimuli


@pytest.fixture
def layout(tmp_path) -> Layout:
    """Seven images of a stimulus file, of which number 5 was never written."""
    layout = Layout(tmp_path)
    layout.stimuli().parent.mkdir(parents=True)
    images = np.random.default_rng(0).integers(1, 256, (7, 6, 6, 3)).astype(np.uint8)
    images[5] = 0
    with h5py.File(layout.stimuli(), "w") as file:
        file["imgBrick"] = images
    return layout


@pytest.mark.parametrize("ids", [[3], [0, 1, 2], [6, 0, 4, 4, 1], np.array([], int)])
def test_images_come_in_the_order_asked_for_with_repeats(layout, ids):
    with h5py.File(layout.stimuli()) as file:
        everything = file["imgBrick"][:]
    np.testing.assert_array_equal(Stimuli(layout)[ids], everything[ids])


def test_one_number_gives_one_image(layout):
    assert Stimuli(layout)[np.int64(2)].shape == (6, 6, 3)
    assert len(Stimuli(layout)) == 7


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        ([7], IndexError, "images 0 to 6"),
        ([-1], IndexError, "images 0 to 6"),
        ([1.0], TypeError, "whole numbers"),
        ([4, 5], ValueError, "image 5 is empty"),
        (np.array([True]), TypeError, "whole numbers"),
    ],
)
def test_images_that_are_not_there_are_refused(layout, ids, error, words):
    with pytest.raises(error, match=words):
        Stimuli(layout)[ids]


def test_a_foreign_or_missing_file_is_refused(layout, tmp_path):
    with pytest.raises(FileNotFoundError, match="stimulus file"):
        Stimuli(Layout(tmp_path / "elsewhere"))
    with h5py.File(layout.stimuli(), "w") as file:
        file["imgBrick"] = np.zeros((7, 6, 6, 3), np.float32)
    with pytest.raises(ValueError, match="not NSD's stimulus file"):
        Stimuli(layout)


def test_the_small_world_has_the_images_of_its_subject_only(small):
    stimuli = Stimuli(small)
    assert stimuli.shape == (60 + 4 * 440, 64, 64, 3)
