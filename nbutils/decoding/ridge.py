"""Ridge regression as an operator: predictions without the weights.

With the responses of the training images centred, ``X`` (n_images, n_voxels), ridge predicts for
new responses ``x``

    Y_hat = A Y + (1 - A 1) y_mean,     A = x Xᵀ (X Xᵀ + alpha I)⁻¹

so that one Gram matrix and one Cholesky factor serve every target, however many there are. The
(n_voxels, n_targets) weight matrix, tens of gigabytes at full size, is never formed; a synthetic
response is one more row of ``x``. Targets stream through in blocks of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from nbutils.decoding.blocks import column_blocks, release, row_blocks, write_npy
from nbutils.decoding.gram import check_alpha
from nbutils.decoding.solvers import Solver, solver_for
from nbutils.decoding.store import Features

Float = NDArray[np.float32]


@dataclass(frozen=True)
class PerTarget:
    """Prediction operators of targets that differ in their penalty.

    Parameters
    ----------
    operators : one (n_new, n_images) operator for each penalty in use
    choice : (n_targets,) which of them each flattened target uses
    """

    operators: tuple[Float, ...]
    choice: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.operators[0])


class RidgeOperator:
    """Ridge regression from responses to any number of targets, factored once.

    Equal to ``sklearn.linear_model.Ridge(alpha, fit_intercept=intercept)`` on the same rows.
    The smaller of the two normal equations is solved: images x images when there are more voxels
    than images, voxels x voxels otherwise. Single precision is used where it suffices; an
    ill-conditioned system is solved in double precision. In memory are the responses and the Gram
    matrix, whose other triangle holds the factor of the last penalty.

    Parameters
    ----------
    responses_train : (n_images, n_voxels), z-scored responses to the training images; a memory
        map is read in rows
    nsd_id : (n_images,) int or None, the image of each row; needed to align `Features`
    device : "cpu" or "cuda"; for Apple's "mps", which lacks double precision, the CPU is used
    intercept : False centres neither responses nor targets, as ``fit_intercept=False`` does:
        predictions then lack the targets' mean

    Raises
    ------
    ValueError
        If the responses are not a finite matrix, `nsd_id` does not fit them, or the device is
        none of these.
    """

    def __init__(
        self,
        responses_train: ArrayLike,
        nsd_id: ArrayLike | None = None,
        device: str = "cpu",
        intercept: bool = True,
    ) -> None:
        self.intercept = intercept
        self._centred, self.mean = centre_rows(responses_train, intercept)
        self.nsd_id = None if nsd_id is None else np.asarray(nsd_id, dtype=np.int64)
        if self.nsd_id is not None and self.nsd_id.shape != (len(self._centred),):
            raise ValueError(
                f"nsd_id has shape {self.nsd_id.shape} for {len(self._centred)} training "
                "responses; give one image number per row."
            )
        self.n_images, self.n_voxels = self._centred.shape
        self._solver: Solver = solver_for(device, self._centred)

    def operator(self, responses: ArrayLike, alpha: float | ArrayLike) -> Float | PerTarget:
        """Matrix ``A`` that takes centred training targets to centred predictions.

        Parameters
        ----------
        responses : (n_new, n_voxels), z-scored like the training responses
        alpha : ridge penalty on the scale of scikit-learn's ``Ridge``, or an array with one
            penalty for each target

        Returns
        -------
        A : (n_new, n_images) float32; for an array of penalties `PerTarget`, with one matrix for
            each different penalty
        """
        new = self._centre(responses)
        return _for_each(alpha, lambda one: self._solver.weigh(new, one))

    def predict(
        self,
        responses: ArrayLike,
        targets: ArrayLike | Features,
        alpha: float | ArrayLike,
        *,
        block: int = 4096,
        progress: bool = False,
        out: str | Path | None = None,
    ) -> Float:
        """Predict the targets of new responses, reading the training targets block by block.

        Parameters
        ----------
        responses : (n_new, n_voxels), z-scored like the training responses
        targets : (n_images, ...) training targets in the order of the training responses (memory
            maps are read in blocks), or `Features`, whose rows are found by nsd_id
        alpha : ridge penalty, or an array of the targets' shape with a penalty for each
        block : number of target columns in memory at a time
        progress : show a progress bar
        out : ``.npy`` file for the predictions, so that they need no memory

        Returns
        -------
        predicted : (n_new, ...) float32, with `out` a read-only memory map

        Raises
        ------
        ValueError
            If the targets do not belong to the training images.
        """
        operator = self.operator(responses, alpha)
        return self.apply(operator, targets, block=block, progress=progress, out=out)

    def apply(
        self,
        operator: Float | PerTarget,
        targets: ArrayLike | Features,
        *,
        block: int = 4096,
        progress: bool = False,
        out: str | Path | None = None,
    ) -> Float:
        """Apply a prediction operator to the training targets: ``A Y + (1 - A 1) y_mean``.

        Parameters
        ----------
        operator : what `operator` or `leave_one_out` returned
        targets, block, progress, out : as in `predict`

        Returns
        -------
        predicted : (n_new, ...) float32, with `out` a read-only memory map
        """
        shape = (len(operator), *self._align(targets)[0].shape[1:])
        blocks = self.stream(operator, targets, block=block, progress=progress)
        if out is None:
            return _fill(np.empty(shape, np.float32), blocks)
        with write_npy(out, shape) as array:
            _fill(array, blocks)
        return np.load(out, mmap_mode="r", allow_pickle=False)

    def stream(
        self,
        operator: Float | PerTarget,
        targets: ArrayLike | Features,
        *,
        block: int = 4096,
        progress: bool = False,
    ) -> Iterator[tuple[slice, Float]]:
        """Predictions one block of target columns at a time.

        Parameters
        ----------
        operator, targets, block, progress : as in `apply`

        Yields
        ------
        columns : which of the flattened targets
        predicted : (n_new, n_columns) float32
        """
        array, rows = self._align(targets)
        multiply = self._multiplier(operator, array[:1].size)
        n_blocks = -(-array[:1].size // block)
        blocks = column_blocks(array, rows, block=block)
        for columns, values in tqdm(
            blocks, total=n_blocks, desc="ridge", unit="block", disable=not progress
        ):
            mean = self._subtract_mean(values)
            # A (Y - mean) + mean loses fewer digits than A Y + (1 - A 1) mean.
            predicted = multiply(values, columns)
            predicted += mean
            yield columns, predicted

    def leave_one_out(
        self, alpha: float | ArrayLike, rows: ArrayLike | None = None
    ) -> Float | PerTarget:
        """Operator whose row i predicts training image i from a fit without image i.

        Exact, from one factor: with the hat matrix ``H = 1 1ᵀ/n + X (XᵀX + alpha I)⁻¹ Xᵀ`` the
        row is ``(H_i - h_ii e_i) / (1 - h_ii)``. Without an intercept ``1 1ᵀ/n`` is left out.

        Parameters
        ----------
        alpha : ridge penalty, or an array with one for each target
        rows : (n_rows,) positions of the training images to predict; all by default

        Returns
        -------
        A : (n_rows, n_images) float32, zero where an image would predict itself; for an array of
            penalties `PerTarget`
        """
        rows = np.arange(self.n_images) if rows is None else np.asarray(rows, dtype=np.int64)
        return _for_each(alpha, lambda one: self._leave_one_out(one, rows))

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
        values = np.array(targets, dtype=np.float32)
        _check_matrix(values, "targets")
        if len(values) != self.n_images:
            raise ValueError(_rows_message(len(values), self.n_images))
        mean = self._subtract_mean(values)
        weights = self._solver.weights(values, alpha)
        return weights, (mean - self.mean @ weights).astype(np.float32)

    def _leave_one_out(self, alpha: float, rows: NDArray[np.int64]) -> Float:
        hat = self._solver.weigh(self._centred[rows], alpha)
        if self.intercept:
            hat += np.float32(1 / self.n_images)
        itself = (np.arange(len(rows)), rows)
        left = 1 - hat[itself]
        if not (left > 1e-6).all():
            raise ValueError(
                f"alpha={alpha:g} fits every training image exactly, so nothing is left to "
                "validate on; choose a larger alpha."
            )
        hat[itself] = 0
        hat /= left[:, None]
        return hat

    def _subtract_mean(self, values: Float) -> Float:
        """Centre targets in place and return what was subtracted; zeros without an intercept."""
        return subtract_mean(values) if self.intercept else np.zeros(values.shape[1], np.float32)

    def _multiplier(
        self, operator: Float | PerTarget, n_targets: int
    ) -> Callable[[Float, slice], Float]:
        if not isinstance(operator, PerTarget):
            placed = self._solver.place(operator)
            return lambda values, columns: self._solver.multiply(placed, values)
        if operator.choice.shape != (n_targets,):
            raise ValueError(
                f"alpha has {operator.choice.size} penalties for {n_targets} targets; give one "
                "number, or one for each target."
            )
        placed = [self._solver.place(one) for one in operator.operators]
        return lambda values, columns: self._multiply_each(placed, operator.choice[columns], values)

    def _multiply_each(self, placed: list[Any], choice: NDArray[np.intp], values: Float) -> Float:
        """Each column with its own operator; columns of one penalty go together."""
        predicted = None
        for one in np.unique(choice):
            columns = np.flatnonzero(choice == one)
            part = self._solver.multiply(placed[one], values[:, columns])
            if predicted is None:
                predicted = np.empty((len(part), len(choice)), np.float32)
            predicted[:, columns] = part
        return predicted

    def _centre(self, responses: ArrayLike) -> Float:
        new = np.array(responses, dtype=np.float32)
        _check_matrix(new, "responses")
        if new.shape[1] != self.n_voxels:
            raise ValueError(
                f"responses have {new.shape[1]} voxels, the training responses {self.n_voxels}; "
                "cut both with the same mask."
            )
        new -= self.mean
        return new

    def _align(self, targets: ArrayLike | Features) -> tuple[NDArray, NDArray | None]:
        if isinstance(targets, Features):
            if self.nsd_id is None:
                raise ValueError(
                    "Features are aligned by nsd_id; give RidgeOperator the nsd_id of its rows."
                )
            return targets.array, targets.rows(self.nsd_id)
        array = np.asanyarray(targets)
        if len(array) != self.n_images:
            raise ValueError(_rows_message(len(array), self.n_images))
        return array, None


def centre_rows(responses: ArrayLike, centre: bool = True) -> tuple[Float, Float]:
    """Responses minus their mean over images, in one new float32 array.

    Parameters
    ----------
    responses : (n_images, n_voxels); a memory map is read in blocks of rows
    centre : False subtracts zeros

    Returns
    -------
    centred : (n_images, n_voxels) float32
    mean : (n_voxels,) float32

    Raises
    ------
    ValueError
        If the responses are not a matrix of finite numbers.
    """
    given = np.asanyarray(responses)
    if given.ndim != 2 or 0 in given.shape:
        raise ValueError(f"responses_train has shape {given.shape}; give one row per image.")
    centred = np.empty(given.shape, np.float32)
    for rows in row_blocks(given):
        centred[rows] = given[rows]
    _check_matrix(centred, "responses_train")
    return centred, subtract_mean(centred) if centre else np.zeros(given.shape[1], np.float32)


def subtract_mean(values: Float) -> Float:
    """Subtract each column's mean in place and return it; no second array of that size is made."""
    mean = column_mean(values)
    values -= mean
    return mean


