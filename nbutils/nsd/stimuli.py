"""The images that were shown."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from h5py import File
from PIL import Image, UnidentifiedImageError

from nbutils.nsd.captions import stim_info
from nbutils.nsd.layout import ORIGINS, Layout

DATASET = "imgBrick"
BRICK = "hdf5"
"""What `Stimuli.source` calls NSD's one file of all images."""
_FETCH = "`python -m nbutils nsd fetch --subject N --images stimuli`"
_THREADS = 4


class Stimuli:
    """Images by nsd_id, read from disk when asked for.

    ``Stimuli(layout)[nsd_ids]`` is (n, height, width, 3) uint8 RGB in the order asked for;
    one whole number gives one image. They come from NSD's stimulus file where it is on disk,
    else from one PNG file per image (`Layout.image`), of the first origin that has it.

    Parameters
    ----------
    layout : Layout

    Attributes
    ----------
    shape : (n_images, height, width, 3)
    source : "hdf5", or the origins of the PNG files on disk, such as "shared + coco"

    Raises
    ------
    FileNotFoundError
        If there is neither the stimulus file nor any PNG file.
    ValueError
        If what is there does not hold colour images of 8 bits.
    """

    def __init__(self, layout: Layout) -> None:
        reader = _Brick if layout.stimuli().is_file() else _Pictures
        self._reader: _Brick | _Pictures = reader(layout)
        self.shape: tuple[int, int, int, int] = self._reader.shape
        self.source: str = self._reader.source

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, nsd_ids: int | np.ndarray | list[int]) -> np.ndarray:
        """Read images.

        Raises
        ------
        TypeError
            If the ids are no integers.
        IndexError
            If an id does not exist.
        ValueError
            If an image is empty in a stimulus file that was filled only in part, or its PNG
            file is damaged or of another size.
        FileNotFoundError
            If there is no PNG file of an image.
        """
        ids = self._check(nsd_ids)
        # Every image once and in the order of the disk, then handed out in the order of `ids`.
        rows, where = np.unique(np.atleast_1d(ids), return_inverse=True)
        images = self._reader.read(rows)[where]
        return images[0] if ids.ndim == 0 else images

    def origins(self, nsd_ids: int | np.ndarray | list[int]) -> list[str]:
        """Return for each image where it comes from: "hdf5" or one of `layout.ORIGINS`.

        "coco" images are near to what was shown, the others are what was shown.
        """
        return [self._reader.origin(int(one)) for one in np.atleast_1d(self._check(nsd_ids))]

    def _check(self, nsd_ids: int | np.ndarray | list[int]) -> np.ndarray:
        ids = np.asarray(nsd_ids)
        if ids.size and not np.issubdtype(ids.dtype, np.integer):
            raise TypeError(f"nsd_ids are {ids.dtype}: give whole numbers from 0")
        ids = ids.astype(np.int64)
        if ids.size and not (0 <= ids.min() and ids.max() < len(self)):
            raise IndexError(
                f"nsd_ids run from {ids.min()} to {ids.max()}, but there are "
                f"images 0 to {len(self) - 1}"
            )
        return ids


class _Brick:
    """NSD's stimulus file.

    h5py shows MATLAB's 3 x W x H x N array as (N, H, W, 3), rows first, so nothing is transposed.
    """

    source = BRICK

    def __init__(self, layout: Layout) -> None:
        self.path = layout.stimuli()
        try:
            with File(self.path, "r") as file:
                brick = file.get(DATASET)
                found = None if brick is None else (brick.shape, brick.dtype)
        except OSError as error:
            raise ValueError(
                f"{self.path} is no readable HDF5 file ({error}): it may be half downloaded, "
                "so fetch it again"
            ) from error
        if found is None or len(found[0]) != 4 or found[0][3] != 3 or found[1] != np.uint8:
            raise ValueError(
                f"{self.path} has no /{DATASET} of shape (images, height, width, "
                "3) in uint8: it is not NSD's stimulus file"
            )
        self.shape = found[0]

    def origin(self, nsd_id: int) -> str:
        return self.source

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read ascending rows, neighbours together."""
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        with File(self.path, "r") as file:
            brick = file[DATASET]
            for stretch in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) > 1) + 1):
                if stretch.size:
                    images[stretch] = brick[rows[stretch[0]] : rows[stretch[-1]] + 1]
        # No photograph is wholly black; such a row was never written (a partial copy).
        empty = rows[~images.any(axis=(1, 2, 3))]
        if empty.size:
            raise ValueError(
                f"image {empty[0]} is empty in the stimulus file ({empty.size} of "
                f"{len(rows)} asked for): add the images of the subject who saw it"
            )
        return images


class _Pictures:
    """One PNG file per image."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        folder = layout.image(0, ORIGINS[0]).parents[2]
        firsts = {one: next((folder / one).glob("??/nsd_id*.png"), None) for one in ORIGINS}
        there = {origin: path for origin, path in firsts.items() if path is not None}
        if not there:
            raise FileNotFoundError(
                f"the stimulus file is not at {layout.stimuli()} and there are no images in "
                f"{folder}: fetch them with {_FETCH}, or make the miniature world"
            )
        self.source = " + ".join(there)
        self.size = _open(next(iter(there.values()))).shape
        self.shape = (len(stim_info(layout)), *self.size)

    def origin(self, nsd_id: int) -> str:
        for origin in ORIGINS:
            if self.layout.image(nsd_id, origin).is_file():
                return origin
        folder = self.layout.image(nsd_id, ORIGINS[0]).parents[2]
        raise FileNotFoundError(
            f"image {nsd_id} (nsd_id, counted from 0) is not below {folder} "
            f"({self.source}): fetch the images of a subject who saw it with {_FETCH}"
        )

    def read(self, rows: np.ndarray) -> np.ndarray:
        paths = [self.layout.image(row, self.origin(row)) for row in rows.tolist()]
        images = np.empty((len(rows), *self.size), np.uint8)
        with ThreadPoolExecutor(_THREADS) as pool:
            for k, image in enumerate(pool.map(_open, paths)):
                if image.shape != self.size:
                    raise ValueError(
                        f"{paths[k]} is {image.shape[1]} x {image.shape[0]} pixels, not "
                        f"{self.size[1]} x {self.size[0]} as other images of this folder: "
                        "delete it and fetch it again"
                    )
                images[k] = image
        return images


def _open(path: Path) -> np.ndarray:
    """Decode a PNG file to (height, width, 3) uint8."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{path} is no readable PNG file ({error}): delete it and fetch it again"
        ) from error
    if mode != "RGB":
        raise ValueError(
            f"{path} has colour mode {mode}, not RGB: delete it and fetch or convert it again"
        )
    return pixels
