"""The stand-in's brain: an ellipsoid with NSD's grids and NSD's numbers of voxels.

Everything is compact and lies roughly where it belongs (back to front, below to above, in both
hemispheres), and nothing is anatomy. Axes: x left to right, y posterior to anterior, z inferior to
superior.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter

from nbutils.miniature.standin import labels
from nbutils.miniature.standin.size import BRAIN_SHARE, CORTEX_SHARE, Size

# Visual cortex is the cap around this pole: the back of the head, a little below the middle.
_POLE = np.array([0.0, -0.944, -0.330])
_UP = np.array([0.0, -0.330, 0.944])
# Where category areas lie: degrees from the pole, and direction there (-90 below, 90 above).
_CENTRES = {
    "OFA": (32, -25),
    "FFA-1": (42, -55),
    "FFA-2": (54, -55),
    "EBA": (45, -5),
    "FBA-2": (47, -45),
    "OPA": (38, 35),
    "PPA": (45, -75),
    "RSC": (48, 80),
    "OWFA": (33, -35),
    "VWFA-1": (43, -45),
    "VWFA-2": (53, -42),
    "mfs-words": (58, -50),
}
_WORDS_LEFT = 0.65
_FOLD_VOXELS = 2.0
# Sizes of what has no published count, voxels of both hemispheres in subject 1's brain.
_KASTNER = {
    "ventral": dict(VO1=400, VO2=350, PHC1=350, PHC2=300),
    "lateral": dict(LO1=450, LO2=450, TO1=350, TO2=350),
    "parietal": dict(
        V3B=300, V3A=450, IPS0=450, IPS1=400, IPS2=400, IPS3=350, IPS4=250, IPS5=150, SPL1=250
    ),
}
_FEF = (140, 60)
_DEEP = {"thalamus": (60, (0.12, -0.12, 0.0)), "MTL": (120, (0.36, -0.05, -0.42))}
_SULCUS = 300


@dataclass(frozen=True)
class Brain:
    """Where everything is.

    Attributes
    ----------
    like : such as ``subj01``
    shape : (n_x, n_y, n_z)
    inside, cortex, right : (n_x, n_y, n_z) bool: brain, cortex, right half of the box
    position : (n_x * n_y * n_z, 3) float32 in [-1, 1]
    radius : (n_x, n_y, n_z) float32, 1 at the surface
    atlases : dict from atlas to (n_x, n_y, n_z) int16; -1 outside cortex, 0 without label
    """

    like: str
    shape: tuple[int, int, int]
    inside: np.ndarray = field(repr=False)
    cortex: np.ndarray = field(repr=False)
    right: np.ndarray = field(repr=False)
    position: np.ndarray = field(repr=False)
    radius: np.ndarray = field(repr=False)
    atlases: dict[str, np.ndarray] = field(repr=False)

    def where(self, atlas: str, *names: str) -> np.ndarray:
        """List the voxels with any of some labels, ascending flat C-order indices."""
        numbers = [labels.TABLES[atlas].index(name) + 1 for name in names]
        return np.flatnonzero(np.isin(self.atlases[atlas], numbers))


def grow(like: str, size: Size, seed: int = 0) -> Brain:
    """Grow a brain with the voxel counts of one of NSD's subjects.

    Parameters
    ----------
    like : ``subj01`` to ``subj08``
    size : Size
    seed : another seed gives other folds and other shares of the hemispheres

    Returns
    -------
    Brain
    """
    rng = np.random.default_rng((seed, int(like[4:]), 1))
    shape = size.grid(like)
    steps = [np.linspace(-1, 1, n + 2, dtype=np.float32)[1:-1] for n in shape]
    position = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)
    folds = gaussian_filter(rng.standard_normal(shape, np.float32), _FOLD_VOXELS)
    folds /= folds.std()
    radius = np.sqrt((position**2).sum(-1)) + 0.015 * folds
    inside = _smallest(radius, round(BRAIN_SHARE * radius.size))
    radius /= radius[inside].max()
    # Cortex covers the outside and the walls of the fissure between the hemispheres.
    wall = np.where(radius > 0.4, 0.97 - 1.5 * np.abs(position[..., 0]), 0)
    outer = np.where(inside, np.maximum(radius, wall) + 0.03 * folds, -1)
    cortex = _smallest(-outer, round(CORTEX_SHARE * radius.size))
    right = np.broadcast_to((np.arange(shape[0]) >= shape[0] / 2)[:, None, None], shape)
    brain = Brain(like, shape, inside, cortex, right, position.reshape(-1, 3), radius, {})
    _parcellate(brain, size, rng)
    return brain


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Mark the `count` smallest values of a volume."""
    mark = np.zeros(values.size, bool)
    mark[np.argsort(values.ravel(), kind="stable")[:count]] = True
    return mark.reshape(values.shape)


