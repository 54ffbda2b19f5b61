"""Features of the frozen networks, extracted in one pass over the images.

Every feature is streamed to ``<name>.npy.part``, row after row, with a marker beside it that says
how many rows are safe on disk. A run that was killed goes on there and gives the same bytes. The
final names appear only when every row is written: ``<name>.npy``, and ``<name>.features.json``
with the images of the rows, a hash of the network's weights and the options, so that features of
an earlier version are never taken for the present ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from nbutils.artifacts import hash_file
from nbutils.decoding.encoders import (
    FROM_CAPTIONS,
    NETWORK,
    Encode,
    FeatureOptions,
    check_name,
    choose_captions,
    encoder,
)
from nbutils.decoding.store import Features, open_features, sidecar

__all__ = ["Features", "extract", "open_features"]

Captions = Sequence[Sequence[str]]


def extract(
    names: Sequence[str],
    networks: Any,
    stimuli: Any,
    captions: Captions | None,
    nsd_ids: ArrayLike,
    folder: str | Path,
    *,
    options: FeatureOptions | None = None,
    batch_size: int = 64,
    replace: bool = False,
    progress: bool = True,
) -> dict[str, Features]:
    """Run frozen networks over all images and store what they say.

    Each image is read once for all networks, while they work on the batch before. A feature that
    is finished costs nothing; one that was interrupted goes on at its last whole batch. With the
    same `batch_size` the files hold the same bytes as without the interruption.

    Parameters
    ----------
    names : of the encoders' (`nbutils.decoding.encoders`), such as "clip_image" or "control"
    networks : what `nbutils.networks.loading.load` returns
    stimuli : indexable by an array of nsd_ids, giving (n, H, W, 3) uint8 images
    captions : for each nsd_id a list of captions; None for features of images
    nsd_ids : (n_images,) int, images without repetition
    folder : where ``<name>.npy`` and ``<name>.features.json`` go
    options : how images and captions are encoded; the careful choices by default
    batch_size : images at a time
    replace : whether a finished file of other images, weights or options is written anew; by
        default it is left alone and reported
    progress : show a progress bar

    Returns
    -------
    features : for each name, memory-mapped float16 with one row per image

    Raises
    ------
    ValueError
        If a name is unknown, captions are missing, a value is too large for float16, or a file
        holds other features and `replace` was not asked for.
    OSError
        If the disk is too small for what is still to be written.
    """
    ids, folder = np.asarray(nsd_ids, dtype=np.int64), Path(folder)
    options = options or FeatureOptions()
    _check(names, captions, ids)
    weights = _hash_weights(names, networks)
    parts = []
    for name in names:
        record = _describe(name, options, stimuli, captions, ids) | {"weights": weights[name]}
        if not _is_finished(folder / f"{name}.npy", record, replace):
            parts.append(_Part(folder / f"{name}.npy", record, encoder(name, networks, options)))
    if parts:
        folder.mkdir(parents=True, exist_ok=True)
        _run(parts, stimuli, captions, ids, batch_size, progress)
    return {name: open_features(folder / f"{name}.npy") for name in names}


def write_rows(
    path: str | Path,
    name: str,
    nsd_ids: ArrayLike,
    compute: Callable[[slice], ArrayLike],
    note: dict[str, Any],
    *,
    batch_size: int = 64,
    replace: bool = False,
    progress: bool = True,
) -> Features:
    """Store what a computation gives for each image, resumable as `extract` is.

    Parameters
    ----------
    path : the ``.npy`` file
    name : of the computation, for the progress bar and the record
    nsd_ids : (n_images,) int, images without repetition
    compute : slice of the images -> (n, k) numbers
    note : what else decides the values; a file with another note is not taken for this one
    batch_size, replace, progress : as in `extract`

    Raises
    ------
    ValueError
        If the file holds something else, or a value is too large for float16.
    """
    ids, path = np.asarray(nsd_ids, dtype=np.int64), Path(path)
    # As JSON gives it back, so that a finished file is known again.
    record = json.loads(json.dumps({"feature": name, "nsd_id": ids.tolist()} | note))
    if _is_finished(path, record, replace):
        return open_features(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(path, record, compute)
    with (
        closing(part),
        tqdm(
            total=len(ids), initial=part.done, desc=name, unit="image", disable=not progress
        ) as bar,
    ):
        while part.done < len(ids):
            rows = slice(part.done, min(part.done + batch_size, len(ids)))
            part.write(_half(compute(rows), name))
            bar.update(rows.stop - rows.start)
    part.finish()
    return open_features(path)


def _check(names: Sequence[str], captions: Captions | None, ids: NDArray) -> None:
    if isinstance(names, str):
        raise ValueError(f"names={names!r}: give a list of names, such as [{names!r}].")
    for name in names:
        check_name(name)
        if name in FROM_CAPTIONS and (captions is None or len(captions) != len(ids)):
            found = "none" if captions is None else str(len(captions))
            raise ValueError(
                f"{name} needs one list of captions for each of {len(ids)} images, got {found}."
            )
    if set(names) & set(FROM_CAPTIONS):
        empty = [int(i) for i, texts in zip(ids, captions or (), strict=True) if not any(texts)]
        if empty:
            raise ValueError(
                f"{len(empty)} images have no caption (nsd_id {empty[0]} is the first); leave "
                "these images out or fetch their captions."
            )
    if not len(ids):
        raise ValueError("nsd_ids is empty; name the images whose features are wanted.")
    if len(np.unique(ids)) != len(ids):
        raise ValueError("nsd_ids name an image twice; features have one row per image.")


def _hash_weights(names: Sequence[str], networks: Any) -> dict[str, str | None]:
    """Hash of the file of each feature's network; None for networks without a directory."""
    if getattr(networks, "weights", "stored") == "random":
        return dict.fromkeys(names, "random")  # not those of the directory's files
    directory = getattr(networks, "directory", None)
    network = {name: NETWORK.get(name, name) for name in names}
    hashes = {}
    for one in set(network.values()):  # CLIP's two towers share a large file
        file = Path(directory or ".", f"{one}.safetensors")
        hashes[one] = hash_file(file) if directory is not None and file.is_file() else None
    return {name: hashes[one] for name, one in network.items()}


