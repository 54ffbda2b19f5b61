"""The whole way from a brain response to a picture and a sentence, in one figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import ArrayLike, NDArray

from nbutils.figures.responses import lay_out_feature
from nbutils.figures.style import (
    COLORS,
    DIVERGING,
    GREY,
    PALE,
    SEQUENTIAL,
    SYMBOLS,
    blank_axes,
    find_limit,
    fix_limits,
    place_image,
    styled,
)

SIZE = (12.1, 4.45)
MEANING = {
    "autokl": "where what is:\na blurred layout",
    "vdvae": "where what is:\na blurred layout",
    "clip_image": "what is there,\nas a picture",
    "clip_text": "what is there,\nin words",
    "optimus": "the sentence,\nas a point",
}
LATENTS, CONTEXTS = COLORS[0], COLORS[5]
TOP, BOTTOM = 1.3, 3.6
"""Heights of the picture's and the sentence's lane, inches from above."""
LEFT, RIGHT = 5.15, 10.15
"""Where the denoising steps begin and end."""


@styled
def flow_diagram(
    response: ArrayLike,
    features: Mapping[str, ArrayLike],
    steps: NDArray[np.uint8],
    picture: NDArray[np.uint8],
    sentence: str = "",
    *,
    presented: NDArray[np.uint8] | None = None,
    timesteps: Sequence[int] | None = None,
) -> Figure:
    """Draw how one response becomes a picture and a sentence.

    Parameters
    ----------
    response : (n_voxels,) z-scored response to one image
    features : feature -> prediction for this image: "autokl" (c, h, w) or "vdvae" (D,),
        "clip_image" (T, d), "clip_text" (T, d), and "optimus" (d,) if there is a sentence
    steps : (n, H, W, 3) uint8 decoded latents of the denoising, noisiest first; four look best
    picture : (H, W, 3) uint8 the result
    sentence : the decoded caption; without it the lower lane is left out
    presented : (H, W, 3) uint8 what was seen
    timesteps : (n,) diffusion timesteps of the steps

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If the response is no vector, a feature is unknown or there is no step.
    """
    response = np.asarray(response, dtype=float)
    if response.ndim != 1:
        raise ValueError(f"response has shape {response.shape}: give one response, (n_voxels,)")
    unknown = set(features) - set(MEANING)
    if unknown:
        raise ValueError(f"features {sorted(unknown)}: the flow knows {', '.join(MEANING)}")
    if not len(steps):
        raise ValueError("steps is empty: give decoded latents of at least one denoising step")
    ax = blank_axes(*SIZE)
    _draw_brain(ax, response, presented)
    places = _draw_features(ax, features)
    _draw_picture_lane(ax, steps, picture, timesteps)
    _connect_contexts(ax, places, len(steps))
    if sentence:
        _draw_sentence_lane(ax, places, sentence)
    fix_limits(ax, *SIZE)
    return ax.get_figure(root=True)


def _draw_brain(ax: Axes, response: NDArray, presented: NDArray | None) -> None:
    y = 1.6
    if presented is not None:
        _head(ax, 0.7, 0.35, "what was seen")
        place_image(ax, presented, 0.05, 0.35, 1.3, 1.3)
        _arrow(ax, (0.7, 1.72), (0.7, 2.28))
        y = 2.6
    _head(ax, 0.7, y, "the brain's response")
    block = _fold(response)
    limit = find_limit(response)
    place_image(ax, block, 0.05, y, 1.3, 1.3, cmap=DIVERGING, vmin=-limit, vmax=limit)
    ax.text(
        0.7, y + 1.36, f"{len(response):,} voxels", fontsize=7.5, color=GREY, ha="center", va="top"
    )
    middle = y + 0.65
    _arrow(ax, (1.45, middle), (2.5, min(middle, 2.4)))
    between = (middle + min(middle, 2.4)) / 2
    ax.text(1.9, between - 0.52, "ridge", fontsize=9, ha="center", weight="bold")
    ax.text(1.9, between - 0.3, r"$\hat{Y} = A\,Y$", fontsize=10, ha="center")


def _fold(response: NDArray) -> NDArray:
    """Fold the voxels into a square, so that every one of them is seen."""
    side = int(np.ceil(np.sqrt(len(response))))
    block = np.full(side * side, np.nan)
    block[: len(response)] = response
    return block.reshape(side, side)


def _draw_features(ax: Axes, features: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Draw the predicted features below each other; return the height of each."""
    order = [name for name in MEANING if name in features]
    pitch = 4.0 / len(order)
    places = {}
    _head(ax, 3.05, 0.35, "predicted features")
    for number, name in enumerate(order):
        y = 0.4 + pitch * number
        tile = lay_out_feature(features[name], width=48)
        limit = find_limit(tile, 98)
        height = min(0.72, pitch - 0.26)
        place_image(ax, tile, 2.6, y, 0.9, height, cmap=SEQUENTIAL, vmin=-limit, vmax=limit)
        ax.text(
            3.58,
            y + 0.02,
            SYMBOLS[name],
            fontsize=12,
            va="top",
            color=CONTEXTS if name.startswith("clip") else LATENTS,
        )
        ax.text(3.58, y + 0.3, MEANING[name], fontsize=7, color=GREY, va="top", linespacing=1.1)
        places[name] = y + height / 2
    return places


