"""Figures of responses, features and how well the one predicts the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from nbutils.figures.style import (
    COLORS,
    DIVERGING,
    GREY,
    INK,
    find_limit,
    name_feature,
    new_axes,
    styled,
)

MOST_SHOWN = 2000
"""Columns drawn of a wide matrix: a screen has no more."""


@styled
def response_matrix(
    responses: ArrayLike, *, title: str = "", label: str = "response (z)", ax: Axes | None = None
) -> Axes:
    """Draw responses as a heat map, one row per image.

    Parameters
    ----------
    responses : (n_images, n_voxels)
    title : above the map
    label : of the colour bar, with the unit
    ax : where to draw; by default a figure of its own

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If it is no matrix.
    """
    matrix = np.asarray(responses, dtype=np.float32)
    if matrix.ndim != 2:
        raise ValueError(f"responses have shape {matrix.shape}: give (n_images, n_voxels)")
    ax = new_axes(9, 3.4, ax)
    limit = find_limit(matrix)
    stride = -(-matrix.shape[1] // MOST_SHOWN)
    drawn = ax.imshow(
        matrix[:, ::stride],
        aspect="auto",
        cmap=DIVERGING,
        vmin=-limit,
        vmax=limit,
        extent=(0, matrix.shape[1], len(matrix), 0),
        interpolation="nearest",
    )
    every = "" if stride == 1 else f", one in {stride} drawn"
    ax.set(
        xlabel=f"voxels (n = {matrix.shape[1]:,}{every})",
        ylabel=f"images (n = {len(matrix):,})",
        title=title,
    )
    ax.figure.colorbar(drawn, ax=ax, label=label, extend="both", pad=0.02)
    return ax


@styled
def noise_ceiling_histogram(
    ceilings: ArrayLike,
    rois: Mapping[str, ArrayLike] | None = None,
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw how noise ceilings are distributed, over all voxels and in each region.

    Parameters
    ----------
    ceilings : (n_voxels,) percent of explainable variance; NaN is left out
    rois : region -> (n_voxels,) bool
    title, ax : as in `response_matrix`

    Returns
    -------
    Axes
        One hill for each region below one for all voxels; the line is the median.
    """
    values = np.asarray(ceilings, dtype=float)
    groups = {"all voxels": values}
    for name, inside in (rois or {}).items():
        inside = np.asarray(inside)
        if inside.dtype != bool or inside.shape != values.shape:
            raise ValueError(
                f"rois[{name!r}] is {inside.dtype} {inside.shape}: give one bool for "
                f"each of the {values.size} voxels"
            )
        groups[name] = values[inside]
    bins = np.linspace(0, max(5.0, find_limit(values, 99.8)), 56)
    return _draw_hills(groups, bins, "noise ceiling (% of variance)", "{:.0f} %", title, ax)


