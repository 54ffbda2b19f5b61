"""Variance partitioning: what one feature space explains that another does not.

Two spaces are joined as bands (banded ridge): every voxel chooses a penalty and the share of it
that each band bears, by generalised cross-validation. The shares include 0 and 1, so that the
joint model can be either single one, and adding a useless band costs little. On held-out images

    unique(first) = R²(first, second) - R²(second),    shared = R²(first) - unique(first)

and likewise the other way round. This difference of nested models is our choice; the paper says
"unique variance" and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbutils.decoding.selection import validation_errors
from nbutils.encoding.models import ALPHAS, explain, refit
from nbutils.encoding.spaces import Space, join

Float = NDArray[np.float32]

SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Weights of the first band that are tried; the second has the rest."""


@dataclass(frozen=True)
class Partition:
    """Explained variance of two spaces on held-out images, alone and together.

    Parameters
    ----------
    first, second : (n_voxels,) R² of one space alone
    together : (n_voxels,) R² of both
    share : (n_voxels,) chosen weight of the first band
    predicted : "first", "second" and "together" -> (n_test, n_voxels) predictions of the test
        images, for intervals over images
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    together: NDArray[np.float64]
    share: NDArray[np.float64]
    predicted: dict[str, Float]

    @property
    def unique_first(self) -> NDArray[np.float64]:
        """R² that the first space adds to the second; below 0 by chance where it adds nothing."""
        return self.together - self.second

    @property
    def unique_second(self) -> NDArray[np.float64]:
        """R² that the second space adds to the first."""
        return self.together - self.first

    @property
    def shared(self) -> NDArray[np.float64]:
        """R² that either space can explain; below 0 where they help each other."""
        return self.first + self.second - self.together


def partition(
    first: Space,
    second: Space,
    responses_train: ArrayLike,
    responses_test: ArrayLike,
    *,
    alphas: ArrayLike = ALPHAS,
    shares: Sequence[float] = SHARES,
    device: str = "cpu",
) -> Partition:
    """Partition the variance of every voxel between two feature spaces.

    Parameters
    ----------
    first, second : features of the same training and test images
    responses_train : (n_train, n_voxels)
    responses_test : (n_test, n_voxels)
    alphas : candidate penalties of the joint space
    shares : candidate weights of the first band, between 0 and 1; both ends belong to them
    device : as in `nbutils.encoding.fit`

    Raises
    ------
    ValueError
        If the shares do not reach from 0 to 1.
    """
    shares = np.unique(np.asarray(shares, dtype=np.float64))
    if shares[0] != 0 or shares[-1] != 1:
        raise ValueError(f"shares={shares.tolist()}: both 0 and 1 are needed, for nested models.")
    alphas = np.unique(np.asarray(alphas, dtype=np.float64))
    best = _choose(first, second, responses_train, alphas, shares)
    together = np.argmin([error for error, _ in best], axis=0)
    train, test = np.asarray(responses_train), np.asarray(responses_test)
    alone, joint = {}, np.empty((len(test), test.shape[1]), np.float32)
    for k, share in enumerate(shares):
        space, alpha = join((first, second), (share, 1 - share)), best[k][1]
        voxels = np.flatnonzero(together == k)
        if share in (0, 1):
            alone[share] = refit(space, train, alpha, device).predicted
            joint[:, voxels] = alone[share][:, voxels]
        elif len(voxels):
            joint[:, voxels] = refit(space, train[:, voxels], alpha[voxels], device).predicted
    predicted = {"first": alone[1], "second": alone[0], "together": joint}
    scores = {name: explain(values, test) for name, values in predicted.items()}
    return Partition(**scores, share=shares[together], predicted=predicted)


def _choose(
    first: Space, second: Space, responses: ArrayLike, alphas: NDArray, shares: NDArray
) -> list[tuple[Float, NDArray[np.float64]]]:
    """Smallest validation error of every voxel and its penalty, for each share."""
    best = []
    for share in shares:
        space = join((first, second), (share, 1 - share))
        errors = validation_errors(space.train, responses, alphas)
        best.append((errors.min(axis=0), alphas[errors.argmin(axis=0)]))
    return best
