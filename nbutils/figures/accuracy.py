"""Figures of what limits a prediction: the region it was read from, and the company it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from nbutils.figures.scores import MARKERS
from nbutils.figures.style import COLORS, GREY, PALE, name_feature, new_axes, styled


@styled
def accuracy_by_region(
    scores: Mapping[str, ArrayLike],
    regions: Mapping[str, ArrayLike],
    ceilings: ArrayLike,
    *,
    label: str = "correlation over test images",
    title: str = "",
) -> Figure:
    """Draw how well each region predicts each feature space, beside how noisy the region is.

    Parameters
    ----------
    scores : feature -> (n_regions,) mean correlation of the predictions from that region's voxels
        alone; NaN where a region has none
    regions : region -> (n_voxels,) bool
    ceilings : (n_voxels,) noise ceiling, percent of variance; NaN is left out
    label : of the axis of the scores
    title : above the figure

    Returns
    -------
    Figure
        One row for each region: dots for the feature spaces on the left, the median noise ceiling
        as a bar on the right.

    Raises
    ------
    ValueError
        If a feature has not one score per region, or a region not one bool per voxel.
    """
    ceilings = np.asarray(ceilings, dtype=float)
    for name, inside in regions.items():
        if np.asarray(inside).dtype != bool or np.shape(inside) != ceilings.shape:
            raise ValueError(f"regions[{name!r}]: give one bool for each of {ceilings.size} voxels")
    for name, values in scores.items():
        if np.shape(values) != (len(regions),):
            raise ValueError(
                f"scores[{name!r}] has shape {np.shape(values)}: give one score for each of "
                f"{len(regions)} regions"
            )
    figure = Figure(figsize=(9.4, 1.1 + 0.42 * len(regions)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.6, 1))
    _draw_scores(left, scores, len(regions))
    left.set_yticks(
        range(len(regions)), [f"{name} ({np.sum(inside):,})" for name, inside in regions.items()]
    )
    left.set(xlabel=label, title=title, ylim=(len(regions) - 0.5, -0.5), ylabel="region (voxels)")
    medians = [_median(ceilings[np.asarray(inside)]) for inside in regions.values()]
    right.barh(range(len(regions)), medians, 0.6, color=PALE, ec=GREY, lw=0.6)
    for row, value in enumerate(medians):
        text = f" {value:.0f}" if np.isfinite(value) else " –"
        right.text(np.nan_to_num(value), row, text, va="center", fontsize=8)
    right.set(xlabel="median noise ceiling (%)", xlim=(0, 1.15 * np.nanmax([*medians, 1.0])))
    right.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=len(scores), fontsize=8.5)
    return figure


def _draw_scores(ax: Axes, scores: Mapping[str, ArrayLike], n_regions: int) -> None:
    for row in range(n_regions):
        ax.axhline(row, color=PALE, lw=1, zorder=0)
    ax.axvline(0, color=GREY, lw=1, ls="--", zorder=0)
    for number, (name, values) in enumerate(scores.items()):
        style = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}
        # Slightly apart, or equal scores would hide each other.
        rows = np.arange(n_regions) + 0.11 * (number - (len(scores) - 1) / 2)
        ax.plot(values, rows, ls="", ms=7, mec="white", label=name_feature(name), **style)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else float("nan")


@styled
def change_with_company(
    counts: Sequence[int],
    changes: Mapping[str, ArrayLike],
    *,
    label: str = "change of an image's features (%)",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw how predictions of the same image depend on how many others are decoded with it.

    Parameters
    ----------
    counts : (n_counts,) images decoded together
    changes : name -> (n_counts, n_draws) change of the predictions in each random draw of company
    label : what the change is, with the unit
    title, ax : as in `nbutils.figures.response_matrix`

    Returns
    -------
    Axes
        One line for each name, through the medians of its draws; the band spans all of them.

    Raises
    ------
    ValueError
        If a name has not one row per count.
    """
    ax = new_axes(5.6, 3.3, ax)
    for number, (name, values) in enumerate(changes.items()):
        values = np.asarray(values, dtype=float)
        if values.ndim != 2 or len(values) != len(counts):
            raise ValueError(
                f"changes[{name!r}] has shape {values.shape}: give (n_counts, n_draws) with "
                f"{len(counts)} counts"
            )
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        ax.fill_between(
            counts, values.min(axis=1), values.max(axis=1), color=color, alpha=0.2, lw=0
        )
        ax.plot(counts, np.median(values, axis=1), color=color, marker=marker, mec="white",
                ms=7, lw=1.8, label=name, clip_on=False)  # fmt: skip
    ax.set_xscale("log")
    ax.set_xticks(list(counts), [f"{count:,}" for count in counts])
    ax.minorticks_off()
    ax.set(xlabel="test images decoded together", ylabel=label, title=title)
    ax.set_ylim(bottom=0)
    ax.legend(loc="best")
    return ax
