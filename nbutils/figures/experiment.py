"""Figures of the experiment: which image came when, and how alike its showings answer."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from nbutils.figures.style import COLORS, GREY, INK, PALE, find_limit, new_axes, styled

SHOWINGS = ("first", "second", "third", "later")
SHADES = ("#CFE3F2", "#6CA6D0", "#1F5F93", "#0B2A45")
"""Light to dark, so that their order is seen without the legend and without colours."""
SHARED = COLORS[5]
BINS = 12


@styled
def showings_by_session(table: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw how much of every session is new, and how much of it shows shared images.

    Parameters
    ----------
    table : trials with `session` (1-based), `repeat` (0 for the first showing) and `shared`, as
        `nbutils.nsd.trials.trials` lists them
    title : above the figure
    ax : where to draw; by default a figure of its own

    Returns
    -------
    Axes
        One bar for each session, stacked from first to later showings, in percent of its trials;
        the dots are the share of shared images.

    Raises
    ------
    ValueError
        If a column is missing or there is no trial.
    """
    _check_table(table)
    kinds = table["repeat"].clip(upper=len(SHOWINGS) - 1)
    share = 100 * pd.crosstab(table["session"], kinds, normalize="index")
    ax = new_axes(9, 3.1, ax)
    base = np.zeros(len(share))
    for kind, percent in share.items():
        ax.bar(share.index, percent, 0.86, bottom=base, color=SHADES[kind], label=SHOWINGS[kind])
        base += percent.to_numpy()
    shared = 100 * table.groupby("session")["shared"].mean()
    [dots] = ax.plot(shared.index, shared, "o", ms=5, color=SHARED, mec="white", mew=0.8)
    first, last = share.index.min(), share.index.max()
    ax.set(xlim=(first - 0.6, last + 0.6), ylim=(0, 100), title=title)
    ax.set(xlabel="session", ylabel="trials (%)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    bars, names = ax.get_legend_handles_labels()
    ax.legend(
        [*bars, dots],
        [*names, "shared images"],
        loc="upper left",
        bbox_to_anchor=(1.005, 1),
        title="showing",
    )
    return ax


@styled
def trial_raster(
    table: pd.DataFrame, session: int | None = None, *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw every trial of one session, run by run.

    Parameters
    ----------
    table : as in `showings_by_session`, with `run` (1-based) in addition
    session : 1-based; by default the first of the table
    title, ax : as in `showings_by_session`

    Returns
    -------
    Axes
        One row for each run and one cell for each trial, the darker the more often the image had
        been seen; a dot marks a shared image.

    Raises
    ------
    ValueError
        If the table has no trial of that session.
    """
    _check_table(table, "run")
    session = int(table["session"].min()) if session is None else session
    trials = table[table["session"] == session]
    if trials.empty:
        raise ValueError(f"session={session}: the table has no trial of it")
    row = trials["run"].to_numpy() - 1
    column = trials.groupby("run").cumcount().to_numpy()
    cells = np.full((row.max() + 1, column.max() + 1), np.nan)
    cells[row, column] = trials["repeat"].clip(upper=len(SHOWINGS) - 1)
    ax = new_axes(9, 0.9 + 0.18 * len(cells), ax)
    limits = BoundaryNorm(np.arange(len(SHADES) + 1) - 0.5, len(SHADES))
    # pcolormesh leaves white lines between the trials, which an image cannot.
    edges = [np.arange(n + 1) + 0.5 for n in cells.shape]
    ax.pcolormesh(*edges[::-1], cells, cmap=ListedColormap(SHADES), norm=limits, ec="white", lw=0.6)
    shared = trials["shared"].to_numpy(bool)
    ax.plot(column[shared] + 1, row[shared] + 1, "o", ms=3.6, color=SHARED, mec="white", mew=0.5)
    ax.set(xlabel="trial of the run", ylabel="run", title=title or f"session {session}")
    ax.set(ylim=(len(cells) + 0.5, 0.5), yticks=range(1, len(cells) + 1, 2))
    ax.spines[:].set_visible(False)
    kinds = np.unique(cells[np.isfinite(cells)]).astype(int)
    handles = [Patch(color=SHADES[kind], label=SHOWINGS[kind]) for kind in kinds]
    handles.append(Line2D([], [], marker="o", ls="", color=SHARED, mec="white", label="shared"))
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.005, 1), title="showing")
    return ax


@styled
def reliability_scatter(
    expected: ArrayLike, measured: ArrayLike, *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw the correlation between two showings of the same images against what it should be.

    Parameters
    ----------
    expected : (n_voxels,) noise ceiling of one trial as a fraction, s2 / (s2 + n2)
    measured : (n_voxels,) correlation over images; NaN is left out in both
    title, ax : as in `showings_by_session`

    Returns
    -------
    Axes
        One dot for each voxel, the identity line, and the median of the measured values in bins
        of about as many voxels each, so that a bend can be told from scatter.

    Raises
    ------
    ValueError
        If the numbers of voxels differ, or fewer than two voxels have both values.
    """
    x, y = np.asarray(expected, float), np.asarray(measured, float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"expected {x.shape} and measured {y.shape}: give one value per voxel")
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 2:
        raise ValueError(f"{len(x)} voxels with both values: there is nothing to compare")
    ax = new_axes(4.4, 4, ax)
    low, high = min(-0.1, np.percentile(y, 0.2)), 1.05 * max(find_limit(x, 99.9), find_limit(y))
    size = np.clip(90 / np.sqrt(len(x)), 0.8, 4)
    ax.plot(x, y, "o", ms=size, mew=0, alpha=0.3, color=COLORS[0], rasterized=True)
    ax.plot([low, high], [low, high], ls="--", color=GREY, lw=1.2, label="as ncsnr says")
    middle = np.array([np.median(part, axis=1) for part in _equal_bins(x, y)])
    ax.plot(*middle.T, "o-", color=COLORS[5], mec="white", ms=6, lw=1.6, label="median of a bin")
    ax.axhline(0, color=PALE, lw=1, zorder=0)
    ax.set(xlim=(min(0, low / 4), high), ylim=(low, high), title=title)
    ax.set(xlabel="expected from ncsnr", ylabel="correlation of first and second showing")
    ax.text(
        0.97,
        0.04,
        f"{len(x):,} voxels, r = {np.corrcoef(x, y)[0, 1]:.2f}",
        transform=ax.transAxes,
        ha="right",
        color=INK,
    )
    ax.legend(loc="upper left")
    return ax


def _equal_bins(x: NDArray, y: NDArray) -> list[NDArray]:
    order = np.argsort(x, kind="stable")
    return np.array_split(np.stack([x[order], y[order]]), min(BINS, len(x)), axis=1)


def _check_table(table: pd.DataFrame, *more: str) -> None:
    absent = [name for name in ("session", "repeat", "shared", *more) if name not in table]
    if absent or table.empty:
        raise ValueError(
            f"the table of trials has no {' and '.join(absent) or 'rows'}: give what "
            "nbutils.nsd.trials.trials returns"
        )