def _describe(
    name: str, options: FeatureOptions, stimuli: Any, captions: Captions | None, ids: NDArray
) -> dict:
    """What decides the values of a feature, weights excepted, as it is kept beside the array."""
    record = {"feature": name, "options": options.of(name), "nsd_id": ids.tolist()}
    if name in FROM_CAPTIONS:
        return record | {"captions": _digest(choose_captions(captions or (), options))}
    return record | {"images": getattr(stimuli, "source", None)}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _is_finished(path: Path, record: dict, replace: bool) -> bool:
    if not (path.is_file() and sidecar(path).is_file()):
        return False
    if json.loads(sidecar(path).read_text()) == record:
        _marker(path).unlink(missing_ok=True)  # killed between the last rename and this
        return True
    if not replace:
        raise ValueError(
            f"{path} holds other features (other images, network or options); remove it, "
            "choose another folder, or say replace=True."
        )
    return False


class _Part:
    """A feature that is being written: rows in order, each batch safe before it is counted.

    The file is written, not mapped: pages of a map that was written to stay in memory until the
    system takes them back.
    """

    def __init__(self, path: Path, record: dict, encode: Encode) -> None:
        self.path, self.record, self.encode = path, record, encode
        self.name, self.n_rows = record["feature"], len(record["nsd_id"])
        self.from_images = self.name not in FROM_CAPTIONS
        self.key = _digest(record)
        self.file: IO[bytes] | None = None
        self.row_bytes = 0
        self.done = self._find_done()

    @property
    def missing_bytes(self) -> int:
        """Bytes still to be written, once the first batch has shown the size of a row."""
        return (self.n_rows - self.done) * self.row_bytes

    def write(self, values: NDArray[np.float16]) -> None:
        """Append rows."""
        if self.file is None:
            self.file = self._open(values.shape[1:])
            self.row_bytes = values[:1].nbytes
        self.file.write(np.ascontiguousarray(values))
        self.file.flush()
        # After a power cut the marker must not promise rows that never reached the disk.
        os.fsync(self.file.fileno())
        self.done += len(values)
        _replace_text(_marker(self.path), json.dumps({"record": self.key, "done": self.done}))

    def finish(self) -> None:
        """Give the files their final names."""
        self.close()
        # The sidecar goes first, and never beside an older array: what bears the final name is
        # whole.
        self.path.unlink(missing_ok=True)
        _replace_text(sidecar(self.path), json.dumps(self.record))
        os.replace(_unfinished(self.path), self.path)
        _marker(self.path).unlink()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def _find_done(self) -> int:
        """Rows that an earlier run of the same extraction left on disk."""
        try:
            found = json.loads(_marker(self.path).read_text())
            shape, start = _read_header(_unfinished(self.path))
            size = _unfinished(self.path).stat().st_size
        except (FileNotFoundError, ValueError):  # none, or none that can be read
            return 0
        if not isinstance(found, dict) or found.get("record") != self.key:
            return 0
        done, whole = found["done"], (size - start) // (2 * math.prod(shape[1:]))
        return done if shape[0] == self.n_rows and done <= whole else 0

    def _open(self, row_shape: tuple[int, ...]) -> IO[bytes]:
        shape, path = (self.n_rows, *row_shape), _unfinished(self.path)
        if not self.done:
            file = path.open("wb")
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            return file
        found, start = _read_header(path)
        if found != shape:
            raise ValueError(f"{path} has rows of {found[1:]}, not {row_shape}; remove it.")
        file = path.open("r+b")
        # A batch whose marker was never written may be there in part; it is written again.
        file.truncate(start + self.done * 2 * math.prod(row_shape))
        file.seek(0, os.SEEK_END)
        return file


