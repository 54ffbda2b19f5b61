"""Encoding models: ridge from a feature space to every voxel, each with a penalty of its own.

It is the ridge of `nbutils.decoding` with the sides exchanged. The penalty of a voxel is chosen by
generalised cross-validation on the training images (our choice: repeats are averaged, so that
no image is on both sides; the paper's text says cross-validation and no more).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbutils.decoding.ridge import RidgeOperator
from nbutils.decoding.selection import validation_errors
from nbutils.encoding.spaces import Space

Float = NDArray[np.float32]

ALPHAS = np.logspace(-3, 4, 15)
"""Candidate penalties, for spaces of unit mean squared length. At 1e-3 a space is fitted nearly
exactly, at 1e4 nearly nothing of it is."""


@dataclass(frozen=True)
class Encoding:
    """What a model says about test images.

    Parameters
    ----------
    predicted : (n_test, n_voxels) float32, in the units of the training responses
    alpha : (n_voxels,) the penalty of each voxel
    """

    predicted: Float
    alpha: NDArray[np.float64]


def fit(
    space: Space, responses_train: ArrayLike, alphas: ArrayLike = ALPHAS, device: str = "cpu"
) -> Encoding:
    """Fit a linear model of every voxel and predict the test images.

    Parameters
    ----------
    space : features of training and test images
    responses_train : (n_train, n_voxels) responses to the training images, in their order
    alphas : candidate penalties
    device : where the products of matrices run, "cpu" or "cuda"

    Raises
    ------
    ValueError
        If responses and features are not of the same number of training images.
    """
    alphas = np.unique(np.asarray(alphas, dtype=np.float64))
    errors = validation_errors(space.train, responses_train, alphas)
    return refit(space, responses_train, alphas[errors.argmin(axis=0)], device)


def refit(
    space: Space, responses_train: ArrayLike, alpha: NDArray[np.float64], device: str = "cpu"
) -> Encoding:
    """Predict with known penalties, one for each voxel (n_voxels,)."""
    predicted = RidgeOperator(space.train, device=device).predict(
        space.test, responses_train, alpha
    )
    return Encoding(predicted, alpha)


def correlate(predicted: ArrayLike, responses: ArrayLike) -> NDArray[np.float64]:
    """Pearson's r over images, voxel by voxel; NaN where one of the two does not change.

    Parameters
    ----------
    predicted, responses : (n_images, n_voxels)

    Returns
    -------
    r : (n_voxels,)
    """
    one, two = (_centre(values) for values in (predicted, responses))
    lengths = np.sqrt(np.square(one).sum(axis=0) * np.square(two).sum(axis=0))
    return np.divide(
        (one * two).sum(axis=0), lengths, out=np.full(len(lengths), np.nan), where=lengths > 0
    )


def explain(predicted: ArrayLike, responses: ArrayLike) -> NDArray[np.float64]:
    """Share of the variance over images that a prediction explains, R², voxel by voxel.

    Unlike a squared correlation it also asks for the right size, and is below 0 where the
    prediction is worse than the mean.

    Parameters
    ----------
    predicted, responses : (n_images, n_voxels)

    Returns
    -------
    r2 : (n_voxels,), NaN where the responses do not change
    """
    centred = _centre(responses)
    missed = np.square(np.asarray(predicted, np.float64) - np.asarray(responses)).sum(axis=0)
    total = np.square(centred).sum(axis=0)
    share = np.divide(missed, total, out=np.full(len(total), np.nan), where=total > 0)
    return 1 - share


def _centre(values: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(values, dtype=np.float64)
    centred = values - values.mean(axis=0)
    # The mean of equal numbers may miss them by a rounding, which must not look like a change.
    centred[:, np.ptp(values, axis=0) == 0] = 0
    return centred
