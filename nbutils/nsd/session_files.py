"""One session's betas from disk, only the voxels wanted, whichever format they are in.

Both formats hold int16, percent signal change x 300, and both hold the voxels with x fastest,
but read naively they give the same voxels in two orders. Here both return the order of the
``voxels`` argument, so weights fitted on one fit the other.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import h5py
import nibabel
import numpy as np
from nibabel.openers import Opener

from nbutils.nsd.layout import require
from nbutils.nsd.volumes import check_voxels, fortran_indices

_AGAIN = "it may be half downloaded or half written, so fetch or make it again"


def read_session(path: Path, voxels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Read one betas file.

    Parameters
    ----------
    path : ``betas_sessionNN.nii.gz`` or ``.hdf5``
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
        If it has another shape or number type, or is cut off.
    """
    path = require(Path(path), Path(path).name, "download or make this session")
    read = read_hdf5 if path.suffix in (".hdf5", ".h5") else read_nifti
    betas = read(path, voxels, shape)
    if betas.dtype != np.int16:
        raise ValueError(
            f"{path} holds {betas.dtype}, not int16: it is no betas file of NSD's volume spaces"
        )
    return betas


def read_nifti(path: Path, voxels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Stream a 4-D NIfTI file volume by volume and keep some voxels.

    One volume is in memory at a time, and a compressed file is read once from front to back:
    slicing nibabel's ``dataobj`` by trial would start again at the front for every trial, and
    ``get_fdata`` would need 4 GB for one session.

    Returns
    -------
    (n_volumes, n_voxels) in the number type stored in the file; float32 where the header holds
    a scale factor (NSD's betas have none)
    """
    try:
        header = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no readable NIfTI file ({error}): {_AGAIN}") from error
    _check_shape(path, header.shape, (*shape, header.shape[-1] if header.ndim == 4 else "n"))
    proxy = header.dataobj
    wanted = fortran_indices(check_voxels(voxels, shape), shape)
    out = np.empty((header.shape[3], len(wanted)), proxy.dtype.newbyteorder("="))
    n_bytes = math.prod(shape) * proxy.dtype.itemsize
    with Opener(str(path)) as stream:
        stream.seek(proxy.offset)
        for trial in range(len(out)):
            raw = _read_exactly(stream, n_bytes, path, trial, len(out))
            out[trial] = np.frombuffer(raw, proxy.dtype)[wanted]
        _read_exactly(stream, 0, path, len(out), len(out))
    if (proxy.slope, proxy.inter) == (1, 0):
        return out
    return (out * proxy.slope + proxy.inter).astype(np.float32)


def _read_exactly(stream: Opener, n_bytes: int, path: Path, trial: int, n_trials: int) -> bytes:
    try:
        # Reading to the end makes gzip compare its checksum.
        raw = stream.read(n_bytes) if n_bytes else stream.read()
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged at trial {trial} of {n_trials}: {_AGAIN}") from error
    if len(raw) < n_bytes:
        raise ValueError(f"{path} ends after {trial} of {n_trials} trials: {_AGAIN}")
    return raw


def read_hdf5(path: Path, voxels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Read some voxels of an HDF5 betas file, all trials of each.

    NSD stores every voxel's trials as one chunk (MATLAB x, y, z, trials; h5py trials, z, y, x).
    Fetching those chunks as they are takes a fraction of a second; asking for one *trial*
    would touch every chunk of the file.

    Returns
    -------
    (n_trials, n_voxels) in the number type stored in the file
    """
    try:
        with h5py.File(path, "r") as file:
            betas = file.get("betas")
            if betas is None:
                raise ValueError(f"{path} has no dataset /betas: it is not a betas file")
            _check_shape(path, betas.shape, (betas.shape[0], *shape[::-1]))
            return _read_columns(betas, check_voxels(voxels, shape), shape)
    except OSError as error:
        raise ValueError(f"{path} is no readable HDF5 file ({error}): {_AGAIN}") from error


def _read_columns(
    betas: h5py.Dataset, voxels: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    plain = betas.id.get_create_plist().get_nfilters() == 0
    whole = plain and betas.chunks == (betas.shape[0], 1, 1, 1)
    columns = np.empty((len(voxels), betas.shape[0]), betas.dtype.newbyteorder("="))
    x, y, z = np.unravel_index(voxels, shape)
    if whole:
        for k in np.argsort(fortran_indices(voxels, shape), kind="stable"):  # order on disk
            columns[k] = _read_chunk(betas, (int(z[k]), int(y[k]), int(x[k])))
    else:
        for level in np.unique(z):
            here = np.flatnonzero(z == level)
            columns[here] = betas[:, int(level)][:, y[here], x[here]].T
    return np.ascontiguousarray(columns.T)


def _read_chunk(betas: h5py.Dataset, zyx: tuple[int, int, int]) -> np.ndarray:
    try:
        _, raw = betas.id.read_direct_chunk((0, *zyx))
    except (OSError, RuntimeError, ValueError):
        return betas[(slice(None), *zyx)]  # a chunk never written reads as zeros
    return np.frombuffer(raw, betas.dtype)


def _check_shape(path: Path, found: tuple, expected: tuple) -> None:
    if tuple(found) != tuple(expected):
        raise ValueError(
            f"{path} has shape {tuple(found)}, expected {expected}: it belongs to "
            "another subject or another space"
        )
