"""Ridge regression as an operator: predictions without the weights.

With the responses of the training images centred, ``X`` (n_images, n_voxels), ridge predicts for
new responses ``x``

    Y_hat = A Y + (1 - A 1) y_mean,     A = x Xᵀ (X Xᵀ + alpha I)⁻¹

so that one Gram matrix and one Cholesky factor serve every target, however many there are. The
(n_voxels, n_targets) weight matrix, tens of gigabytes at full size, is never formed; a synthetic
response is one more row of ``x``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve, lapack
from tqdm.auto import tqdm

from nbutils.decoding.features import Features

Float = NDArray[np.float32]

# Below this reciprocal condition number float32 would cost more than about 1e-4 of the result.
_SMALLEST_RCOND = 1e-4


class RidgeOperator:
    """Ridge regression from responses to any number of targets, factored once.

    Equal to ``sklearn.linear_model.Ridge(alpha, fit_intercept=True)`` fitted on the same rows.
    The smaller of the two normal equations is solved: images x images when there are more voxels
    than images, voxels x voxels otherwise. Single precision is used where it suffices; an
    ill-conditioned system is solved in double precision.

    Parameters
    ----------
    responses_train : (n_images, n_voxels), z-scored responses to the training images
    nsd_id : (n_images,) int or None, the image of each row; needed to align `Features`

    Raises
    ------
    ValueError
        If the responses are not a finite matrix or `nsd_id` does not fit them.
    """

    def __init__(self, responses_train: ArrayLike, nsd_id: ArrayLike | None = None) -> None:
        responses = _matrix(responses_train, "responses_train")
        self.nsd_id = None if nsd_id is None else np.asarray(nsd_id, dtype=np.int64)
        if self.nsd_id is not None and self.nsd_id.shape != (len(responses),):
            raise ValueError(
                f"nsd_id has shape {self.nsd_id.shape} for {len(responses)} training responses; "
                "give one image number per row."
            )
        self.mean: Float = responses.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._centred: Float = responses - self.mean
        self.n_images, self.n_voxels = responses.shape
        self._primal = self.n_voxels <= self.n_images
        self._gram = self._product(np.float32)
        self._factors: dict[float, tuple[NDArray, bool]] = {}

    def operator(self, responses: ArrayLike, alpha: float) -> Float:
        """Matrix ``A`` that takes centred training targets to centred predictions.

        Parameters
        ----------
        responses : (n_new, n_voxels), z-scored like the training responses
        alpha : ridge penalty, on the scale of scikit-learn's ``Ridge``

        Returns
        -------
        A : (n_new, n_images) float32
        """
        return self._weigh(self._centre(responses), alpha)

    def predict(
        self,
        responses: ArrayLike,
        targets: ArrayLike | Features,
        alpha: float,
        *,
        block: int = 4096,
        progress: bool = False,
    ) -> Float:
        """Predict the targets of new responses, reading the training targets block by block.

        Parameters
        ----------
        responses : (n_new, n_voxels), z-scored like the training responses
        targets : (n_images, ...) training targets in the order of the training responses (memory
            maps are read in blocks), or `Features`, whose rows are found by nsd_id
        alpha : ridge penalty
        block : number of target columns in memory at a time
        progress : show a progress bar

        Returns
        -------
        predicted : (n_new, ...) float32

        Raises
        ------
        ValueError
            If the targets do not belong to the training images.
        """
        return self.apply(self.operator(responses, alpha), targets, block=block, progress=progress)

    def apply(
        self,
        operator: Float,
        targets: ArrayLike | Features,
        *,
        block: int = 4096,
        progress: bool = False,
    ) -> Float:
        """Apply a prediction operator to the training targets: ``A Y + (1 - A 1) y_mean``.

        Parameters
        ----------
        operator : (n_new, n_images) from `operator` or `leave_one_out`
        targets, block, progress : as in `predict`

        Returns
        -------
        predicted : (n_new, ...) float32
        """
        array, rows = self._align(targets)
        flat = array.reshape(len(array), -1)
        predicted = np.empty((len(operator), flat.shape[1]), np.float32)
        starts = range(0, flat.shape[1], block)
        for start in tqdm(starts, desc="ridge", unit="block", disable=not progress):
            columns = slice(start, start + block)
            values = np.asarray(flat[rows, columns], np.float32)
            mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
            # A (Y - mean) + mean loses fewer digits than A Y + (1 - A 1) mean.
            predicted[:, columns] = operator @ (values - mean) + mean
        return predicted.reshape(len(operator), *array.shape[1:])

    def leave_one_out(self, alpha: float, rows: ArrayLike | None = None) -> Float:
        """Operator whose row i predicts training image i from a fit without image i.

        Exact, from one factor: with the hat matrix ``H = 1 1ᵀ/n + X (XᵀX + alpha I)⁻¹ Xᵀ`` the
        row is ``(H_i - h_ii e_i) / (1 - h_ii)``.

        Parameters
        ----------
        alpha : ridge penalty
        rows : (n_rows,) positions of the training images to predict; all by default

        Returns
        -------
        A : (n_rows, n_images) float32, zero where an image would predict itself
        """
        rows = np.arange(self.n_images) if rows is None else np.asarray(rows, dtype=np.int64)
        hat = self._weigh(self._centred[rows], alpha)
        hat += np.float32(1 / self.n_images)
        itself = (np.arange(len(rows)), rows)
        left = 1 - hat[itself]
        if not (left > 1e-6).all():
            raise ValueError(
                f"alpha={alpha:g} fits every training image exactly, so nothing is left to "
                "validate on; choose a larger alpha."
            )
        hat[itself] = 0
        return hat / left[:, None]

    def weights(self, targets: ArrayLike, alpha: float) -> tuple[Float, Float]:
        """Weights of one block of targets, for figures that show weights.

        Parameters
        ----------
        targets : (n_images, n_targets) training targets, a block that fits in memory
        alpha : ridge penalty

        Returns
        -------
        weights : (n_voxels, n_targets) float32
        intercept : (n_targets,) float32
        """
        values = _matrix(targets, "targets")
        if len(values) != self.n_images:
            raise ValueError(_rows_message(len(values), self.n_images))
        mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
        factor = self._factor(alpha)
        if self._primal:
            weights = cho_solve(factor, self._centred.T @ (values - mean), check_finite=False)
        else:
            weights = self._centred.T @ cho_solve(factor, values - mean, check_finite=False)
        return weights.astype(np.float32), (mean - self.mean @ weights).astype(np.float32)

    def _product(self, dtype: type) -> NDArray:
        x = self._centred.astype(dtype, copy=False)
        return x.T @ x if self._primal else x @ x.T

    def _factor(self, alpha: float) -> tuple[NDArray, bool]:
        alpha = float(alpha)
        if not (np.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"alpha={alpha}: the ridge penalty is a finite number >= 0.")
        if alpha not in self._factors:
            self._factors[alpha] = _cholesky(self._gram, alpha, lambda: self._product(np.float64))
        return self._factors[alpha]

    def _weigh(self, centred: Float, alpha: float) -> Float:
        factor = self._factor(alpha)
        if self._primal:
            solved = cho_solve(factor, centred.T, check_finite=False)
            return (self._centred @ solved.astype(np.float32)).T
        right = self._centred @ centred.T
        return cho_solve(factor, right, overwrite_b=True, check_finite=False).T.astype(np.float32)

    def _centre(self, responses: ArrayLike) -> Float:
        new = _matrix(responses, "responses")
        if new.shape[1] != self.n_voxels:
            raise ValueError(
                f"responses have {new.shape[1]} voxels, the training responses {self.n_voxels}; "
                "cut both with the same mask."
            )
        return new - self.mean

    def _align(self, targets: ArrayLike | Features) -> tuple[NDArray, NDArray | slice]:
        if isinstance(targets, Features):
            if self.nsd_id is None:
                raise ValueError(
                    "Features are aligned by nsd_id; give RidgeOperator the nsd_id of its rows."
                )
            return targets.array, targets.rows(self.nsd_id)
        array = np.asanyarray(targets)
        if len(array) != self.n_images:
            raise ValueError(_rows_message(len(array), self.n_images))
        return array, slice(None)


def _cholesky(gram: NDArray, alpha: float, precise_gram) -> tuple[NDArray, bool]:
    """Lower Cholesky factor of ``gram + alpha I``, in float64 where float32 is not enough."""
    for dtype, smallest in ((np.float32, _SMALLEST_RCOND), (np.float64, 1e-15)):
        system = gram.astype(dtype) if dtype is np.float32 else precise_gram()
        norm = np.abs(system).sum(axis=0).max() + alpha
        system[np.diag_indices_from(system)] += dtype(alpha)
        try:
            # The Gram matrix is symmetric: its transpose is the Fortran order LAPACK works on.
            factor = cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        condition = lapack.spocon if dtype is np.float32 else lapack.dpocon
        if condition(factor[0], norm, uplo="L")[0] > smallest:
            return factor
    raise ValueError(f"alpha={alpha:g} leaves the ridge system singular; choose a larger alpha.")


def _matrix(values: ArrayLike, name: str) -> Float:
    matrix = np.asarray(values, dtype=np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} has shape {matrix.shape}; give one row per image.")
    if not np.isfinite(matrix).all():
        raise ValueError(
            f"{name} holds NaN or infinite values; leave out voxels without data in some session."
        )
    return matrix


def _rows_message(rows: int, images: int) -> str:
    return (
        f"targets have {rows} rows for {images} training responses; give the same images in the "
        "same order, or Features, which are aligned by nsd_id."
    )
