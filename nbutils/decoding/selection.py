"""Choose the ridge penalty on training images only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh
from sklearn.model_selection import KFold

from nbutils.decoding.features import Features
from nbutils.decoding.ridge import RidgeOperator

Method = Literal["loo", "gcv", "kfold"]
METHODS: tuple[str, ...] = ("loo", "gcv", "kfold")


@dataclass(frozen=True)
class AlphaChoice:
    """The chosen ridge penalty and the error of every candidate.

    Parameters
    ----------
    alpha : candidate with the smallest error
    alphas : (n_alphas,) candidates
    errors : (n_alphas,) mean squared error on held-out training images, over all targets used
    method : "loo", "gcv" or "kfold"
    """

    alpha: float
    alphas: NDArray[np.float64]
    errors: NDArray[np.float64]
    method: str


def choose_alpha(
    responses_train: ArrayLike,
    targets: ArrayLike | Features,
    alphas: ArrayLike,
    method: Method = "loo",
    *,
    nsd_id: ArrayLike | None = None,
    folds: int = 5,
    n_targets: int = 1024,
    seed: int = 0,
) -> AlphaChoice:
    """Choose one ridge penalty for all targets by validation on training images.

    Parameters
    ----------
    responses_train : (n_images, n_voxels), one row per training image (repeats averaged, so that
        no image is in two folds)
    targets : (n_images, ...) training targets, or `Features` together with `nsd_id`
    alphas : candidates
    method : ``loo`` exact leave-one-out; ``gcv`` generalised cross-validation; ``kfold``
        contiguous folds, as scikit-learn's ``KFold``
    nsd_id : images of the rows, needed for `Features`
    folds : number of folds for ``kfold``
    n_targets : number of target columns used, drawn at random (our choice: enough for one penalty)
    seed : seed of that draw

    Raises
    ------
    ValueError
        If the method is unknown, there is no candidate, or targets and responses do not match.
    """
    alphas = np.unique(np.asarray(alphas, dtype=np.float64))
    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose one of {', '.join(METHODS)}.")
    if not (alphas.size and (alphas > 0).all()):
        raise ValueError("alphas: give at least one candidate, all of them > 0.")
    responses = np.asarray(responses_train)
    values = _sample_targets(targets, nsd_id, len(responses), n_targets, seed)
    if method == "kfold":
        errors = _kfold_errors(responses, values, alphas, folds)
    else:
        errors = _closed_form_errors(responses, values, alphas, method)
    return AlphaChoice(float(alphas[errors.argmin()]), alphas, errors, method)


def _sample_targets(
    targets: ArrayLike | Features,
    nsd_id: ArrayLike | None,
    n_images: int,
    n_targets: int,
    seed: int,
) -> NDArray[np.float64]:
    rows: NDArray | slice = slice(None)
    if isinstance(targets, Features):
        if nsd_id is None:
            raise ValueError("Features are aligned by nsd_id; give the nsd_id of the responses.")
        array, rows = targets.array, targets.rows(nsd_id)
    else:
        array = np.asanyarray(targets)
    flat = array.reshape(len(array), -1)
    chosen = np.random.default_rng(seed).permutation(flat.shape[1])[:n_targets]
    values = np.asarray(flat[rows][:, np.sort(chosen)], dtype=np.float64)
    if len(values) != n_images:
        raise ValueError(
            f"targets have {len(values)} rows for {n_images} responses; give the same images in "
            "the same order."
        )
    return values


def _closed_form_errors(
    responses: NDArray, values: NDArray, alphas: NDArray, method: str
) -> NDArray[np.float64]:
    """Leave-one-out or GCV error of every candidate from one eigendecomposition.

    Double precision: 1 - h_ii, by which the residuals are divided, is a small difference.
    """
    basis, eigenvalues = _hat_basis(responses.astype(np.float64))
    n_images = len(values)
    centred = values - values.mean(axis=0)
    rotated = basis.T @ centred
    errors = []
    for alpha in alphas:
        shrink = eigenvalues / (eigenvalues + alpha)
        residual = centred - basis @ (shrink[:, None] * rotated)
        if method == "loo":
            left = 1 - 1 / n_images - np.square(basis) @ shrink
            errors.append(np.square(residual / left[:, None]).mean())
        else:
            free = n_images - 1 - shrink.sum()
            errors.append(np.square(residual).mean() * (n_images / free) ** 2)
    return np.asarray(errors)


def _hat_basis(responses: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Left singular vectors and squared singular values of the centred responses."""
    centred = responses - responses.mean(axis=0)
    n_images, n_voxels = centred.shape
    if n_voxels > n_images:
        eigenvalues, basis = eigh(centred @ centred.T, driver="evd", overwrite_a=True)
    else:
        eigenvalues, right = eigh(centred.T @ centred, driver="evd", overwrite_a=True)
        basis = centred @ right
    keep = eigenvalues > eigenvalues[-1] * 1e-12
    eigenvalues, basis = eigenvalues[keep], basis[:, keep]
    if n_voxels <= n_images:
        basis /= np.sqrt(eigenvalues)
    return basis, eigenvalues


def _kfold_errors(
    responses: NDArray, values: NDArray, alphas: NDArray, folds: int
) -> NDArray[np.float64]:
    squares = np.zeros(len(alphas))
    for train, held_out in KFold(folds).split(responses):
        operator = RidgeOperator(responses[train])
        for i, alpha in enumerate(alphas):
            predicted = operator.predict(responses[held_out], values[train], alpha)
            squares[i] += np.square(predicted - values[held_out]).sum()
    return squares / values.size
