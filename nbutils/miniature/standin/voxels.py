"""What the stand-in's voxels do: how well they can be predicted, how they vary, what they prefer.

Every voxel of the visual streams borrows the noise-free answers of two voxels of the miniature
cortex, of the matching area and hemisphere, and in early areas of nearly the same place in the
visual field. So decoding works, and pRF maps tell the truth. Noise ceilings have NSD's published
medians; between them (category areas, V3) they are an assumption.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.special import gammaincinv

from nbutils.miniature import anatomy, scenes
from nbutils.miniature.anatomy import ECCENTRICITY_EDGES
from nbutils.miniature.cortex import CALIBRATION_SCENES, SUBJECTS, Cortex
from nbutils.miniature.standin import labels
from nbutils.miniature.standin.brain import Brain
from nbutils.miniature.standin.size import CEILINGS, NCSNR

_STREAM_DONORS = {
    "midventral": ("hV4", "LOC"),
    "midlateral": ("LOC",),
    "midparietal": ("OPA", "TOOL"),
    "ventral": ("LOC", "FOOD", "ANIM"),
    "lateral": ("LOC", "ANIM", "EBA"),
    "parietal": ("TOOL", "OPA", "LOC"),
}
_CATEGORY_DONORS = {"FBA-2": "FBA-1", "mfs-words": "VWFA-2"}
# (mean, sd of the mean over voxels, sd over trials) in percent signal change; V1 and the sd of
# cortex at large are published, the others lie between.
_SCALES = {
    "brain": (0.1, 0.3, 2.0),
    "cortex": (0.25, 0.4, 2.15),
    "nsdgeneral": (0.9, 0.6, 2.5),
    "V4": (1.4, 0.7, 2.7),
    "V3": (1.6, 0.7, 2.8),
    "V2": (1.9, 0.8, 2.95),
    "V1": (2.216, 0.9, 3.13),
}
# NSD's values over nsdgeneral follow a gamma distribution of shape 4.9; within one area they
# vary less, because areas differ.
_NCSNR_SHAPE = 6.0
_CATEGORY_BONUS = 1.25
_BEYOND_NSDGENERAL = 0.6
_ZERO_SHARE = 0.001
_NEAR = 4
_MIXING_SCENES = CALIBRATION_SCENES[:160]
# Below this share, areas of the miniature cortex would have hardly a voxel to lend.
_SMALLEST = 0.1


@dataclass(frozen=True)
class Voxels:
    """What is planted.

    Attributes
    ----------
    signal : (n_signal,) int64 ascending flat C-order indices of voxels that respond to images
    donors : (n_signal, 2) int64 columns of the miniature cortex
    weights : (n_signal, 2) float32, such that the mixture has standard deviation 1
    ncsnr, mean, sd : (n_x, n_y, n_z) float32; ncsnr is NaN outside the brain, the others are 0.
        ``sd`` is over trials, signal and noise together, percent signal change
    prf : dict from name to (n_x, n_y, n_z) float32
    cortex : the miniature cortex
    """

    signal: np.ndarray
    donors: np.ndarray
    weights: np.ndarray
    ncsnr: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    prf: dict[str, np.ndarray]
    cortex: Cortex

    def respond(self, images: np.ndarray, described: list[scenes.Scene]) -> np.ndarray:
        """Return noise-free answers of the miniature cortex, to be mixed by :meth:`mix`."""
        return self.cortex.responses(images, described)

    def mix(self, answers: np.ndarray) -> np.ndarray:
        """Turn answers (n, n_miniature) into those of the voxels, (n, n_signal) float32."""
        first, second = (answers[:, self.donors[:, k]] * self.weights[:, k] for k in (0, 1))
        return first + second


@lru_cache(maxsize=2)
def miniature_cortex(like: str, seed: int, scale: float = 1.0) -> Cortex:
    """Return the miniature cortex that lends its answers: four people, in two generations."""
    number = int(like[4:]) - 1
    generation, person = divmod(number, len(SUBJECTS))
    return Cortex(person + 1, seed + 1000 * generation, scale)


def plant(brain: Brain, seed: int = 0, scale: float = 1.0) -> Voxels:
    """Decide what every voxel does, and fill the atlas of eccentricities accordingly.

    Parameters
    ----------
    brain : Brain
    seed : another seed gives other preferences
    scale : share of the miniature cortex to borrow from, for tests

    Returns
    -------
    Voxels
    """
    rng = np.random.default_rng((seed, int(brain.like[4:]), 2))
    cortex = miniature_cortex(brain.like, seed, max(scale, _SMALLEST))
    signal = np.flatnonzero(brain.atlases["streams"] > 0)
    names = _early_names(brain, signal)
    donors = _late_donors(brain, cortex, signal, rng)
    early = np.flatnonzero(names != "")
    donors[early] = _early_donors(brain, cortex, signal[early], names[early], rng)
    weights = rng.uniform(0.3, 0.7, len(signal)).astype(np.float32)
    weights = _standardise(cortex, donors, np.column_stack([weights, 1 - weights]))
    ncsnr = _ncsnr(brain, rng)
    mean, sd = _scales(brain, rng)
    prf = _prf(brain, cortex, signal[early], donors[early], ncsnr, rng)
    _label_eccentricity(brain, signal[early], prf["eccentricity"])
    return Voxels(signal, donors, weights, ncsnr, mean, sd, prf, cortex)


def _early_names(brain: Brain, signal: np.ndarray) -> np.ndarray:
    """Name the retinotopic area of voxels; the early stream's margins go with V3."""
    names = np.array(("", *labels.EARLY))[np.maximum(_at(brain, "prf-visualrois", signal), 0)]
    margin = (names == "") & (_at(brain, "streams", signal) == 1)
    above = brain.position[signal, 2] > np.median(brain.position[signal[margin], 2])
    return np.where(margin, np.where(above, "V3d", "V3v"), names)


