"""A score never stands alone: its interval over images, its chance level and its ceiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One measure of one condition.

    Parameters
    ----------
    name : measure
    value : mean over images
    low, high : ends of the 95 % bootstrap interval over images
    chance : what a decoder without information gets; None where it is not known
    ceiling : what perfect features get through the same generator; None where it is not known
    n_images : number of images
    """

    name: str
    value: float
    low: float
    high: float
    chance: float | None
    ceiling: float | None
    n_images: int

    def __str__(self) -> str:
        """Value, interval, chance and ceiling in one line."""
        text = f"{self.name} {self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"
        if self.chance is not None:
            text += f", chance {self.chance:.3f}"
        if self.ceiling is not None:
            text += f", ceiling {self.ceiling:.3f}"
        return text


def interval(
    values: ArrayLike, level: float = 0.95, n_samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over images.

    It says how far the mean would move with other test images of the same kind; not with other
    subjects, trials or noise seeds. For two-way identification it is approximate, because the
    comparisons of one image use the others.

    Parameters
    ----------
    values : (n_images,) one value per image
    level : coverage
    n_samples : resamples of the images
    seed : of the resampling

    Raises
    ------
    ValueError
        If there is no value, or not one per image.
    """
    values = _per_image(values, "values")
    picks = np.random.default_rng(seed).integers(len(values), size=(n_samples, len(values)))
    means = values[picks].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def score(
    name: str,
    values: ArrayLike,
    *,
    chance: ArrayLike | None = None,
    ceiling: ArrayLike | None = None,
    seed: int = 0,
) -> Score:
    """Summarise one measure over images.

    Parameters
    ----------
    name : measure
    values : (n_images,)
    chance, ceiling : a number, or the values per image of a control (their mean is taken)
    seed : of the bootstrap
    """
    values = _per_image(values, name)
    low, high = interval(values, seed=seed)
    mean = [None if x is None else float(np.mean(x)) for x in (chance, ceiling)]
    return Score(name, float(values.mean()), low, high, *mean, len(values))


def table(
    values: Mapping[str, ArrayLike],
    chance: Mapping[str, ArrayLike] | None = None,
    ceiling: Mapping[str, ArrayLike] | None = None,
) -> pd.DataFrame:
    """Table of scores, one row per measure.

    Parameters
    ----------
    values : measure -> (n_images,), from `measure_images` or `measure_captions`
    chance : measure -> number or values of a control
    ceiling : measure -> number or values with ground-truth features

    Returns
    -------
    table : columns value, low, high, chance, ceiling, n_images
    """
    chance, ceiling = chance or {}, ceiling or {}
    rows = [
        asdict(score(name, v, chance=chance.get(name), ceiling=ceiling.get(name)))
        for name, v in values.items()
    ]
    return pd.DataFrame(rows).set_index("name")


def difference(name: str, values: ArrayLike, others: ArrayLike, seed: int = 0) -> Score:
    """Paired difference of two conditions on the same images, with its interval.

    Parameters
    ----------
    values, others : (n_images,) the same measure of the same images, in the same order
    """
    a, b = _per_image(values, name), _per_image(others, name)
    if len(a) != len(b):
        raise ValueError(f"{name}: {len(a)} and {len(b)} images; pair the same images.")
    return score(name, a - b, chance=0.0, seed=seed)


def differences(values: Mapping[str, ArrayLike], others: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """Table of the paired differences of two conditions, as `table`, with chance 0.

    Parameters
    ----------
    values, others : measure -> (n_images,), the same images in the same order
    """
    rows = [asdict(difference(name, value, others[name])) for name, value in values.items()]
    return pd.DataFrame(rows).set_index("name")


def collect(*tables: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """Put tables of scores into one long table.

    Parameters
    ----------
    *tables : (system, condition) -> scores from `table` or `differences`

    Returns
    -------
    scores : one row per system, condition and metric, with value, low, high, chance, ceiling, n

    Raises
    ------
    ValueError
        If a metric of a condition comes twice.
    """
    parts = [
        scores.assign(system=system, condition=condition).rename_axis("metric").reset_index()
        for group in tables
        for (system, condition), scores in group.items()
    ]
    columns = ["system", "condition", "metric", "value", "low", "high", "chance", "ceiling", "n"]
    rows = [part.rename(columns={"n_images": "n"})[columns] for part in parts]
    # A column of None is no column of numbers; pandas would mix the two.
    scores = pd.concat([part.astype({"chance": float, "ceiling": float}) for part in rows])
    twice = scores[scores.duplicated(columns[:3])]
    if len(twice):
        raise ValueError(f"{', '.join(twice.iloc[0][columns[:3]])} comes twice; name it otherwise.")
    return scores.reset_index(drop=True)


def mismatch(
    measure: Callable[[NDArray[np.int64]], ArrayLike],
    n_images: int,
    repeats: int = 5,
    seed: int = 0,
) -> Values:
    """Chance level: every result is measured against the truth of another image.

    Parameters
    ----------
    measure : order -> (n_images,), the measure with the truth of image ``order[i]`` for result i
    n_images : number of images, at least two
    repeats : number of random orders; each gives every image another partner
    seed : of the orders

    Returns
    -------
    values : (n_images,) mean over the orders
    """
    rng = np.random.default_rng(seed)
    return np.mean([measure(derange(n_images, rng)) for _ in range(repeats)], axis=0)


def derange(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random order in which nothing keeps its place (one random cycle through all).

    Raises
    ------
    ValueError
        If there are fewer than two items.
    """
    if n < 2:
        raise ValueError(f"{n} image: a control needs at least two, to pair each with another.")
    cycle = rng.permutation(n)
    order = np.empty(n, dtype=np.int64)
    order[cycle] = np.roll(cycle, 1)
    return order


def _per_image(values: ArrayLike, name: str) -> Values:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} has shape {array.shape}; give one value per image.")
    return array
