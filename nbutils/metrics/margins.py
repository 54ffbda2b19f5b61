"""By how much one encoding model beats another in a region, with its interval over images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbutils.metrics.bootstrap import Score, derange

BLOCK = 1000
"""Voxels at a time: resamples x voxels stay below 10 MB each."""


def region_score(
    name: str,
    predicted: ArrayLike,
    responses: ArrayLike,
    *,
    chance: float | None = None,
    ceiling: float | None = None,
    n_samples: int = 1000,
    seed: int = 0,
) -> Score:
    """Mean held-out correlation over the voxels of a region.

    Parameters
    ----------
    name : of the score
    predicted, responses : (n_images, n_voxels) of the region's voxels
    chance, ceiling : to stand beside it
    n_samples, seed : of the bootstrap over images

    Returns
    -------
    Score
        Its interval says how the mean would move with other test images of the same kind.
    """
    return _bootstrap(name, [predicted], responses, (1.0,), chance, ceiling, n_samples, seed)


def margin(
    name: str,
    predicted: ArrayLike,
    others: ArrayLike,
    responses: ArrayLike,
    *,
    chance: float | None = 0.0,
    n_samples: int = 1000,
    seed: int = 0,
) -> Score:
    """Mean difference of two models' held-out correlations over the voxels of a region.

    Both are resampled with the same images, so what makes an image easy for both cancels.

    Parameters
    ----------
    name : of the margin
    predicted, others : (n_images, n_voxels) predictions of the two models
    responses : (n_images, n_voxels)
    chance : margin of the same two models in a control
    n_samples, seed : of the bootstrap over images

    Returns
    -------
    Score : positive where the first model is better
    """
    pair = [predicted, others]
    return _bootstrap(name, pair, responses, (1.0, -1.0), chance, None, n_samples, seed)


def control_margin(
    name: str,
    predicted: ArrayLike,
    others: ArrayLike,
    responses: ArrayLike,
    *,
    n_samples: int = 1000,
    seed: int = 0,
) -> Score:
    """Margin of the same two models when every prediction meets the response to another image.

    Parameters
    ----------
    name, predicted, others, responses : as in `margin`
    n_samples : random orders of the test images; in each no image keeps its own response
    seed : of the orders

    Returns
    -------
    Score : the mean over the orders and the range of their middle 95 %. Voxels of a region go up
        and down together, so this range is far wider than voxels would suggest.
    """
    responses = np.asarray(responses)
    _check_shapes(name, [predicted, others], responses)
    n_images, n_voxels = responses.shape
    # Summed over voxels, entry (i, j) is what image i's prediction gets from image j's response.
    met = (_unit(np.asarray(predicted)) - _unit(np.asarray(others))) @ _unit(responses).T
    rng, rows = np.random.default_rng(seed), np.arange(n_images)
    margins = [met[rows, derange(n_images, rng)].sum() for _ in range(n_samples)]
    margins = np.array(margins, dtype=np.float64) / (n_images * n_voxels)
    low, high = np.quantile(margins, [0.025, 0.975])
    return Score(name, float(margins.mean()), float(low), float(high), 0.0, None, n_images)


def unique_score(
    name: str,
    together: ArrayLike,
    alone: ArrayLike,
    responses: ArrayLike,
    *,
    n_samples: int = 1000,
    seed: int = 0,
) -> Score:
    """Explained variance that a joint model adds to a single one, mean over a region's voxels.

    Parameters
    ----------
    name : of the score
    together, alone : (n_images, n_voxels) predictions of the joint model and of the model without
        the space in question, see `nbutils.encoding.partition`
    responses : (n_images, n_voxels)
    n_samples, seed : of the bootstrap over images

    Returns
    -------
    Score : difference of two R²; chance 0
    """
    responses = np.asarray(responses, dtype=np.float64)
    _check_shapes(name, [together, alone], responses)
    counts = _resample(len(responses), n_samples, seed)
    total = np.zeros(n_samples + 1)
    for first in range(0, responses.shape[1], BLOCK):
        columns = slice(first, first + BLOCK)
        y = responses[:, columns] - responses[:, columns].mean(axis=0)
        missed = [
            np.square(np.asarray(x)[:, columns] - responses[:, columns]) for x in (alone, together)
        ]
        spread = counts @ np.square(y) - np.square(counts @ y) / len(responses)
        gained = counts @ (missed[0] - missed[1])
        total += np.divide(gained, spread, out=np.zeros_like(gained), where=spread > 0).sum(axis=1)
    total /= responses.shape[1]
    low, high = np.quantile(total[1:], [0.025, 0.975])
    return Score(name, float(total[0]), float(low), float(high), 0.0, None, len(responses))


def compare(
    pairs: Sequence[tuple[str, str, str]],
    predicted: Mapping[str, ArrayLike],
    responses: ArrayLike,
    areas: Mapping[str, ArrayLike],
) -> dict[str, Score]:
    """Margins of pairs of models, each followed by its control.

    Parameters
    ----------
    pairs : (better, worse, area), by name
    predicted : model -> (n_images, n_voxels)
    responses : (n_images, n_voxels)
    areas : name -> (n_voxels,) bool

    Returns
    -------
    scores : ``"area: better > worse"`` -> `margin`, the same with ``", control"`` ->
        `control_margin`
    """
    scores = {}
    for better, worse, area in pairs:
        name, inside = f"{area}: {better} > {worse}", np.asarray(areas[area])
        given = [np.asarray(predicted[one])[:, inside] for one in (better, worse)]
        given.append(np.asarray(responses)[:, inside])
        scores[name] = margin(name, *given)
        scores[f"{name}, control"] = control_margin(f"{name}, control", *given)
    return scores


def unique_scores(
    parts: Mapping[str, Any], areas: Mapping[str, ArrayLike], responses: ArrayLike
) -> dict[str, dict[str, list[Score]]]:
    """Unique variances of both spaces of several partitions, area by area.

    Parameters
    ----------
    parts : level -> `nbutils.encoding.Partition`
    areas : name -> (n_voxels,) bool
    responses : (n_images, n_voxels) to the test images

    Returns
    -------
    scores : area -> "first" and "second" space -> `unique_score` for each level
    """
    scores: dict[str, dict[str, list[Score]]] = {}
    for area, inside in areas.items():
        scores[area] = {"first": [], "second": []}
        for level, part in parts.items():
            cut = {name: values[:, inside] for name, values in part.predicted.items()}
            for space, rest in (("first", "second"), ("second", "first")):
                given = cut["together"], cut[rest], np.asarray(responses)[:, inside]
                name = f"{area}, {level}: unique to {space}"
                scores[area][space].append(unique_score(name, *given))
    return scores


def beats(score: Score, control: Score) -> bool:
    """Say whether a margin is larger than its control's: the intervals do not touch."""
    return score.low > control.high