def _at(brain: Brain, atlas: str, voxels: np.ndarray) -> np.ndarray:
    return brain.atlases[atlas].reshape(-1)[voxels]


def _early_donors(
    brain: Brain, cortex: Cortex, voxels: np.ndarray, names: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Pick two of the four miniature voxels that see nearly the same place."""
    donors = np.empty((len(voxels), 2), np.int64)
    area = np.array(anatomy.NAMES)[cortex.anatomy.area[cortex.early_voxels]]
    right = cortex.anatomy.right[cortex.early_voxels]
    for name in labels.EARLY:
        for side in (False, True):
            here = np.flatnonzero((names == name) & (brain.right.reshape(-1)[voxels] == side))
            lenders = np.flatnonzero((area == name) & (right == side))
            if here.size:
                around = _ranks(_around(name, cortex, lenders))
                field = np.column_stack([_ranks(cortex.early.eccentricity[lenders]), around])
                near = min(_NEAR, len(lenders))
                wanted = _visual_field(name, brain.position[voxels[here]])
                found = cKDTree(field).query(wanted, near)[1].reshape(len(here), near)
                two = rng.permuted(np.tile(np.arange(near), (len(here), 1)), axis=1)[:, [0, -1]]
                chosen = np.take_along_axis(found, two, axis=1)
                donors[here] = cortex.early_voxels[lenders[chosen]]
    return donors


def _around(name: str, cortex: Cortex, lenders: np.ndarray) -> np.ndarray:
    """Return the angle from the horizontal meridian; hV4 holds the whole half field."""
    across, up = np.abs(cortex.early.x[lenders]), cortex.early.y[lenders]
    return np.arctan2(up if name == "hV4" else np.abs(up), across)


def _visual_field(name: str, position: np.ndarray) -> np.ndarray:
    """Return the ranks of eccentricity and angle that a place in an area stands for, (n, 2)."""
    # The fovea lies at the back. Maps mirror at each border: V1 and V2 meet at the vertical
    # meridian, V2 and V3 at the horizontal one, so the angle runs outward, inward, outward.
    around = position[:, 0] if name == "hV4" else position[:, 2]
    dorsal = -1 if name in ("V1v", "V2d", "V3v") else 1
    return np.column_stack([_ranks(position[:, 1]), _ranks(dorsal * around)])


def _ranks(values: np.ndarray) -> np.ndarray:
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values))
    ranks[order] = (np.arange(len(values)) + 0.5) / max(len(values), 1)
    return ranks


def _late_donors(
    brain: Brain, cortex: Cortex, signal: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw two lenders per voxel by its stream, then by its category areas."""
    donors = np.zeros((len(signal), 2), np.int64)
    pools = _pools(cortex)
    for stream, areas in _STREAM_DONORS.items():
        here = _at(brain, "streams", signal) == labels.TABLES["streams"].index(stream) + 1
        for slot in (0, 1):
            donors[here, slot] = _lend(pools, areas, brain, signal[here], rng)
    taken = np.zeros(len(signal), bool)
    for atlas in (name for name in labels.TABLES if name.startswith("floc-")):
        for number, name in enumerate(labels.TABLES[atlas], start=1):
            here = _at(brain, atlas, signal) == number
            area = (_CATEGORY_DONORS.get(name, name),)
            # Where category areas overlap, a voxel likes both categories.
            for slot, rows in ((0, here & ~taken), (1, here)):
                if rows.any():
                    donors[rows, slot] = _lend(pools, area, brain, signal[rows], rng)
            taken |= here
    return donors


def _pools(cortex: Cortex) -> dict[tuple[str, bool], np.ndarray]:
    """List the miniature's voxels by area and hemisphere."""
    names, right = np.array(anatomy.NAMES)[cortex.anatomy.area], cortex.anatomy.right
    return {
        (name, side): np.flatnonzero((names == name) & (right == side))
        for name in anatomy.NAMES
        for side in (False, True)
    }


def _lend(
    pools: dict, areas: tuple[str, ...], brain: Brain, voxels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw a lender of the same hemisphere from some areas for each voxel."""
    out = np.empty(len(voxels), np.int64)
    right = brain.right.reshape(-1)[voxels]
    for side in (False, True):
        pool = np.concatenate([pools[area, side] for area in areas])
        out[right == side] = rng.choice(pool, np.count_nonzero(right == side))
    return out


@lru_cache(maxsize=2)
def _mixing_answers(cortex: Cortex) -> np.ndarray:
    described = [scenes.scene(i) for i in _MIXING_SCENES]
    return cortex.responses(scenes.draw_many(_MIXING_SCENES), described)


def _standardise(cortex: Cortex, donors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scale weights so that each mixture varies by 1 over scenes at large."""
    answers = _mixing_answers(cortex)
    first, second = donors.T
    together = np.einsum("nv,nv->v", answers[:, first], answers[:, second]) / len(answers)
    a, b = weights.T
    variance = a**2 + b**2 + 2 * a * b * together
    return (weights / np.sqrt(variance)[:, None]).astype(np.float32)


def _ncsnr(brain: Brain, rng: np.random.Generator) -> np.ndarray:
    """Draw ncsnr: exact medians in V1, V2, hV4, IT and nsdgeneral, smooth over space."""
    rough = rng.standard_normal(brain.shape, np.float32)
    smooth = gaussian_filter(rough, 1.5)
    field = (smooth / smooth.std() + 0.5 * rng.standard_normal(brain.shape, np.float32)).reshape(-1)
    out = np.full(field.size, np.nan, np.float32)
    inside = np.flatnonzero(brain.inside)
    # Voxels that answer to no image: what an estimate from three repeats would leave them with.
    out[inside] = np.maximum(rng.normal(0, 0.05, len(inside)), 0)
    groups = _ncsnr_groups(brain)
    for voxels in groups.values():
        out[voxels] = gammaincinv(_NCSNR_SHAPE, _ranks(field[voxels]))
    floc = [brain.atlases[name] > 0 for name in labels.TABLES if name.startswith("floc-")]
    out[np.flatnonzero(np.any(floc, axis=0))] *= _CATEGORY_BONUS
    medians = _published_medians(brain.like)
    for name, median in medians.items():
        out[groups[name]] *= median / np.median(out[groups[name]])
    _fit_rest(out, groups["rest"], brain, NCSNR[brain.like])
    general = np.flatnonzero(brain.atlases["nsdgeneral"] > 0)
    out[rng.choice(general, max(1, round(_ZERO_SHARE * len(general))), replace=False)] = 0
    return out.reshape(brain.shape)


def _published_medians(like: str) -> dict[str, float]:
    """Return the median ncsnr of each area, from the noise ceilings of three trials."""
    v1, v2, hv4, it = (np.sqrt(c / (100 - c) / 3) for c in CEILINGS[like])
    return {"V1": v1, "V2": v2, "V3": (v2 + hv4) / 2, "hV4": hv4, "IT": it}


def _ncsnr_groups(brain: Brain) -> dict[str, np.ndarray]:
    """Divide the streams into areas with a published median and the rest."""
    groups = {
        name: brain.where("prf-visualrois", *[one for one in labels.EARLY if one.startswith(name)])
        for name in ("V1", "V2", "V3", "hV4")
    }
    groups["IT"] = brain.where("HCP_MMP1", *labels.IT_PARCELS)
    known = np.concatenate(list(groups.values()))
    groups["rest"] = np.setdiff1d(np.flatnonzero(brain.atlases["streams"] > 0), known)
    return groups


def _fit_rest(out: np.ndarray, rest: np.ndarray, brain: Brain, median: float) -> None:
    """Scale the rest so that nsdgeneral as a whole has its median."""
    general = np.flatnonzero(brain.atlases["nsdgeneral"] > 0)
    within = np.isin(general, rest)
    fixed, free = out[general[~within]], out[general[within]]
    low, high = 0.0, 1.0
    for _ in range(40):
        factor = (low + high) / 2
        below = np.median(np.concatenate([fixed, factor * free])) < median
        low, high = (factor, high) if below else (low, factor)
    out[rest] *= high
    out[np.setdiff1d(rest, general)] *= _BEYOND_NSDGENERAL


def _scales(brain: Brain, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw each voxel's mean and standard deviation over trials, percent signal change."""
    regions = {
        "brain": np.flatnonzero(brain.inside),
        "cortex": np.flatnonzero(brain.cortex),
        "nsdgeneral": np.flatnonzero(brain.atlases["nsdgeneral"] > 0),
        "V4": brain.where("prf-visualrois", "hV4"),
        "V3": brain.where("prf-visualrois", "V3v", "V3d"),
        "V2": brain.where("prf-visualrois", "V2v", "V2d"),
        "V1": brain.where("prf-visualrois", "V1v", "V1d"),
    }
    mean, sd = np.zeros((2, brain.inside.size), np.float32)
    for name, voxels in regions.items():
        level, spread, trials = _SCALES[name]
        mean[voxels] = level + spread * rng.standard_normal(len(voxels))
        varied = np.exp(0.15 * rng.standard_normal(len(voxels)))
        sd[voxels] = trials * varied / np.sqrt(np.mean(varied**2)) if len(voxels) else 0
    return mean.reshape(brain.shape), sd.reshape(brain.shape)


def _prf(
    brain: Brain,
    cortex: Cortex,
    voxels: np.ndarray,
    donors: np.ndarray,
    ncsnr: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Make pRF maps: the lenders' mean in early areas, fits of noise elsewhere in the brain."""
    inside = np.flatnonzero(brain.inside)
    n, early = len(inside), cortex.early
    maps = {
        "angle": rng.uniform(0, 360, n),
        "eccentricity": np.minimum(rng.lognormal(1.5, 1.5, n), 1000),
        "size": rng.lognormal(0.5, 1.0, n),
        "exponent": np.full(n, 0.05),
        "gain": rng.lognormal(0, 0.5, n),
        "R2": rng.exponential(2.0, n),
    }
    # A fit at the very centre has no angle.
    central = rng.choice(n, max(1, n // 1000), replace=False)
    maps["eccentricity"][central], maps["angle"][central] = 0, np.nan
    rows = np.searchsorted(cortex.early_voxels, donors)
    x, y, size, exponent = (
        part[rows].mean(axis=1) for part in (early.x, early.y, early.size, early.exponent)
    )
    explained = ncsnr.reshape(-1)[voxels] ** 2
    known = {
        "angle": np.degrees(np.arctan2(y, x)) % 360,
        "eccentricity": np.hypot(x, y),
        "size": size,
        "exponent": exponent,
        "R2": 100 * explained / (explained + 1 / 3),
    }
    place = np.searchsorted(inside, voxels)
    for name, values in known.items():
        maps[name][place] = values
    return {name: _fill(brain, values) for name, values in maps.items()}


def _fill(brain: Brain, values: np.ndarray) -> np.ndarray:
    volume = np.full(brain.shape, np.nan, np.float32)
    volume[brain.inside] = values
    return volume


def _label_eccentricity(brain: Brain, voxels: np.ndarray, eccentricity: np.ndarray) -> None:
    band = np.digitize(eccentricity.reshape(-1)[voxels], ECCENTRICITY_EDGES)
    brain.atlases["prf-eccrois"].reshape(-1)[voxels] = band + 1
