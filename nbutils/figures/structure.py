"""How a measure of images changes while they are optimised."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from nbutils.figures.style import COLORS, GREY, new_axes, styled


@styled
def iteration_curves(
    iterations: ArrayLike,
    values: Mapping[str, ArrayLike],
    *,
    label: str,
    chance: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a measure against the iteration: the mean over images, and each image behind it.

    Parameters
    ----------
    iterations : (n_iterations,)
    values : condition -> (n_iterations, n_images); NaN where an image had stopped
    label : of the measure
    chance : its level for unrelated images, drawn as a dashed line
    title : above the axes
    ax : axes to draw into; new ones by default

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a condition has other iterations.
    """
    x = np.asarray(iterations, dtype=float)
    ax = new_axes(5, 3, ax)
    for color, (name, given) in zip(COLORS, values.items(), strict=False):
        y = np.asarray(given, dtype=float)
        if y.ndim != 2 or len(y) != len(x):
            raise ValueError(
                f"{name} has shape {y.shape} for {len(x)} iterations: give (n_iterations, n_images)"
            )
        ax.plot(x, y, color=color, lw=0.6, alpha=0.35)
        ax.plot(x, _carry(y).mean(axis=1), "o-", color=color, ms=4, lw=2, label=name)
    if chance is not None:
        ax.axhline(chance, color=GREY, ls="--", lw=1, zorder=0, label="chance: other images")
    ax.set(xlabel="iteration of stage 2", ylabel=label, title=title)
    # The frame keeps lines of single images from running through the words.
    ax.legend(loc="best", fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")
    return ax


def _carry(values: np.ndarray) -> np.ndarray:
    """Let an image that stopped keep its last value, so that the mean stays over all images."""
    values = values.copy()
    for row in range(1, len(values)):
        gone = np.isnan(values[row])
        values[row, gone] = values[row - 1, gone]
    return values
