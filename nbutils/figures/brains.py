"""Maps on slices of the brain, drawn by nilearn over the subject's own T1 image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nibabel
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from nbutils.figures.style import (
    COLORS,
    DIVERGING,
    GREY,
    SEQUENTIAL,
    find_limit,
    styled,
)
from nbutils.nsd import rois as nsd_rois
from nbutils.nsd.layout import Layout
from nbutils.nsd.volumes import check_voxels, grid, read_volume, to_image, to_volume

BACKGROUND = "T1_to_func1pt8mm"
SIZE = (11.0, 2.4)


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
    from nilearn import plotting

    voxels = nsd_rois.mask(layout, subject) if voxels is None else np.asarray(voxels)
    values = np.array(values, dtype=np.float32)
    limit = find_limit(values) if limit is None else float(limit)
    signed = bool(np.nanmin(values, initial=0.0) < 0)
    # nilearn takes 0 for "nothing here", also where a voxel's value happens to be 0.
    values[values == 0] = 2e-6 * limit
    figure = Figure(figsize=SIZE)
    drawn = plotting.plot_stat_map(
        to_image(layout, subject, values, voxels), threshold=1e-6 * limit,
        cmap=DIVERGING if signed else SEQUENTIAL, vmax=limit, vmin=-limit if signed else 0,
        symmetric_cbar=signed, colorbar=True,
        **_background(layout, subject, figure, voxels, cuts),
    )  # fmt: skip
    _tidy(figure, drawn, title, label)
    return figure


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

    if not 0 < len(rois) <= len(COLORS):
        raise ValueError(f"{len(rois)} regions: one figure shows 1 to {len(COLORS)}, which is how "
                         "many colours everybody can tell apart; draw several figures")
    voxels = nsd_rois.mask(layout, subject) if voxels is None else np.asarray(voxels)
    numbers = np.zeros(voxels.shape, np.float32)
    for number, (name, inside) in enumerate(rois.items(), start=1):
        inside = np.asarray(inside)
        if inside.dtype != bool or inside.shape != voxels.shape:
            raise ValueError(f"rois[{name!r}] is {inside.dtype} {inside.shape}: give one bool for "
                             f"each of the {voxels.size} voxels")
        numbers[inside] = number
    figure = Figure(figsize=SIZE)
    drawn = plotting.plot_roi(
        to_image(layout, subject, numbers, voxels, fill=0), cmap=ListedColormap(COLORS[:len(rois)]),
        vmin=1, vmax=len(rois), alpha=0.85, colorbar=False,
        **_background(layout, subject, figure, voxels, cuts),
    )  # fmt: skip
    _tidy(figure, drawn, title, "")
    handles = [Patch(color=color, label=f"{name} ({int(np.sum(inside)):,})")
               for color, (name, inside) in zip(COLORS, rois.items(), strict=False)]
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.02), fontsize=8.5,
                  ncols=min(len(rois), 8), title="region (voxels)", title_fontsize=8)
    return figure


def _background(
    layout: Layout, subject: int, figure: Figure, voxels: NDArray, cuts: int
) -> dict[str, Any]:
    """Return nilearn's options for slices through these voxels over the subject's T1 image."""
    shape, affine = grid(layout, subject)
    t1 = read_volume(layout.volume(subject, BACKGROUND), shape).astype(np.float32)
    heights = np.unravel_index(check_voxels(voxels, shape), shape)[2]
    if not heights.size:
        raise ValueError("voxels is empty: there is nothing to draw a slice through")
    levels = np.unique(np.linspace(*np.quantile(heights, [0.02, 0.98]), cuts).round())
    return {
        "bg_img": nibabel.Nifti1Image(t1, affine),
        "figure": figure,
        "display_mode": "z",
        "cut_coords": [float((affine @ [0, 0, level, 1])[2]) for level in levels],
        "annotate": False,
        "black_bg": False,
        # The masks of 1.8 mm voxels are the data: no smooth edges that were never measured.
        "resampling_interpolation": "nearest",
    }


def _tidy(figure: Figure, drawn: Any, title: str, label: str) -> None:
    drawn.annotate(positions=True, left_right=True, size=8)
    if title:
        figure.suptitle(title, fontsize=10.5, weight="bold", x=0.01, y=1.04, ha="left")
    if label:
        drawn._cbar.set_label(label, fontsize=8, color=GREY)
