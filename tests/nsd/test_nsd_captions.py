"""Captions and categories from COCO's files, through the stimulus table and the crop."""

import ast
import errno
import json
import os
import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import nbutils.nsd.captions as coco
from nbutils.miniature import captions as grammar
from nbutils.miniature import scenes
from nbutils.nsd.captions import (
    Thing,
    captions,
    categories,
    crop_box,
    crop_photograph,
    read_crop,
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
    with pytest.raises(FileNotFoundError, match="nsd fetch.*annotations_trainval2017.zip"):
        captions(layout, [0])


def plain_things(layout: Layout, nsd_ids) -> list[list[Thing]]:
    """Do what `things` does, with all of the JSON in memory."""
    found = []
    for nsd_id in nsd_ids:
        row = stim_info(layout).loc[nsd_id]
        content = json.loads(layout.instances(row["cocoSplit"]).read_text())
        kinds = {one["id"]: one for one in content["categories"]}
        size = {one["id"]: (one["width"], one["height"]) for one in content["images"]}
        boxes = [
            (
                kinds[one["category_id"]]["name"],
                kinds[one["category_id"]]["supercategory"],
                crop_box(one["bbox"], size[row["cocoId"]], read_crop(row["cropBox"])),
            )
            for one in content["annotations"]
            if one["image_id"] == row["cocoId"]
        ]
        kept = [Thing(*one) for one in boxes if one[2] is not None]
        found.append(sorted(kept, key=lambda thing: -thing.area))
    return found


def read_again(layout: Layout, nsd_ids=(0, 1)) -> list[list[Thing]]:
    """Read as a process that has read nothing yet."""
    coco._boxes.cache_clear()
    return things(layout, nsd_ids)


def copy_of(layout: Layout, split: str = "train2017"):
    return layout.instances(split).with_name(f".instances_{split}.boxes.npz")


def change_boxes(path, change) -> None:
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        change(row)
    path.write_text(json.dumps(content))


def shift(row) -> None:
    row["bbox"][0] += 1


@pytest.fixture
def no_parsing(monkeypatch):
    """Let an instances file be read from its copy only, once called."""

    def refuse(path):
        raise AssertionError(f"{path} was parsed")

    return lambda: monkeypatch.setattr(coco, "_read_boxes", refuse)


def test_things_and_captions_are_exactly_those_of_the_plain_json(small, no_parsing):
    ids = np.concatenate([np.arange(12), np.arange(480, 492)])
    expected = plain_things(small, ids)
    assert read_again(small, ids) == expected and any(expected)
    no_parsing()
    assert read_again(small, ids) == expected
    content = {
        split: json.loads(small.captions(split).read_text())["annotations"]
        for split in ("train2017", "val2017")
    }
    rows = stim_info(small).loc[ids]
    assert captions(small, ids) == [
        [row["caption"].strip() for row in content[split] if row["image_id"] == image]
        for split, image in zip(rows["cocoSplit"], rows["cocoId"], strict=True)
    ]


def test_objects_of_equal_area_keep_the_order_of_the_file(tmp_path):
    layout = write_coco(tmp_path)
    change_boxes(layout.instances("train2017"), lambda row: row.update(bbox=[9, 9, 20.3, 30]))
    assert [thing.name for thing in read_again(layout)[1]] == ["dog", "person", "person"]
    assert read_again(layout) == plain_things(layout, (0, 1))


def test_the_file_is_parsed_once_and_its_copy_leaves_the_outlines_out(tmp_path, no_parsing):
    layout = write_coco(tmp_path)
    outline = [[k / 7 for k in range(9000)], [0.5] * 8]
    change_boxes(layout.instances("train2017"), lambda row: row.update(segmentation=outline))
    expected = read_again(layout)
    assert copy_of(layout).stat().st_size < layout.instances("train2017").stat().st_size / 50
    no_parsing()
    assert read_again(layout) == expected == plain_things(layout, (0, 1))


@pytest.mark.parametrize("same", ["size", "time"])
def test_the_copy_of_another_file_is_replaced(tmp_path, no_parsing, same):
    layout = write_coco(tmp_path)
    before, path = read_again(layout), layout.instances("train2017")
    old = path.stat()
    change_boxes(path, shift)
    if same == "time":
        path.write_text(path.read_text() + " ")
    os.utime(path, ns=(0, old.st_mtime_ns + (10**9 if same == "size" else 0)))
    assert (path.stat().st_size == old.st_size) == (same == "size")
    after = read_again(layout)
    assert after != before and after == plain_things(layout, (0, 1))
    no_parsing()
    assert read_again(layout) == after


@pytest.fixture(scope="module")
def with_copy(tmp_path_factory):
    """A small COCO that has been read, what was read, and the bytes of the copy."""
    layout = write_coco(tmp_path_factory.mktemp("copied"))
    return layout, read_again(layout), copy_of(layout).read_bytes()


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_copy_changes_nothing(with_copy, where, bit, cut):
    layout, expected, whole = with_copy
    damaged, at = bytearray(whole), int(where * len(whole))
    damaged[at] ^= 1 << bit
    copy_of(layout).write_bytes(damaged[:at] if cut else damaged)
    assert read_again(layout) == expected


@pytest.mark.parametrize("content", ["", "no archive", "foreign"])
def test_what_is_no_copy_is_replaced(with_copy, content):
    layout, expected, whole = with_copy
    copy_of(layout).write_text(content)
    if content == "foreign":
        np.savez(copy_of(layout), source=np.arange(2), boxes=np.zeros(3))
    assert read_again(layout) == expected
    with np.load(copy_of(layout)) as now:
        assert now["boxes"].tolist() == [[0, 10, 60, 50], [320, 0, 100, 400], [300, 0, 20, 20]]
    assert copy_of(layout).stat().st_size == len(whole)


@pytest.mark.parametrize("refused", ["os.replace", "numpy.savez"])
def test_a_folder_that_takes_no_copy_is_read_all_the_same(tmp_path, monkeypatch, refused):
    layout = write_coco(tmp_path)
    folder = layout.instances("train2017").parent
    before = sorted(folder.iterdir())

    def refuse(*_, **__):
        raise PermissionError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(refused, refuse)
    assert read_again(layout) == read_again(layout) == plain_things(layout, (0, 1))
    assert sorted(folder.iterdir()) == before


OUTLINES = (
    [[1.5, 2, 3e-2, -4.25], [5, 6, 7, 8]],
    [],
    {"counts": [3, 14, 1], "size": [426, 640]},
    {"counts": 'a"segmentation":[1],"', "size": [426, 640]},
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    piece=st.integers(1, 400) | st.just(10**6),
    indent=st.sampled_from([None, 0, 3]),
    last=st.booleans(),
)
def test_outlines_are_dropped_wherever_a_piece_ends(tmp_path, piece, indent, last):
    rows = [
        {"id": k, "text": 'é "segmentation":[1],', "segmentation": outline, "bbox": [k, 1.5]}
        for k, outline in enumerate(OUTLINES * 2)
    ]
    if last:
        rows = [row | {"segmentation": row.pop("segmentation")} for row in rows]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"annotations": rows}, indent=indent, ensure_ascii=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco, "_PIECE", piece)
        got = coco._load(path, dict)["annotations"]
    without = [{key: row[key] for key in row if key != "segmentation"} for row in rows]
    assert [{key: row[key] for key in row if key != "segmentation"} for row in got] == without
    kept = [row["segmentation"] for row in got]
    assert all(now in (0, was) for now, was in zip(kept, OUTLINES * 2, strict=True))
    if piece == 10**6:
        assert kept == [0, 0, *OUTLINES[2:]] * 2