def _bootstrap(
    name: str,
    predictions: Sequence[ArrayLike],
    responses: ArrayLike,
    signs: Sequence[float],
    chance: float | None,
    ceiling: float | None,
    n_samples: int,
    seed: int,
) -> Score:
    responses = np.asarray(responses)
    _check_shapes(name, predictions, responses)
    n_images, n_voxels = responses.shape
    counts = _resample(n_images, n_samples, seed)
    whole, means = 0.0, np.zeros(n_samples)
    for first in range(0, n_voxels, BLOCK):
        columns = slice(first, first + BLOCK)
        measure = _correlations(counts, responses[:, columns])
        for predicted, sign in zip(predictions, signs, strict=True):
            r = np.nan_to_num(measure(np.asarray(predicted)[:, columns]))
            whole += sign * float(r[0].sum())
            means += sign * r[1:].sum(axis=1)
    low, high = np.quantile(means / n_voxels, [0.025, 0.975])
    return Score(name, whole / n_voxels, float(low), float(high), chance, ceiling, n_images)


def _check_shapes(name: str, predictions: Sequence[ArrayLike], responses: NDArray) -> None:
    for predicted in predictions:
        if np.shape(predicted) != responses.shape:
            raise ValueError(
                f"{name}: predictions of shape {np.shape(predicted)} for responses of "
                f"{responses.shape}; give the same images and voxels."
            )
    if not responses.shape[1]:
        raise ValueError(f"{name}: the region has no voxels; leave it out.")


def _resample(n_images: int, n_samples: int, seed: int) -> NDArray[np.float32]:
    """How often each image is in each resample, (1 + n_samples, n_images); first, all once."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=n_samples)
    return np.vstack([np.ones(n_images), counts]).astype(np.float32)


def _correlations(
    counts: NDArray[np.float32], responses: NDArray
) -> Callable[[NDArray], NDArray[np.float32]]:
    """Make the function predictions -> (1 + n_samples, n_voxels) weighted correlations."""
    y = _unit(responses)
    n = counts.shape[1]
    mean_y, square_y = counts @ y / n, counts @ np.square(y) / n

    def measure(predicted: NDArray) -> NDArray[np.float32]:
        x = _unit(predicted)
        mean_x, square_x = counts @ x / n, counts @ np.square(x) / n
        spread = (square_x - mean_x**2) * (square_y - mean_y**2)
        together = counts @ (x * y) / n - mean_x * mean_y
        return np.where(spread > 1e-12, together / np.sqrt(np.maximum(spread, 1e-12)), np.nan)

    return measure


def _unit(values: NDArray) -> NDArray[np.float32]:
    """Z-score columns, so that the sums above lose no digits; constant ones become 0."""
    values = np.asarray(values, dtype=np.float64)
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    return (centred / np.where(spread > 0, spread, 1)).astype(np.float32)
