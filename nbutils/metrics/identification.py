"""Two-way identification and correlation distance between features of truth and result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.blas import sgemm

Distractors = Literal["ground_truth", "reconstructions"]
Matrix = NDArray[np.float64]

# Two correlations nearer than this are a tie: rounding alone separates them.
_TIE = 1e-14
# Features at a time in the single-precision product, whose rounding error grows with them.
_BLOCK = 512
# Rows at a time while they are centred, so that the double-precision copies stay in cache.
_TILE = 64
# Bytes of double-precision rows held while single comparisons are repeated; they fit the cache.
_GATHERED = 2**19
# Above this part of doubtful comparisons one double-precision product is cheaper.
_DOUBTFUL = 0.01


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
    correlation : (n, m) float64; 0 where a row is constant or not finite

    Raises
    ------
    ValueError
        If the numbers of features differ.
    """
    first, second = _pair(truth, found)
    products = np.zeros((len(first.values), len(second.values)))
    squares = [np.zeros(len(rows.values)) for rows in (first, second)]
    for columns in _blocks(first.values.shape[1], block):
        with np.errstate(invalid="ignore"):  # rows with inf
            a, b = (rows.values[:, columns] - rows.mean for rows in (first, second))
        products += a @ b.T
        for total, part in zip(squares, (a, b), strict=True):
            total += np.vecdot(part, part)
    scales = [_scale(rows, total) for rows, total in zip((first, second), squares, strict=True)]
    products *= scales[0][:, None]
    products *= scales[1]
    products[scales[0] == 0] = 0  # also where a value that is not finite spread
    products[:, scales[1] == 0] = 0
    return products


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
    rate : (n,) part of the n - 1 comparisons won; a tie (correlations less than 1e-14 apart) is
        lost; chance is one half

    Raises
    ------
    ValueError
        If the kind of distractors is unknown or the rows do not pair up.

    Notes
    -----
    Source of ``ground_truth``: brain-diffuser, ``evaluate_reconstruction.py``. The scores are
    those of its ``np.corrcoef`` in double precision. The product is made in single precision,
    whose rounding error is bounded; comparisons within that bound are repeated in double.
    """
    _check_pairs(truth, found, distractors)
    choices = (found, truth) if distractors == "reconstructions" else (truth, found)
    return _count_wins(*_pair(*choices)) / (len(truth) - 1)


def identify_samples(
    truth: ArrayLike, found: ArrayLike, distractors: Distractors = "ground_truth"
) -> NDArray[np.float64]:
    """Two-way identification from several reconstructions of each image.

    The correlations of an image with the samples of a reconstruction are averaged, then compared.

    Parameters
    ----------
    truth : (n, ...) features of the presented images
    found : (n, samples, ...) features of the reconstructions
    distractors : as in `identify`

    Returns
    -------
    rate : (n,) part of the n - 1 comparisons won

    Raises
    ------
    ValueError
        As `identify`.

    Notes
    -----
    Source, with ``reconstructions`` and five samples: StableDiffusionReconstruction,
    ``identification.py``.
    """
    found = np.asarray(found)
    if found.shape[1] == 1:
        return identify(truth, found[:, 0], distractors)
    _check_pairs(truth, found, distractors)
    samples = np.moveaxis(found, 1, 0)
    mean = np.mean([correlate(truth, sample) for sample in samples], axis=0)
    own = np.diag(mean)
    if distractors == "reconstructions":
        mean = mean.T
    return (mean < own - _TIE).sum(axis=0) / (len(truth) - 1)


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


def _check_pairs(truth: ArrayLike, found: ArrayLike, distractors: str) -> None:
    if distractors not in ("ground_truth", "reconstructions"):
        raise ValueError(f"distractors={distractors!r}: choose ground_truth or reconstructions.")
    if len(truth) != len(found) or len(truth) < 2:
        raise ValueError(
            f"{len(truth)} images and {len(found)} reconstructions; two-way identification needs "
            "pairs, at least two of them."
        )


class _Rows(NamedTuple):
    """Features of one side, and what centres each row."""

    values: NDArray  # (n, d)
    mean: Matrix  # (n, 1)


def _pair(truth: ArrayLike, found: ArrayLike) -> tuple[_Rows, _Rows]:
    first, second = (np.asarray(x).reshape(len(x), -1) for x in (truth, found))
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{first.shape[1]} and {second.shape[1]} features; compare the same layer of the same "
            "network."
        )
    with np.errstate(invalid="ignore"):  # rows with inf count as constant
        return tuple(_Rows(x, x.mean(axis=1, dtype=np.float64)[:, None]) for x in (first, second))


def _blocks(width: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, width, size))


def _scale(rows: _Rows, squares: Matrix) -> Matrix:
    """One over the norm of each centred row; 0 for rows that are constant or not finite."""
    # The mean of a constant row is rounded, so that less than this is no variance.
    rounding = rows.values.shape[1] * np.square(16 * np.finfo(np.float64).eps * rows.mean[:, 0])
    valid = squares > rounding
    return np.where(valid, 1 / np.sqrt(np.where(valid, squares, 1)), 0)


def _count_wins(candidates: _Rows, chooser: _Rows) -> NDArray[np.int64]:
    """For each row j of `chooser`, how many candidates it is less like than candidate j, (n,)."""
    rough, own, scales, error = _multiply(candidates, chooser)
    wins = rough < (own - error).astype(np.float32)
    doubtful = ~(wins | (rough > (own + error).astype(np.float32)))  # NaN is doubtful, too
    np.fill_diagonal(doubtful, False)
    if np.count_nonzero(doubtful) > _DOUBTFUL * doubtful.size:
        correlation = correlate(candidates.values, chooser.values)
        return (correlation < np.diag(correlation) - _TIE).sum(axis=0)
    j, i = np.divmod(np.flatnonzero(doubtful.T), len(doubtful))  # the order in memory
    exact = _correlate_pairs(candidates, chooser, i, j, scales)
    wins[i, j] = exact < own[j] - _TIE
    return wins.sum(axis=0)


def _multiply(
    first: _Rows, second: _Rows
) -> tuple[NDArray[np.float32], Matrix, tuple[Matrix, Matrix], float]:
    """Correlate all rows in single precision, and row i with row i in double.

    Returns
    -------
    rough : (n, n) float32
    own : (n,) correlation of row i with row i
    scales : (n,) each, as of `_scale`
    error : bound on the error of `rough`; inf where single precision may not do
    """
    n, width = first.values.shape
    rough, sums = np.zeros((n, n), np.float32, order="F"), np.zeros((3, n))
    blocks = list(_blocks(width, _BLOCK))
    for columns in blocks:
        a, b = _centre(first, second, columns, sums)
        # Adds to `rough` in place; numpy would make a second matrix and add it in another pass.
        rough = sgemm(1, a.T, b.T, beta=1, c=rough, trans_a=True, overwrite_c=True)
    scales = _scale(first, sums[0]), _scale(second, sums[1])
    rough *= scales[0].astype(np.float32)[:, None]
    rough *= scales[1].astype(np.float32)
    rough[scales[0] == 0] = 0
    rough[:, scales[1] == 0] = 0
    own = np.where((scales[0] > 0) & (scales[1] > 0), sums[2] * scales[0] * scales[1], 0)
    return rough, own, scales, _bound_error(len(blocks), *scales)


def _centre(
    first: _Rows, second: _Rows, columns: slice, sums: Matrix
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre some columns, and add their squares and products, (3, n) in double, to `sums`."""
    width = len(range(*columns.indices(first.values.shape[1])))
    centred = tuple(np.empty((len(rows.values), width), np.float32) for rows in (first, second))
    a, b = np.empty((2, _TILE, width))
    for some in _blocks(len(first.values), _TILE):
        x, y = a[: len(first.mean[some])], b[: len(first.mean[some])]
        x[:], y[:] = first.values[some, columns], second.values[some, columns]
        with np.errstate(invalid="ignore"):  # rows with inf
            x -= first.mean[some]
            y -= second.mean[some]
        for total, (left, right) in zip(sums, ((x, x), (y, y), (x, y)), strict=True):
            total[some] += np.vecdot(left, right)
        with np.errstate(over="ignore"):  # `_bound_error` sees it
            centred[0][some], centred[1][some] = x, y
    return centred


