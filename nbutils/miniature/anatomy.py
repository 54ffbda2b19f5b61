"""The shape of a simulated brain: a small folded box of voxels, and which area each belongs to.

Axes as in NSD: x left to right, y posterior to anterior, z inferior to superior. Area centres are
placed roughly as on a real occipital and temporal lobe; sizes follow subject 1 of NSD, divided by
four. Nothing here is measured anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

SHAPES = {1: (24, 28, 20), 2: (25, 28, 20), 3: (24, 29, 20), 4: (24, 28, 21)}


@dataclass(frozen=True)
class Area:
    """One area: voxels in both hemispheres, centre (|x|, y, z) in [-1, 1], atlas label, stream."""

    voxels: int
    centre: tuple[float, float, float]
    atlas: str | None
    label: str | None
    stream: int
    left_share: float = 0.5


_VISUAL = "prf-visualrois"
AREAS: dict[str, Area] = {
    "V1v": Area(260, (0.22, -0.92, -0.22), _VISUAL, "V1v", 1),
    "V1d": Area(300, (0.22, -0.92, 0.14), _VISUAL, "V1d", 1),
    "V2v": Area(250, (0.34, -0.78, -0.45), _VISUAL, "V2v", 1),
    "V2d": Area(210, (0.34, -0.80, 0.38), _VISUAL, "V2d", 1),
    "V3v": Area(190, (0.38, -0.60, -0.62), _VISUAL, "V3v", 1),
    "V3d": Area(170, (0.42, -0.66, 0.58), _VISUAL, "V3d", 1),
    "hV4": Area(400, (0.62, -0.58, -0.60), _VISUAL, "hV4", 2),
    "LOC": Area(360, (0.80, -0.62, -0.05), None, None, 3),
    "OFA": Area(130, (0.78, -0.46, -0.36), "floc-faces", "OFA", 6),
    "FFA-1": Area(140, (0.62, -0.22, -0.78), "floc-faces", "FFA-1", 5),
    "FFA-2": Area(100, (0.62, 0.00, -0.80), "floc-faces", "FFA-2", 5),
    "EBA": Area(250, (0.90, -0.34, 0.16), "floc-bodies", "EBA", 6),
    "FBA-1": Area(40, (0.74, -0.10, -0.66), "floc-bodies", "FBA-1", 5),
    "OPA": Area(170, (0.66, -0.56, 0.52), "floc-places", "OPA", 4),
    "PPA": Area(250, (0.34, -0.14, -0.76), "floc-places", "PPA", 5),
    "RSC": Area(90, (0.16, -0.34, 0.30), "floc-places", "RSC", 7),
    "OWFA": Area(110, (0.88, -0.30, -0.46), "floc-words", "OWFA", 6, 0.65),
    "VWFA-1": Area(120, (0.80, -0.14, -0.60), "floc-words", "VWFA-1", 5, 0.65),
    "VWFA-2": Area(70, (0.80, 0.06, -0.62), "floc-words", "VWFA-2", 5, 0.65),
    "FOOD": Area(190, (0.48, -0.24, -0.74), "floc-food", "FOOD", 5),
    "ANIM": Area(150, (0.92, -0.14, -0.22), None, None, 6),
    "TOOL": Area(150, (0.54, -0.36, 0.62), None, None, 7),
}
NAMES = tuple(AREAS)
EARLY = ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4")
TABLES: dict[str, tuple[str, ...]] = {
    "nsdgeneral": ("nsdgeneral",),
    "prf-visualrois": ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
    "prf-eccrois": ("ecc0pt5", "ecc1", "ecc2", "ecc4", "ecc4+"),
    "floc-faces": ("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    "floc-bodies": ("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
    "floc-places": ("OPA", "PPA", "RSC"),
    "floc-words": ("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
    "floc-food": ("FOOD",),
    "streams": (
        "early",
        "midventral",
        "midlateral",
        "midparietal",
        "ventral",
        "lateral",
        "parietal",
    ),
}
"""Label tables as NSD numbers them. ``floc-food`` is the miniature's own: NSD's localizer has none.
Some labels have no voxel here, as some are absent in some of NSD's subjects."""
ECCENTRICITY_EDGES = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Anatomy:
    """Where everything is in one subject.

    Attributes
    ----------
    shape : (n_x, n_y, n_z)
    brain, cortex : (n_x, n_y, n_z) bool
    voxels : (n_voxels,) int64 ascending flat C-order indices, the nsdgeneral mask
    area : (n_voxels,) int64 index into ``NAMES``
    position : (n_voxels, 3) float32 in [-1, 1]
    t1 : (n_x, n_y, n_z) float32, bright white matter
    """

    shape: tuple[int, int, int]
    brain: np.ndarray
    cortex: np.ndarray
    voxels: np.ndarray
    area: np.ndarray
    position: np.ndarray
    t1: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Which voxels of the mask lie in the right hemisphere, (n_voxels,) bool."""
        return self.position[:, 0] > 0

    def of(self, *names: str) -> np.ndarray:
        """Say which voxels of the mask belong to areas, (n_voxels,) bool."""
        return np.isin(self.area, [NAMES.index(name) for name in names])


def build(subject: int, rng: np.random.Generator, scale: float = 1.0) -> Anatomy:
    """Grow a subject's brain.

    Parameters
    ----------
    subject : 1 to 4
    rng : source of the subject's individuality
    scale : share of the full number of voxels, for small test worlds

    Returns
    -------
    Anatomy
    """
    shape = tuple(max(8, round(n * scale ** (1 / 3))) for n in SHAPES[subject])
    position = np.stack(
        np.meshgrid(*[np.linspace(-1, 1, n + 2)[1:-1] for n in shape], indexing="ij"), axis=-1
    )
    folds = gaussian_filter(rng.standard_normal(shape), 1.0)
    radius = (np.abs(position) ** 2.5).sum(-1) ** (1 / 2.5) + 0.05 * folds / folds.std()
    brain = radius < 1.0
    fissure = (np.abs(position[..., 0]) < 0.16) & (radius > 0.3)
    cortex = brain & ((radius > 0.52) | fissure)
    t1 = _t1(radius, brain, cortex, position, rng)
    counts = _counts(rng, scale)
    voxels, area = _parcellate(cortex, position, counts)
    return Anatomy(
        shape, brain, cortex, voxels, area, position.reshape(-1, 3)[voxels].astype(np.float32), t1
    )


def _counts(rng: np.random.Generator, scale: float) -> np.ndarray:
    """Draw the number of voxels, (areas, hemispheres): people differ by some ten percent."""
    shares = np.array([[area.left_share, 1 - area.left_share] for area in AREAS.values()])
    sizes = np.array([area.voxels for area in AREAS.values()])[:, None] * scale
    return np.maximum(3, np.round(shares * sizes * rng.uniform(0.9, 1.1, shares.shape))).astype(int)


def _parcellate(
    cortex: np.ndarray, position: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the posterior cortex into compact areas of the wanted sizes."""
    flat = np.flatnonzero(cortex)
    where = position.reshape(-1, 3)[flat]
    centres = np.array([area.centre for area in AREAS.values()])
    voxels, areas = [], []
    for side in (0, 1):
        here = np.flatnonzero((where[:, 0] > 0) == bool(side))
        posterior = where[here, 1] + 0.35 * where[here, 2]
        here = here[np.argsort(posterior, kind="stable")[: counts[:, side].sum()]]
        folded = np.column_stack([np.abs(where[here, 0]), where[here, 1:]])
        voxels.append(flat[here])
        areas.append(_balance(((folded[:, None] - centres) ** 2).sum(-1), counts[:, side]))
    voxels, areas = np.concatenate(voxels), np.concatenate(areas)
    order = np.argsort(voxels)
    return voxels[order], areas[order]


