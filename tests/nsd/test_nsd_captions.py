"""Captions and categories from COCO's files, through the stimulus table and the crop."""

import ast
import json

import numpy as np
import pytest
from PIL import Image

from nbutils.miniature import captions as grammar
from nbutils.miniature import scenes
from nbutils.nsd.captions import (
    captions,
    categories,
    crop_box,
    crop_photograph,
    stim_info,
    things,
)
from nbutils.nsd.layout import Layout
from nbutils.nsd.trials import trials

# First row of NSD's table: COCO val2017 532481, 640 x 426, cut at the left and right.
FIRST_CROP, FIRST_SIZE = "(0, 0, 0.1671875, 0.1671875)", (640, 426)


def write_coco(root, crop: str = FIRST_CROP) -> Layout:
    """Write a two-image COCO with one image in each split."""
    layout = Layout(root)
    layout.stim_info().parent.mkdir(parents=True, exist_ok=True)
    layout.captions("val2017").parent.mkdir(exist_ok=True)
    layout.stim_info().write_text(
        ",cocoId,cocoSplit,cropBox,loss,nsdId\n"
        f'0,532481,val2017,"{crop}",0.1,0\n1,9,train2017,"(0, 0, 0, 0)",0,1\n'
    )
    for split, image in (("val2017", 532481), ("train2017", 9)):
        size = dict(zip(("width", "height"), FIRST_SIZE, strict=True))
        head = {
            "images": [{"id": image, **size}],
            "categories": [
                {"id": 1, "name": "person", "supercategory": "person"},
                {"id": 18, "name": "dog", "supercategory": "animal"},
            ],
        }
        texts = [{"image_id": image, "caption": f" {split} {k}.\n"} for k in range(6)]
        boxes = [
            {"image_id": image, "category_id": 18, "bbox": [0, 10, 60, 50]},
            {"image_id": image, "category_id": 1, "bbox": [320, 0, 100, 400]},
            {"image_id": image, "category_id": 1, "bbox": [300, 0, 20, 20]},
        ]
        layout.captions(split).write_text(json.dumps(head | {"annotations": texts}))
        layout.instances(split).write_text(json.dumps(head | {"annotations": boxes}))
    return layout


def test_captions_come_from_the_split_of_each_image_and_all_of_them(tmp_path):
    layout = write_coco(tmp_path)
    found = captions(layout, [1, 0, 1])
    assert [row[0] for row in found] == ["train2017 0.", "val2017 0.", "train2017 0."]
    assert all(len(row) == 6 for row in found)


def test_an_object_outside_the_crop_is_not_in_the_image(tmp_path):
    layout = write_coco(tmp_path)
    # The dog ends at x = 60, the crop begins at 107.
    assert categories(layout, [0, 1]) == [["person"], ["person", "dog"]]
    assert categories(layout, [1], "supercategory") == [["person", "animal"]]


def test_crop_box_of_nsds_first_image():
    left = 0.1671875
    crop = ast.literal_eval(FIRST_CROP)
    # 640 - 2 x 107 = 426 pixels remain in both directions.
    assert crop_box((107, 0, 426, 426), FIRST_SIZE, crop) == pytest.approx((0, 0, 1, 1))
    got = crop_box((320, 213, 100, 50), FIRST_SIZE, crop)
    expected = ((320 - left * 640) / 426, 213 / 426, 100 / 426, 50 / 426)
    assert got == pytest.approx(expected)
    assert crop_box((0, 0, 107, 426), FIRST_SIZE, crop) is None
    assert crop_box((600, 0, 40, 40), FIRST_SIZE, crop) is None


def test_crop_at_top_and_bottom_moves_y_only():
    got = crop_box((10, 30, 20, 20), (80, 100), (0.2, 0.0, 0.0, 0.0))
    assert got == pytest.approx((10 / 80, 10 / 80, 20 / 80, 20 / 80))


