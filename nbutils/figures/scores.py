"""Figures of how good the results are: never a score without its interval, chance and ceiling."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from nbutils.figures.style import COLORS, GREY, INK, PALE, SEQUENTIAL, new_axes, styled
from nbutils.metrics.bootstrap import Score
from nbutils.metrics.images import LOWER_IS_BETTER
from nbutils.metrics.published import CAUTION, PublishedTable

MARKERS = "osD^vP*X"


@styled
def score_table(
    scores: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    lower_is_better: Collection[str] = LOWER_IS_BETTER,
    title: str = "",
) -> Figure:
    """Draw scores as dots with their bootstrap intervals, between chance and ceiling.

    Parameters
    ----------
    scores : from `nbutils.metrics.bootstrap.table`, one row per measure, columns value, low, high,
        chance, ceiling; or condition -> such tables: the result first, then its controls. Chance
        and ceiling are those of the first table.
    lower_is_better : measures to mark with an arrow
    title : above the figure

    Returns
    -------
    Figure
        Its axes hold one line per measure; the numbers of the first condition stand at the right.

    Raises
    ------
    ValueError
        If the tables are not about the same measures.
    """
    tables = {"": scores} if isinstance(scores, pd.DataFrame) else dict(scores)
    first = next(iter(tables.values()))
    for name, table in tables.items():
        if list(table.index) != list(first.index):
            raise ValueError(
                f"{name!r} has the measures {', '.join(table.index)}: give the same "
                f"as the first, {', '.join(first.index)}"
            )
    ax = new_axes(8.6, 0.9 + len(first) * (0.28 + 0.11 * len(tables)))
    offsets = np.linspace(-0.28, 0.28, len(tables)) if len(tables) > 1 else [0.0]
    for row in range(len(first)):
        _draw_reference(ax, row, first.iloc[row])
    for number, (table, offset) in enumerate(zip(tables.values(), offsets, strict=True)):
        _draw_dots(ax, table, offset, number)
    arrows = [f"{name} ↓" if name in lower_is_better else str(name) for name in first.index]
    ax.set_yticks(range(len(first)), arrows)
    ax.set(ylim=(len(first) - 0.45, -0.55), title=title)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(
        "score (line: 95 % interval over images)"
        + ("; ↓ lower is better" if set(first.index) & set(lower_is_better) else "")
    )
    _write_numbers(ax, first)
    _add_legend(ax, [name for name in tables if name], first)
    return ax.get_figure(root=True)


@styled
def score_bars(
    scores: Mapping[str, Score],
    *,
    controls: Collection[str] = (),
    chance: float | None = None,
    ceiling: float | None = None,
    label: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw one measure in several conditions as bars.

    Parameters
    ----------
    scores : condition -> `nbutils.metrics.bootstrap.Score`
    controls : conditions drawn in grey
    chance, ceiling : lines; by default those of the first score
    label : of the axis; by default the first score's name
    title, ax : as in `nbutils.figures.response_matrix`

    Returns
    -------
    Axes
        One bar per condition, from above, with its interval and number.

    Raises
    ------
    ValueError
        If a control is no condition.
    """
    unknown = set(controls) - set(scores)
    if unknown:
        raise ValueError(
            f"controls name {', '.join(sorted(unknown))}: not among the conditions "
            f"{', '.join(scores)}"
        )
    first = next(iter(scores.values()))
    chance = first.chance if chance is None else chance
    ceiling = first.ceiling if ceiling is None else ceiling
    ax = new_axes(6.4, 0.9 + 0.36 * len(scores), ax)
    colors = [GREY if name in controls else COLORS[0] for name in scores]
    values = np.array([score.value for score in scores.values()])
    spans = np.abs(np.array([(s.value - s.low, s.high - s.value) for s in scores.values()]).T)
    ax.barh(
        range(len(scores)),
        values,
        xerr=spans,
        color=colors,
        alpha=0.85,
        height=0.68,
        error_kw={"ecolor": INK, "lw": 1.2},
    )
    table = pd.DataFrame(
        [(s.value, s.low, s.high) for s in scores.values()], columns=["value", "low", "high"]
    )
    _write_numbers(ax, table)
    for value, style, name in ((chance, "--", "chance"), (ceiling, ":", "ceiling")):
        if value is not None and np.isfinite(value):
            ax.axvline(value, color=INK, ls=style, lw=1.2)
            ax.text(value, -0.62, name, ha="center", va="bottom", fontsize=7.5, color=GREY)
    ax.set_yticks(range(len(scores)), list(scores))
    ax.tick_params(axis="y", length=0)
    ax.set(ylim=(len(scores) - 0.5, -0.6), xlabel=label or first.name)
    ax.set_title(title, pad=14)
    return ax


