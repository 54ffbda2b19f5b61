"""What people wrote about the images, and what is in them, from COCO's own files.

NSD's images are crops of COCO 2017 photographs from both splits; the stimulus table says which
(columns ``cocoId``, ``cocoSplit``, ``cropBox``). Objects may lie outside the crop, and the
photographs cropped again are near to what was shown.
"""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nbutils.nsd.layout import Layout, require

SIDE = 425
"""Pixels per side of NSD's images."""

_REMEDY = (
    "unpack COCO's annotations_trainval2017.zip into the data root, or make the miniature world"
)


@dataclass(frozen=True)
class Thing:
    """One object inside the crop.

    Attributes
    ----------
    name, supercategory : COCO's words
    box : (x, y, width, height) as fractions of the image shown
    """

    name: str
    supercategory: str
    box: tuple[float, float, float, float]

    @property
    def area(self) -> float:
        """Share of the image that the box covers."""
        return self.box[2] * self.box[3]


def stim_info(layout: Layout) -> pd.DataFrame:
    """Read the stimulus table, one row per image, indexed by nsd_id (0-based)."""
    path = require(
        layout.stim_info(),
        "the stimulus table",
        "download nsddata/experiments/nsd or make the miniature world",
    )
    return _stim_info(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _stim_info(path: Path, _stamp: int) -> pd.DataFrame:
    table = pd.read_csv(path, index_col=0)
    absent = {"nsdId", "cocoId", "cocoSplit", "cropBox"} - set(table.columns)
    if absent:
        raise ValueError(
            f"{path} lacks the columns {', '.join(sorted(absent))}: "
            "it is not nsd_stim_info_merged.csv"
        )
    return table.set_index("nsdId", drop=False)


def captions(layout: Layout, nsd_ids: np.ndarray | list[int]) -> list[list[str]]:
    """Return the captions of images, five each for almost all.

    Parameters
    ----------
    layout : Layout
    nsd_ids : (n,) int, 0-based

    Returns
    -------
    list of n lists of sentences, without blanks around them

    Raises
    ------
    FileNotFoundError
        If COCO's caption files are missing.
    KeyError
        If an image has no caption there.
    """
    found = []
    for nsd_id, split, coco_id in _photographs(layout, nsd_ids):
        sentences = _captions(layout.captions(split), _stamp(layout.captions(split)))
        if coco_id not in sentences:
            raise KeyError(
                f"nsd_id {nsd_id} (COCO {split} {coco_id}) has no caption in "
                f"{layout.captions(split)}: the file is incomplete; {_REMEDY}"
            )
        found.append(list(sentences[coco_id]))
    return found


def things(layout: Layout, nsd_ids: np.ndarray | list[int]) -> list[list[Thing]]:
    """Return the objects inside the crop that was shown, largest box first."""
    boxes = stim_info(layout)["cropBox"]
    found = []
    for nsd_id, split, coco_id in _photographs(layout, nsd_ids):
        path = layout.instances(split)
        sizes, objects = _instances(path, _stamp(path))
        crop = read_crop(boxes.at[nsd_id])
        inside = (
            (name, kind, crop_box(box, sizes[coco_id], crop))
            for name, kind, box in objects.get(coco_id, ())
        )
        kept = [Thing(name, kind, box) for name, kind, box in inside if box is not None]
        found.append(sorted(kept, key=lambda thing: -thing.area))
    return found


def categories(
    layout: Layout, nsd_ids: np.ndarray | list[int], level: str = "name"
) -> list[list[str]]:
    """Return the kinds of objects in images, each once, the largest first.

    Parameters
    ----------
    layout : Layout
    nsd_ids : (n,) int, 0-based
    level : "name" (COCO: dog) or "supercategory" (COCO: animal)

    Returns
    -------
    list of n lists of words
    """
    if level not in ("name", "supercategory"):
        raise ValueError(f"level={level!r}: choose name or supercategory")
    return [
        list(dict.fromkeys(getattr(thing, level) for thing in row))
        for row in things(layout, nsd_ids)
    ]


def crop_box(
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    crop: tuple[float, float, float, float],
) -> tuple[float, float, float, float] | None:
    """Move a COCO box into the square crop that was shown.

    Parameters
    ----------
    box : (x, y, width, height) in pixels of the photograph
    size : (width, height) of the photograph
    crop : (top, bottom, left, right) fractions cut off on each side

    Returns
    -------
    (x, y, width, height) as fractions of the crop, or None if nothing of it is left
    """
    top, bottom, left, right = crop
    x, y = (
        (start / side - cut) / (1 - cut - other)
        for start, side, cut, other in zip(box[:2], size, (left, top), (right, bottom), strict=True)
    )
    width, height = (
        extent / side / (1 - cut)
        for extent, side, cut in zip(box[2:], size, (left + right, top + bottom), strict=True)
    )
    x0, y0, x1, y1 = (float(min(max(v, 0), 1)) for v in (x, y, x + width, y + height))
    return (x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else None


def read_crop(text: str) -> tuple[float, float, float, float]:
    """Read a cell of the column ``cropBox``, such as ``(0, 0, 0.1671875, 0.1671875)``.

    Returns
    -------
    (top, bottom, left, right) fractions cut off on each side of the photograph

    Raises
    ------
    ValueError
        If it is anything but four fractions that leave something.
    """
    try:
        # Only literals: the cell is text from a file, and eval would execute it.
        crop = tuple(float(part) for part in ast.literal_eval(text))
    except (ValueError, TypeError, SyntaxError):
        crop = ()
    if len(crop) != 4 or min(crop) < 0 or crop[0] + crop[1] >= 1 or crop[2] + crop[3] >= 1:
        raise ValueError(
            f"cropBox {text!r} is not (top, bottom, left, right) in fractions: "
            "fetch nsd_stim_info_merged.csv again"
        )
    return crop


def crop_photograph(
    image: Image.Image, crop: tuple[float, float, float, float], side: int = SIDE
) -> np.ndarray:
    """Cut NSD's square out of a COCO photograph.

    Parameters
    ----------
    image : the photograph in any colour mode, pixels as stored: COCO's boxes count those, so
        what its EXIF data say about its orientation is not applied
    crop : (top, bottom, left, right) fractions cut off on each side (``cropBox``)
    side : pixels per side afterwards

    Returns
    -------
    (side, side, 3) uint8 RGB. Near to NSD's image but not identical: which kernel NSD resized
    with is not known, and Lanczos is our choice.

    Raises
    ------
    ValueError
        If the crop leaves no square, so belongs to another photograph.
    """
    top, bottom, left, right = crop
    width, height = image.size
    box = (
        round(left * width),
        round(top * height),
        width - round(right * width),
        height - round(bottom * height),
    )
    across, down = box[2] - box[0], box[3] - box[1]
    # A real crop misses a square by a pixel or two; another photograph's by far more.
    if min(across, down) < 1 or abs(across - down) > 2 + 0.02 * max(across, down):
        raise ValueError(
            f"crop {tuple(crop)} leaves {across} x {down} of {width} x {height} pixels, no square: "
            "it belongs to another photograph"
        )
    shown = image.convert("RGB").crop(box)
    if shown.size != (side, side):
        shown = shown.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(shown)


def _photographs(layout: Layout, nsd_ids: np.ndarray | list[int]) -> list[tuple[int, str, int]]:
    table = stim_info(layout)
    ids = np.asarray(nsd_ids, np.int64).ravel()
    unknown = ids[~np.isin(ids, table.index)]
    if unknown.size:
        raise KeyError(
            f"nsd_id {unknown[0]} is not in the stimulus table: it has 0 to {table.index.max()}"
        )
    rows = table.loc[ids]
    return list(zip(ids.tolist(), rows["cocoSplit"], rows["cocoId"].tolist(), strict=True))


def _stamp(path: Path) -> int:
    return require(path, path.name, _REMEDY).stat().st_mtime_ns


@lru_cache(maxsize=4)
def _captions(path: Path, _stamp: int) -> dict[int, list[str]]:
    sentences = defaultdict(list)
    for row in _load(path)["annotations"]:
        if text := row["caption"].strip():
            sentences[row["image_id"]].append(text)
    return dict(sentences)


@lru_cache(maxsize=4)
def _instances(path: Path, _stamp: int) -> tuple[dict, dict]:
    content = _load(path)
    names = {row["id"]: (row["name"], row["supercategory"]) for row in content["categories"]}
    sizes = {row["id"]: (row["width"], row["height"]) for row in content["images"]}
    objects = defaultdict(list)
    for row in content["annotations"]:
        objects[row["image_id"]].append((*names[row["category_id"]], tuple(row["bbox"])))
    return sizes, dict(objects)


def _load(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no complete JSON file ({error}): fetch it again") from error
