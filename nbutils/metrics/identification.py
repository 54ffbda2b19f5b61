"""Two-way identification and correlation distance between features of truth and result."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Distractors = Literal["ground_truth", "reconstructions"]
Matrix = NDArray[np.float64]


def correlate(truth: ArrayLike, found: ArrayLike, block: int = 8192) -> Matrix:
    """Pearson correlation of every row of one matrix with every row of another.

    Equal to ``np.corrcoef(truth, found)[:n, n:]``, which also computes the correlations within
    both; here blocks of features are centred in double precision and multiplied once.

    Parameters
    ----------
    truth : (n, ...) features of the presented images
    found : (m, ...) features of the reconstructions, same number of features
    block : features at a time

    Returns
    -------
    correlation : (n, m) float64; 0 where a row is constant

    Raises
    ------
    ValueError
        If the numbers of features differ.
    """
    truth, found = (np.asarray(x).reshape(len(x), -1) for x in (truth, found))
    if truth.shape[1] != found.shape[1]:
        raise ValueError(
            f"{truth.shape[1]} and {found.shape[1]} features; compare the same layer of the same "
            "network."
        )
    means = [x.mean(axis=1, dtype=np.float64)[:, None] for x in (truth, found)]
    products = np.zeros((len(truth), len(found)))
    squares = [np.zeros((len(x), 1)) for x in (truth, found)]
    for start in range(0, truth.shape[1], block):
        columns = slice(start, start + block)
        a, b = (x[:, columns] - mean for x, mean in zip((truth, found), means, strict=True))
        products += a @ b.T
        for total, part in zip(squares, (a, b), strict=True):
            total += np.square(part).sum(axis=1, keepdims=True)
    scale = np.sqrt(squares[0]) * np.sqrt(squares[1]).T
    return np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)


def identify(
    truth: ArrayLike, found: ArrayLike, distractors: Distractors = "ground_truth"
) -> NDArray[np.float64]:
    """Two-way identification: is a result closer to its own image than to another one?

    Parameters
    ----------
    truth : (n, ...) features of the presented images
    found : (n, ...) features of the reconstructions, same order
    distractors : ``ground_truth``: each reconstruction chooses between its own image and each
        other image (Brain-Diffuser, MindEye); ``reconstructions``: each image chooses between its
        own and each other reconstruction (Takagi & Nishimoto)

    Returns
    -------
    rate : (n,) part of the n - 1 comparisons won; a tie is lost; chance is one half

    Raises
    ------
    ValueError
        If the kind of distractors is unknown or the rows do not pair up.

    Notes
    -----
    Source of ``ground_truth``: brain-diffuser, ``evaluate_reconstruction.py``.
    """
    if distractors not in ("ground_truth", "reconstructions"):
        raise ValueError(f"distractors={distractors!r}: choose ground_truth or reconstructions.")
    if len(truth) != len(found) or len(truth) < 2:
        raise ValueError(
            f"{len(truth)} images and {len(found)} reconstructions; two-way identification needs "
            "pairs, at least two of them."
        )
    correlation = correlate(truth, found)
    if distractors == "reconstructions":
        correlation = correlation.T
    # Columns are what chooses; a tie counts as a failure, as in the published code.
    wins = correlation < np.diag(correlation)
    return wins.sum(axis=0) / (len(correlation) - 1)


def correlation_distance(truth: ArrayLike, found: ArrayLike) -> NDArray[np.float64]:
    """One minus the correlation of each pair of rows; lower is better.

    Parameters
    ----------
    truth, found : (n, ...) features

    Returns
    -------
    distance : (n,)
    """
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} images and {len(found)} reconstructions do not pair up.")
    truth, found = (np.asarray(x, dtype=np.float64).reshape(len(x), -1) for x in (truth, found))
    return 1 - pair_correlation(truth, found)


def pair_correlation(first: Matrix, second: Matrix) -> NDArray[np.float64]:
    """Pearson correlation of row i with row i, (n,); 0 where a row is constant."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (first, second))
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    product = (a * b).sum(axis=1)
    return np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)
