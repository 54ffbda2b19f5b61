"""The cortex as a surface: its meshes, and which voxel lies under every vertex.

Meshes are FreeSurfer's. NSD's functional volumes are in no anatomical space, so positions cannot
be read off an affine; NSD ships them instead, as one file for each depth of the cortex. These and
the inflated meshes come with `python -m nbutils nsd fetch`. A simulated brain has no surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from nbutils.nsd.layout import HEMISPHERES, Layout, require, subject_name
from nbutils.nsd.volumes import grid, to_volume

DEPTHS = (1, 2, 3)
"""Depths of the cortex at which vertices were placed, from the pial side inwards."""
NOWHERE = 9999
"""What NSD writes where a vertex has no valid position."""


@dataclass(frozen=True)
class Surface:
    """One hemisphere.

    Attributes
    ----------
    hemisphere : "lh" or "rh"
    coordinates : (n_vertices, 3) mm, of the mesh to draw
    faces : (n_faces, 3) int
    curvature : (n_vertices,) positive in sulci, the grey relief under a map
    positions : (n_depths, n_vertices, 3) voxel indices (0-based, not whole) of the vertices at
        each depth; NaN where there is none
    """

    hemisphere: str
    coordinates: np.ndarray
    faces: np.ndarray
    curvature: np.ndarray
    positions: np.ndarray


def surface_files(layout: Layout, subject: int, mesh: str = "inflated") -> dict[str, list[Path]]:
    """List the files that a surface map needs, by hemisphere: mesh, curvature, one per depth.

    Their keys in NSD's bucket are ``layout.key(path)``.
    """
    name = subject_name(subject)
    surf = layout.root / f"nsddata/freesurfer/{name}/surf"
    moved = layout.root / f"nsddata/ppdata/{name}/transforms"
    grid_name = layout.space.removesuffix("mm")  # the folder is func1pt8mm, the files func1pt8
    return {
        side: [
            surf / f"{side}.{mesh}",
            surf / f"{side}.curv",
            *(moved / f"{side}.{grid_name}-to-layerB{depth}.mgz" for depth in DEPTHS),
        ]
        for side in HEMISPHERES
    }


def missing_files(layout: Layout, subject: int, mesh: str = "inflated") -> list[str]:
    """Return the keys of those `surface_files` that are not on disk."""
    files = [path for paths in surface_files(layout, subject, mesh).values() for path in paths]
    return [layout.key(path) for path in files if not path.is_file()]


def read_surface(layout: Layout, subject: int, hemisphere: str, mesh: str = "inflated") -> Surface:
    """Read one hemisphere.

    Parameters
    ----------
    layout : Layout
    subject : 1-based
    hemisphere : "lh" or "rh"
    mesh : FreeSurfer's name of it, such as "inflated", "white" or "pial"

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If the files do not have the same vertices.

    Notes
    -----
    NSD's positions count voxels from 1 ("our coordinates are always matrix coordinates, (1,1,1)
    is the center of the first voxel", comments of its preprocessing code); here they count from 0.
    """
    paths = surface_files(layout, subject, mesh)[hemisphere]
    for path in paths:
        require(path, f"the surface file {layout.key(path)}", _remedy(layout, subject, path))
    coordinates, faces = nibabel.freesurfer.read_geometry(paths[0])
    curvature = nibabel.freesurfer.read_morph_data(paths[1])
    positions = np.stack([_read_positions(path) for path in paths[2:]])
    if not len(coordinates) == len(curvature) == positions.shape[1]:
        raise ValueError(
            f"{paths[0]} has {len(coordinates)} vertices, its curvature {len(curvature)}, its "
            f"positions {positions.shape[1]}: they belong to different surfaces, fetch them again"
        )
    return Surface(hemisphere, coordinates, faces, curvature, positions)


def sample(
    layout: Layout, subject: int, surface: Surface, values: np.ndarray, voxels: np.ndarray
) -> np.ndarray:
    """Give every vertex the mean over depths of the values of its nearest voxels.

    Parameters
    ----------
    layout, subject : whose grid
    surface : what `read_surface` returned
    values : (n_voxels,) numbers; NaN counts as no value
    voxels : (n_voxels,) flat C-order indices

    Returns
    -------
    (n_vertices,) float32, NaN where no depth has a value
    """
    shape, _ = grid(layout, subject)
    volume = to_volume(values, voxels, shape)
    found = np.full(surface.positions.shape[:2], np.nan, np.float32)
    nearest = np.round(surface.positions)
    inside = (np.isfinite(nearest) & (nearest >= 0) & (nearest < shape)).all(axis=-1)
    found[inside] = volume[tuple(nearest[inside].astype(int).T)]
    counts = np.isfinite(found).sum(axis=0)
    total = np.nansum(found, axis=0)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan).astype(np.float32)


def _remedy(layout: Layout, subject: int, path: Path) -> str:
    if any(path in fetched for fetched in surface_files(layout, subject).values()):
        return (
            f"run `python -m nbutils nsd fetch --subject {subject} --surfaces` with the --data, "
            "--sessions, --images and --atlases of this copy"
        )
    return "copy this key from NSD's bucket, since `nsd fetch` brings the inflated mesh only"


def _read_positions(path: Path) -> np.ndarray:
    """Read (n_vertices, 3) voxel indices counted from 0."""
    stored = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
    positions = stored.reshape(stored.shape[0], 3)
    return np.where(positions == NOWHERE, np.nan, positions - 1)