def _run(
    parts: Sequence[_Part],
    stimuli: Any,
    captions: Captions | None,
    ids: NDArray,
    batch_size: int,
    progress: bool,
) -> None:
    first = min(part.done for part in parts)
    batches = [slice(k, min(k + batch_size, len(ids))) for k in range(first, len(ids), batch_size)]
    seen = min((part.done for part in parts if part.from_images), default=len(ids))

    def read(rows: slice) -> NDArray | None:
        return stimuli[ids[rows]] if seen < rows.stop else None

    label = ", ".join(part.name for part in parts)
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.close)
        images = stack.enter_context(closing(_read_ahead(read, batches)))
        bar = tqdm(total=len(ids), initial=first, desc=label, unit="image", disable=not progress)
        stack.enter_context(bar)
        for rows, pixels in zip(batches, images, strict=True):
            for part in parts:
                _extend(part, rows, pixels, captions, ids)
            if rows.start == first:
                _check_disk(parts)
            bar.update(rows.stop - rows.start)
    for part in parts:
        part.finish()


def _extend(
    part: _Part, rows: slice, pixels: NDArray | None, captions: Captions | None, ids: NDArray
) -> None:
    """Add the rows of one batch that a feature does not have yet."""
    if part.done >= rows.stop:
        return
    skip = part.done - rows.start  # above 0 only where an earlier run had other batches
    rows = slice(part.done, rows.stop)
    if part.from_images:
        values = part.encode(pixels[skip:], [[]] * len(ids[rows]), ids[rows])
    else:
        values = part.encode(None, captions[rows], ids[rows])
    part.write(_half(values, part.name))


def _read_ahead(
    read: Callable[[slice], NDArray | None], batches: Sequence[slice]
) -> Iterator[NDArray | None]:
    """Yield the images of each batch while a thread reads those of the next."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(read, batches[0]) if batches else None
        for k in range(len(batches)):
            images = following.result()
            following = pool.submit(read, batches[k + 1]) if k + 1 < len(batches) else None
            yield images
            del images  # or three batches would be in memory


def _check_disk(parts: Sequence[_Part]) -> None:
    """Say on the first batch, not after hours, that the disk is too small."""
    missing = sum(part.missing_bytes for part in parts)
    folder = parts[0].path.parent
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB left, the features still need {missing / 1e9:.1f} "
            "GB; make room or choose another folder."
        )


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


def _read_header(path: Path) -> tuple[tuple[int, ...], int]:
    """Shape of an ``.npy`` file and where its rows begin; ValueError where it is no such file."""
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{path} is not a file of features.")
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
        return shape, file.tell()


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")