def _parcellate(brain: Brain, size: Size, rng: np.random.Generator) -> None:
    """Fill the atlases, hemisphere by hemisphere."""
    for atlas in labels.TABLES:
        brain.atlases[atlas] = np.where(brain.cortex, 0, -1).astype(np.int16)
    share = float(np.clip(rng.normal(0.5, 0.01), 0.48, 0.52))
    flat_right = brain.right.reshape(-1)
    cortex = np.flatnonzero(brain.cortex)
    for side in (False, True):
        half = _Half(brain, size, side, share, cortex[flat_right[cortex] == side])
        half.draw_streams()
        half.draw_categories()
        half.draw_kastner()
        half.draw_hcp()
        half.draw_others()


@dataclass(frozen=True)
class _Half:
    """One hemisphere: which voxels it has and how many of each count are its own."""

    brain: Brain
    size: Size
    is_right: bool
    left_share: float
    cortex: np.ndarray

    def count(self, n: int, left_share: float | None = None) -> int:
        """Return this hemisphere's part of `n` voxels."""
        left = round(n * (self.left_share if left_share is None else left_share))
        return n - left if self.is_right else left

    def scaled(self, n: int) -> int:
        """Return this hemisphere's part of a number that is subject 1's and not published."""
        return self.count(round(n * self.size.scale))

    def label(self, atlas: str, voxels: np.ndarray, name: str) -> None:
        """Give voxels a label."""
        number = labels.TABLES[atlas].index(name) + 1
        self.brain.atlases[atlas].reshape(-1)[voxels] = number

    def at(self, voxels: np.ndarray) -> np.ndarray:
        """Return positions with x counted from the middle, (n, 3)."""
        x, y, z = self.brain.position[voxels].T
        return np.column_stack([np.abs(x), y, z])

    def from_pole(self, voxels: np.ndarray) -> np.ndarray:
        """Sort voxels by how far forward they lie."""
        return voxels[np.argsort(-(self.at(voxels) @ _POLE), kind="stable")]

    def slices(self, atlas: str, voxels: np.ndarray, sizes: dict[str, int]) -> None:
        """Label voxels, given in order, with one stretch after the other."""
        ends = np.cumsum(list(sizes.values()))
        for name, end, n in zip(sizes, ends, sizes.values(), strict=True):
            self.label(atlas, voxels[end - n : end], name)

    def nearest(self, atlas: str, pool: np.ndarray, name: str, n: int, centre: np.ndarray) -> None:
        """Label the `n` voxels nearest to a place among those that this atlas leaves free."""
        free = pool[self.brain.atlases[atlas].reshape(-1)[pool] <= 0]
        distance = ((self.at(free) - centre) ** 2).sum(axis=1)
        self.label(atlas, free[np.argsort(distance, kind="stable")[:n]], name)

    def draw_streams(self) -> None:
        """Lay out nsdgeneral, the streams, and the early areas within them."""
        like, size = self.brain.like, self.size
        counts = {name: self.count(n) for name, n in size.counts(like, "streams").items()}
        forward = self.from_pole(self.cortex)[: sum(counts.values())]
        self.label("nsdgeneral", forward[: self.count(size.nsdgeneral(like))], "nsdgeneral")
        early, later = forward[: counts["early"]], forward[counts["early"] :]
        self.label("streams", early, "early")
        sideways = self.at(later)
        later = later[np.argsort(np.arctan2(sideways @ _UP, sideways[:, 0]), kind="stable")]
        start = 0
        for name in ("ventral", "lateral", "parietal"):
            end = start + counts[f"mid{name}"] + counts[name]
            both = {part: counts[part] for part in (f"mid{name}", name)}
            self.slices("streams", self.from_pole(later[start:end]), both)
            start = end
        self._draw_early(early)

    def _draw_early(self, early: np.ndarray) -> None:
        """Stack V3v, V2v, V1v, V1d, V2d, V3d from below to above; hV4 follows in its stream."""
        counts = self.size.counts(self.brain.like, "prf-visualrois")
        counts = {name: self.count(n) for name, n in counts.items()}
        bands = ("V3v", "V2v", "V1v", "V1d", "V2d", "V3d")
        upward = early[np.argsort(self.at(early) @ _UP, kind="stable")]
        skipped = (len(early) - sum(counts[name] for name in bands)) // 2
        self.slices("prf-visualrois", upward[skipped:], {name: counts[name] for name in bands})
        next_ones = self.from_pole(self._stream("midventral"))
        self.label("prf-visualrois", next_ones[: counts["hV4"]], "hV4")

    def _stream(self, *names: str) -> np.ndarray:
        """List this hemisphere's voxels of some streams."""
        found = self.brain.where("streams", *names)
        return found[self.brain.right.reshape(-1)[found] == self.is_right]

    def draw_categories(self) -> None:
        """Place the areas of the localizer in the later streams; other atlases may overlap."""
        pool = self._stream(*labels.TABLES["streams"][1:])
        pool = pool[self.brain.atlases["prf-visualrois"].reshape(-1)[pool] <= 0]
        for atlas in (name for name in labels.TABLES if name.startswith("floc-")):
            share = _WORDS_LEFT if atlas == "floc-words" else None
            for name, n in self.size.counts(self.brain.like, atlas).items():
                if n:
                    centre = _place(*_CENTRES[name])
                    self.nearest(atlas, pool, name, self.count(n, share), centre)

    def draw_kastner(self) -> None:
        """Copy the early areas, then cut strips from each stream."""
        kastner = self.brain.atlases["Kastner2015"].reshape(-1)
        early = self.brain.atlases["prf-visualrois"].reshape(-1)[self.cortex]
        kastner[self.cortex] = early  # the first seven labels are the same in both
        for stream, sizes in _KASTNER.items():
            voxels = self.from_pole(self._stream(f"mid{stream}", stream))
            voxels = voxels[kastner[voxels] == 0]
            sizes = {name: self.scaled(n) for name, n in sizes.items()}
            self.slices("Kastner2015", voxels, sizes)
        frontal = _place(*_FEF)
        self.nearest("Kastner2015", self.cortex, "FEF", self.scaled(200), frontal)

    def draw_hcp(self) -> None:
        """Give V1 to V4 their place, the nine parcels of IT the ventral stream, others the rest."""
        visual = {"V1": "V1", "V2": "V2", "V3": "V3", "V4": "hV4"}
        for name, area in visual.items():
            parts = [one for one in labels.EARLY if one.startswith(area)]
            self.label("HCP_MMP1", self._of("prf-visualrois", *parts), name)
        self._divide(self._stream("ventral"), labels.IT_PARCELS)
        others = [name for name in labels.HCP_NAMES if name not in (*visual, *labels.IT_PARCELS)]
        flat = self.brain.atlases["HCP_MMP1"].reshape(-1)
        self._divide(self.cortex[flat[self.cortex] == 0], tuple(others))

    def _of(self, atlas: str, *names: str) -> np.ndarray:
        found = self.brain.where(atlas, *names)
        return found[self.brain.right.reshape(-1)[found] == self.is_right]

    def _divide(self, voxels: np.ndarray, names: tuple[str, ...]) -> None:
        """Divide voxels into compact parcels of equal size by cutting the longest side in two."""
        if len(names) == 1:
            self.label("HCP_MMP1", voxels, names[0])
        if len(names) < 2 or not len(voxels):
            return
        where, half = self.at(voxels), len(names) // 2
        along = np.argsort(where[:, np.ptp(where, axis=0).argmax()], kind="stable")
        cut = round(len(voxels) * half / len(names))
        self._divide(voxels[along[:cut]], names[:half])
        self._divide(voxels[along[cut:]], names[half:])

    def draw_others(self) -> None:
        """Place what decoding does not use: sulci, thalamus, medial temporal lobe."""
        pole = self.from_pole(self.cortex)
        starts = np.linspace(0, len(pole) * 0.8, len(labels.TABLES["corticalsulc"])).astype(int)
        for name, start in zip(labels.TABLES["corticalsulc"], starts, strict=True):
            centre = self.at(pole[start : start + 1])[0]
            self.nearest("corticalsulc", self.cortex, name, self.scaled(_SULCUS), centre)
        deep = np.flatnonzero(self.brain.inside & ~self.brain.cortex)
        deep = deep[self.brain.right.reshape(-1)[deep] == self.is_right]
        for atlas, (n, centre) in _DEEP.items():
            for k, name in enumerate(labels.TABLES[atlas]):
                place = np.array(centre) + 0.05 * np.array([0, k - 2, (k % 2)])
                self.nearest(atlas, deep, name, self.scaled(n), place)


def _place(from_pole: float, direction: float) -> np.ndarray:
    """Return a place below the surface, given in degrees from the pole and in direction."""
    distance, turn = np.radians([from_pole, direction])
    sideways = np.cos(turn) * np.array([1.0, 0, 0]) + np.sin(turn) * _UP
    return 0.9 * (np.cos(distance) * _POLE + np.sin(distance) * sideways)
