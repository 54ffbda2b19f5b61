"""Stored features: memory-mapped arrays whose rows are found by nsd_id.

Two files belong together: ``<name>.npy`` holds one row per image, ``<name>.features.json`` says
which images the rows are. NumPy alone reads them, so that regression does not wait for torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Features:
    """Features of one frozen network, one row per image.

    Parameters
    ----------
    array : (n_images, ...) float16, usually a read-only memory map
    nsd_id : (n_images,) int64, the image of each row

    Raises
    ------
    ValueError
        If the two differ in length, or an image comes twice.
    """

    array: NDArray
    nsd_id: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.array) != len(self.nsd_id):
            raise ValueError(
                f"{len(self.array)} rows of features for {len(self.nsd_id)} nsd_ids; the file and "
                "its sidecar do not belong together, extract the features again."
            )
        if len(np.unique(self.nsd_id)) != len(self.nsd_id):
            raise ValueError("nsd_id holds an image twice; features have one row per image.")

    def rows(self, nsd_ids: ArrayLike) -> NDArray[np.int64]:
        """Positions of images, in the order asked.

        Raises
        ------
        ValueError
            If an image has no row here.
        """
        wanted = np.asarray(nsd_ids, dtype=np.int64)
        order = np.argsort(self.nsd_id)
        place = np.searchsorted(self.nsd_id, wanted, sorter=order)
        rows = order[np.minimum(place, len(order) - 1)]
        missing = wanted[self.nsd_id[rows] != wanted]
        if len(missing):
            raise ValueError(
                f"{len(missing)} of {len(wanted)} images have no features here (nsd_id "
                f"{missing[0]} is the first); extract the features of these images."
            )
        return rows

    def take(self, nsd_ids: ArrayLike) -> NDArray[np.float32]:
        """Features of the images asked, in that order, as (n, ...) float32 in memory."""
        return np.asarray(self.array[self.rows(nsd_ids)], dtype=np.float32)


def sidecar(path: str | Path) -> Path:
    """File beside an array of features that says which images, weights and options it is of."""
    path = Path(path)
    return path.with_name(path.name.removesuffix(".npy") + ".features.json")


def open_features(path: str | Path) -> Features:
    """Open stored features without reading them into memory.

    Parameters
    ----------
    path : the ``.npy`` file

    Raises
    ------
    FileNotFoundError
        If the array or its sidecar is not there.
    ValueError
        If the array is cut short, or does not belong to its sidecar.
    """
    path = Path(path)
    for file in (path, sidecar(path)):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} does not exist; extract the features first (02_extract_features)."
            )
    record = json.loads(sidecar(path).read_text())
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:  # NumPy names neither the file nor a remedy
        raise ValueError(
            f"{path} is damaged ({error}); remove it and extract the features again."
        ) from None
    return Features(array, np.asarray(record["nsd_id"], dtype=np.int64))