@styled
def r2_histogram(
    scores: Mapping[str, ArrayLike],
    *,
    label: str = "$R^2$ on test images",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw how well each target of each feature space is predicted.

    Parameters
    ----------
    scores : feature -> (n_targets,) R2 or correlation; NaN is left out
    label : what the scores are
    title, ax : as in `response_matrix`

    Returns
    -------
    Axes
        One hill per feature space; the line is the median, the dashed line at 0 is chance.
    """
    groups = {
        name_feature(name): np.asarray(values, float).ravel() for name, values in scores.items()
    }
    everything = np.concatenate([v[np.isfinite(v)] for v in groups.values()] or [np.zeros(1)])
    low, high = np.percentile(everything, [0.2, 99.8]) if everything.size else (0.0, 1.0)
    bins = np.linspace(min(low, -0.05), max(high, 0.05), 61)
    ax = _draw_hills(groups, bins, label, "{:.2f}", title, ax)
    ax.axvline(0, color=GREY, lw=1, ls="--", zorder=0)
    return ax


@styled
def feature_heatmap(
    values: ArrayLike, *, title: str = "", limit: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the features of one image as a heat map.

    Parameters
    ----------
    values : (tokens, d), (channels, h, w) laid side by side, or (D,) folded into rows
    title : above the map
    limit : colours run from -limit to limit; by default the 99th percentile
    ax : as in `response_matrix`

    Returns
    -------
    Axes
    """
    ax = new_axes(4.2, 2.4, ax)
    tile = lay_out_feature(values)
    limit = find_limit(tile) if limit is None else limit
    ax.imshow(tile, aspect="auto", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set(title=title, xticks=[], yticks=[])
    ax.set_xlabel(_describe_axes(np.shape(values)), fontsize=7.5, color=GREY)
    ax.spines[:].set_visible(False)
    return ax


@styled
def feature_panels(
    features: Mapping[str, ArrayLike],
    predicted: Mapping[str, ArrayLike] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draw the features of one image in every space; predictions below with the same colours.

    Parameters
    ----------
    features : name -> features of one image, see `feature_heatmap`
    predicted : name -> predictions of the same shape
    title : above the figure

    Returns
    -------
    Figure
    """
    below = predicted or {}
    rows = 2 if below else 1
    figure = Figure(figsize=(2.2 * len(features), 0.35 + 1.75 * rows), layout="constrained")
    axes = figure.subplots(rows, len(features), squeeze=False)
    for column, (name, values) in enumerate(features.items()):
        limit = find_limit(values)
        feature_heatmap(values, title=name_feature(name), limit=limit, ax=axes[0, column])
        if name in below:
            feature_heatmap(below[name], limit=limit, ax=axes[1, column])
            axes[0, column].set_xlabel("")
        elif below:
            axes[1, column].set_axis_off()
    if below:
        axes[0, 0].set_ylabel("true")
        axes[1, 0].set_ylabel("predicted")
    if title:
        figure.suptitle(title, fontsize=10.5, weight="bold", x=0.01, ha="left")
    return figure


@styled
def alpha_curve(
    alphas: ArrayLike,
    errors: ArrayLike,
    *,
    chosen: float | None = None,
    published: float | None = None,
    label: str = "error on held-out training images",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw the validation error against the ridge penalty.

    Parameters
    ----------
    alphas : (n_alphas,)
    errors : (n_alphas,) of `nbutils.decoding.selection.AlphaChoice`
    chosen, published : penalties to mark
    label : what the errors are
    title, ax : as in `response_matrix`

    Returns
    -------
    Axes
    """
    order = np.argsort(alphas)
    x, y = np.asarray(alphas, float)[order], np.asarray(errors, float)[order]
    ax = new_axes(5, 3, ax)
    ax.semilogx(x, y, "o-", ms=4, color=COLORS[0])
    for value, color, style, name in (
        (published, COLORS[5], "--", "published"),
        (chosen, COLORS[2], "-", "chosen"),
    ):
        if value is not None:
            ax.axvline(
                value, color=color, ls=style, lw=1.5, zorder=0, label=f"{name}: {value:,.0f}"
            )
    ax.set(xlabel=r"ridge penalty $\alpha$", ylabel=label, title=title)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="best")
    return ax


@styled
def prediction_scatter(
    true: ArrayLike,
    predicted: ArrayLike,
    *,
    name: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw predicted against true values of one target, or of many pooled.

    Parameters
    ----------
    true, predicted : arrays of one shape
    name : of the feature, for the axis labels
    title, ax : as in `response_matrix`

    Returns
    -------
    Axes
        With the identity line (perfect), the line of best fit (its slope shows the shrinkage),
        and the correlation.
    """
    x, y = np.asarray(true, float).ravel(), np.asarray(predicted, float).ravel()
    if x.shape != y.shape:
        raise ValueError(f"{x.size} true and {y.size} predicted values: give the same targets")
    ax = new_axes(3.7, 3.7, ax)
    limit = find_limit(x, 99.9)
    ax.plot([-limit, limit], [-limit, limit], ls="--", color=GREY, lw=1, label="perfect")
    ax.plot(
        x,
        y,
        "o",
        ms=max(1.5, 6 - np.log10(len(x))),
        mew=0,
        alpha=0.35,
        color=COLORS[0],
        rasterized=True,
    )
    slope, start = np.polyfit(x, y, 1)
    ends = np.array([-limit, limit])
    ax.plot(ends, slope * ends + start, color=COLORS[5], lw=1.8, label=f"fit, slope {slope:.2f}")
    ax.set(
        xlim=(-limit, limit),
        ylim=(-limit, limit),
        aspect="equal",
        title=title,
        xlabel=f"true {name}".strip(),
        ylabel=f"predicted {name}".strip(),
    )
    ax.text(0.97, 0.04, f"r = {np.corrcoef(x, y)[0, 1]:.2f}", transform=ax.transAxes, ha="right")
    ax.legend(loc="upper left")
    return ax


def lay_out_feature(values: ArrayLike, width: int = 96) -> NDArray[np.float32]:
    """Lay the features of one image out as a matrix to look at.

    Parameters
    ----------
    values : (tokens, d) stays as it is; the channels of (c, h, w) stand side by side with a gap;
        (D,) is folded into rows
    width : of the folded rows

    Returns
    -------
    (rows, columns) float32, NaN where there is nothing

    Raises
    ------
    ValueError
        If there are more axes than that, as when several images are given.
    """
    values = np.asarray(values, dtype=np.float32)
    if values.ndim == 2:
        return values
    if values.ndim == 3:
        gap = np.full((values.shape[1], max(1, values.shape[2] // 12)), np.nan, np.float32)
        return np.hstack([part for channel in values for part in (channel, gap)][:-1])
    if values.ndim != 1:
        raise ValueError(
            f"features have shape {values.shape}: give those of one image, "
            "(tokens, d), (channels, h, w) or (D,)"
        )
    width = min(width, max(1, round(2 * np.sqrt(values.size))))
    folded = np.full(-(-values.size // width) * width, np.nan, np.float32)
    folded[: values.size] = values
    return folded.reshape(-1, width)


def _describe_axes(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return f"{shape[0]} tokens × {shape[1]}"
    if len(shape) == 3:
        return f"{shape[0]} channels of {shape[1]} × {shape[2]}"
    return f"{shape[0]:,} numbers, folded"


def _draw_hills(
    groups: Mapping[str, NDArray],
    bins: NDArray,
    label: str,
    form: str,
    title: str,
    ax: Axes | None,
) -> Axes:
    """Draw histograms as hills above one another, each as high as its densest bin."""
    ax = new_axes(6.4, 0.9 + 0.46 * len(groups), ax)
    for row, values in enumerate(groups.values()):
        values = values[np.isfinite(values)]
        color, base = COLORS[row % len(COLORS)], -float(row)
        if values.size:
            counts = np.histogram(values, bins)[0]
            heights = 0.85 * counts / max(1, counts.max())
            ax.stairs(base + heights, bins, baseline=base, fill=True, color=color, alpha=0.75)
            middle = float(np.median(values))
            ax.plot([middle, middle], [base, base + 0.9], color=INK, lw=1.6)
            text = f"median {form.format(middle)}, n = {values.size:,}"
        else:
            text = "no voxel"
        ax.text(
            1.02, base + 0.25, text, fontsize=7.5, color=GREY, transform=ax.get_yaxis_transform()
        )
    ax.set_yticks([-row + 0.3 for row in range(len(groups))], list(groups))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(xlabel=label, title=title, xlim=(bins[0], bins[-1]), ylim=(0.05 - len(groups) + 0.9, 1))
    return ax
