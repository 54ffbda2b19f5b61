"""Features of the frozen networks, stored as memory-mapped float16 arrays with their nsd_ids.

`extract` writes ``<path>`` (an ``.npy`` file) and ``<path without .npy>.features.json``, which says
which images the rows belong to. An interrupted extraction leaves ``<path>.part`` and continues
there; the final names appear only when every row is written. The sidecar also holds a hash of the
network's weights, so that features of an earlier version are never taken for the present ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from nbutils.artifacts import hash_file
from nbutils.decoding.encoders import FROM_CAPTIONS, FeatureOptions, encoder

Captions = Sequence[Sequence[str]]
Encode = Callable[[NDArray[np.uint8], Captions, NDArray[np.int64]], NDArray]


@dataclass(frozen=True)
class Features:
    """Features of one frozen network, one row per image.

    Parameters
    ----------
    array : (n_images, ...) float16, usually a read-only memory map
    nsd_id : (n_images,) int64, the image of each row
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


def open_features(path: str | Path) -> Features:
    """Open stored features without reading them into memory.

    Raises
    ------
    FileNotFoundError
        If the array or its sidecar is not there.
    """
    path = Path(path)
    for file in (path, _sidecar(path)):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} does not exist; extract the features first (02_extract_features)."
            )
    record = json.loads(_sidecar(path).read_text())
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return Features(array, np.asarray(record["nsd_id"], dtype=np.int64))


def extract(
    name: str,
    networks: Any,
    stimuli: Any,
    captions: Captions | None,
    nsd_ids: ArrayLike,
    path: str | Path,
    *,
    options: FeatureOptions | None = None,
    batch_size: int = 64,
    replace: bool = False,
    progress: bool = True,
) -> Features:
    """Run one frozen network over all images and store what it says.

    Parameters
    ----------
    name : "clip_image", "clip_text", "autokl", "optimus" or "vdvae"
    networks : what `nbutils.networks.loading.load` returns
    stimuli : indexable by an array of nsd_ids, giving (n, H, W, 3) uint8 images
    captions : for each nsd_id a list of captions; None for features of images
    nsd_ids : (n_images,) int, images without repetition
    path : where the ``.npy`` file goes
    options : how images and captions are encoded; the careful choices by default
    batch_size : images at a time
    replace : whether a finished file of other images, weights or options is written anew; by
        default it is left alone and reported
    progress : show a progress bar

    Returns
    -------
    features : memory-mapped, float16

    Raises
    ------
    ValueError
        If the name is unknown, captions are missing, or the file holds other features and
        `replace` was not asked for.
    """
    ids, path = np.asarray(nsd_ids, dtype=np.int64), Path(path)
    options = options or FeatureOptions()
    encode = encoder(name, networks, options)
    _check_captions(name, captions, ids)
    record = {"feature": name, "options": options.model_dump(), "nsd_id": ids.tolist()}
    record["weights"] = _hash_weights(name, networks)
    if path.is_file() and _sidecar(path).is_file():
        if json.loads(_sidecar(path).read_text()) == record:
            return open_features(path)
        if not replace:
            raise ValueError(
                f"{path} holds other features (other images, network or options); remove it, "
                "choose another path, or say replace=True."
            )
    _write(path, record, stimuli, captions, encode, batch_size, progress)
    return open_features(path)


def _check_captions(name: str, captions: Captions | None, ids: NDArray) -> None:
    if name not in FROM_CAPTIONS:
        return
    if captions is None or len(captions) != len(ids):
        found = "none" if captions is None else str(len(captions))
        raise ValueError(
            f"{name} needs one list of captions for each of {len(ids)} images, got {found}."
        )
    empty = [int(i) for i, texts in zip(ids, captions, strict=True) if not any(texts)]
    if empty:
        raise ValueError(f"{len(empty)} images have no caption (nsd_id {empty[0]} is the first).")


def _hash_weights(name: str, networks: Any) -> str | None:
    """Hash of the file that holds a feature's network; None for networks without a directory."""
    directory = getattr(networks, "directory", None)
    network = name.removesuffix("_image").removesuffix("_text")
    file = Path(directory or ".", f"{network}.safetensors")
    return hash_file(file) if directory is not None and file.is_file() else None


def _write(
    path: Path,
    record: dict,
    stimuli: Any,
    captions: Captions | None,
    encode: Encode,
    batch_size: int,
    progress: bool,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.asarray(record["nsd_id"], dtype=np.int64)
    done, array = _resume(path, record)
    bar = tqdm(total=len(ids), initial=done, desc=record["feature"], disable=not progress)
    for start in range(done, len(ids), batch_size):
        rows = slice(start, min(start + batch_size, len(ids)))
        texts = [[]] * len(ids[rows]) if captions is None else captions[rows]
        values = _half(encode(stimuli[ids[rows]], texts, ids[rows]), record["feature"])
        if array is None:
            array = _open_part(path, (len(ids), *values.shape[1:]))
        array[rows] = values
        array.flush()
        _replace_text(_marker(path), json.dumps({**record, "done": rows.stop}))
        bar.update(len(values))
    bar.close()
    del array
    # The sidecar goes first, and never beside an older array: what bears the final name is whole.
    path.unlink(missing_ok=True)
    _replace_text(_sidecar(path), json.dumps(record))
    os.replace(_part(path), path)
    _marker(path).unlink()


def _resume(path: Path, record: dict) -> tuple[int, NDArray | None]:
    """Rows already written and the array they are in; (0, None) where nothing fits."""
    if not (_part(path).is_file() and _marker(path).is_file()):
        return 0, None
    found = json.loads(_marker(path).read_text())
    done = found.pop("done")
    if found != record:
        return 0, None
    array = np.lib.format.open_memmap(_part(path), mode="r+")
    return (done, array) if len(array) == len(record["nsd_id"]) else (0, None)


def _open_part(path: Path, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(_part(path), mode="w+", dtype=np.float16, shape=shape)


def _half(values: NDArray | torch.Tensor, name: str) -> NDArray[np.float16]:
    if isinstance(values, torch.Tensor):
        values = values.detach().float().cpu().numpy()
    with np.errstate(over="ignore"):  # reported as a sentence below
        half = np.asarray(values).astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(
            f"{name} gave values that float16 cannot hold; check the images and the weights."
        )
    return half


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".npy") + ".features.json")
