"""Which correlations are above chance, with many voxels tested at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def null_p(r: ArrayLike, n_images: int) -> NDArray[np.float64]:
    """Probability of a correlation at least as large where there is none (one-sided).

    The null hypothesis is stated: prediction and response are independent Gaussian vectors over
    the test images. Then ``r sqrt((n - 2) / (1 - r²))`` has Student's t distribution with n - 2
    degrees of freedom. It is the distribution that the paper draws by chance, correlations of
    random Gaussian vectors of the length of the test set, without the drawing.

    Parameters
    ----------
    r : (n_voxels,) held-out correlations; NaN stays NaN
    n_images : number of test images, at least 3

    Raises
    ------
    ValueError
        If there are too few images.
    """
    if n_images < 3:
        raise ValueError(f"{n_images} test images: a correlation is tested on at least 3.")
    r = np.clip(np.asarray(r, dtype=np.float64), -1, 1)
    with np.errstate(divide="ignore"):
        t = r * np.sqrt((n_images - 2) / (1 - r**2))
    return stats.t.sf(t, n_images - 2)


def significant(r: ArrayLike, n_images: int, level: float = 0.05) -> NDArray[np.bool_]:
    """Say which voxels pass at a false discovery rate, by Benjamini and Hochberg.

    Parameters
    ----------
    r : (n_voxels,) held-out correlations; a voxel with NaN never passes and counts as no test
    n_images : number of test images
    level : expected share of false ones among those that pass

    Returns
    -------
    passed : (n_voxels,) bool
    """
    p = null_p(r, n_images)
    tested = np.isfinite(p)
    passed = np.zeros(p.shape, bool)
    if tested.any():
        passed[tested] = stats.false_discovery_control(p[tested], method="bh") <= level
    return passed


def smallest_significant(r: ArrayLike, n_images: int, level: float = 0.05) -> float:
    """Smallest correlation that passes (see `significant`); NaN where none does."""
    r = np.asarray(r, dtype=np.float64)
    passed = significant(r, n_images, level)
    return float(r[passed].min()) if passed.any() else float("nan")


def choose_best(r: Sequence[ArrayLike], n_images: int, level: float = 0.05) -> NDArray[np.int64]:
    """Say which of several models predicts each voxel best.

    Parameters
    ----------
    r : one (n_voxels,) of held-out correlations for each model
    n_images, level : as in `significant`, which the best one has to pass. That is too easy by a
        little: the largest of several correlations is larger than one of them by luck.

    Returns
    -------
    best : (n_voxels,) position of the model, -1 where none passes
    """
    stacked = np.nan_to_num(np.stack([np.asarray(one, dtype=np.float64) for one in r]), nan=-1)
    return np.where(significant(stacked.max(axis=0), n_images, level), stacked.argmax(axis=0), -1)
