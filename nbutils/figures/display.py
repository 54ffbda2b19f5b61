"""Put a finished figure in front of the reader, with the words for those who cannot see it."""

from __future__ import annotations

import base64
import html
import io

import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from nbutils import caveats
from nbutils.figures.marks import marked
from nbutils.figures.style import DPI

CSS_DPI = 96
"""Pixels per inch in a browser; figures are rendered finer, for sharp text."""


def show(figure: Figure | Axes, *, alt: str) -> None:
    """Show a figure in the notebook, with alt text.

    Parameters
    ----------
    figure : what a function of this package returned
    alt : one or two sentences saying what the figure shows, for readers who do not see it

    Raises
    ------
    ValueError
        If the alt text is empty.
    TypeError
        If it is no figure.
    """
    data, metadata = bundle(figure, alt)
    display(data, metadata=metadata, raw=True)


def bundle(figure: Figure | Axes, alt: str) -> tuple[dict[str, str], dict[str, dict]]:
    """Return a figure as the display data and metadata of a notebook output.

    Three forms of one figure: HTML, whose alt text every front end passes on; PNG, for those
    that drop HTML (with the alt text as metadata); and the alt text itself.

    Parameters
    ----------
    figure, alt : as in `show`

    Returns
    -------
    data, metadata : by MIME type
    """
    words = " ".join(alt.split())
    if not words:
        raise ValueError("alt='': say in a sentence what the figure shows")
    words = " ".join([*caveats.said(), words])
    png = _to_png(_figure(figure))
    code = base64.b64encode(png).decode("ascii")
    width = round(Image.open(io.BytesIO(png)).width * CSS_DPI / DPI)
    tag = (
        f'<img alt="{html.escape(words)}" width="{width}" style="max-width:100%;height:auto" '
        f'src="data:image/png;base64,{code}">'
    )
    data = {"text/html": tag, "image/png": code, "text/plain": words}
    return data, {"image/png": {"alt": words, "width": width}}


def render(figure: Figure | Axes) -> NDArray[np.uint8]:
    """Return a figure as a picture, (height, width, 3) uint8, to be kept as an artifact."""
    picture = Image.open(io.BytesIO(_to_png(_figure(figure))))
    return np.array(picture.convert("RGB"))


def _figure(figure: Figure | Axes) -> Figure:
    if isinstance(figure, Axes):
        return figure.get_figure(root=True)
    if not isinstance(figure, Figure):
        raise TypeError(
            f"a {type(figure).__name__} is no figure: give what a function of "
            "nbutils.figures returned"
        )
    return figure


def _to_png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    # Without the Software entry the bytes do not depend on the version of matplotlib.
    with marked(figure):
        figure.savefig(
            stream,
            format="png",
            dpi=DPI,
            bbox_inches="tight",
            pad_inches=0.08,
            metadata={"Software": None},
        )
    return stream.getvalue()
