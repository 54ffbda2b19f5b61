"""Feature spaces as regressors: standardised on training images, small enough for memory.

Features are read block by block. Where a space has more numbers than there are training images,
only its kernel is accumulated, and the images get coordinates with the same kernel: ridge on them
gives the predictions that ridge on all numbers gives, from an n x n array instead of n x 60,000.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from nbutils.decoding.blocks import column_blocks
from nbutils.decoding.ridge import subtract_mean
from nbutils.decoding.store import Features

Float = NDArray[np.float32]

# Eigenvalues of a kernel in single precision are off by this part of the largest one.
_SMALLEST = 10 * np.finfo(np.float32).eps


@dataclass(frozen=True)
class Space:
    """One feature space of training and test images.

    Parameters
    ----------
    train : (n_train, k) float32, columns of mean 0; the rows' mean squared length is 1, so that
        one penalty means the same in every space
    test : (n_test, k) float32, with the training images' statistics
    """

    train: Float
    test: Float


def standardise(
    features: Features,
    train_id: ArrayLike,
    test_id: ArrayLike,
    *,
    squares: bool = False,
    block: int = 4096,
) -> Space:
    """Turn stored features into a space, every number with mean 0 and variance 1 in training.

    Parameters
    ----------
    features : of at least these images
    train_id, test_id : (n_train,) and (n_test,) nsd_ids
    squares : add the square of every standardised number, standardised as well. A linear model of
        both can follow a response to contrast of either sign, as complex cells give, which a
        linear model of the numbers alone cannot. Our choice; the paper's models are linear.
    block : numbers of an image in memory at a time

    Returns
    -------
    Space
        A number that is constant over the training images stays 0.

    Raises
    ------
    ValueError
        If an image has no features, or one is in both sets.
    """
    train, test = np.asarray(train_id), np.asarray(test_id)
    if np.isin(test, train).any():
        raise ValueError("an image is in training and test; held-out scores need other images.")
    rows = features.rows(np.concatenate([train, test]))
    blocks = _standard_blocks(features.array, rows, len(train), squares, block)
    size = features.array[:1].size * (2 if squares else 1)
    if size > len(train):
        return _coordinates(blocks, len(train), len(test), size)
    values = np.hstack([part.copy() for part in blocks])
    values /= np.float32(np.sqrt(size))
    return Space(values[: len(train)], values[len(train) :])


def join(spaces: Sequence[Space], weights: Sequence[float]) -> Space:
    """Join spaces as bands: columns side by side, each space scaled by the root of its weight.

    A ridge penalty on the joint space is a penalty of ``alpha / weight`` on each band (banded
    ridge; Nunez-Elizalde et al. 2019), and kernels add with these weights. A weight of 0 leaves a
    space out.

    Raises
    ------
    ValueError
        If there is not one weight >= 0 for each space, or all are 0.
    """
    if len(weights) != len(spaces) or min(weights) < 0 or not any(weights):
        raise ValueError(f"weights={tuple(weights)}: give one >= 0 per space, not all of them 0.")
    used = [(one, np.float32(np.sqrt(w))) for one, w in zip(spaces, weights, strict=True) if w]
    if len(used) == 1 and used[0][1] == 1:
        return used[0][0]
    return Space(
        np.hstack([one.train * root for one, root in used]),
        np.hstack([one.test * root for one, root in used]),
    )


def _standard_blocks(
    array: NDArray, rows: NDArray, n_train: int, squares: bool, block: int
) -> Iterator[Float]:
    for _, values in column_blocks(array, rows, block=block):
        _standardise(values, n_train)
        yield values
        if squares:
            squared = np.square(values)
            _standardise(squared, n_train)
            yield squared


def _standardise(values: Float, n_train: int) -> None:
    """Z-score columns in place by their first `n_train` rows."""
    known = values[:n_train]
    values[n_train:] -= (mean := subtract_mean(known))
    spread = np.sqrt(np.einsum("ij,ij->j", known, known) / n_train)
    constant = spread <= 1e-5 * np.maximum(np.abs(mean), 1e-5)
    values /= np.where(constant, np.float32(1), spread)
    values[:, constant] = 0


def _coordinates(blocks: Iterator[Float], n_train: int, n_test: int, size: int) -> Space:
    """Coordinates of the images whose kernel is that of all their numbers."""
    kernel = np.zeros((n_train + n_test, n_train), np.float32)
    for values in blocks:
        kernel += values @ values[:n_train].T
    kernel /= np.float32(size)
    known, new = kernel[:n_train], kernel[n_train:]
    lengths, vectors = eigh(known, driver="evd", check_finite=False)
    keep = lengths > lengths[-1] * _SMALLEST
    lengths, vectors = np.sqrt(lengths[keep]), vectors[:, keep]
    return Space(vectors * lengths, (new @ vectors) / lengths)
