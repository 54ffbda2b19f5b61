"""The images that were shown."""

from __future__ import annotations

import numpy as np
from h5py import File

from nbutils.nsd.layout import Layout, require

DATASET = "imgBrick"


class Stimuli:
    """Images by nsd_id, read from disk when asked for.

    ``Stimuli(layout)[nsd_ids]`` is (n, height, width, 3) uint8 RGB in the order asked for;
    one whole number gives one image. h5py shows MATLAB's 3 x W x H x N array as
    (N, H, W, 3), rows first, so nothing is transposed.

    Parameters
    ----------
    layout : Layout

    Raises
    ------
    FileNotFoundError
        If the stimulus file is missing.
    ValueError
        If it does not hold colour images of 8 bits.
    """

    def __init__(self, layout: Layout) -> None:
        self.path = require(
            layout.stimuli(),
            "the stimulus file",
            "download nsddata_stimuli or make the miniature world",
        )
        with File(self.path, "r") as file:
            brick = file.get(DATASET)
            if brick is None or brick.ndim != 4 or brick.shape[3] != 3 or brick.dtype != np.uint8:
                raise ValueError(
                    f"{self.path} has no /{DATASET} of shape (images, height, width, "
                    "3) in uint8: it is not NSD's stimulus file"
                )
            self.shape: tuple[int, int, int, int] = brick.shape

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
            If an image is empty in a file that was filled only in part.
        """
        ids = np.asarray(nsd_ids)
        if ids.size and not np.issubdtype(ids.dtype, np.integer):
            raise TypeError(f"nsd_ids are {ids.dtype}: give whole numbers from 0")
        ids = ids.astype(np.int64)
        if ids.size and not (0 <= ids.min() and ids.max() < len(self)):
            raise IndexError(
                f"nsd_ids run from {ids.min()} to {ids.max()}, but the stimulus file "
                f"has images 0 to {len(self) - 1}"
            )
        with File(self.path, "r") as file:
            images = _read_rows(file[DATASET], np.atleast_1d(ids))
        return images[0] if ids.ndim == 0 else images


def _read_rows(brick, ids: np.ndarray) -> np.ndarray:
    """Read rows once each, in file order, then hand them out in the order of `ids`."""
    rows, where = np.unique(ids, return_inverse=True)
    images = np.empty((len(rows), *brick.shape[1:]), np.uint8)
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
    return images[where]
