"""Figures that lay systems, or one system's parts, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nbutils.figures.scores import score_bars
from nbutils.figures.style import COLORS, GREY, INK, PALE, blank_axes, styled
from nbutils.metrics.bootstrap import Score

_ROW, _SMALL, _CELL = 0.43, 0.175, 1.06  # inches
_PLAIN = ("system", "measure", "value", "low", "high", "n")


@styled
def comparison_table(
    table: pd.DataFrame, *, lower_is_better: Collection[str] = (), title: str = ""
) -> Figure:
    """Draw systems side by side: values with intervals, and below them what they stand against.

    Parameters
    ----------
    table : from `nbutils.metrics.comparison.compare`
    lower_is_better : measures to mark with an arrow
    title : above the figure

    Returns
    -------
    Figure
        One block per system, one column per measure. Among several systems a line marks the best
        value of a column, and others whose interval holds it.
    """
    measures, systems = list(table["measure"].unique()), list(table["system"].unique())
    below = [name for name in table if name not in _PLAIN and table[name].notna().any()]
    left = 0.2 + 0.085 * max(map(len, [*systems, *("  " + name for name in below)]))
    heads = [_wrap(name, name in lower_is_better) for name in measures]
    top = 0.5 + 0.15 * max(head.count("\n") + 1 for head in heads)
    block = _ROW + _SMALL * len(below) + 0.14
    width, height = left + _CELL * len(measures) + 0.15, top + block * len(systems) + 0.3
    ax = blank_axes(width, height)
    ax.text(0.12, 0.2, title, fontsize=10.5, weight="bold", va="center")
    for k, head in enumerate(heads):
        x = left + _CELL * (k + 0.5)
        ax.text(x, top - 0.1, head, fontsize=7.5, weight="bold", ha="center", va="bottom")
    for row, system in enumerate(systems):
        lines = table[table["system"] == system].set_index("measure").reindex(measures)
        _draw_block(ax, system, lines, below, top + block * row, left, width)
    note = (
        "in brackets: 95 % bootstrap interval over images; grey rows: the same measure of a control"
    )
    if len(systems) > 1:
        note += "; underlined: the best, and what its interval holds"
        for k, name in enumerate(measures):
            best = _find_best(table[table["measure"] == name], name in lower_is_better)
            _mark_best(ax, [systems.index(system) for system in best], k, top, block, left)
    ax.text(0.12, height - 0.14, note, fontsize=7, color=GREY, va="center")
    return ax.get_figure(root=True)


@styled
def ablation_figure(
    low_level: Mapping[str, Score],
    semantic: Mapping[str, Score],
    *,
    levels: tuple[str, str] = ("layout", "meaning"),
    title: str = "",
) -> Figure:
    """Draw which part carries layout and which carries meaning: two panels of bars.

    Parameters
    ----------
    low_level, semantic : row of the ablation -> score, see
        `nbutils.metrics.comparison.split_ablation`; the first row is the full system
    levels : what the two are about
    title : above the figure

    Returns
    -------
    Figure
        The full system in colour, what was taken away in grey.

    Raises
    ------
    ValueError
        If the two have not the same rows.
    """
    if list(low_level) != list(semantic):
        raise ValueError(
            f"rows {', '.join(low_level)} and {', '.join(semantic)}: give the same for both."
        )
    rows = list(low_level)
    figure = Figure(figsize=(10.4, 1.25 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, scores, level in zip(axes, (low_level, semantic), levels, strict=True):
        name = next(iter(scores.values())).name
        score_bars(scores, controls=rows[1:], title=f"{level}: {name}", ax=ax)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, weight="bold")
    return figure


def _wrap(name: str, lower: bool) -> str:
    return textwrap.fill(f"{name} ↓" if lower else name, 16)


def _draw_block(
    ax: Axes,
    system: str,
    lines: pd.DataFrame,
    below: list[str],
    y: float,
    left: float,
    width: float,
) -> None:
    """Draw one system: its values, their intervals, and its controls."""
    ax.plot([0.12, width - 0.12], [y, y], color=PALE, lw=1)
    ax.text(0.12, y + 0.15, system, fontsize=9, weight="bold", va="center")
    for k, (value, low, high) in enumerate(lines[["value", "low", "high"]].to_numpy(float)):
        x = left + _CELL * (k + 0.5)
        if np.isfinite(value):
            ax.text(x, y + 0.31, f"[{low:.2f}, {high:.2f}]", fontsize=6.5, color=GREY,
                    ha="center", va="center")  # fmt: skip
            ax.text(x, y + 0.13, f"{value:.2f}", fontsize=9.5, color=INK, ha="center", va="center")
    for number, name in enumerate(below):
        where = y + _ROW + _SMALL * (number + 0.4)
        ax.text(0.24, where, name, fontsize=7.5, color=GREY, va="center")
        for k, value in enumerate(lines[name].to_numpy(float)):
            text = f"{value:.2f}" if np.isfinite(value) else "–"
            x = left + _CELL * (k + 0.5)
            ax.text(x, where, text, fontsize=7.5, color=GREY, ha="center", va="center")


def _find_best(column: pd.DataFrame, lower: bool) -> list[str]:
    """Systems whose interval holds the best value, the best among them."""
    column = column.dropna(subset="value")
    best = column["value"].min() if lower else column["value"].max()
    held = column[(column["low"] <= best) & (column["high"] >= best)]
    return list(held["system"])


def _mark_best(
    ax: Axes, rows: list[int], column: int, top: float, block: float, left: float
) -> None:
    for row in rows:
        x, y = left + _CELL * (column + 0.5), top + block * row
        ax.plot([x - 0.2, x + 0.2], [y + 0.22] * 2, color=COLORS[0], lw=1.6)
