"""Give ridge predictions back the mean and spread that shrinkage took from them.

Ridge predictions vary less than the features they predict. The published code standardises the
predictions of the *test set* and gives them the training mean and standard deviation: this uses
all test items to decode each of them, so it leaks across test items and cannot decode a single
response. ``train_cv`` does the same with the mean and spread of leave-one-out predictions of
training images, which needs no test item but the one that is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbutils.decoding.blocks import column_blocks, release, row_blocks
from nbutils.decoding.ridge import RidgeOperator, column_mean, subtract_mean
from nbutils.decoding.store import Features

Float = NDArray[np.float32]
Mode = Literal["none", "train_cv", "test_stats"]
MODES: tuple[str, ...] = ("none", "train_cv", "test_stats")


@dataclass(frozen=True)
class Statistics:
    """Mean and spread of features over images.

    Parameters
    ----------
    mean, std : (...) float32, per feature, ddof=0
    norm : median over images of the Euclidean norm of ``features - mean``, all axes together
    """

    mean: Float
    std: Float
    norm: float


def describe(
    targets: ArrayLike | Features, nsd_ids: ArrayLike | None = None, *, block: int = 4096
) -> Statistics:
    """Mean, standard deviation and typical norm of features, read block by block.

    Parameters
    ----------
    targets : (n_images, ...) array or `Features`
    nsd_ids : images to use (with `Features` only): the training images
    block : number of feature columns in memory at a time
    """
    rows = None
    if isinstance(targets, Features):
        rows = None if nsd_ids is None else targets.rows(nsd_ids)
        array = targets.array
    elif nsd_ids is None:
        array = np.asanyarray(targets)
    else:
        raise ValueError("nsd_ids choose rows of Features; an array has no image numbers.")
    return _summarise(column_blocks(array, rows, block=block), array.shape[1:])


def describe_predictions(
    operator: RidgeOperator,
    targets: ArrayLike | Features,
    alpha: float | ArrayLike,
    *,
    n_images: int = 1000,
    seed: int = 0,
) -> Statistics:
    """Mean and spread of leave-one-out predictions of training images, one block at a time.

    Parameters
    ----------
    operator : ridge on the training responses
    targets : training targets, as in `RidgeOperator.predict`
    alpha : ridge penalty of this target, or an array with one for each of its values
    n_images : number of training images used, drawn at random (our choice)
    seed : seed of that draw
    """
    n_images = min(n_images, operator.n_images)
    rows = np.random.default_rng(seed).permutation(operator.n_images)[:n_images]
    left_out = operator.leave_one_out(alpha, np.sort(rows))
    array = targets.array if isinstance(targets, Features) else np.asanyarray(targets)
    return _summarise(operator.stream(left_out, targets), array.shape[1:])


def _summarise(blocks: Iterator[tuple[slice, Float]], shape: tuple[int, ...]) -> Statistics:
    """Statistics of a matrix that comes as blocks of columns; the blocks are overwritten."""
    mean, std = np.empty((2, int(np.prod(shape))), np.float32)
    squares: float | NDArray[np.float64] = 0.0
    for columns, values in blocks:
        mean[columns] = subtract_mean(values)
        np.square(values, out=values)
        std[columns] = np.sqrt(column_mean(values))
        squares = squares + values.sum(axis=1)
    return Statistics(mean.reshape(shape), std.reshape(shape), float(np.median(np.sqrt(squares))))


def rescale(
    predicted: ArrayLike,
    mode: Mode = "none",
    *,
    targets: Statistics | None = None,
    predictions: Statistics | Callable[[], Statistics] | None = None,
    out: Float | None = None,
) -> Float:
    """Rescale every predicted feature to the mean and spread of the training features.

    Parameters
    ----------
    predicted : (n, ...) ridge predictions
    mode : ``none``; ``train_cv`` (spread of the predictions measured by leave-one-out on training
        images); ``test_stats`` (published: measured on the given predictions, leaks across them)
    targets : statistics of the training features, from `describe`
    predictions : statistics of leave-one-out predictions, from `describe_predictions`, or a
        function that computes them; for ``train_cv``
    out : array of the shape of `predicted` for the result, may be `predicted` itself

    Returns
    -------
    rescaled : (n, ...) float32

    Raises
    ------
    ValueError
        If the mode is unknown, its statistics are missing, or one item is to be standardised by
        itself.

    Notes
    -----
    Source of ``test_stats``: brain-diffuser, ``*_regression.py`` (ddof=0).
    """
    predicted = np.asanyarray(predicted)
    if predicted.dtype != np.float32:
        predicted = predicted.astype(np.float32)
    if mode not in MODES:
        raise ValueError(f"prediction_rescale={mode!r}: choose one of {', '.join(MODES)}.")
    if mode == "none":
        return predicted
    measured = _measure(predicted, mode, targets, predictions)
    # A feature that never varies keeps its mean instead of dividing by zero.
    factor = targets.std / np.where(measured.std > 0, measured.std, 1)
    out = np.empty_like(predicted, subok=False) if out is None else out
    for rows in row_blocks(predicted):
        np.subtract(predicted[rows], measured.mean, out=out[rows])
        out[rows] *= factor
        out[rows] += targets.mean
        release(out, rows.start, rows.stop)
    return out


def _measure(
    predicted: Float,
    mode: Mode,
    targets: Statistics | None,
    predictions: Statistics | Callable[[], Statistics] | None,
) -> Statistics:
    """Mean and spread that the predictions have, by the mode's own idea of them."""
    if targets is None:
        raise ValueError(f"mode {mode!r} needs the statistics of the training features (targets).")
    if mode == "test_stats":
        if len(predicted) < 2:
            raise ValueError(
                "test_stats standardises over the test items and cannot rescale a single one; "
                "use train_cv or none."
            )
        return describe(predicted)
    if predictions is None:
        raise ValueError("train_cv needs the statistics of leave-one-out predictions.")
    return predictions() if callable(predictions) else predictions