def gradient(width: int, height: int) -> np.ndarray:
    """Make a photograph whose red tells the column and whose green tells the row."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 256, y % 256, x // 256], axis=-1).astype(np.uint8)


def test_nsds_first_image_is_cut_107_pixels_from_each_side():
    pixels = gradient(*FIRST_SIZE)
    crop = ast.literal_eval(FIRST_CROP)
    # Without a resize the kernel does not matter, so the pixels are the photograph's.
    same = crop_photograph(Image.fromarray(pixels), crop, side=426)
    np.testing.assert_array_equal(same, pixels[:, 107 : 640 - 107])
    shown = crop_photograph(Image.fromarray(pixels), crop)
    assert shown.shape == (425, 425, 3) and shown.dtype == np.uint8
    assert shown[200, 0, 0] == pytest.approx(107, abs=1)


def test_the_four_numbers_are_top_bottom_left_and_right():
    pixels = gradient(80, 100)
    top = crop_photograph(Image.fromarray(pixels), (0.2, 0.0, 0.0, 0.0), side=80)
    bottom = crop_photograph(Image.fromarray(pixels), (0.0, 0.2, 0.0, 0.0), side=80)
    np.testing.assert_array_equal(top, pixels[20:])
    np.testing.assert_array_equal(bottom, pixels[:80])
    right = crop_photograph(Image.fromarray(gradient(100, 80)), (0, 0, 0.05, 0.15), side=80)
    np.testing.assert_array_equal(right, gradient(100, 80)[:, 5:85])


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_photographs_of_every_colour_mode_come_out_as_rgb(mode):
    image = Image.fromarray(gradient(60, 60)).convert(mode)
    shown = crop_photograph(image, (0, 0, 0, 0), side=30)
    assert shown.shape == (30, 30, 3) and shown.std() > 0
    if mode == "L":
        np.testing.assert_array_equal(shown[..., 0], shown[..., 2])


@pytest.mark.parametrize("crop", [(0, 0, 0, 0), (0, 0, 0.5, 0.5), (0.6, 0.6, 0, 0)])
def test_a_crop_that_leaves_no_square_is_refused(crop):
    with pytest.raises(ValueError, match="belongs to another photograph"):
        crop_photograph(Image.fromarray(gradient(*FIRST_SIZE)), crop)


def test_captions_and_categories_of_the_small_world_are_those_of_its_scenes(small):
    ids = trials(small, 1)["nsd_id"].to_numpy()[:60]
    described = [scenes.scene(int(i)) for i in ids]
    assert captions(small, ids) == [list(grammar.captions(one)) for one in described]
    for row, one in zip(categories(small, ids, "supercategory"), described, strict=True):
        assert set(row) == {thing.category for thing in one.things}
    for row, one in zip(things(small, ids), described, strict=True):
        largest = max(one.things, key=lambda thing: thing.size)
        x, y, width, height = next(t.box for t in row if t.name == largest.kind)
        assert x <= largest.x <= x + width and y <= largest.y <= y + height


def test_both_splits_are_used_and_coco_numbers_are_not_nsd_numbers(small):
    table = stim_info(small)
    assert set(table["cocoSplit"]) == {"train2017", "val2017"}
    assert table["cocoId"].is_unique and not (table["cocoId"] == table.index).any()
    assert len(table.columns) == 40 and not table["subject5"].any()
    assert np.array_equal(table.index, np.arange(len(table)))


def test_what_is_missing_is_named(tmp_path):
    layout = write_coco(tmp_path)
    with pytest.raises(KeyError, match="nsd_id 2 is not in the stimulus table"):
        captions(layout, [0, 2])
    with pytest.raises(ValueError, match="name or supercategory"):
        categories(layout, [0], "kind")
    layout.captions("val2017").write_text('{"annotations": []}')
    with pytest.raises(KeyError, match="nsd_id 0 .COCO val2017 532481. has no caption"):
        captions(layout, [0])
    layout.captions("val2017").write_text('{"annotations": [')
    with pytest.raises(ValueError, match="no complete JSON"):
        captions(layout, [0])
    layout.captions("val2017").unlink()
    with pytest.raises(FileNotFoundError, match="annotations_trainval2017.zip"):
        captions(layout, [0])
