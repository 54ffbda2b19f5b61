"""Betas of the voxels of a mask only: what is kept of a session that was streamed.

One session of subject 1 is 1.05 GB, its 15,724 nsdgeneral voxels 24 MB. A session is a ``.npy``
file (n_trials, n_voxels) int16 with the columns in ascending flat C order of the voxels that
``voxels.npy`` lists for all sessions of the subject. The ``.json`` record beside each session says
what the file must look like and where it came from; a session without one is not whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from nbutils.nsd.gzip_stream import crc32
from nbutils.nsd.layout import Layout, require
from nbutils.nsd.volumes import check_voxels

_AGAIN = "delete the session and fetch it again"
_FIELDS = ("grid", "shape", "voxels_sha256", "bytes", "crc32", "sha256")


def record_path(path: Path) -> Path:
    """Return where the record of a masked session lies."""
    return Path(path).with_suffix(".json")


def write_masked(
    layout: Layout,
    subject: int,
    session: int,
    betas: np.ndarray,
    voxels: np.ndarray,
    shape: tuple[int, int, int],
    **source: Any,
) -> Path:
    """Write one session with its record, whole or not at all.

    Parameters
    ----------
    layout : Layout
    subject : int
    session : int, 1-based
    betas : (n_trials, n_voxels) int16, percent signal change x 300
    voxels : (n_voxels,) flat C-order indices of the columns, in any order, none twice
    shape : (n_x, n_y, n_z) the subject's grid
    **source : facts for the record, such as the key, its ETag and its size

    Returns
    -------
    Path of the ``.npy`` file

    Raises
    ------
    ValueError
        If `betas` are not int16 with one column per voxel, or other sessions of this subject
        hold other voxels.
    """
    path, voxels = layout.betas(subject, session, "masked"), check_voxels(voxels, shape)
    betas = np.asarray(betas)
    if betas.dtype != np.int16 or betas.shape != (len(betas), len(voxels)):
        raise ValueError(
            f"betas {betas.dtype} {betas.shape} for {len(voxels)} voxels: "
            "give int16 as stored by NSD, one column per voxel"
        )
    order = np.argsort(voxels)
    _keep_voxels(layout.masked_voxels(subject), voxels[order])
    content = _npy(betas[:, order])
    record = {
        "subject": int(subject),
        "session": int(session),
        "units": "percent signal change x 300",
        "grid": [int(n) for n in shape],
        "shape": list(betas.shape),
        "voxels_sha256": _sha256_voxels(voxels[order]),
        "bytes": len(content),
        "crc32": crc32(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "source": source,
    }
    # The record goes first: a kill in between leaves a record that no file agrees with.
    _write(record_path(path), (json.dumps(record, indent=1) + "\n").encode())
    _write(path, content)
    return path


def check_masked(layout: Layout, subject: int, session: int) -> bool:
    """Return whether a session is whole: recorded, of the recorded bytes, for today's voxels."""
    path = layout.betas(subject, session, "masked")
    try:
        record, voxels = _read_record(path), _read_voxels(path)
        content = _content(path, record)
    except (FileNotFoundError, ValueError):
        return False
    return (
        (record.get("subject"), record.get("session")) == (subject, session)
        and record["voxels_sha256"] == _sha256_voxels(voxels)
        and record["sha256"] == hashlib.sha256(content).hexdigest()
    )


def restore_voxels(layout: Layout, subject: int, voxels: np.ndarray) -> bool:
    """Write a lost or damaged list of voxels again if all sessions on disk were cut for `voxels`.

    Returns
    -------
    Whether they were (False too where there is none)
    """
    path = layout.masked_voxels(subject)
    sessions = sorted(path.parent.glob("betas_session??.npy"))
    try:
        found = {_read_record(session)["voxels_sha256"] for session in sessions}
    except (FileNotFoundError, ValueError):
        return False
    if found != {_sha256_voxels(voxels)}:
        return False
    _write(path, _npy(voxels))
    return True


