"""Images by number, in the order asked for, from one file or from many."""

import h5py
import numpy as np
import pytest
from PIL import Image

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
    with pytest.raises(FileNotFoundError, match="stimulus file.*nsd fetch --subject N --images"):
        Stimuli(Layout(tmp_path / "elsewhere"))
    content = layout.stimuli().read_bytes()
    layout.stimuli().write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="half downloaded"):
        Stimuli(layout)
    with h5py.File(layout.stimuli(), "w") as file:
        file["imgBrick"] = np.zeros((7, 6, 6, 3), np.float32)
    with pytest.raises(ValueError, match="not NSD's stimulus file"):
        Stimuli(layout)


def test_the_small_world_has_the_images_of_its_subject_only(small):
    stimuli = Stimuli(small)
    assert stimuli.shape == (60 + 4 * 440, 64, 64, 3)
    assert stimuli.source == "hdf5" and stimuli.origins(0) == ["hdf5"]


def save(layout: Layout, nsd_id: int, origin: str, pixels: np.ndarray) -> None:
    path = layout.image(nsd_id, origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pictures(tmp_path) -> tuple[Layout, np.ndarray]:
    """Images 0 and 2 to 4 of 1,200 as PNG files of three origins, and their pixels by nsd_id."""
    layout = Layout(tmp_path)
    layout.stim_info().parent.mkdir(parents=True)
    rows = "".join(f'{i},{i + 9},train2017,"(0, 0, 0, 0)",0,{i}\n' for i in range(1200))
    layout.stim_info().write_text(",cocoId,cocoSplit,cropBox,loss,nsdId\n" + rows)
    pixels = np.random.default_rng(1).integers(0, 256, (1200, 5, 7, 3)).astype(np.uint8)
    for nsd_id, origin in ((0, "coco"), (2, "stimuli"), (3, "shared"), (4, "coco"), (1111, "coco")):
        save(layout, nsd_id, origin, pixels[nsd_id])
    # Where two origins have an image, the better one counts.
    save(layout, 2, "coco", 255 - pixels[2])
    save(layout, 3, "stimuli", 255 - pixels[3])
    return layout, pixels


def test_png_files_are_read_where_there_is_no_stimulus_file(pictures):
    layout, pixels = pictures
    stimuli = Stimuli(layout)
    assert stimuli.shape == (1200, 5, 7, 3) and len(stimuli) == 1200
    for ids in ([3], [0, 2], [1111, 4, 0, 4, 3, 3], np.array([], int)):
        np.testing.assert_array_equal(stimuli[ids], pixels[np.asarray(ids, int)])
    np.testing.assert_array_equal(stimuli[2], pixels[2])


def test_the_source_says_which_images_are_near_only(pictures):
    stimuli = Stimuli(pictures[0])
    assert stimuli.source == "shared + stimuli + coco"
    assert stimuli.origins([4, 3, 2]) == ["coco", "shared", "stimuli"]


def test_the_stimulus_file_goes_before_png_files(pictures):
    layout, _ = pictures
    with h5py.File(layout.stimuli(), "w") as file:
        file["imgBrick"] = np.full((4, 6, 6, 3), 9, np.uint8)
    assert Stimuli(layout).source == "hdf5" and (Stimuli(layout)[3] == 9).all()


def test_a_missing_png_names_the_image_and_how_to_fetch_it(pictures):
    with pytest.raises(FileNotFoundError, match="image 1 .*nsd fetch --subject N --images") as told:
        Stimuli(pictures[0])[[0, 1]]
    assert "\n" not in str(told.value)
    with pytest.raises(IndexError, match="images 0 to 1199"):
        Stimuli(pictures[0])[1200]


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((6, 7, 3), np.uint8), "is 7 x 6 pixels, not 7 x 5"),
        (np.zeros((5, 7), np.uint8), "colour mode L, not RGB"),
        (np.zeros((5, 7, 4), np.uint8), "colour mode RGBA, not RGB"),
    ],
)
def test_a_png_that_is_no_image_of_this_kind_is_refused(pictures, pixels, words):
    save(pictures[0], 4, "coco", pixels)
    with pytest.raises(ValueError, match=words):
        Stimuli(pictures[0])[[0, 4]]


@pytest.mark.parametrize("keep", [0, 20, 90])
def test_a_cut_off_png_is_refused(pictures, keep):
    path = pictures[0].image(4, "coco")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="nsd_id00004.png is no readable PNG file") as told:
        Stimuli(pictures[0])[[0, 4]]
    assert "\n" not in str(told.value)