def _draw_picture_lane(
    ax: Axes, steps: NDArray, picture: NDArray, timesteps: Sequence[int] | None
) -> None:
    pitch, side = (RIGHT - LEFT) / len(steps), _side(len(steps))
    _head(ax, (LEFT + RIGHT) / 2, 0.35, "from noise, step by step, to the picture")
    for number, step in enumerate(steps):
        x = LEFT + number * pitch
        place_image(ax, step, x, TOP - side / 2, side, side)
        if timesteps is not None:
            ax.text(
                x + side / 2,
                TOP - side / 2 - 0.05,
                f"t = {int(timesteps[number])}",
                fontsize=7,
                color=GREY,
                ha="center",
            )
        _arrow(ax, (x + side + 0.01, TOP), (x + pitch - 0.03, TOP), small=True)
    place_image(ax, picture, RIGHT + 0.05, TOP - 0.85, 1.7, 1.7)
    _head(ax, RIGHT + 0.9, 0.35, "the decoded picture")


def _connect_contexts(ax: Axes, places: Mapping[str, float], n_steps: int) -> None:
    """Lead the latent to the first step and the contexts to a bar below all steps."""
    y, pitch = TOP + 0.66, (RIGHT - LEFT) / n_steps
    _box(ax, (LEFT, y), 4.75, 0.3, "image flow: every step looks at $C_I$ and $C_T$")
    for feature in ("autokl", "vdvae"):
        if feature in places:
            _arrow(ax, (4.52, places[feature]), (5.1, TOP - 0.1), LATENTS)
            ax.text(
                4.83,
                places[feature] - 0.1,
                "+ noise",
                fontsize=7,
                color=LATENTS,
                ha="center",
                va="bottom",
            )
    for feature in ("clip_image", "clip_text"):
        if feature in places:
            _arrow(ax, (4.52, places[feature]), (5.1, y + 0.15), CONTEXTS)
    for number in range(n_steps):
        x = LEFT + number * pitch + _side(n_steps) / 2
        _arrow(ax, (x, y - 0.01), (x, TOP + _side(n_steps) / 2 + 0.03), CONTEXTS, small=True)


def _side(n_steps: int) -> float:
    return min(1.0, (RIGHT - LEFT) / n_steps - 0.16)


def _draw_sentence_lane(ax: Axes, places: Mapping[str, float], sentence: str) -> None:
    _box(ax, (5.15, BOTTOM - 0.28), 2.0, 0.56, "text flow:\nthe same $C_I$ and $C_T$")
    _box(ax, (7.5, BOTTOM - 0.28), 1.5, 0.56, "language model\n(Optimus)")
    _arrow(ax, (7.18, BOTTOM), (7.47, BOTTOM), small=True)
    _arrow(ax, (9.03, BOTTOM), (9.37, BOTTOM), small=True)
    if "optimus" in places:
        _arrow(ax, (4.52, places["optimus"]), (5.1, BOTTOM + 0.1), LATENTS)
        ax.text(
            4.8,
            places["optimus"] + 0.1,
            "+ noise",
            fontsize=7,
            color=LATENTS,
            ha="center",
            va="top",
        )
    for feature in ("clip_image", "clip_text"):
        if feature in places:
            _arrow(ax, (4.52, places[feature]), (5.1, BOTTOM - 0.1), CONTEXTS)
    lines = "\n".join(textwrap.wrap(f"“{sentence}”", 27))
    _head(ax, 10.75, BOTTOM - 0.28, "the decoded sentence")
    ax.text(10.75, BOTTOM - 0.22, lines, fontsize=11, ha="center", va="top", style="italic")


def _head(ax: Axes, x: float, y: float, text: str) -> None:
    ax.text(x, y - 0.07, text, fontsize=9, weight="bold", ha="center", va="bottom")


def _box(ax: Axes, corner: tuple[float, float], width: float, height: float, text: str) -> None:
    ax.add_patch(
        FancyBboxPatch(
            corner,
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=PALE,
            edgecolor="none",
        )
    )
    ax.text(
        corner[0] + width / 2, corner[1] + height / 2, text, fontsize=8.5, ha="center", va="center"
    )


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str = GREY,
    small: bool = False,
) -> None:
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=8 if small else 12,
            color=color,
            lw=1.1,
            shrinkA=0,
            shrinkB=0,
        )
    )
