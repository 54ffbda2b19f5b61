"""Marks on figures whose content must not be taken for a result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib.figure import Figure

from nbutils import caveats

RED = "#A80000"


@contextmanager
def marked(figure: Figure) -> Iterator[Figure]:
    """Write what must be said (`nbutils.caveats`) above a figure, as long as the block lasts."""
    sentences = "\n".join(caveats.said())
    if not sentences:
        yield figure
        return
    text = figure.text(
        0.5, 1.01, sentences, ha="center", va="bottom", color="white", fontsize=9, weight="bold",
        bbox={"facecolor": RED, "edgecolor": "none", "pad": 3},
    )  # fmt: skip
    try:
        yield figure
    finally:
        text.remove()
