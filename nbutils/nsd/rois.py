"""Regions of interest: label volumes and their tables.

Values in NSD's label volumes: -1 outside cortex, 0 cortex without a label, 1 and up a region.
So ``volume != 0`` would select the outside of the brain; every test below is ``> 0`` or ``==``.
"""

from __future__ import annotations

import re

import numpy as np

from nbutils.nsd.layout import Layout, require
from nbutils.nsd.volumes import check_voxels, grid, read_volume

ROI_SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "V1": ("prf-visualrois", ("V1v", "V1d")),
    "V2": ("prf-visualrois", ("V2v", "V2d")),
    "V3": ("prf-visualrois", ("V3v", "V3d")),
    "hV4": ("prf-visualrois", ("hV4",)),
    "faces": ("floc-faces", ()),
    "bodies": ("floc-bodies", ()),
    "places": ("floc-places", ()),
    "words": ("floc-words", ()),
    "food": ("floc-food", ()),
}
"""Common regions as (atlas, labels); no labels means every label of the atlas.

``floc-food`` exists in the miniature world only: NSD's localizer has no food, and food regions
are a later finding in NSD itself (Jain et al. 2023; Khosla et al. 2022; Pennock et al. 2023).
"""


def mask(layout: Layout, subject: int, atlas: str = "nsdgeneral") -> np.ndarray:
    """List the voxels with any label of an atlas.

    Returns
    -------
    (n_voxels,) int64, ascending flat C-order indices of the (x, y, z) volume: the one voxel
    order of this package, whatever the format of the betas
    """
    return np.flatnonzero(_volume(layout, subject, atlas) > 0)


def label_table(layout: Layout, subject: int, atlas: str) -> dict[str, int]:
    """Read the names of an atlas's labels.

    Returns
    -------
    dict from name to number, without ``0 Unknown``

    Raises
    ------
    FileNotFoundError
        If the atlas or its table is missing.
    ValueError
        If the table is not of lines "number name".
    """
    path = require(
        layout.labels(subject, atlas),
        f"the label table of atlas {atlas!r}",
        _choices(layout, subject),
    )
    table = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        # Lines end in tabs and blanks, so split() without an argument and not on " ".
        if words := line.split():
            if len(words) < 2 or not re.fullmatch(r"-?\d+", words[0]):
                raise ValueError(f"{path}: line {line!r} is not 'number name': fetch it again")
            table[words[1]] = int(words[0])
    return {name: number for name, number in table.items() if number > 0}


def roi(
    layout: Layout,
    subject: int,
    atlas: str,
    *names: str,
    voxels: np.ndarray | None = None,
    hemisphere: str | None = None,
) -> np.ndarray:
    """Say which voxels of a mask lie in a region.

    Parameters
    ----------
    layout : Layout
    subject : int
    atlas : such as ``prf-visualrois`` or ``floc-faces``
    *names : labels; "V1" stands for V1v and V1d, "FFA" for FFA-1 and FFA-2; none means all
    voxels : (n_voxels,) flat C-order indices; None takes the nsdgeneral mask
    hemisphere : "lh", "rh", or None for both

    Returns
    -------
    (n_voxels,) bool. All False where a subject lacks the region, which is normal.

    Raises
    ------
    ValueError
        If the atlas has no such label.
    """
    voxels = mask(layout, subject) if voxels is None else voxels
    volume = _volume(layout, subject, atlas, hemisphere)
    values = volume.reshape(-1)[check_voxels(voxels, volume.shape)]
    if not names:
        return values > 0
    table = label_table(layout, subject, atlas)
    return np.isin(values, [number for name in names for number in find(table, name, atlas)])


def find(table: dict[str, int], name: str, atlas: str) -> list[int]:
    """Return the numbers of one label, or of its parts (V1v and V1d, FFA-1 and FFA-2)."""
    if name in table:
        return [table[name]]
    parts = [
        number
        for label, number in table.items()
        if label in (f"{name}v", f"{name}d") or label.startswith(f"{name}-")
    ]
    if not parts:
        raise ValueError(f"no label {name!r} in {atlas}: it has {', '.join(table)}")
    return parts


def atlases(layout: Layout, subject: int) -> list[str]:
    """List the atlases whose volumes of both hemispheres are on disk."""
    files = (layout.ppdata(subject) / "roi").glob("*.nii.gz")
    names = (path.name.removesuffix(".nii.gz") for path in files)
    return sorted(name for name in names if not name.startswith(("lh.", "rh.")))


def _choices(layout: Layout, subject: int) -> str:
    found = ", ".join(atlases(layout, subject)) or "none"
    return f"atlases of subject {subject} on disk: {found}"


def _volume(layout: Layout, subject: int, atlas: str, hemisphere: str | None = None) -> np.ndarray:
    path = layout.roi(subject, atlas, hemisphere)
    require(path, f"atlas {atlas!r}", _choices(layout, subject))
    return read_volume(path, grid(layout, subject)[0])
