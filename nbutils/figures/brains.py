"""Maps on slices of the brain, drawn by nilearn over the subject's own T1 image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nibabel
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from nbutils.figures.style import (
    COLORS,
    DIVERGING,
    SEQUENTIAL,
    find_limit,
    styled,
)
from nbutils.nsd import rois as nsd_rois
from nbutils.nsd.layout import Layout
from nbutils.nsd.volumes import check_voxels, grid, read_volume, to_volume

BACKGROUND = "T1_to_func1pt8mm"
SIZE = (11.0, 2.2)
REGION_COLORS = (*COLORS, "#F0E442")
MARGIN = 2
"""Voxels around the volume."""


@styled
def brain_map(
    layout: Layout,
    subject: int,
    values: ArrayLike,
    voxels: NDArray[np.int64] | None = None,
    *,
    title: str = "",
    label: str = "",
    limit: float | None = None,
    cuts: int = 6,
) -> Figure:
    """Draw one number per voxel on axial slices, from the lowest to the highest.

    Parameters
    ----------
    layout : of the data that holds the T1 image
    subject : 1-based
    values : (n_voxels,) numbers; NaN is left out. If some are negative, colours diverge from 0.
    voxels : (n_voxels,) flat C-order indices; by default the nsdgeneral mask
    title : above the slices
    label : of the colour bar, with the unit
    limit : colours run to this value; by default to the 99th percentile
    cuts : number of slices, evenly through the voxels

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is not one value per voxel.
    """
    voxels = nsd_rois.mask(layout, subject) if voxels is None else np.asarray(voxels)
    values = np.array(values, dtype=np.float32)
    limit = find_limit(values) if limit is None else float(limit)
    low = -limit if np.nanmin(values, initial=0.0) < 0 else 0.0
    colors = SEQUENTIAL if low == 0 else DIVERGING
    figure = Figure(figsize=SIZE)
    drawn = draw_map(layout, subject, figure, values, voxels, low, limit, cuts)
    _tidy(figure, drawn, title)
    bar = figure.add_axes((0.955, 0.12, 0.008, 0.76))
    figure.colorbar(ScalarMappable(Normalize(low, limit), colors), cax=bar, label=label)
    bar.tick_params(labelsize=8)
    return figure


def draw_map(
    layout: Layout,
    subject: int,
    figure: Figure,
    values: NDArray,
    voxels: NDArray[np.int64],
    low: float,
    limit: float,
    cuts: int,
    place: tuple[float, float, float, float] = (0, 0, 0.94, 1),
) -> Any:
    """Draw one row of slices into a figure; the parameters are those of `brain_map`.

    Colours run from `low` (0, or -limit where they diverge) to `limit`; `place` is the row's
    left, bottom, width and height as parts of the figure. Returns nilearn's display.
    """
    from nilearn import plotting

    # nilearn takes 0 for "nothing here", also where a voxel's value happens to be 0.
    values = np.where(np.isfinite(values), np.where(values == 0, 2e-6 * limit, values), 0)
    return plotting.plot_stat_map(
        _pad(layout, subject, values, voxels), threshold=1e-6 * limit,
        cmap=SEQUENTIAL if low == 0 else DIVERGING, vmin=low, vmax=limit, colorbar=False,
        **_slices(layout, subject, figure, voxels, cuts) | {"axes": place},
    )  # fmt: skip


@styled
def roi_map(
    layout: Layout,
    subject: int,
    rois: Mapping[str, ArrayLike],
    voxels: NDArray[np.int64] | None = None,
    *,
    title: str = "",
    cuts: int = 6,
) -> Figure:
    """Draw regions in colours of their own on axial slices, with a legend.

    Parameters
    ----------
    layout, subject, voxels, title, cuts : as in `brain_map`
    rois : region -> (n_voxels,) bool; where regions overlap, the later one is drawn

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there are more regions than distinct colours, or a region is not one bool per voxel.
    """
    from nilearn import plotting

    if not 0 < len(rois) <= len(REGION_COLORS):
        raise ValueError(
            f"{len(rois)} regions: one figure shows 1 to {len(REGION_COLORS)}, "
            "which is how many colours can be told apart; draw several figures"
        )
    voxels = nsd_rois.mask(layout, subject) if voxels is None else np.asarray(voxels)
    numbers = np.zeros(voxels.shape, np.float32)
    for number, (name, inside) in enumerate(rois.items(), start=1):
        inside = np.asarray(inside)
        if inside.dtype != bool or inside.shape != voxels.shape:
            raise ValueError(
                f"rois[{name!r}] is {inside.dtype} {inside.shape}: give one bool for "
                f"each of the {voxels.size} voxels"
            )
        numbers[inside] = number
    figure = Figure(figsize=SIZE)
    drawn = plotting.plot_roi(
        _pad(layout, subject, numbers, voxels), cmap=ListedColormap(REGION_COLORS[:len(rois)]),
        vmin=1, vmax=len(rois), alpha=0.85, colorbar=False,
        **_slices(layout, subject, figure, voxels, cuts),
    )  # fmt: skip
    _tidy(figure, drawn, title)
    handles = [
        Patch(color=color, label=f"{name} ({int(np.sum(inside)):,})")
        for color, (name, inside) in zip(REGION_COLORS, rois.items(), strict=False)
    ]
    figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.02),
        fontsize=8.5,
        ncols=min(len(rois), 9),
        title="region (voxels)",
        title_fontsize=8,
    )
    return figure


def _pad(layout: Layout, subject: int, values: NDArray, voxels: NDArray) -> nibabel.Nifti1Image:
    """Return values as an image with a margin, so that a tight box is not cut at its edges."""
    shape, affine = grid(layout, subject)
    return _with_margin(to_volume(values, voxels, shape, fill=0), affine)


def _with_margin(volume: NDArray, affine: NDArray, fill: float = 0) -> nibabel.Nifti1Image:
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, :3] @ np.full(3, MARGIN)
    return nibabel.Nifti1Image(np.pad(volume, MARGIN, constant_values=fill), moved)


def _slices(
    layout: Layout, subject: int, figure: Figure, voxels: NDArray, cuts: int
) -> dict[str, Any]:
    """Return nilearn's options for slices through these voxels over the subject's T1 image."""
    shape, affine = grid(layout, subject)
    heights = np.unravel_index(check_voxels(voxels, shape), shape)[2]
    if not heights.size:
        raise ValueError("voxels is empty: there is nothing to draw a slice through")
    levels = np.unique(np.linspace(*np.quantile(heights, [0.02, 0.98]), cuts).round())
    t1 = read_volume(layout.volume(subject, BACKGROUND), shape).astype(np.float32)
    inside = read_volume(layout.volume(subject, "brainmask"), shape) > 0
    low, high = np.percentile(t1[inside], [1, 99])
    # From fluid 0 to white matter 0.85; the paper around the brain is 1.
    grey = np.where(inside, np.clip((t1 - low) / max(high - low, 1e-6), 0, 1) * 0.85, 1)
    return {
        "bg_img": _with_margin(grey.astype(np.float32), affine, fill=1),
        "dim": 0.4,
        "figure": figure,
        "axes": (0, 0, 0.94, 1),
        "display_mode": "z",
        "cut_coords": [float((affine @ [0, 0, level, 1])[2]) for level in levels],
        "annotate": False,
        "black_bg": False,
        # Voxels are the data: no smooth edges that were never measured.
        "resampling_interpolation": "nearest",
    }


def _tidy(figure: Figure, drawn: Any, title: str) -> None:
    drawn.annotate(positions=True, left_right=True, size=8)
    if title:
        figure.suptitle(title, fontsize=10.5, weight="bold", x=0.01, y=1.06, ha="left")