def read_masked(path: Path, voxels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Read some voxels of a masked session.

    Parameters
    ----------
    path : ``masked/betas_sessionNN.npy``
    voxels : (n_voxels,) flat C-order indices, in any order
    shape : (n_x, n_y, n_z) the subject's grid

    Returns
    -------
    (n_trials, n_voxels) int16, percent signal change x 300, columns in the order of `voxels`

    Raises
    ------
    FileNotFoundError
        If the session, its record or the list of voxels is missing.
    ValueError
        If a voxel is not among the masked ones, or the file does not agree with its record.
    """
    path = require(Path(path), Path(path).name, "fetch or make this session")
    record, held, voxels = _read_record(path), _read_voxels(path), check_voxels(voxels, shape)
    if record["voxels_sha256"] != _sha256_voxels(held):
        raise ValueError(
            f"{path} was written for other voxels than {_voxels_path(path)} lists: {_AGAIN}"
        )
    if record["grid"] != [int(n) for n in shape]:
        raise ValueError(
            f"{path} was cut from volumes of shape {tuple(record['grid'])}, expected "
            f"{tuple(shape)}: it belongs to another subject or another space"
        )
    columns = _columns(held, voxels, path)
    betas = np.load(io.BytesIO(_content(path, record)))
    if betas.dtype != np.int16 or betas.shape != tuple(record["shape"]):
        raise ValueError(f"{path} holds {betas.dtype} {betas.shape}, not its record's: {_AGAIN}")
    return np.take(betas, columns, axis=1)


def _columns(held: np.ndarray, voxels: np.ndarray, path: Path) -> np.ndarray:
    """Find `voxels` in the ascending list `held`."""
    columns = np.minimum(np.searchsorted(held, voxels), max(len(held) - 1, 0))
    absent = np.flatnonzero(held[columns] != voxels) if len(held) else np.arange(len(voxels))
    if absent.size:
        raise ValueError(
            f"{path} holds {len(held)} voxels, without {absent.size} of the {len(voxels)} wanted "
            f"(first: {voxels[absent[0]]}): fetch the subject again with the atlas of these voxels "
            "in --atlases, or choose voxels of the mask it was fetched with"
        )
    return columns


def _keep_voxels(path: Path, voxels: np.ndarray) -> None:
    """Write the list of voxels, or see that it is the one the other sessions were written for."""
    if len(np.unique(voxels)) < len(voxels):
        raise ValueError("voxels names one twice: give every voxel of the mask once")
    if not path.is_file():
        _write(path, _npy(voxels))
    elif not np.array_equal(_load(path), voxels):
        raise ValueError(
            f"{path} lists other voxels than these {len(voxels)}: fetch with the same --atlases as "
            f"before, or delete {path.parent} and fetch all sessions again"
        )


def _voxels_path(path: Path) -> Path:
    return path.with_name("voxels.npy")


def _read_voxels(path: Path) -> np.ndarray:
    path = require(_voxels_path(path), "the list of masked voxels", _AGAIN)
    voxels = _load(path)
    if voxels.ndim != 1 or voxels.dtype != np.int64 or (np.diff(voxels) <= 0).any():
        raise ValueError(f"{path} is no ascending list of voxels: fetch the subject again")
    return voxels


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no readable array ({error}): {_AGAIN}") from error


def _read_record(path: Path) -> dict:
    side = require(record_path(path), f"the record of {path.name}", _AGAIN)
    try:
        record = json.loads(side.read_text(encoding="utf-8"))
        absent = set(_FIELDS) - set(record)
        if absent:
            raise KeyError(", ".join(sorted(absent)))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{side} is no record of a masked session ({error!r}): {_AGAIN}"
        ) from error
    return record


def _content(path: Path, record: dict) -> bytes:
    """Read a file and compare it to its record.

    CRC-32 sees every accident in milliseconds; SHA-256 takes 0.1 s, too long for each of 40
    sessions at every reading.
    """
    content = require(path, path.name, "fetch or make this session").read_bytes()
    if len(content) != record["bytes"]:
        raise ValueError(f"{path} has {len(content)} of {record['bytes']} bytes: {_AGAIN}")
    if crc32(content) != record["crc32"]:
        raise ValueError(f"{path} is not what was written (its checksum differs): {_AGAIN}")
    return content


def _sha256_voxels(voxels: np.ndarray) -> str:
    return hashlib.sha256(voxels.astype("<i8").tobytes()).hexdigest()


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write a file under a name of this thread's own, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f".{path.name}.{os.getpid()}-{threading.get_ident()}.part"
    temporary = path.with_name(own)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
