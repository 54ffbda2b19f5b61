"""Single volumes on the betas grid, and values of some voxels as a volume again.

One voxel order everywhere: ascending flat indices of the C-ordered (x, y, z) array, where x runs
left to right, y posterior to anterior and z inferior to superior.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel
import numpy as np

from nbutils.nsd.layout import Layout, require

REMEDY = "download or make this subject's files, or check the data root"
_DAMAGE = (nibabel.filebasedimages.ImageFileError, EOFError, OSError, ValueError, zlib.error)


def read_volume(path: Path, shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """Read one 3-D volume.

    Parameters
    ----------
    path : NIfTI file
    shape : the grid that the volume must have, if known

    Returns
    -------
    (x, y, z) array in the file's own number type (scaled if the header says so)

    Raises
    ------
    FileNotFoundError
        If the file is missing.
    ValueError
        If it is not a readable volume of that shape.
    """
    require(path, path.name, REMEDY)
    try:
        values = np.asanyarray(nibabel.load(path).dataobj)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    if values.ndim != 3 or (shape is not None and values.shape != tuple(shape)):
        expected = "x, y, z" if shape is None else f"{tuple(shape)}"
        raise ValueError(
            f"{path} holds an array of shape {values.shape}, not {expected}: "
            "it belongs to another subject or another space, so fetch or make this subject's again"
        )
    return values


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read as a NIfTI volume ({' '.join(str(error).split())}): "
        "it may be half downloaded, so fetch it again"
    )


def grid(layout: Layout, subject: int) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return the subject's voxel grid.

    Returns
    -------
    shape : (n_x, n_y, n_z)
    affine : (4, 4) float64, mm. NSD's says only voxel size and "centre of the box"; it is
        no scanner or anatomical space, so overlay only volumes of the same grid.
    """
    path = require(layout.volume(subject, "brainmask"), "brainmask.nii.gz", REMEDY)
    try:
        image = nibabel.load(path)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    return tuple(int(n) for n in image.shape[:3]), image.affine


def to_volume(
    values: np.ndarray, voxels: np.ndarray, shape: tuple[int, int, int], fill: float = np.nan
) -> np.ndarray:
    """Put values of some voxels back into their volume.

    Parameters
    ----------
    values : (n_voxels,) numbers
    voxels : (n_voxels,) flat C-order indices
    shape : (n_x, n_y, n_z)
    fill : number for all other voxels

    Returns
    -------
    (n_x, n_y, n_z) float32

    Raises
    ------
    ValueError
        If there is not one value per voxel.
    """
    values, voxels = np.asarray(values), np.asarray(voxels)
    if values.shape != voxels.shape:
        raise ValueError(
            f"{values.shape} values for {voxels.shape} voxels: "
            "give one number per voxel of the same mask"
        )
    volume = np.full(shape, fill, np.float32)
    volume.reshape(-1)[voxels] = values
    return volume


def to_image(
    layout: Layout, subject: int, values: np.ndarray, voxels: np.ndarray, fill: float = np.nan
) -> nibabel.Nifti1Image:
    """Return values of some voxels as a NIfTI image on the subject's grid, for nilearn.

    Parameters are those of :func:`to_volume`.
    """
    shape, affine = grid(layout, subject)
    return nibabel.Nifti1Image(to_volume(values, voxels, shape, fill), affine)


def fortran_indices(voxels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Turn flat C-order indices into flat indices of the same voxels as stored on disk.

    NIfTI bytes and the HDF5 betas run with x fastest. The k-th output is the k-th input's
    voxel, so the caller's order is kept.
    """
    return np.ravel_multi_index(np.unravel_index(voxels, shape), shape, order="F")


def check_voxels(voxels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return `voxels` as int64 indices that exist in a grid of this shape.

    Raises
    ------
    TypeError
        If they are no integers (a boolean mask, for instance).
    ValueError
        If one lies outside the grid.
    """
    voxels = np.asarray(voxels)
    if voxels.ndim != 1 or not np.issubdtype(voxels.dtype, np.integer):
        raise TypeError(
            f"voxels is a {voxels.dtype} array of shape {voxels.shape}: "
            "give flat C-order indices, as rois.mask returns them"
        )
    size = int(np.prod(shape))
    if voxels.size and not (0 <= voxels.min() and voxels.max() < size):
        raise ValueError(
            f"voxels run from {voxels.min()} to {voxels.max()}, but a grid of shape "
            f"{tuple(shape)} has {size} voxels: they belong to another subject, so take those of "
            "rois.mask for this one"
        )
    return voxels.astype(np.int64)