def column_mean(values: Float) -> Float:
    """Mean of each column: short sums in single precision, their total in double."""
    ones, total = np.ones(256, np.float32), np.zeros(values.shape[1])
    for first in range(0, len(values), 256):
        part = values[first : first + 256]
        total += ones[: len(part)] @ part
    return (total / len(values)).astype(np.float32)


def _for_each(alpha: float | ArrayLike, build: Callable[[float], Float]) -> Float | PerTarget:
    if np.ndim(alpha) == 0:
        return build(check_alpha(alpha))
    alphas, choice = np.unique(np.asarray(alpha, dtype=np.float64), return_inverse=True)
    return PerTarget(tuple(build(check_alpha(one)) for one in alphas), choice.reshape(-1))


def _fill(array: NDArray, blocks: Iterator[tuple[slice, Float]]) -> NDArray:
    flat = array.reshape(len(array), -1)
    for columns, predicted in blocks:
        flat[:, columns] = predicted
        release(flat, 0, len(flat))
    return array


def _check_matrix(values: NDArray, name: str) -> None:
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} has shape {values.shape}; give one row per image.")
    for rows in row_blocks(values):
        if not np.isfinite(values[rows]).all():
            raise ValueError(
                f"{name} holds NaN or infinite values; leave out voxels without data in some "
                "session."
            )


def _rows_message(rows: int, images: int) -> str:
    return (
        f"targets have {rows} rows for {images} training responses; give the same images in the "
        "same order, or Features, which are aligned by nsd_id."
    )