def _balance(distance: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Assign every voxel to an area so that the areas have about the wanted sizes.

    A power diagram: each area's additive weight grows until it holds enough voxels.
    """
    weight = np.zeros(len(counts))
    for step in range(600):
        owner = (distance - weight).argmin(axis=1)
        missing = (counts - np.bincount(owner, minlength=len(counts))) / counts
        weight += 0.05 / (1 + step / 60) * np.clip(missing, -1, 1)
    return owner


def _t1(
    radius: np.ndarray,
    brain: np.ndarray,
    cortex: np.ndarray,
    position: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Paint an image with the contrast of a T1 scan: white matter bright, fluid dark."""
    tissue = np.where(brain, np.where(cortex, 0.55, 0.95), 0.05)
    tissue = np.where(cortex & (radius > 0.93), 0.35, tissue)
    # Sulci: dark sheets that run into the cortex between folds.
    waves = np.cos(9 * position[..., 1] + 5 * position[..., 2] + 6 * np.abs(position[..., 0]))
    tissue = tissue - 0.25 * (cortex & (waves > 0.75) & (radius > 0.6))
    tissue = tissue - 0.3 * (brain & (np.abs(position[..., 0]) < 0.06) & (position[..., 2] > 0.1))
    smooth = gaussian_filter(tissue, 0.5) + 0.02 * rng.standard_normal(tissue.shape)
    return (1000 * np.clip(smooth, 0, None)).astype(np.float32)