@styled
def published_table(table: PublishedTable, *, highlight: str | None = None) -> Figure:
    """Draw a published table on a ground of its own, so that nobody reads it as our result.

    Parameters
    ----------
    table : from `nbutils.metrics.published.find_table`
    highlight : row to print bold

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no such row.
    """
    if highlight is not None and highlight not in table.rows:
        raise ValueError(f"highlight={highlight!r}: the rows are {', '.join(table.rows)}")
    n, pitch = len(table.rows), 0.24
    note = textwrap.wrap(" ".join(filter(None, (table.note, f"Beware: {CAUTION}"))), 180)
    height = 1.0 + pitch * (n + 1) + 0.135 * (len(note) + 1)
    figure = Figure(figsize=(9.6, height), facecolor="#FBF6EA")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 9.6), ylim=(height, 0))
    ax.set_axis_off()
    ax.text(
        0.15,
        0.2,
        "PUBLISHED · people and photographs, not this notebook's results",
        fontsize=7.5,
        color=COLORS[5],
        weight="bold",
        va="center",
    )
    ax.text(0.15, 0.46, table.title, fontsize=10.5, weight="bold", va="center")
    _write_table(ax, table, highlight, 0.82, pitch)
    bottom = 0.95 + pitch * (n + 0.5)
    ax.text(0.15, bottom, f"Source: {table.source}", fontsize=8, va="center")
    ax.text(
        0.15, bottom + 0.12, "\n".join(note), fontsize=7, color=GREY, va="top", linespacing=1.25
    )
    return figure


@styled
def similarity_matrix(
    similarity: ArrayLike,
    images: NDArray[np.uint8] | None = None,
    decoded: NDArray[np.uint8] | None = None,
    *,
    label: str = "correlation of features",
    title: str = "",
) -> Axes:
    """Draw how similar every decoded image is to every presented one.

    Parameters
    ----------
    similarity : (n, n); row i is presented image i, column j decoded image j
    images, decoded : (n, H, W, 3) uint8, drawn along the rows and the columns
    label : of the colour bar
    title : above

    Returns
    -------
    Axes
        The framed diagonal is the right answer; two-way identification asks how often it beats
        the other cells of its column.

    Raises
    ------
    ValueError
        If the matrix is not square or the images are not as many.
    """
    matrix = np.asarray(similarity, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"similarity has shape {matrix.shape}: give (n, n), presented by decoded")
    n = len(matrix)
    for name, stack in (("images", images), ("decoded", decoded)):
        if stack is not None and len(stack) != n:
            raise ValueError(f"{len(stack)} {name} for a {n} x {n} matrix: give one for each row")
    side = max(4.2, 0.38 * n) if images is not None or decoded is not None else 4.4
    ax = new_axes(side * 1.18, side)
    drawn = ax.imshow(matrix, cmap=SEQUENTIAL)
    ax.figure.colorbar(drawn, ax=ax, label=label, shrink=0.8, pad=0.03)
    for k in range(n if n <= 40 else 0):
        ax.add_patch(Rectangle((k - 0.5, k - 0.5), 1, 1, fill=False, ec="white", lw=1.6))
    ax.set(xlabel="decoded", ylabel="presented", title=title)
    ax.spines[:].set_visible(False)
    if n <= 40:
        _draw_thumbnails(ax, images, decoded, 0.75 * side * 72 / n)
    return ax


