"""Small matrices whose rows and columns have names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from nbutils.figures.style import DIVERGING, INK, SEQUENTIAL, find_limit, new_axes, styled


@styled
def labelled_matrix(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str = "",
    title: str = "",
    form: str = "{:.2f}",
    ax: Axes | None = None,
) -> Axes:
    """Draw a small matrix as a heat map with its numbers in the cells.

    Parameters
    ----------
    values : (n_rows, n_columns). If some are negative, colours diverge from 0; NaN stays empty.
    rows, columns : names
    label : of the colour bar, with the unit
    title : above
    form : of the numbers in the cells; "" for none
    ax : where to draw; by default a figure of its own

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is not one name for each row and column.
    """
    matrix = np.asarray(values, dtype=float)
    if matrix.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values have shape {matrix.shape} for {len(rows)} row and "
            f"{len(columns)} column names: give one name for each"
        )
    signed = bool(np.nanmin(matrix, initial=0.0) < 0)
    top = find_limit(matrix, 100)
    low = -top if signed else 0.0
    ax = new_axes(1.9 + 0.74 * len(columns), 0.9 + 0.36 * len(rows), ax)
    drawn = ax.imshow(
        matrix, aspect="auto", cmap=DIVERGING if signed else SEQUENTIAL, vmin=low, vmax=top
    )
    for (row, column), value in np.ndenumerate(matrix):
        if form and np.isfinite(value):
            share = (value - low) / (top - low)
            # White where the map is dark: its lower part, or both ends of a diverging one.
            dark = abs(share - 0.5) > 0.35 if signed else share < 0.55
            ax.text(
                column,
                row,
                form.format(value),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else INK,
            )
    ax.set_xticks(
        range(len(columns)),
        columns,
        rotation=30 if len(columns) > 5 else 0,
        ha="right" if len(columns) > 5 else "center",
    )
    ax.set_yticks(range(len(rows)), rows)
    ax.set_title(title)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(drawn, ax=ax, label=label, pad=0.02)
    return ax
