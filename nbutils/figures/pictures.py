"""Figures made of pictures: grids, captions beside images, the way from noise to picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from nbutils.figures.style import (
    DPI,
    GREY,
    INK,
    PALE,
    TEXT_COLORS,
    blank_axes,
    fix_limits,
    place_image,
    styled,
)

Images = NDArray[np.uint8]
WIDTH = 10.7
"""Inches that the pictures of a grid share; labels come on top."""
GAP = 6 / DPI
BIGGEST = 1.6
SMALL = 7.5
LINE = 0.119
"""Height in inches of a line of small print."""


@styled
def image_grid(
    rows: Mapping[str, Images | Sequence[Images]],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 12,
    title: str = "",
) -> Axes:
    """Draw rows of images, such as presented above reconstructed.

    Parameters
    ----------
    rows : label -> (n, H, W, 3) uint8, the same n images in the same order in every row; sizes
        may differ between rows and, in a row that is a list of (H, W, 3) images, within it
    captions : (n,) one caption under each column
    columns : images side by side; more go below
    title : above the grid

    Returns
    -------
    Axes
        `images` holds the pictures, block by block and row by row.

    Raises
    ------
    TypeError
        If images are not uint8.
    ValueError
        If the rows, or rows and captions, differ in length.
    """
    rows = _check_rows(rows)
    n = len(next(iter(rows.values())))
    if captions is not None:
        _check_number(captions, n, "captions")
    below = {} if captions is None else {list(rows)[-1]: list(captions)}
    return _draw_grid(rows, below, columns, title)


@styled
def roi_gallery(
    rois: Mapping[str, Images],
    captions: Mapping[str, Sequence[str]] | None = None,
    *,
    columns: int = 8,
    title: str = "",
) -> Axes:
    """Draw what regions like to see: a row of images per region, each with its caption.

    Parameters
    ----------
    rois : region -> (n, H, W, 3) uint8, one image per noise seed
    captions : region -> (n,) captions
    columns : images side by side; more go below
    title : above the gallery

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        As in `image_grid`; also if captions name another region.
    """
    rois = _check_rows(rois)
    for name, sentences in (captions or {}).items():
        if name not in rois:
            raise ValueError(f"captions of {name!r}, but images of {', '.join(rois)}")
        _check_number(sentences, len(rois[name]), f"captions of {name!r}")
    return _draw_grid(rois, dict(captions or {}), columns, title)


@styled
def denoising_strip(
    steps: Images | Mapping[str, Images],
    timesteps: Sequence[int] | None = None,
    noise_levels: ArrayLike | None = None,
    *,
    title: str = "",
) -> Axes:
    """Draw a picture on its way from noise, with timestep and noise level below.

    Parameters
    ----------
    steps : (n, H, W, 3) uint8 decoded intermediate latents, in order; or label -> such rows, for
        instance the noisy state above the network's guess of the clean image
    timesteps : (n,) of the diffusion, 999 to 0
    noise_levels : (n,) standard deviation of the noise in the latent, sqrt(1 - abar_t), 0 to 1
    title : above the strip

    Returns
    -------
    Axes
    """
    rows = _check_rows(steps if isinstance(steps, Mapping) else {"": steps})
    n = len(next(iter(rows.values())))
    captions = [""] * n
    if timesteps is not None:
        _check_number(timesteps, n, "timesteps")
        captions = [f"t = {int(t)}" for t in timesteps]
    levels = None if noise_levels is None else np.asarray(noise_levels, dtype=float)
    if levels is not None:
        _check_number(levels, n, "noise_levels")
        captions = [
            f"{text}\nnoise {100 * level:.0f} %".strip()
            for text, level in zip(captions, levels, strict=True)
        ]
    ax = _draw_grid(rows, {list(rows)[-1]: captions}, n, title, wrap=False)
    if levels is not None:
        _draw_noise_bars(ax, levels)
    return ax


@styled
def compare_captions(
    images: Images, rows: Mapping[str, Sequence[str]], *, columns: int = 2, title: str = ""
) -> Axes:
    """Draw images with sentences beside them, such as a person's caption and the decoded one.

    Parameters
    ----------
    images : (n, H, W, 3) uint8
    rows : label -> (n,) sentences
    columns : panels side by side
    title : above

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        As in `image_grid`.
    """
    images = _check_rows({"images": images})["images"]
    for label, sentences in rows.items():
        _check_number(sentences, len(images), f"sentences of {label!r}")
    columns = min(columns, len(images))
    panel, picture = (WIDTH + 0.5) / columns, 1.28
    letters = int((panel - picture - 0.3) / 0.073)
    texts = [
        [
            (label, textwrap.wrap(str(sentences[k]), letters) or ["(nothing)"])
            for label, sentences in rows.items()
        ]
        for k in range(len(images))
    ]
    heights = [
        max(picture, sum(0.2 + 0.155 * len(lines) for _, lines in text)) + 0.22 for text in texts
    ]
    tops = _stack(heights, columns)
    ax = blank_axes(panel * columns, tops[-1])
    for k, (image, text) in enumerate(zip(images, texts, strict=True)):
        x, y = panel * (k % columns), tops[k // columns]
        place_image(ax, image, x, y, picture, picture)
        _write_panel(ax, text, x + picture + 0.12, y)
    return _finish(ax, panel * columns, tops[-1], title)


def _stack(heights: Sequence[float], columns: int) -> list[float]:
    """Return where each line of panels begins, and where the last one ends."""
    lines = [max(heights[k : k + columns]) for k in range(0, len(heights), columns)]
    return [0.0, *np.cumsum(lines).tolist()]


def _write_panel(ax: Axes, text: list[tuple[str, list[str]]], x: float, y: float) -> None:
    for number, (label, lines) in enumerate(text):
        color = TEXT_COLORS[number % len(TEXT_COLORS)]
        ax.text(x, y, label, color=color, fontsize=SMALL, weight="bold", va="top")
        ax.text(x, y + 0.145, "\n".join(lines), fontsize=9, va="top", linespacing=1.15)
        y += 0.2 + 0.155 * len(lines)


def _draw_grid(
    rows: Mapping[str, Images],
    below: Mapping[str, Sequence[str]],
    columns: int,
    title: str,
    wrap: bool = True,
) -> Axes:
    """Draw rows of pictures, in blocks of at most `columns`, with texts below some of the rows."""
    if columns < 1:
        raise ValueError(f"columns={columns}: at least one picture stands in a row")
    n = len(next(iter(rows.values())))
    columns = min(columns, n)
    side = _cell_side(columns, next(iter(rows.values()))[0].shape[1])
    letters = max(8, int(side / 0.064)) if wrap else 200
    texts = {label: [_wrap(text, letters) for text in below[label]] for label in below}
    lines = {label: max(text.count("\n") + 1 for text in texts[label]) for label in texts}
    heights = {
        label: side + GAP + (LINE * lines[label] + 0.12 if label in lines else 0) for label in rows
    }
    starts = range(0, n, columns)
    block = sum(heights.values()) + 0.12
    width = columns * (side + GAP) - GAP
    height = block * len(starts) - 0.12 - (0 if list(rows)[-1] in lines else GAP)
    ax = blank_axes(width, height)
    for number, start in enumerate(starts):
        y = number * block
        for label, images in rows.items():
            ax.text(-0.1, y + side / 2, _wrap(label, 18), ha="right", va="center", fontsize=9)
            for k, image in enumerate(images[start : start + columns]):
                x = k * (side + GAP)
                place_image(ax, image, x, y, side, side * image.shape[0] / image.shape[1])
                if label in texts:
                    ax.text(
                        x + side / 2,
                        y + side + 0.05,
                        texts[label][start + k],
                        va="top",
                        ha="center",
                        fontsize=SMALL,
                        color=INK,
                        linespacing=1.15,
                    )
            y += heights[label]
    return _finish(ax, width, height, title)


def _cell_side(columns: int, pixels: int) -> float:
    """Return the side of a picture in inches: a whole number of dots per pixel, if it fits."""
    room = min(BIGGEST, (WIDTH - (columns - 1) * GAP) / columns)
    dots = int(room * DPI) // pixels
    return dots * pixels / DPI if dots else room


def _draw_noise_bars(ax: Axes, levels: NDArray) -> None:
    """Draw a bar below each column whose filled part is the noise level."""
    bottom = ax.get_ylim()[0] + 0.03
    for image, level in zip(ax.images[-len(levels) :], levels, strict=True):
        left, right, *_ = image.get_extent()
        for width, color in ((right - left, PALE), ((right - left) * level, GREY)):
            ax.add_patch(Rectangle((left, bottom), width, 0.06, color=color, lw=0, clip_on=False))


def _finish(ax: Axes, width: float, height: float, title: str) -> Axes:
    fix_limits(ax, width, height)
    if title:
        ax.text(0, -0.12, title, fontsize=10.5, weight="bold", va="bottom")
    return ax


def _wrap(text: str, letters: int) -> str:
    lines = (textwrap.wrap(line, letters) or [""] for line in str(text).split("\n"))
    return "\n".join(part for line in lines for part in line)


def _check_rows(rows: Mapping[str, Images]) -> dict[str, Images]:
    """Return the rows after checking that each holds the same number of uint8 images."""
    if not rows:
        raise ValueError("no row of images was given")
    checked = {label: _as_row(images) for label, images in rows.items()}
    for label, images in checked.items():
        shape = images.shape if isinstance(images, np.ndarray) else (len(images), *images[0].shape)
        if len(shape) != 4 or any(image.shape[-1] != 3 for image in images) or not shape[0]:
            raise ValueError(f"{label!r} has shape {shape}: give images as (n, H, W, 3)")
        for image in images:
            if image.dtype != np.uint8:
                raise TypeError(f"{label!r} is {image.dtype}: give uint8 images from 0 to 255")
    first = next(iter(checked))
    for label, images in checked.items():
        _check_number(images, len(checked[first]), f"images of {label!r}")
    return checked


def _as_row(images: Images | Sequence[Images]) -> Images | list[Images]:
    """Return images as one array, or as a list where their sizes differ."""
    if len({np.shape(image) for image in images}) > 1:
        return [np.asarray(image) for image in images]
    return np.asarray(images)


def _check_number(items: Sequence, n: int, what: str) -> None:
    if len(items) != n:
        raise ValueError(f"{len(items)} {what} for {n} images: give one for each")
