"""Figures of encoding models: maps above each other, models against each other, on the cortex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from nbutils.figures.brains import draw_map
from nbutils.figures.scores import MARKERS
from nbutils.figures.style import (
    COLORS,
    DIVERGING,
    GREY,
    SEQUENTIAL,
    find_limit,
    new_axes,
    styled,
)
from nbutils.metrics.bootstrap import Score
from nbutils.nsd.layout import Layout
from nbutils.nsd.surfaces import Surface


@styled
def map_rows(
    layout: Layout,
    subject: int,
    maps: Mapping[str, ArrayLike],
    voxels: NDArray[np.int64],
    *,
    label: str = "",
    limit: float | None = None,
    cuts: int = 6,
) -> Figure:
    """Draw several maps of the same voxels as rows of slices in the same colours.

    Parameters
    ----------
    layout, subject, voxels, label, cuts : as in `nbutils.figures.brain_map`
    maps : title -> (n_voxels,) numbers; NaN is left out. If some number is negative, colours
        diverge from 0.
    limit : colours run to this value; by default to the 99th percentile of all maps

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no map, or one has not one value per voxel.
    """
    if not maps:
        raise ValueError("maps is empty: give at least one map")
    stacked = np.stack([np.asarray(values, np.float32) for values in maps.values()])
    limit = find_limit(stacked) if limit is None else float(limit)
    low = -limit if np.nanmin(stacked, initial=0.0) < 0 else 0.0
    height = 1 / len(maps)
    figure = Figure(figsize=(11.0, 1.85 * len(maps)))
    for row, (title, values) in enumerate(zip(maps, stacked, strict=True)):
        bottom = 1 - (row + 1) * height
        place = (0.06, bottom, 0.88, 0.96 * height)
        drawn = draw_map(layout, subject, figure, values, voxels, low, limit, cuts, place)
        drawn.annotate(positions=True, left_right=True, size=8)
        figure.text(0.0, bottom + height / 2, title, weight="bold", va="center", rotation=90)
    bar = figure.add_axes((0.955, 0.2, 0.008, 0.6))
    colors = SEQUENTIAL if low == 0 else DIVERGING
    figure.colorbar(ScalarMappable(Normalize(low, limit), colors), cax=bar, label=label)
    return figure


@styled
def voxel_scatter(
    x: ArrayLike,
    y: ArrayLike,
    groups: Mapping[str, ArrayLike],
    *,
    labels: tuple[str, str] = ("", ""),
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw every voxel by what two models say of it, in the colour of its region.

    Parameters
    ----------
    x, y : (n_voxels,) scores of the two models
    groups : region -> (n_voxels,) bool; voxels of no region are left out
    labels : of the axes
    title, ax : as in `nbutils.figures.response_matrix`

    Returns
    -------
    Axes
        The diagonal says "equally well"; a large mark is the mean of a region.
    """
    ax = new_axes(4.8, 4.6, ax)
    x, y = np.asarray(x, float), np.asarray(y, float)
    for number, (name, inside) in enumerate(groups.items()):
        inside = np.asarray(inside, bool) & np.isfinite(x) & np.isfinite(y)
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        ax.plot(x[inside], y[inside], ".", ms=2.5, alpha=0.35, color=color, rasterized=True)
        ax.plot(x[inside].mean(), y[inside].mean(), marker, ms=10, mec="white", color=color,
                label=f"{name} ({inside.sum():,})", zorder=3)  # fmt: skip
    shown = np.isfinite(x) & np.isfinite(y)
    ends = [min(x[shown].min(), y[shown].min(), 0), max(x[shown].max(), y[shown].max())]
    ax.plot(ends, ends, "--", color=GREY, lw=1, zorder=0)
    ax.set(xlabel=labels[0], ylabel=labels[1], title=title, aspect="equal")
    ax.legend(title="region (voxels), mean", loc="upper left", fontsize=8, title_fontsize=8)
    return ax


@styled
def score_lines(
    panels: Mapping[str, Mapping[str, Sequence[Score]]],
    levels: Sequence[str],
    *,
    label: str = "",
    level_label: str = "",
) -> Figure:
    """Draw how scores of several models change over levels, one panel for each region.

    Parameters
    ----------
    panels : region -> model -> one score for each level
    levels : names, in order
    label, level_label : of the axes

    Returns
    -------
    Figure
        Dots with 95 % intervals over images; dashed at 0.

    Raises
    ------
    ValueError
        If a model has not one score for each level.
    """
    figure = Figure(figsize=(4.0 * len(panels), 3.3), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for ax, (region, models) in zip(axes, panels.items(), strict=True):
        ax.axhline(0, color=GREY, lw=1, ls="--", zorder=0)
        for number, (name, scores) in enumerate(models.items()):
            if len(scores) != len(levels):
                raise ValueError(f"{name}: {len(scores)} scores for {len(levels)} levels")
            value = np.array([one.value for one in scores])
            ends = np.array([[one.low, one.high] for one in scores]).T
            # Slightly apart, or equal scores would hide each other.
            where = np.arange(len(levels)) + 0.07 * (number - (len(models) - 1) / 2)
            ax.errorbar(where, value, np.abs(ends - value), fmt=f"-{MARKERS[number]}", ms=6,
                        mec="white", lw=1.5, color=COLORS[number], label=name)  # fmt: skip
        ax.set_xticks(range(len(levels)), levels)
        ax.set(title=region, xlabel=level_label)
    axes[0].set_ylabel(label)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


@styled
def surface_map(
    surfaces: Mapping[str, tuple[Surface, ArrayLike]],
    *,
    label: str = "",
    limit: float | None = None,
    views: Sequence[str] = ("lateral", "ventral", "posterior"),
) -> Figure:
    """Draw one number per vertex on the cortex, by nilearn, from several sides.

    Parameters
    ----------
    surfaces : title -> surface and its (n_vertices,) numbers; NaN shows the relief alone
    label : of the colour bar, with the unit
    limit : colours run to this value; by default to the 99th percentile
    views : nilearn's names of the sides to look from

    Returns
    -------
    Figure
    """
    from nilearn import plotting

    every = np.concatenate([np.asarray(values, float) for _, values in surfaces.values()])
    limit = find_limit(every) if limit is None else float(limit)
    low = -limit if np.nanmin(every, initial=0.0) < 0 else 0.0
    colors = SEQUENTIAL if low == 0 else DIVERGING
    figure = Figure(figsize=(2.6 * len(views) + 0.8, 2.4 * len(surfaces)))
    for row, (title, (surface, values)) in enumerate(surfaces.items()):
        for column, view in enumerate(views):
            place = (row * len(views)) + column + 1
            ax = figure.add_subplot(len(surfaces), len(views), place, projection="3d")
            plotting.plot_surf_stat_map(
                (surface.coordinates, surface.faces), np.asarray(values, np.float32),
                bg_map=(surface.curvature > 0).astype(np.float32), bg_on_data=False,
                hemi={"lh": "left", "rh": "right"}[surface.hemisphere], view=view,
                cmap=colors, vmin=low, vmax=limit, threshold=1e-6 * limit, colorbar=False,
                axes=ax, figure=figure, engine="matplotlib",
            )  # fmt: skip
            ax.set_title(f"{title}, {view}", fontsize=8.5)
    bar = figure.add_axes((0.93, 0.25, 0.012, 0.5))
    figure.colorbar(ScalarMappable(Normalize(low, limit), colors), cax=bar, label=label)
    return figure
