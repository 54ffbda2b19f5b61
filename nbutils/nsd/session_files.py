"""One session's betas from disk or from a connection, only the voxels wanted, in any format.

NSD's two formats hold int16, percent signal change x 300, and both hold the voxels with x fastest,
but read naively they give the same voxels in two orders. Here every format returns the order of
the ``voxels`` argument, so weights fitted on one fit the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import h5py
import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from nbutils.nsd.gzip_stream import DAMAGE, read_fully, uncompress
from nbutils.nsd.layout import require
from nbutils.nsd.masked import read_masked
from nbutils.nsd.volumes import check_voxels, fortran_indices

_AGAIN = "it may be half downloaded or half written, so fetch or make it again"
_HEADER, _AFTER = 348, 352
"""Bytes of a NIfTI-1 header, and where the data begin at the earliest."""
_BLOCK, _PIECE = 2**20, 2**18
"""Bytes of volumes in memory at a time (they stay in the processor's cache), and per read."""


def read_session(path: Path, voxels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Read one betas file.

    Parameters
    ----------
    path : ``betas_sessionNN.nii.gz``, ``.hdf5``, or our own ``.npy`` with masked voxels
    voxels : (n_voxels,) flat C-order indices
    shape : (n_x, n_y, n_z) the subject's grid

    Returns
    -------
    (n_trials, n_voxels) int16, percent signal change x 300, columns in the order of `voxels`

    Raises
    ------
    FileNotFoundError
        If the file is missing.
    ValueError
        If it has another shape or number type, or is cut off, damaged or stale.
    """
    path = require(Path(path), Path(path).name, "download or make this session")
    if path.suffix == ".npy":
        return read_masked(path, voxels, shape)
    if path.suffix in (".hdf5", ".h5"):
        betas = read_hdf5(path, voxels, shape)
        _require_int16(betas.dtype, path)
        return betas
    with _open(path) as stream:
        return _read_betas(stream, voxels, shape, path)


def stream_nifti(
    chunks: Iterable[bytes], voxels: np.ndarray, shape: tuple[int, int, int], name: str | Path
) -> np.ndarray:
    """Keep some voxels of a compressed betas file while its bytes arrive.

    About 1 MiB of volumes is in memory at a time, besides the result.

    Parameters
    ----------
    chunks : bytes of ``betas_sessionNN.nii.gz``, cut anywhere; used up unless an error is raised
    voxels : (n_voxels,) flat C-order indices
    shape : (n_x, n_y, n_z) the subject's grid
    name : what to call the file in errors

    Returns
    -------
    (n_trials, n_voxels) int16 as stored, percent signal change x 300, columns in the order of
    `voxels`

    Raises
    ------
    ValueError
        If the header is not that of this subject's betas, the bytes end early or late, or a gzip
        checksum disagrees. Errors raised by `chunks` come through as they are.
    """
    with uncompress(chunks) as stream:
        return _read_betas(stream, voxels, shape, name)


def read_nifti(path: Path, voxels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Read some voxels of a 4-D NIfTI-1 file of any number type, ``.nii.gz`` or ``.nii``.

    A compressed file is read once from front to back: slicing nibabel's ``dataobj`` by trial
    would start again at the front for every trial, and ``get_fdata`` would need 4 GB for one
    session.

    Returns
    -------
    (n_volumes, n_voxels) in the number type stored in the file; float32 where the header holds
    a scale factor (NSD's betas have none)

    Raises
    ------
    ValueError
        If it has another shape, is damaged or cut off, or a wanted voxel is NaN.
    """
    with _open(Path(path)) as stream:
        head = _read_header(stream, shape, path)
        values = _read_volumes(stream, head, voxels, shape, path)
    slope, intercept = head.get_slope_inter()
    if slope is not None and (slope, intercept) != (1, 0):
        values = (values * slope + intercept).astype(np.float32)
    return _require_numbers(values, voxels, shape, path)


def _open(path: Path) -> IO[bytes]:
    return uncompress(_pieces(path)) if path.suffix == ".gz" else open(path, "rb", buffering=0)


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            yield piece


def _read_betas(
    stream: IO[bytes], voxels: np.ndarray, shape: tuple[int, int, int], name: str | Path
) -> np.ndarray:
    head = _read_header(stream, shape, name)
    scaled = head.get_slope_inter() not in ((None, None), (1, 0))
    _require_int16(np.dtype(np.float32) if scaled else head.get_data_dtype(), name)
    return _read_volumes(stream, head, voxels, shape, name)


def _read_header(
    stream: IO[bytes], shape: tuple[int, int, int], name: str | Path
) -> nibabel.Nifti1Header:
    """Read and check the header, and leave `stream` where the first volume begins."""
    try:
        raw = bytearray(_AFTER)
        if read_fully(stream, memoryview(raw)) < _AFTER:
            raise EOFError(f"it ends before byte {_AFTER}")
        head = nibabel.Nifti1Header(bytes(raw[:_HEADER]))
        # What these return is checked later; a header of nonsense makes them fail.
        head.get_slope_inter(), head.get_data_dtype(), head.get_data_offset()
    except (*DAMAGE, HeaderDataError, WrapStructError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} is no readable NIfTI file ({error}): {_AGAIN}") from error
    found = head.get_data_shape()
    _check_shape(name, found, (*shape, found[3] if len(found) == 4 and found[3] > 0 else "n"))
    _skip(stream, int(head.get_data_offset()) - _AFTER, name)
    return head


def _skip(stream: IO[bytes], n_bytes: int, name: str | Path) -> None:
    """Pass over header extensions, whose length comes from the file and may be nonsense."""
    while n_bytes > 0:
        step = min(n_bytes, _BLOCK)
        if _fill(stream, memoryview(bytearray(step)), name, "the header") < step:
            raise ValueError(f"{name} ends within its header: {_AGAIN}")
        n_bytes -= step


def _read_volumes(
    stream: IO[bytes],
    head: nibabel.Nifti1Header,
    voxels: np.ndarray,
    shape: tuple[int, int, int],
    name: str | Path,
) -> np.ndarray:
    """Take the wanted voxels of every volume, some volumes at a time."""
    wanted = fortran_indices(check_voxels(voxels, shape), shape)
    n_trials, stored, size = head.get_data_shape()[3], head.get_data_dtype(), math.prod(shape)
    block = np.empty((max(1, _BLOCK // (size * stored.itemsize)), size), stored)
    out = np.empty((n_trials, len(wanted)), stored)
    for first in range(0, n_trials, len(block)):
        rows = out[first : first + len(block)]
        _read_block(stream, block[: len(rows)], name, first, n_trials)
        # Any mode but "raise" lets numpy write into `rows` without a copy of its own.
        np.take(block[: len(rows)], wanted, axis=1, out=rows, mode="clip")
    # Asking for one byte more makes gzip compare its checksum and shows a file that is too long.
    if _fill(stream, memoryview(bytearray(1)), name, f"trial {n_trials} of {n_trials}"):
        raise ValueError(
            f"{name} goes on after the {n_trials} trials that its header names: {_AGAIN}"
        )
    return out.astype(stored.newbyteorder("="), copy=False)


def _read_block(
    stream: IO[bytes], block: np.ndarray, name: str | Path, first: int, n_trials: int
) -> None:
    buffer = memoryview(block.reshape(-1).view(np.uint8))
    done = _fill(stream, buffer, name, f"trial {first} of {n_trials}")
    if done < len(buffer):
        whole = first + done // block[0].nbytes
        raise ValueError(f"{name} ends after {whole} of {n_trials} trials: {_AGAIN}")


def _fill(stream: IO[bytes], buffer: memoryview, name: str | Path, where: str) -> int:
    try:
        return read_fully(stream, buffer)
    except DAMAGE as error:
        raise ValueError(f"{name} is damaged at {where} ({error}): {_AGAIN}") from error


def read_hdf5(path: Path, voxels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Read some voxels of an HDF5 betas file, all trials of each.

    NSD stores every voxel's trials as one chunk (MATLAB x, y, z, trials; h5py trials, z, y, x).
    Fetching those chunks as they are takes a fraction of a second; asking for one *trial*
    would touch every chunk of the file.

    Returns
    -------
    (n_trials, n_voxels) in the number type stored in the file

    Raises
    ------
    ValueError
        If it has another shape, is damaged or cut off, or a wanted voxel is NaN.
    """
    voxels = check_voxels(voxels, shape)
    try:
        with h5py.File(path, "r") as file:
            betas = file.get("betas")
            if not isinstance(betas, h5py.Dataset):
                raise ValueError(f"{path} has no dataset /betas: it is not a betas file")
            _check_shape(path, betas.shape, (*betas.shape[:1], *shape[::-1]))
            values = _read_columns(betas, voxels, shape)
    except OSError as error:
        raise ValueError(f"{path} is no readable HDF5 file ({error}): {_AGAIN}") from error
    return _require_numbers(values, voxels, shape, path)


def _read_columns(
    betas: h5py.Dataset, voxels: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    n_trials = betas.shape[0]
    columns = np.empty((len(voxels), n_trials), betas.dtype)
    x, y, z = np.unravel_index(voxels, shape)
    plain = betas.id.get_create_plist().get_nfilters() == 0
    if plain and betas.chunks == (n_trials, 1, 1, 1):
        order = np.argsort(fortran_indices(voxels, shape), kind="stable")  # as on disk
        _read_chunks(betas, np.stack([z, y, x], axis=1)[order], order, columns)
    else:
        for level in np.unique(z):
            here = np.flatnonzero(z == level)
            columns[here] = betas[:, int(level)][:, y[here], x[here]].T
    return columns.T.astype(betas.dtype.newbyteorder("="), order="C")


def _read_chunks(
    betas: h5py.Dataset, zyx: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> None:
    """Fetch each voxel's chunk as it is on disk into its row, past all of HDF5's machinery.

    Per voxel that costs 15 microseconds, most of them inside HDF5's chunk index, so numpy's own
    microsecond per call is worth avoiding.
    """
    flat = memoryview(columns.reshape(-1).view(np.uint8))
    read, n = betas.id.read_direct_chunk, betas.shape[0] * betas.dtype.itemsize
    for row, place in zip(rows.tolist(), zyx.tolist(), strict=True):
        try:
            flat[row * n : (row + 1) * n] = read((0, *place))[1]
        except (OSError, RuntimeError, ValueError):
            # A chunk never written reads as zeros; a damaged one raises here again.
            columns[row] = betas[(slice(None), *place)]


def _check_shape(name: str | Path, found: tuple, expected: tuple) -> None:
    if tuple(found) != tuple(expected):
        raise ValueError(
            f"{name} has shape {tuple(found)}, expected {expected}: it belongs to "
            "another subject or another space, so fetch or make this one again"
        )


def _require_int16(stored: np.dtype, name: str | Path) -> None:
    if stored.newbyteorder("=") != np.int16:
        raise ValueError(
            f"{name} holds {stored}, not int16: it is no betas file of NSD's volume spaces, "
            "so fetch the func1pt8mm or func1mm version"
        )


def _require_numbers(
    values: np.ndarray, voxels: np.ndarray, shape: tuple[int, int, int], name: str | Path
) -> np.ndarray:
    """Return `values` unless a voxel is NaN, which only floating-point files can hold."""
    if values.dtype.kind == "f":
        bad = np.flatnonzero(np.isnan(values).any(axis=0))
        if bad.size:
            place = tuple(int(i) for i in np.unravel_index(np.asarray(voxels)[bad[0]], shape))
            raise ValueError(
                f"{name} is NaN in {bad.size} of {len(voxels)} voxels, first in voxel "
                f"{place}: leave these voxels out of the mask"
            )
    return values