def _bound_error(n_blocks: int, *scales: Matrix) -> float:
    """Bound the error of a correlation that `_multiply` makes in single precision."""
    used = np.concatenate([scale[scale > 0] for scale in scales])
    if len(used) and not 1e-12 < used.min() <= used.max() < 1e12:
        return np.inf  # products may overflow or vanish
    # A sum of k products errs by at most k roundings, in whatever order the library adds them
    # (Higham 2002, section 3.1); the rest is for centring, scaling and comparing.
    return (_BLOCK + n_blocks + 16) * float(np.finfo(np.float32).eps) / 2


def _correlate_pairs(
    first: _Rows,
    second: _Rows,
    i: NDArray[np.intp],
    j: NDArray[np.intp],
    scales: tuple[Matrix, Matrix],
) -> Matrix:
    """Correlation of row ``i[k]`` of one side with row ``j[k]`` of the other, (k,) float64."""
    scale = scales[0][i] * scales[1][j]
    found = np.zeros(len(i))
    for some in _blocks(len(i), max(1, _GATHERED // (8 * first.values.shape[1]))):
        a = first.values[i[some]] - first.mean[i[some]]
        b = second.values[j[some]] - second.mean[j[some]]
        found[some] = np.vecdot(a, b) * scale[some]
    return np.where(scale > 0, found, 0)
