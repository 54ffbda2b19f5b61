"""What people wrote about the images, and what is in them, from COCO's own files.

NSD's images are crops of COCO 2017 photographs from both splits; the stimulus table says which
(columns ``cocoId``, ``cocoSplit``, ``cropBox``). Objects may lie outside the crop, and the
photographs cropped again are near to what was shown.

COCO's largest file holds 448 MB, mostly outlines of objects. They are dropped while it is read, and
the boxes are kept beside it, so that the next reader need not go through it again.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from nbutils.artifacts import replacing
from nbutils.nsd.layout import Layout, require

SIDE = 425
"""Pixels per side of NSD's images."""

_REMEDY = (
    "fetch it with `python -m nbutils nsd fetch`, unpack COCO's annotations_trainval2017.zip "
    "into the data root, or make the miniature world"
)
_PIECE = 2**22  # characters read at a time
# A list of numbers up to the next key or the end of its row: never half of one that a piece cuts.
_OUTLINE = re.compile(
    r'"segmentation":\s*\[[0-9.,eE+\-\[\] \t\r\n]*\](?=[ \t\r\n]*(?:,[ \t\r\n]*"|\}))'
)
_OBJECT = np.dtype([("image", "<i8"), ("kind", "<i8"), ("box", "<f8", 4)])
_IMAGE = np.dtype([("number", "<i8"), ("size", "<f8", 2)])


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
    crops = stim_info(layout)["cropBox"]
    found = []
    for nsd_id, split, coco_id in _photographs(layout, nsd_ids):
        path, crop = layout.instances(split), read_crop(crops.at[nsd_id])
        known = _boxes(path, _stamp(path))
        if coco_id not in known:
            raise KeyError(
                f"nsd_id {nsd_id} (COCO {split} {coco_id}) is not among the images of {path}: "
                f"the file is incomplete; {_REMEDY}"
            )
        size, objects = known.photograph(coco_id)
        inside = ((*words, crop_box(box, size, crop)) for words, box in objects)
        kept = [Thing(*one) for one in inside if one[-1] is not None]
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


def _stamp(path: Path) -> tuple[int, int]:
    status = require(path, path.name, _REMEDY).stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4)
def _captions(path: Path, _stamp: tuple[int, int]) -> dict[int, list[str]]:
    sentences = defaultdict(list)
    with _blaming(path):
        for image, text in _load(path, _trim_caption)["annotations"]:
            if text:
                sentences[image].append(text)
    return dict(sentences)


def _trim_caption(row: dict) -> Any:
    return (row["image_id"], row["caption"].strip()) if "caption" in row else row


class _Boxes(NamedTuple):
    """What one instances file says about boxes, in at most 45 MB; images and owners ascend."""

    images: np.ndarray  # (n,) int64, COCO numbers
    sizes: np.ndarray  # (n, 2) float64, width and height in pixels
    owners: np.ndarray  # (m,) int64, COCO number of the image of every object
    kinds: np.ndarray  # (m,) int16, row of `words`
    boxes: np.ndarray  # (m, 4) float64 (x, y, width, height); float32 would round 473.07
    words: np.ndarray  # (k, 2) text, name and supercategory

    def __contains__(self, coco_id: int) -> bool:
        at = np.searchsorted(self.images, coco_id)
        return coco_id in self.images[at : at + 1]

    def photograph(self, coco_id: int) -> tuple[list[float], Iterator[tuple[list, list]]]:
        """Return (width, height), and (name, supercategory), box of all objects in file order."""
        size = self.sizes[np.searchsorted(self.images, coco_id)].tolist()
        its = slice(*np.searchsorted(self.owners, (coco_id, coco_id + 1)))
        words = self.words[self.kinds[its]].tolist()
        return size, zip(words, self.boxes[its].tolist(), strict=True)


@lru_cache(maxsize=4)
def _boxes(path: Path, stamp: tuple[int, int]) -> _Boxes:
    """Return the boxes of an instances file, from the copy beside it if that is of this file."""
    copy = path.with_name(f".{path.stem}.boxes.npz")
    # Whatever is wrong with the copy, its source is here.
    with contextlib.suppress(Exception), np.load(copy) as file:
        if tuple(file["source"].tolist()) == stamp:
            return _Boxes(*(file[name] for name in _Boxes._fields))
    with _blaming(path):
        boxes = _read_boxes(path)
    # Without room or permission to write, the next reader goes through the file again.
    with contextlib.suppress(OSError), replacing(copy) as temporary:
        np.savez(temporary, source=np.array(stamp), **boxes._asdict())
    return boxes


def _read_boxes(path: Path) -> _Boxes:
    content = _load(path, _trim_instance)
    objects = np.frombuffer(b"".join(content["annotations"]), _OBJECT)
    images = np.sort(np.frombuffer(b"".join(content["images"]), _IMAGE), order="number")
    objects = objects[np.argsort(objects["image"], kind="stable")]
    row = {one["id"]: k for k, one in enumerate(content["categories"])}
    return _Boxes(
        images["number"].copy(),
        images["size"].copy(),
        objects["image"].copy(),
        np.array([row[kind] for kind in objects["kind"].tolist()], np.int16),
        objects["box"].copy(),
        np.array([(one["name"], one["supercategory"]) for one in content["categories"]], np.str_),
    )


def _trim_instance(row: dict) -> Any:
    """Pack a row as soon as it is read; a dict of its own would take twenty times the room."""
    if "bbox" in row:
        return struct.pack("<qq4d", row["image_id"], row["category_id"], *row["bbox"])
    if "width" in row:
        return struct.pack("<q2d", row["id"], row["width"], row["height"])
    return row


def _load(path: Path, trim: Callable[[dict], Any]) -> dict:
    """Return what a JSON file holds, without outlines and with `trim` put over every object."""
    with path.open(encoding="utf-8") as file:
        pieces = iter(lambda: file.read(_PIECE), "")
        text = "".join(_OUTLINE.sub('"segmentation":0', piece) for piece in pieces)
    return json.loads(text, object_hook=trim)


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Say which file is damaged, or is not COCO's."""
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no complete JSON file: fetch it again") from error
    except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise ValueError(f"{path} is not laid out as COCO's ({error!r}): {_REMEDY}") from error