def peak_bytes(work) -> int:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_outlines_take_no_memory(tmp_path, monkeypatch):
    layout = write_coco(tmp_path)
    path = layout.instances("train2017")
    outline = [[k / 8 for k in range(8000)]]
    change_boxes(path, lambda row: row.update(segmentation=outline * 8))
    monkeypatch.setattr(coco, "_PIECE", path.stat().st_size // 2)
    # Two of three outlines are whole within a piece; COCO's 860,000 practically all are.
    ours = peak_bytes(lambda: coco._read_boxes(path))
    assert ours < 0.5 * peak_bytes(lambda: json.loads(path.read_text()))


def test_an_instances_file_of_another_kind_is_refused(tmp_path):
    layout = write_coco(tmp_path)
    path = layout.instances("train2017")
    whole = path.read_text()
    for part, key in product(("annotations", "images", "categories"), ("gone", "row")):
        content = json.loads(whole)
        if key == "gone":
            del content[part]
        else:
            for name in ("bbox", "width", "name"):
                content[part][0].pop(name, None)
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="instances_train2017.json is not laid out as COCO's"):
            read_again(layout)
    path.write_text(whole.replace('"id": 9', '"id": 8'))
    with pytest.raises(KeyError, match="COCO train2017 9. is not among the images"):
        read_again(layout)
    path.write_text(whole[:-2])
    with pytest.raises(ValueError, match="no complete JSON"):
        read_again(layout)
