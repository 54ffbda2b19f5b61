"""Regions of interest: label volumes and their tables.

Values in NSD's label volumes: -1 outside cortex, 0 cortex without a label, 1 and up a region.
So ``volume != 0`` would select the outside of the brain; every test below is ``> 0`` or ``==``.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

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
_LONG = 40


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


def union(
    layout: Layout,
    subject: int,
    *regions: str | tuple[str, tuple[str, ...]],
    voxels: np.ndarray | None = None,
    hemisphere: str | None = None,
) -> np.ndarray:
    """Say which voxels of a mask lie in any of several regions, of any atlases.

    Regions of different atlases overlap (``streams`` covers the face regions, for instance); a
    voxel of two regions counts once.

    Parameters
    ----------
    layout : Layout
    subject : int
    *regions : names of `ROI_SETS`, or pairs of atlas and labels such as
        ``("HCP_MMP1", ("FFC", "VVC"))``
    voxels : (n_voxels,) flat C-order indices; None takes the nsdgeneral mask
    hemisphere : "lh", "rh", or None for both

    Returns
    -------
    (n_voxels,) bool

    Raises
    ------
    ValueError
        If no region is given, or one is unknown.
    """
    if not regions:
        raise ValueError(f"no region was named: choose from {', '.join(ROI_SETS)}")
    voxels = mask(layout, subject) if voxels is None else voxels
    inside = np.zeros(len(voxels), bool)
    for region in regions:
        if isinstance(region, str) and region not in ROI_SETS:
            raise ValueError(
                f"region={region!r}: choose from {', '.join(ROI_SETS)}, "
                "or give a pair (atlas, labels)"
            )
        atlas, names = ROI_SETS[region] if isinstance(region, str) else region
        names = (names,) if isinstance(names, str) else names
        inside |= roi(layout, subject, atlas, *names, voxels=voxels, hemisphere=hemisphere)
    return inside


def eccentricity(
    layout: Layout,
    subject: int,
    low: float,
    high: float,
    voxels: np.ndarray | None = None,
) -> np.ndarray:
    """Say which voxels of a mask look at a ring of the visual field.

    This reads the continuous map ``prf_eccentricity``, defined wherever the population receptive
    field was fitted; the ready-made bands of `roi` with the atlas ``prf-eccrois`` hold the voxels
    of V1 to hV4 only.

    Parameters
    ----------
    layout : Layout
    subject : int
    low, high : degrees from the fixation point, low <= eccentricity < high; NSD's images reach
        4.2 degrees to each side, and its map stops at 1000
    voxels : (n_voxels,) flat C-order indices; None takes the nsdgeneral mask

    Returns
    -------
    (n_voxels,) bool, False where no receptive field was fitted (NaN)

    Raises
    ------
    ValueError
        If the ring is empty.
    """
    if not 0 <= low < high:
        raise ValueError(f"low={low}, high={high}: give degrees with 0 <= low < high")
    voxels = mask(layout, subject) if voxels is None else voxels
    path = layout.volume(subject, "prf_eccentricity")
    volume = read_volume(path, grid(layout, subject)[0])
    degrees = volume.reshape(-1)[check_voxels(voxels, volume.shape)]
    # NaN compares as False.
    return (degrees >= low) & (degrees < high)


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
        raise ValueError(f"no label {name!r} in {atlas}: choose from {_listing(table, name)}")
    return parts


def _listing(table: dict[str, int], name: str) -> str:
    """List the labels, or of a long table (HCP_MMP1 has 180) those that are spelt alike."""
    if len(table) <= _LONG:
        return ", ".join(table)
    near = get_close_matches(name, table, n=8, cutoff=0) or list(table)[:8]
    return f"{len(table)} labels, among them {', '.join(near)}"


def atlases(layout: Layout, subject: int) -> list[str]:
    """List the atlases whose volumes of both hemispheres are on disk."""
    files = (layout.ppdata(subject) / "roi").glob("*.nii.gz")
    names = (path.name.removesuffix(".nii.gz") for path in files)
    return sorted(name for name in names if not name.startswith(("lh.", "rh.")))


def _choices(layout: Layout, subject: int) -> str:
    found = ", ".join(atlases(layout, subject)) or "none"
    return (
        f"atlases of subject {subject} on disk are {found}; fetch or make it, or take one of them"
    )


def _volume(layout: Layout, subject: int, atlas: str, hemisphere: str | None = None) -> np.ndarray:
    path = layout.roi(subject, atlas, hemisphere)
    what = f"atlas {atlas!r}" + ("" if hemisphere is None else f" of hemisphere {hemisphere}")
    require(path, what, _choices(layout, subject))
    return read_volume(path, grid(layout, subject)[0])
