"""Files of rows that are written batch by batch and can be killed at any moment.

Rows go to ``<name>.npy.part`` in order, with a marker beside it that says how many of them are safe
on disk. A run that was killed goes on there and gives the same bytes. The final names appear only
when every row is written: ``<name>.npy``, and ``<name>.features.json`` with the record of what the
rows are.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from nbutils.decoding.store import Features, open_features, sidecar


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
    """Store what a computation gives for each image, resumable after any interruption.

    Parameters
    ----------
    path : the ``.npy`` file
    name : of the computation, for the progress bar and the record
    nsd_ids : (n_images,) int, images without repetition
    compute : slice of the images -> (n, k) numbers
    note : what else decides the values; a file with another note is not taken for this one
    batch_size : images at a time
    replace : whether a finished file with another record is written anew
    progress : show a progress bar

    Returns
    -------
    Features

    Raises
    ------
    ValueError
        If the images are none or repeat, the file holds something else, or a value is too large
        for float16.
    """
    ids, path = np.asarray(nsd_ids, dtype=np.int64), Path(path)
    check_images(ids)
    # As JSON gives it back, so that a finished file is known again.
    record = json.loads(json.dumps({"feature": name, "nsd_id": ids.tolist()} | note))
    if is_finished(path, record, replace):
        return open_features(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = RowFile(path, record)
    with (
        closing(part),
        tqdm(
            total=len(ids), initial=part.done, desc=name, unit="image", disable=not progress
        ) as bar,
    ):
        while part.done < len(ids):
            rows = slice(part.done, min(part.done + batch_size, len(ids)))
            part.write(to_half(compute(rows), name))
            bar.update(rows.stop - rows.start)
    part.finish()
    return open_features(path)


def check_images(ids: NDArray[np.int64]) -> None:
    """Refuse images that rows cannot belong to, before anything is computed.

    Raises
    ------
    ValueError
        If there is none, or one is named twice.
    """
    if not len(ids):
        raise ValueError("nsd_ids is empty; name the images whose features are wanted.")
    if len(np.unique(ids)) != len(ids):
        raise ValueError("nsd_ids name an image twice; features have one row per image.")


def is_finished(path: Path, record: dict, replace: bool) -> bool:
    """Tell whether every row of this record is written.

    Raises
    ------
    ValueError
        If the file holds something else and `replace` is False.
    """
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


class RowFile:
    """A file that is being written: rows in order, each batch safe before it is counted.

    The file is written, not mapped: pages of a map that was written to stay in memory until the
    system takes them back.

    Parameters
    ----------
    path : the ``.npy`` file
    record : what decides the rows, as JSON gives it back: "feature" is their name, "nsd_id" the
        images; the rows of another record are not continued

    Attributes
    ----------
    done : rows that are safe on disk
    """

    def __init__(self, path: Path, record: dict) -> None:
        self.path, self.record = path, record
        self.name, self.n_rows = record["feature"], len(record["nsd_id"])
        self.key = digest(record)
        self.file: IO[bytes] | None = None
        self.row_bytes = 0
        self.done = self._find_done()

    @property
    def missing_bytes(self) -> int:
        """Bytes still to be written, once rows on disk or the first batch show a row's size."""
        return (self.n_rows - self.done) * self.row_bytes

    def write(self, values: NDArray[np.float16]) -> None:
        """Append rows, (n, ...) float16."""
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
        """Close the file; the rows that are done stay."""
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
        row_bytes = 2 * math.prod(shape[1:])
        if shape[0] != self.n_rows or found["done"] > (size - start) // row_bytes:
            return 0
        self.row_bytes = row_bytes
        return found["done"]

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


def digest(value: Any) -> str:
    """Return the SHA-256 of a value as JSON writes it."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def to_half(values: ArrayLike | torch.Tensor, name: str) -> NDArray[np.float16]:
    """Return values as they are stored.

    Raises
    ------
    ValueError
        If one is not finite in float16; `name` says whose it is.
    """
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