def _draw_reference(ax: Axes, row: int, line: pd.Series) -> None:
    """Draw a grey bar from chance to ceiling, with a mark at each that is known."""
    chance, ceiling = (line.get(name) for name in ("chance", "ceiling"))
    known = [x for x in (chance, ceiling) if x is not None and np.isfinite(x)]
    if len(known) == 2:
        ax.barh(row, known[1] - known[0], left=known[0], height=0.72, color=PALE, alpha=0.7)
    for value, style in ((chance, (0, (2, 1.5))), (ceiling, "-")):
        if value is not None and np.isfinite(value):
            ax.plot([value, value], [row - 0.36, row + 0.36], color=INK, lw=1.4, ls=style)


def _draw_dots(ax: Axes, table: pd.DataFrame, offset: float, number: int) -> None:
    rows = np.arange(len(table)) + offset
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    value = table["value"].to_numpy(float)
    spans = np.abs([value - table["low"], table["high"] - value])
    ax.errorbar(
        value,
        rows,
        xerr=spans,
        fmt=marker,
        color=color,
        lw=1.5,
        ms=6 if number == 0 else 4.5,
        mec="white",
        mew=0.6,
    )


def _write_numbers(ax: Axes, table: pd.DataFrame) -> None:
    for row, (value, low, high) in enumerate(table[["value", "low", "high"]].to_numpy(float)):
        options = {
            "xycoords": ax.get_yaxis_transform(),
            "textcoords": "offset points",
            "va": "center",
        }
        ax.annotate(_number(value), (1, row), (10, 0), fontsize=9, weight="bold", **options)
        ax.annotate(
            f"[{_number(low)}, {_number(high)}]",
            (1, row),
            (40, 0),
            fontsize=7.5,
            color=GREY,
            **options,
        )


def _add_legend(ax: Axes, names: Sequence[str], table: pd.DataFrame) -> None:
    handles = [
        Line2D(
            [],
            [],
            marker=MARKERS[k % len(MARKERS)],
            ls="",
            label=name,
            mec="white",
            color=COLORS[k % len(COLORS)],
        )
        for k, name in enumerate(names)
    ]
    for column, style in (("chance", (0, (2, 1.5))), ("ceiling", "-")):
        if column in table and table[column].notna().any():
            handles.append(Line2D([], [], color=INK, lw=1.4, ls=style, label=column))
    if handles:
        ax.get_figure(root=True).legend(
            handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=8
        )


def _write_table(
    ax: Axes, table: PublishedTable, highlight: str | None, y: float, pitch: float
) -> None:
    left = max(len(name) for name in table.rows) * 0.078 + 0.35
    step = min(1.1, (9.45 - left) / len(table.columns))
    rights = [left + step * (k + 1) for k in range(len(table.columns))]
    for x, column in zip(rights, table.columns, strict=True):
        ax.text(x, y, column, fontsize=8, weight="bold", ha="right", va="center")
    ax.plot([0.15, rights[-1]], [y + 0.12] * 2, color=GREY, lw=0.8)
    for name, values in table.rows.items():
        y += pitch
        weight = "bold" if name == highlight else "normal"
        ax.text(0.15, y, name, fontsize=8.5, va="center", weight=weight)
        for x, value in zip(rights, values, strict=True):
            text = "–" if value is None else _print(value)
            ax.text(x, y, text, fontsize=8.5, ha="right", va="center", weight=weight)


def _print(value: float) -> str:
    """Print a number as the papers do: percent with one digit, fractions with three."""
    if abs(value) < 1:
        return f"{value:.3f}"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def _draw_thumbnails(
    ax: Axes, images: NDArray | None, decoded: NDArray | None, points: float
) -> None:
    """Put small pictures in the place of tick labels."""
    for stack, along in ((images, "y"), (decoded, "x")):
        if stack is None:
            continue
        getattr(ax, f"set_{along}ticks")([])
        for k, image in enumerate(np.asarray(stack)):
            icon = OffsetImage(image, zoom=0.82 * points / image.shape[1], interpolation="nearest")
            where = (-0.65, k) if along == "y" else (k, len(stack) - 0.35)
            box = (1, 0.5) if along == "y" else (0.5, 1)
            ax.add_artist(
                AnnotationBbox(
                    icon, where, frameon=False, pad=0, box_alignment=box, annotation_clip=False
                )
            )
        getattr(ax, f"{along}axis").labelpad = points * 1.25


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
