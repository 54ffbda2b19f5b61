"""Choose the ridge penalty on training images only."""

from __future__ import annotations

from collections.abc import Mapping
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
    options = {"nsd_id": nsd_id, "folds": folds, "n_targets": n_targets, "seed": seed}
    return choose_alphas(responses_train, {"": targets}, alphas, method, **options)[""]


def choose_alphas(
    responses_train: ArrayLike,
    targets: Mapping[str, ArrayLike | Features],
    alphas: ArrayLike,
    method: Method = "loo",
    *,
    nsd_id: ArrayLike | None = None,
    folds: int = 5,
    n_targets: int = 1024,
    seed: int = 0,
) -> dict[str, AlphaChoice]:
    """Choose a ridge penalty for each of several features.

    The responses are decomposed once for all of them, which is most of the work.

    Parameters
    ----------
    responses_train, alphas, method, nsd_id, folds, seed : as in `choose_alpha`
    targets : feature -> targets as in `choose_alpha`
    n_targets : number of target columns used of each feature

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
    if not (alphas.size and (alphas > 0).all()):
        raise ValueError("alphas: give at least one candidate, all of them > 0.")
    responses = np.asarray(responses_train)
    values = {
        name: _sample_targets(target, nsd_id, len(responses), n_targets, seed)
        for name, target in targets.items()
    }
    if method == "kfold":
        errors = {name: _kfold_errors(responses, y, alphas, folds) for name, y in values.items()}
    else:
        hat = _decompose(responses.astype(np.float64))
        errors = {name: _closed_form_errors(hat, y, alphas, method) for name, y in values.items()}
    return {
        name: AlphaChoice(float(alphas[error.argmin()]), alphas, error, method)
        for name, error in errors.items()
    }


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
    hat: tuple[NDArray, NDArray], values: NDArray, alphas: NDArray, method: str
) -> NDArray[np.float64]:
    """Leave-one-out or GCV error of every candidate from one eigendecomposition.

    Double precision: 1 - h_ii, by which the residuals are divided, is a small difference.
    """
    vectors, eigenvalues = hat
    squares = np.square(vectors)
    n_images = len(values)
    centred = values - values.mean(axis=0)
    rotated = vectors.T @ centred
    errors = []
    for alpha in alphas:
        shrink = eigenvalues / (eigenvalues + alpha)
        residual = centred - vectors @ (shrink[:, None] * rotated)
        if method == "loo":
            left = 1 - 1 / n_images - squares @ shrink
            errors.append(np.square(residual / left[:, None]).mean())
        else:
            free = n_images - 1 - shrink.sum()
            errors.append(np.square(residual).mean() * (n_images / free) ** 2)
    return np.asarray(errors)


def _decompose(responses: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Left singular vectors and squared singular values of the centred responses."""
    centred = responses - responses.mean(axis=0)
    n_images, n_voxels = centred.shape
    primal = n_voxels <= n_images
    gram = centred.T @ centred if primal else centred @ centred.T
    eigenvalues, vectors = eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
    keep = eigenvalues > eigenvalues[-1] * 1e-12
    eigenvalues, vectors = eigenvalues[keep], vectors[:, keep]
    return (centred @ vectors / np.sqrt(eigenvalues) if primal else vectors), eigenvalues


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
