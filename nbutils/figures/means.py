"""Whether decoded features keep the means of what they were fitted to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from nbutils.figures.style import COLORS, GREY, new_axes, styled


@styled
def mean_scatter(
    true: ArrayLike,
    decoded: Mapping[str, ArrayLike],
    *,
    name: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean of each number of a feature, decoded against true.

    Parameters
    ----------
    true : (n_images, ...) features of the training images
    decoded : condition -> (n_test, ...) decoded features of the test images
    name : of the feature, for the axis labels
    title : above the axes
    ax : axes to draw into; new ones by default

    Returns
    -------
    Axes
        One dot for each number of the feature; the dashed line is the identity. Dots on the
        horizontal line have lost their mean.

    Raises
    ------
    ValueError
        If a condition has features of another size.
    """
    x = np.asarray(true).mean(axis=0, dtype=np.float64).ravel()
    ax = new_axes(4.2, 4.0, ax)
    for color, (condition, values) in zip(COLORS, decoded.items(), strict=False):
        y = np.asarray(values).mean(axis=0, dtype=np.float64).ravel()
        if y.shape != x.shape:
            raise ValueError(
                f"{condition} has {y.size} numbers for {x.size} true ones: give the same feature"
            )
        error = np.sqrt(np.square(y - x).mean())
        ax.plot(x, y, "o", ms=3, mew=0, alpha=0.45, color=color, rasterized=True,
                label=f"{condition} (rms error {error:.2f})")  # fmt: skip
    ends = [x.min(), x.max()]
    ax.plot(ends, ends, "--", color=GREY, lw=1, zorder=0)
    ax.set(xlabel=f"mean of true {name}".strip(), ylabel=f"mean of decoded {name}".strip())
    ax.set_title(title)
    ax.legend(loc="upper left", fontsize=8)
    return ax
