"""One look for all figures: colours that colour-blind readers can tell apart, quiet axes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

P = ParamSpec("P")
R = TypeVar("R")

COLORS: tuple[str, ...] = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#9A8600", "#332288",
)  # fmt: skip
"""Okabe & Ito's colours in an order of good contrast; their yellow is darkened to be seen on
white, and indigo stands for their black, which is left to text."""

TEXT_COLORS: tuple[str, ...] = (
    "#005F94", "#A84300", "#00694C", "#8A3F6C", "#1F6F93", "#8A5A00", "#6B5D00", "#332288",
)  # fmt: skip
"""The same hues, dark enough to be read as small letters on white (contrast above 4.5)."""

INK, GREY, PALE = "#222222", "#767676", "#E4E7EA"
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
DPI = 150
"""Pixels per inch of everything that is rendered; picture cells are whole multiples of it."""

SYMBOLS: dict[str, str] = {
    "autokl": "$Z_I$",
    "clip_image": "$C_I$",
    "clip_text": "$C_T$",
    "optimus": "$Z_T$",
    "vdvae": "$Z_{VDVAE}$",
}
_RC = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "image.cmap": SEQUENTIAL,
    "legend.frameon": False,
    "mathtext.fontset": "cm",
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Make a plotting function draw in this style, whatever the reader's own settings are."""

    @functools.wraps(function)
    def draw(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_RC):
            return function(*args, **kwargs)

    return draw


def new_axes(width: float, height: float, ax: Axes | None = None) -> Axes:
    """Return `ax`, or the only axes of a new figure of this size in inches.

    The figure is not known to pyplot, so the notebook does not show it a second time by itself
    and it does not stay in memory.
    """
    if ax is not None:
        return ax
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def blank_axes(width: float, height: float) -> Axes:
    """Return axes without frame that fill a figure; one unit is one inch, y runs downwards."""
    ax = Figure(figsize=(width, height)).add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return ax


def place_image(
    ax: Axes, image: NDArray, x: float, y: float, width: float, height: float, **options
) -> None:
    """Draw an image into `blank_axes` with its upper left corner at (x, y).

    Small images are enlarged with sharp pixels, so that nobody mistakes the viewer's smoothing
    for the decoder's; large ones are reduced with smoothing.
    """
    sharp = width * DPI >= image.shape[1]
    ax.imshow(
        image,
        extent=(x, x + width, y + height, y),
        aspect="auto",
        interpolation="nearest" if sharp else "antialiased",
        interpolation_stage="data" if image.ndim == 2 else "rgba",
        **options,
    )


def fix_limits(ax: Axes, width: float, height: float) -> None:
    """Undo what drawing images did to the limits of `blank_axes`."""
    ax.set(xlim=(0, width), ylim=(height, 0))


def name_feature(name: str) -> str:
    """Return the symbol and the name of a feature space, such as "$C_I$ clip_image"."""
    return f"{SYMBOLS[name]} {name}" if name in SYMBOLS else name


def find_limit(values: ArrayLike, share: float = 99.0) -> float:
    """Return the size that `share` percent of the finite values stay below; 1 if there are none."""
    sizes = np.abs(np.asarray(values, dtype=np.float64))
    sizes = sizes[np.isfinite(sizes)]
    limit = float(np.percentile(sizes, share)) if sizes.size else 0.0
    return limit or float(sizes.max(initial=0.0)) or 1.0
