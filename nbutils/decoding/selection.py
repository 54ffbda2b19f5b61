"""Choose the ridge penalty on training images only.

The responses are decomposed once, ``X Xᵀ = U diag(l) Uᵀ``. With ``Z = Uᵀ Y`` the residual of any
penalty is ``U diag(alpha / (l + alpha)) Z``: generalised cross-validation needs its squared length
only, which is one small matrix product for all penalties; exact leave-one-out needs one product
with ``U`` for each penalty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.linalg import eigh
from sklearn.model_selection import GroupKFold, KFold
from tqdm.auto import tqdm

from nbutils.decoding.blocks import column_blocks, take_columns
from nbutils.decoding.gram import gram_matrix, is_primal
from nbutils.decoding.ridge import RidgeOperator, centre_rows, subtract_mean
from nbutils.decoding.store import Features

Float = NDArray[np.float32]
Method = Literal["loo", "gcv", "kfold"]
METHODS: tuple[str, ...] = ("loo", "gcv", "kfold")
Per = Literal["feature", "target"]

# Eigenvalues in single precision are off by about 1e-7 of the largest one; a penalty below this
# part of it would feel that, and the decomposition is done in double precision.
_SMALLEST_ALPHA = 1e-4


@dataclass(frozen=True)
class AlphaChoice:
    """The chosen ridge penalty and the error of every candidate.

    Parameters
    ----------
    alpha : candidate with the smallest error; chosen per target an array of the targets' shape
    alphas : (n_alphas,) candidates, ascending
    errors : (n_alphas,) mean squared error on held-out training images, over all targets used
    method : "loo", "gcv" or "kfold"
    """

    alpha: float | NDArray[np.float64]
    alphas: NDArray[np.float64]
    errors: NDArray[np.float64]
    method: str

    @property
    def at_edge(self) -> float:
        """Share of the choices at an end of the grid, where a wider grid might do better."""
        if len(self.alphas) == 1:
            return 0.0
        return float(np.mean(np.isin(self.alpha, self.alphas[[0, -1]])))


def choose_alpha(
    responses_train: ArrayLike,
    targets: ArrayLike | Features,
    alphas: ArrayLike,
    method: Method = "loo",
    *,
    nsd_id: ArrayLike | None = None,
    folds: int = 5,
    n_targets: int | None = 1024,
    seed: int = 0,
    per: Per = "feature",
    progress: bool = False,
    groups: ArrayLike | None = None,
    intercept: bool = True,
) -> AlphaChoice:
    """Choose a ridge penalty by validation on training images.

    Parameters
    ----------
    responses_train : (n_images, n_voxels), one row per training image (repeats averaged, so that
        no image is in two folds), or single trials with `groups`
    targets : (n_images, ...) training targets, or `Features` together with `nsd_id`
    alphas : candidates
    method : ``loo`` exact leave-one-out; ``gcv`` generalised cross-validation; ``kfold``
        contiguous folds, as scikit-learn's ``KFold``
    nsd_id : images of the rows, needed for `Features`
    folds : number of folds for ``kfold``
    n_targets : number of target columns used, drawn at random (our choice: enough for one
        penalty); None for all
    seed : seed of that draw
    per : ``feature``, one penalty for all; ``target``, one for each target, all of which are read
    progress : show a progress bar
    groups : (n_rows,) for ``kfold``, the image of each trial: no image is in two folds, as in
        scikit-learn's ``GroupKFold``
    intercept : whether the regression has one; False for ``kfold`` only

    Raises
    ------
    ValueError
        If the method is unknown, there is no candidate, targets and responses do not match, or
        `groups` or `intercept` do not go with the method.
    """
    options = {"nsd_id": nsd_id, "folds": folds, "n_targets": n_targets, "seed": seed}
    options |= {"per": per, "progress": progress, "groups": groups, "intercept": intercept}
    return choose_alphas(responses_train, {"": targets}, alphas, method, **options)[""]


def choose_alphas(
    responses_train: ArrayLike,
    targets: Mapping[str, ArrayLike | Features],
    alphas: ArrayLike,
    method: Method = "loo",
    *,
    nsd_id: ArrayLike | None = None,
    folds: int = 5,
    n_targets: int | None = 1024,
    seed: int = 0,
    per: Per = "feature",
    progress: bool = False,
    groups: ArrayLike | None = None,
    intercept: bool = True,
) -> dict[str, AlphaChoice]:
    """Choose a ridge penalty for each of several features.

    The responses are decomposed once for all of them, which is most of the work.

    Parameters
    ----------
    responses_train, alphas, method, nsd_id, folds, seed, per, progress, groups, intercept : as in
        `choose_alpha`
    targets : feature -> targets as in `choose_alpha`
    n_targets : number of target columns used of each feature; None for all

    Returns
    -------
    choices : feature -> `AlphaChoice`

    Raises
    ------
    ValueError
        As in `choose_alpha`.
    """
    alphas = np.unique(np.asarray(alphas, dtype=np.float64))
    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose one of {', '.join(METHODS)}.")
    if per not in ("feature", "target"):
        raise ValueError(f"per={per!r}: choose feature or target.")
    if not (alphas.size and (alphas > 0).all()):
        raise ValueError("alphas: give at least one candidate, all of them > 0.")
    responses = np.asanyarray(responses_train)
    used = {name: _align(target, nsd_id, len(responses)) for name, target in targets.items()}
    shapes = {name: array.shape[1:] for name, (array, _) in used.items()}
    if per == "feature" and n_targets is not None:
        used = {name: (_sample(*one, n_targets, seed), None) for name, one in used.items()}
    if method != "kfold" and not (groups is None and intercept):
        raise ValueError(f"method={method!r}: groups and intercept=False go with kfold only.")
    if method == "kfold":
        splits = _folds(responses, folds, groups, intercept)
        errors = _kfold_errors(responses, used, alphas, splits, progress)
    else:
        decomposed = _decompose(responses, alphas[0])
        errors = {
            name: _closed_form_errors(decomposed, *one, alphas, method, progress)
            for name, one in used.items()
        }
    return {name: _choose(errors[name], alphas, method, per, shapes[name]) for name in used}


def validation_errors(
    responses_train: ArrayLike,
    targets: ArrayLike,
    alphas: ArrayLike,
    method: Method = "gcv",
    *,
    progress: bool = False,
) -> Float:
    """Error of every candidate penalty for every single target, on training images only.

    Parameters
    ----------
    responses_train : (n_images, n_regressors)
    targets : (n_images, n_targets)
    alphas : (n_alphas,) candidates, ascending and > 0
    method : ``gcv`` or ``loo``
    progress : show a progress bar

    Returns
    -------
    errors : (n_alphas, n_targets) float32, mean squared error

    Raises
    ------
    ValueError
        If targets and responses do not match.
    """
    given, alphas = np.asanyarray(responses_train), np.asarray(alphas, dtype=np.float64)
    array, _ = _align(targets, None, len(given))
    return _closed_form_errors(_decompose(given, alphas[0]), array, None, alphas, method, progress)


def _choose(
    errors: NDArray, alphas: NDArray, method: str, per: Per, shape: tuple[int, ...]
) -> AlphaChoice:
    mean = errors.mean(axis=1, dtype=np.float64)
    if per == "feature":
        return AlphaChoice(float(alphas[mean.argmin()]), alphas, mean, method)
    return AlphaChoice(alphas[errors.argmin(axis=0)].reshape(shape), alphas, mean, method)


def _align(
    targets: ArrayLike | Features, nsd_id: ArrayLike | None, n_images: int
) -> tuple[NDArray, NDArray | None]:
    if isinstance(targets, Features):
        if nsd_id is None:
            raise ValueError("Features are aligned by nsd_id; give the nsd_id of the responses.")
        array, rows = targets.array, targets.rows(nsd_id)
    else:
        array, rows = np.asanyarray(targets), None
    found = len(array) if rows is None else len(rows)
    if found != n_images:
        raise ValueError(
            f"targets have {found} rows for {n_images} responses; give the same images in the "
            "same order."
        )
    return array, rows


def _sample(array: NDArray, rows: NDArray | None, n_targets: int, seed: int) -> Float:
    chosen = np.random.default_rng(seed).permutation(array[:1].size)[:n_targets]
    return take_columns(array, rows, np.sort(chosen))


@dataclass(frozen=True)
class _Decomposition:
    """Left singular vectors (n_images, k) and squared singular values of centred responses."""

    vectors: NDArray
    eigenvalues: NDArray

    @property
    def squares(self) -> NDArray:
        return np.square(self.vectors)


def _decompose(responses: NDArray, smallest: float) -> _Decomposition:
    """Decompose in single precision, or in double if the smallest penalty needs it."""
    centred, _ = centre_rows(responses)
    enough = smallest >= _SMALLEST_ALPHA * _largest_eigenvalue(centred)
    return _decompose_in(centred, np.float32 if enough else np.float64)


def _largest_eigenvalue(centred: Float, steps: int = 20) -> float:
    """Estimate it by power iteration; a decomposition only to choose the precision is too dear."""
    vector, growth = np.random.default_rng(0).standard_normal(len(centred), np.float32), 0.0
    for _ in range(steps):
        vector = centred @ (centred.T @ (vector / np.linalg.norm(vector)))
        growth = float(np.linalg.norm(vector))
    return growth


def _decompose_in(centred: Float, dtype: DTypeLike) -> _Decomposition:
    primal, gram = is_primal(centred), gram_matrix(centred, dtype)
    values, vectors = eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
    keep = values > values[-1] * 10 * np.finfo(dtype).eps
    values, vectors = values[keep], vectors[:, keep]
    if primal:
        vectors = (centred @ vectors) / np.sqrt(values)
    return _Decomposition(vectors, values)


def _closed_form_errors(
    decomposed: _Decomposition,
    array: NDArray,
    rows: NDArray | None,
    alphas: NDArray,
    method: str,
    progress: bool,
) -> Float:
    """Leave-one-out or GCV error (n_alphas, n_targets) from one decomposition."""
    errors = np.empty((len(alphas), array[:1].size), np.float32)
    measure = _gcv if method == "gcv" else _leave_one_out
    weights = _gcv_weights(decomposed, alphas) if method == "gcv" else _left(decomposed, alphas)
    blocks = column_blocks(array, rows)
    total = -(-array[:1].size // 4096)
    for columns, values in tqdm(blocks, total=total, desc=method, disable=not progress):
        subtract_mean(values)
        errors[:, columns] = measure(decomposed, values, alphas, weights)
    return errors


def _gcv_weights(decomposed: _Decomposition, alphas: NDArray) -> NDArray:
    """``1 / (1 - trace(H) / n)²`` / n for each penalty; the intercept takes one degree."""
    n_images = len(decomposed.vectors)
    shrink = decomposed.eigenvalues / (decomposed.eigenvalues + alphas[:, None])
    free = n_images - 1 - shrink.sum(axis=1, dtype=np.float64)
    return n_images / free**2


def _gcv(decomposed: _Decomposition, values: Float, alphas: NDArray, weights: NDArray) -> NDArray:
    """Squared residuals from the rotated targets, without a residual."""
    rotated = decomposed.vectors.T @ values
    np.square(rotated, out=rotated)
    # What the responses cannot reach at all remains at any penalty.
    outside = np.einsum("ij,ij->j", values, values) - rotated.sum(axis=0)
    left = np.square(alphas[:, None] / (decomposed.eigenvalues + alphas[:, None]))
    inside = left.astype(rotated.dtype) @ rotated
    return (inside + np.maximum(outside, 0)) * weights[:, None]


def _left(decomposed: _Decomposition, alphas: NDArray) -> NDArray:
    """``1 - h_ii`` (n_alphas, n_images), as a sum of positive parts so that no digits cancel."""
    squares, n_images = decomposed.squares, len(decomposed.vectors)
    left = alphas[:, None] / (decomposed.eigenvalues + alphas[:, None])
    outside = 1 - 1 / n_images - squares.sum(axis=1, dtype=np.float64)
    return left @ squares.T.astype(np.float64, copy=False) + outside


def _leave_one_out(
    decomposed: _Decomposition, values: Float, alphas: NDArray, left: NDArray
) -> NDArray:
    """Exact leave-one-out error: one product of images x images for each penalty."""
    vectors, eigenvalues = decomposed.vectors, decomposed.eigenvalues
    rotated = vectors.T @ values
    errors = np.empty((len(alphas), values.shape[1]))
    for i, alpha in enumerate(alphas):
        shrink = (eigenvalues / (eigenvalues + alpha)).astype(vectors.dtype)
        residual = values - vectors @ (shrink[:, None] * rotated)
        residual /= left[i][:, None].astype(residual.dtype)
        errors[i] = np.einsum("ij,ij->j", residual, residual) / len(values)
    return errors


def _kfold_errors(
    responses: NDArray,
    used: Mapping[str, tuple[NDArray, NDArray | None]],
    alphas: NDArray,
    splits: list[_Fold],
    progress: bool,
) -> dict[str, Float]:
    errors = {
        name: np.zeros((len(alphas), array[:1].size), np.float32)
        for name, (array, _) in used.items()
    }
    for fold in tqdm(splits, desc="folds", disable=not progress):
        operator = RidgeOperator(responses[fold.train], intercept=fold.intercept)
        new = np.asarray(responses[fold.held_out], np.float32)
        for i, alpha in enumerate(alphas):
            weighing = None
            for name, (array, rows) in used.items():
                by_weights = _is_cheaper_by_weights(operator, len(new), array[:1].size)
                if weighing is None and not by_weights:
                    weighing = operator.operator(new, alpha)
                for columns, values in column_blocks(array, rows):
                    known, missed = values[fold.train], values[fold.held_out]
                    if by_weights:
                        weights, start = operator.weights(known, alpha)
                        missed -= new @ weights + start
                    else:
                        missed -= subtract_mean(known) if fold.intercept else 0
                        missed -= weighing @ known
                    errors[name][i, columns] += np.square(missed).sum(axis=0) / len(values)
    return errors


def _is_cheaper_by_weights(operator: RidgeOperator, n_new: int, n_targets: int) -> bool:
    """Whether weights take fewer products than the operator that takes targets to predictions."""
    n_images, n_voxels = operator.n_images, operator.n_voxels
    by_operator = n_images * n_new * (min(n_images, n_voxels) + n_targets)
    return n_voxels * n_targets * (n_images + n_new) < by_operator


@dataclass(frozen=True)
class _Fold:
    """Rows that a fold is fitted on and held out, and whether the fit has an intercept."""

    train: NDArray[np.intp]
    held_out: NDArray[np.intp]
    intercept: bool


def _folds(
    responses: NDArray, folds: int, groups: ArrayLike | None, intercept: bool
) -> list[_Fold]:
    splitter = KFold(folds) if groups is None else GroupKFold(folds)
    parts = splitter.split(responses, groups=None if groups is None else np.asarray(groups))
    return [_Fold(train, held_out, intercept) for train, held_out in parts]
