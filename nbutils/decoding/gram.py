"""The system that ridge solves: a Gram matrix and one Cholesky factor in the same memory.

``G + alpha I`` has a symmetric matrix and its factor needs one triangle only. The factor lives in
the lower triangle, the matrix stays in the upper one with its diagonal apart, so that any other
penalty starts from the upper triangle again: n² numbers in all, not 2 n².
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.linalg import blas, lapack

Float = NDArray[np.float32]

# Reciprocal condition number below which a factor is not trusted. Measured against float64:
# single precision then costs less than 1e-5 of the predictions' rms.
SMALLEST_RCOND = {np.dtype(np.float32): 3e-5, np.dtype(np.float64): 1e-15}
_BLOCK = 1024


def check_alpha(alpha: float) -> float:
    """The penalty as a float; ValueError if it is negative or not finite."""
    alpha = float(alpha)
    if not (np.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha={alpha}: the ridge penalty is a finite number >= 0.")
    return alpha


class Gram:
    """Gram matrix of the smaller side of centred responses, with at most one factor.

    Parameters
    ----------
    centred : (n_images, n_voxels) float32
    dtype : precision of the matrix and its factor
    """

    def __init__(self, centred: Float, dtype: DTypeLike = np.float32) -> None:
        self.matrix = gram_matrix(centred, dtype)
        self.diagonal = self.matrix.diagonal().copy()
        self.norm = _one_norm(self.matrix)
        self.alpha: float | None = None
        self._touched = self._good = False

    def factor(self, alpha: float) -> bool:
        """Put the factor of ``G + alpha I`` into the lower triangle; False if it is unreliable."""
        if alpha != self.alpha:
            if self._touched:
                _mirror_upper(self.matrix)
            np.fill_diagonal(self.matrix, self.diagonal + self.diagonal.dtype.type(alpha))
            self.alpha, self._touched, self._good = alpha, True, self._factor(alpha)
        return self._good

    def solve(self, right: NDArray) -> NDArray:
        """Solve for columns of `right` (Fortran order is overwritten, not copied)."""
        solve = lapack.spotrs if self.matrix.dtype == np.float32 else lapack.dpotrs
        right = np.asfortranarray(right, dtype=self.matrix.dtype)
        return solve(self.matrix, right, lower=1, overwrite_b=1)[0]

    def _factor(self, alpha: float) -> bool:
        single = self.matrix.dtype == np.float32
        factorise, condition = (
            (lapack.spotrf, lapack.spocon) if single else (lapack.dpotrf, lapack.dpocon)
        )
        _, failed = factorise(self.matrix, lower=1, clean=0, overwrite_a=1)
        if failed:
            return False
        rcond = condition(self.matrix, self.norm + alpha, uplo="L")[0]
        return bool(rcond > SMALLEST_RCOND[self.matrix.dtype])


def gram_matrix(centred: Float, dtype: DTypeLike = np.float32) -> NDArray:
    """Images x images if there are fewer images than voxels, else voxels x voxels.

    Returns
    -------
    matrix : (k, k) symmetric, in Fortran order as LAPACK wants it
    """
    primal = is_primal(centred)
    if np.dtype(dtype) == np.float32:
        return (centred.T @ centred if primal else centred @ centred.T).T
    size = min(centred.shape)
    matrix = np.zeros((size, size), dtype, order="F")
    # In parts along the summed axis: a whole copy in double precision would be 1.1 GB.
    for first in range(0, max(centred.shape), _BLOCK):
        some = slice(first, first + _BLOCK)
        part = (centred[some].T if primal else centred[:, some]).astype(dtype, order="F")
        matrix = blas.dsyrk(1.0, part, beta=1.0, c=matrix, lower=0, overwrite_c=1)
    _mirror_upper(matrix)
    return matrix


def is_primal(centred: Float) -> bool:
    """Whether the voxels x voxels system is the smaller one."""
    n_images, n_voxels = centred.shape
    return n_voxels <= n_images


def _mirror_upper(matrix: NDArray) -> None:
    """Copy the strict upper triangle over the lower one, in square parts that fit the cache."""
    for first in range(0, len(matrix), _BLOCK):
        rows = slice(first, min(first + _BLOCK, len(matrix)))
        corner = matrix[rows, rows]
        lower = np.tril_indices(len(corner), -1)
        corner[lower] = corner.T[lower]
        for left in range(0, first, _BLOCK):
            columns = slice(left, left + _BLOCK)
            matrix[rows, columns] = matrix[columns, rows].T


def _one_norm(matrix: NDArray) -> float:
    parts = range(0, len(matrix), _BLOCK // 4)
    sums = [np.abs(matrix[:, first : first + _BLOCK // 4]).sum(axis=0) for first in parts]
    return float(np.concatenate(sums).max())
