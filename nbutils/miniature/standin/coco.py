"""The stand-in's photographs: COCO-like numbers, sizes, crops, captions and boxes.

NSD shows the square middle of a COCO photograph. Here the photograph is the drawn scene with its
edges drawn out on two sides, so that cropping it as the stimulus table says gives the scene back:
near to what was shown, not identical, as with the real ones.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nbutils.miniature import captions, scenes
from nbutils.nsd.layout import SPLITS

LONG, SHORT = 640, 426
ZIP = "annotations_trainval2017.zip"
_LAST_ID = 581_929
# COCO's val2017 has 5,000 of 123,287 photographs.
_VALIDATION_SHARE = 0.04
_UPRIGHT_SHARE, _SQUARE_SHARE = 0.25, 0.05
_CATEGORIES = [
    {"id": number + 1, "name": name, "supercategory": category}
    for number, (name, category) in enumerate(
        (name, category) for category, kinds in scenes.KINDS.items() for name in kinds
    )
]
_NUMBER = {row["name"]: row["id"] for row in _CATEGORIES}


@dataclass(frozen=True)
class Photographs:
    """Of which photograph each image is a crop; rows are nsd_ids.

    Attributes
    ----------
    coco_id : (n,) int64
    split : (n,) str, ``train2017`` or ``val2017``
    width, height : (n,) int64, pixels
    left, top : (n,) int64, pixels cut off before the square of 426 pixels
    """

    coco_id: np.ndarray
    split: np.ndarray
    width: np.ndarray
    height: np.ndarray
    left: np.ndarray
    top: np.ndarray

    def crop_text(self) -> list[str]:
        """Return the column cropBox: (top, bottom, left, right) as fractions cut off."""
        sides = (
            self.top / self.height,
            (self.height - SHORT - self.top) / self.height,
            self.left / self.width,
            (self.width - SHORT - self.left) / self.width,
        )
        columns = [[0 if value == 0 else float(value) for value in side] for side in sides]
        return [str(crop) for crop in zip(*columns, strict=True)]


def photographs(n: int, seed: int = 0) -> Photographs:
    """Draw numbers, splits, shapes and crops for `n` photographs."""
    rng = np.random.default_rng((seed, 2017))
    coco_id = rng.choice(max(_LAST_ID, 2 * n), n, replace=False) + 1
    split = np.where(rng.random(n) < _VALIDATION_SHARE, SPLITS[1], SPLITS[0])
    shape = rng.random(n)
    upright = shape < _UPRIGHT_SHARE
    wide = shape >= _UPRIGHT_SHARE + _SQUARE_SHARE
    # Half of the crops are in the middle; the others lie where the objects were.
    cut = np.where(rng.random(n) < 0.5, (LONG - SHORT) // 2, rng.integers(0, LONG - SHORT + 1, n))
    return Photographs(
        coco_id,
        split,
        np.where(wide, LONG, SHORT),
        np.where(upright, LONG, SHORT),
        np.where(wide, cut, 0),
        np.where(upright, cut, 0),
    )


def photograph(picture: np.ndarray, known: Photographs, nsd_id: int) -> Image.Image:
    """Make the photograph of which a drawn scene is the crop.

    Parameters
    ----------
    picture : (64, 64, 3) uint8
    known : Photographs
    nsd_id : 0-based
    """
    square = Image.fromarray(picture).resize((SHORT, SHORT), Image.Resampling.BICUBIC)
    top, left = int(known.top[nsd_id]), int(known.left[nsd_id])
    bottom = int(known.height[nsd_id]) - SHORT - top
    right = int(known.width[nsd_id]) - SHORT - left
    around = ((top, bottom), (left, right), (0, 0))
    return Image.fromarray(np.pad(np.asarray(square), around, mode="edge"))


def file_name(known: Photographs, nsd_id: int) -> str:
    """Return where COCO's server keeps a photograph, such as ``val2017/000000532481.jpg``."""
    return f"{known.split[nsd_id]}/{known.coco_id[nsd_id]:012d}.jpg"


def write_annotations(folder: Path, nsd_ids: np.ndarray, known: Photographs) -> list[Path]:
    """Write captions and objects of some images as COCO's four JSON files.

    Parameters
    ----------
    folder : where to write
    nsd_ids : (n,) 0-based images described
    known : Photographs

    Returns
    -------
    list of the four files
    """
    written = []
    for split in SPLITS:
        ids = [int(i) for i in nsd_ids[known.split[nsd_ids] == split]]
        head = {
            "info": {"description": "drawn scenes that stand in for COCO's photographs"},
            "images": [_image(i, known) for i in ids],
        }
        contents = {
            "captions": head | {"annotations": _number(_captions(ids, known))},
            "instances": head
            | {"annotations": _number(_instances(ids, known)), "categories": _CATEGORIES},
        }
        for kind, content in contents.items():
            path = folder / f"{kind}_{split}.json"
            path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
            written.append(path)
    return written


def write_zip(path: Path, files: list[Path]) -> None:
    """Pack annotation files as COCO does, with fixed dates so that the bytes repeat."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            entry = zipfile.ZipInfo(f"annotations/{file.name}", (2017, 9, 1, 0, 0, 0))
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED, 1)


def _image(nsd_id: int, known: Photographs) -> dict:
    path = file_name(known, nsd_id)
    return {
        "id": int(known.coco_id[nsd_id]),
        "file_name": path.split("/")[1],
        "coco_url": f"http://images.cocodataset.org/{path}",
        "width": int(known.width[nsd_id]),
        "height": int(known.height[nsd_id]),
    }


def _number(rows: Iterator[dict]) -> list[dict]:
    return [{"id": number} | row for number, row in enumerate(rows, start=1)]


def _captions(ids: list[int], known: Photographs) -> Iterator[dict]:
    for i in ids:
        for text in captions.captions(scenes.scene(i)):
            yield {"image_id": int(known.coco_id[i]), "caption": text}


def _instances(ids: list[int], known: Photographs) -> Iterator[dict]:
    """Yield the boxes of what was drawn, in pixels of the photograph."""
    for i in ids:
        for thing in scenes.scene(i).things:
            x0, x1 = (SHORT * _clip(thing.x + side * thing.size) for side in (-1, 1))
            y0, y1 = (SHORT * _clip(thing.y + side * thing.size) for side in (-1, 1))
            box = [known.left[i] + x0, known.top[i] + y0, x1 - x0, y1 - y0]
            yield {
                "image_id": int(known.coco_id[i]),
                "category_id": _NUMBER[thing.kind],
                "bbox": [round(float(value), 2) for value in box],
                "area": round((x1 - x0) * (y1 - y0), 2),
                "iscrowd": 0,
            }


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)
