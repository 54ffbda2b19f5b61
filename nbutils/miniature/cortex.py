"""A simulated visual cortex whose truth is known: which voxel prefers what, and how noisily.

``Cortex(subject, seed)`` grows one of four people. Early areas are retinotopic (left field on the
right, upper field below), with receptive fields that grow with area and eccentricity. Later areas
prefer things, in a graded and overlapping way. Every voxel has a noise ceiling near those of NSD.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.ndimage import gaussian_filter

from nbutils.miniature import anatomy, scenes
from nbutils.miniature.anatomy import EARLY, NAMES, Anatomy
from nbutils.miniature.tuning import (
    CHANNELS,
    COLOR_NAMES,
    KIND_CATEGORY,
    KIND_NAMES,
    N_ENERGY,
    N_ORIENTATIONS,
    WAVELENGTHS,
    EarlyTuning,
    ThingTuning,
)

SUBJECTS = (1, 2, 3, 4)
# Scenes that no subject sees and no network learns from, to set every voxel's scale.
CALIBRATION_SCENES = range(3_000_000, 3_000_320)
# Shares of the trial noise; the last is the response to another scene (attention elsewhere, a
# thought of another image), without which decoding would be too easy.
INDEPENDENT, CORRELATED, MANIFOLD = 0.70, 0.18, 0.12
N_PATTERNS = 24
# How much better or worse a person's data are, as NSD's subjects differ.
QUALITY = {1: 1.0, 2: 0.96, 3: 0.92, 4: 0.88}
NCSNR = {
    "V1v": 0.62,
    "V1d": 0.62,
    "V2v": 0.57,
    "V2d": 0.57,
    "V3v": 0.53,
    "V3d": 0.53,
    "hV4": 0.51,
    "LOC": 0.46,
}
NCSNR_LATE = 0.45
PREFERENCES: dict[str, dict[str, float]] = {
    "OFA": {"face": 1.0, "body": 0.2, "animal": 0.25},
    "FFA-1": {"face": 1.0, "body": 0.25, "animal": 0.3},
    "FFA-2": {"face": 1.0, "body": 0.3, "animal": 0.3},
    "EBA": {"body": 1.0, "face": 0.2, "animal": 0.3},
    "FBA-1": {"body": 1.0, "face": 0.35, "animal": 0.3},
    "OPA": {"place": 1.0, "vehicle": 0.25, "plant": 0.15},
    "PPA": {"place": 1.0, "vehicle": 0.2, "plant": 0.2},
    "RSC": {"place": 1.0, "vehicle": 0.2, "plant": 0.1},
    "OWFA": {"word": 1.0, "vehicle": 0.15, "face": 0.1},
    "VWFA-1": {"word": 1.0, "vehicle": 0.1, "face": 0.15},
    "VWFA-2": {"word": 1.0, "vehicle": 0.1, "face": 0.1},
    "FOOD": {"food": 1.0, "plant": 0.2},
    "ANIM": {"animal": 1.0, "body": 0.4, "face": 0.3},
    "TOOL": {"vehicle": 1.0, "place": 0.3, "word": 0.2},
}
LOCALIZED = ("face", "body", "place", "word", "food")
# Standard deviation at the fovea and its growth per degree; exponent of the compression.
_FIELDS = {
    "V1": (0.35, 0.09, 0.80),
    "V2": (0.50, 0.14, 0.65),
    "V3": (0.65, 0.20, 0.55),
    "hV": (0.90, 0.28, 0.45),
}
_MAX_ECCENTRICITY = 5.2


class Cortex:
    """One simulated person's visual cortex.

    Parameters
    ----------
    subject : 1 to 4
    seed : another seed is another set of four people
    scale : share of the full number of voxels (about 4,100), for small test worlds

    Attributes
    ----------
    anatomy : Anatomy, with ``voxels`` and ``area``
    early_voxels, late_voxels : positions in the mask of the voxels of ``early`` and ``late``
    early : EarlyTuning, late : ThingTuning
    second : (n_voxels,) index into ``LOCALIZED`` of a second preference, or -1
    ncsnr : (n_voxels,) float32, signal over noise standard deviation at ``snr=1``
    noise_sd, baseline : (n_voxels,) float32, percent signal change

    Raises
    ------
    ValueError
        If there is no such subject.
    """

    def __init__(self, subject: int, seed: int = 0, scale: float = 1.0) -> None:
        if subject not in SUBJECTS:
            raise ValueError(f"subject={subject}: the miniature world has subjects 1 to 4")
        rng = np.random.default_rng((seed, subject, 1))
        self.subject, self.seed, self.scale = subject, seed, scale
        self.anatomy: Anatomy = anatomy.build(subject, rng, scale)
        early = self.anatomy.of(*EARLY)
        self.early_voxels, self.late_voxels = np.flatnonzero(early), np.flatnonzero(~early)
        self.early = _early_tuning(self.anatomy, self.early_voxels, rng)
        self.late, second = _thing_tuning(self.anatomy, self.late_voxels, rng)
        self.second = np.full(len(early), -1)
        self.second[self.late_voxels] = second
        names = np.array(NAMES)[self.anatomy.area]
        usual = np.array([NCSNR.get(name, NCSNR_LATE) for name in names])
        spread = rng.gamma(8.0, 1 / 8.0, len(early))
        self.ncsnr = (QUALITY[subject] * usual * spread).astype(np.float32)
        self.noise_sd = (2.2 * np.exp(0.25 * rng.standard_normal(len(early)))).astype(np.float32)
        self.baseline = np.where(early, 2.0, 0.9).astype(np.float32)
        self.baseline += 0.4 * rng.standard_normal(len(early)).astype(np.float32)

    def raw(self, images: np.ndarray, described: list[scenes.Scene]) -> np.ndarray:
        """Return noise-free responses (n, n_voxels) float32 before any scaling."""
        out = np.empty((len(images), len(self.anatomy.voxels)), np.float32)
        out[:, self.early_voxels] = self.early.respond(images)
        out[:, self.late_voxels] = self.late.respond(described)
        return out

    @cached_property
    def calibration(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of ``raw`` over scenes that are no stimuli."""
        described = [scenes.scene(i) for i in CALIBRATION_SCENES]
        raw = self.raw(scenes.draw_many(CALIBRATION_SCENES), described)
        return raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-6)

    def responses(self, images: np.ndarray, described: list[scenes.Scene]) -> np.ndarray:
        """Return the noise-free responses to pictures.

        Parameters
        ----------
        images : (n, 64, 64, 3) uint8
        described : the n scenes of these pictures

        Returns
        -------
        (n, n_voxels) float32, mean 0 and standard deviation 1 over scenes at large

        Raises
        ------
        ValueError
            If there is not one scene per picture.
        """
        if len(images) != len(described):
            raise ValueError(f"{len(images)} images but {len(described)} scenes: give one each")
        mean, std = self.calibration
        return (self.raw(images, described) - mean) / std

    def gain(self, snr: float = 1.0) -> np.ndarray:
        """Return percent signal change per unit of ``responses``, (n_voxels,) float32."""
        return (snr * self.ncsnr * self.noise_sd).astype(np.float32)

    def patterns(self) -> np.ndarray:
        """Return the spatially smooth patterns in which noise is shared by neighbours.

        Returns
        -------
        (n_patterns, n_brain_voxels) float32, squares of each voxel sum to 1; brain voxels
        ascending as in ``anatomy.brain``
        """
        rng = np.random.default_rng((self.seed, self.subject, 2))
        fields = rng.standard_normal((N_PATTERNS, *self.anatomy.shape)).astype(np.float32)
        smooth = np.stack([gaussian_filter(field, 2.5) for field in fields])
        inside = smooth[:, self.anatomy.brain]
        return inside / np.linalg.norm(inside, axis=0)

    def prefers(self) -> np.ndarray:
        """Name the category each voxel responds to most; early voxels get "" (n_voxels,)."""
        out = np.full(len(self.anatomy.voxels), "", dtype="U8")
        out[self.late_voxels] = np.array(scenes.CATEGORIES)[self.late.categories.argmax(axis=1)]
        return out


def _early_tuning(brain: Anatomy, voxels: np.ndarray, rng: np.random.Generator) -> EarlyTuning:
    """Lay out retinotopic maps and draw what each voxel filters for."""
    n = len(voxels)
    name = np.array([NAMES[k] for k in brain.area[voxels]])
    position, right = brain.position[voxels], brain.right[voxels]
    outward, around = np.empty(n), np.empty(n)
    for area in EARLY:
        for side in (False, True):
            here = np.flatnonzero((name == area) & (right == side))
            # The fovea lies at the back; the horizontal meridian between v and d.
            outward[here] = _ranks(position[here, 1])
            around[here] = _ranks(np.abs(position[here, 2]))
    shuffle = rng.normal(0, 0.06, (2, n))
    outward, around = np.clip(outward + shuffle[0], 0, 1), np.clip(around + shuffle[1], 0, 1)
    eccentricity = np.expm1(outward * np.log1p(_MAX_ECCENTRICITY)) + 0.05
    lift = np.where([one.endswith("d") for one in name], -90.0, 90.0)
    angle = np.radians(np.where(name == "hV4", 180 * around - 90, lift * around))
    base, slope, exponent = np.array([_FIELDS[one[:2]] for one in name]).T
    size = (base + slope * eccentricity) * np.exp(rng.normal(0, 0.15, n))
    x = np.where(right, -1, 1) * eccentricity * np.cos(angle)
    weights = _channel_weights(eccentricity, rng)
    return EarlyTuning(
        *(
            part.astype(np.float32)
            for part in (x, eccentricity * np.sin(angle), size, exponent, weights)
        )
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    return (values.argsort().argsort() + 0.5) / max(len(values), 1)


def _channel_weights(eccentricity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make 45 % of voxels see oriented edges of one scale, 25 % light, 30 % colour."""
    n = len(eccentricity)
    weights = np.zeros((n, len(CHANNELS)))
    sort = rng.choice(3, n, p=(0.45, 0.25, 0.30))
    scale = np.clip(np.round(rng.normal(0.6 + 0.15 * eccentricity, 0.7)), 0, len(WAVELENGTHS) - 1)
    preferred, sharpness = rng.uniform(0, np.pi, n), rng.uniform(0.3, 1.8, n)
    steps = np.pi * np.arange(N_ORIENTATIONS) / N_ORIENTATIONS
    tuned = np.exp(sharpness[:, None] * np.cos(2 * (steps - preferred[:, None])))
    columns = scale.astype(int)[:, None] * N_ORIENTATIONS + np.arange(N_ORIENTATIONS)
    np.put_along_axis(weights, columns, tuned / tuned.sum(axis=1, keepdims=True), axis=1)
    light = rng.dirichlet((0.5, 0.5), n)
    color = rng.dirichlet((0.5,) * 4, n)
    weights[sort != 0, :N_ENERGY] = 0
    weights[sort == 1, N_ENERGY : N_ENERGY + 2] = light[sort == 1]
    weights[sort == 2, N_ENERGY + 2 :] = color[sort == 2]
    return weights


def _thing_tuning(
    brain: Anatomy, voxels: np.ndarray, rng: np.random.Generator
) -> tuple[ThingTuning, np.ndarray]:
    """Draw graded preferences; one voxel in seven likes a second category nearly as much."""
    n = len(voxels)
    name = np.array([NAMES[k] for k in brain.area[voxels]])
    order = {category: k for k, category in enumerate(scenes.CATEGORIES)}
    gains = rng.uniform(0, 0.12, (n, len(order)))
    for row, area in enumerate(name):
        for category, gain in PREFERENCES.get(area, {}).items():
            gains[row, order[category]] += gain * np.exp(0.2 * rng.standard_normal())
    # Object-selective voxels like everything somewhat; plants have no area of their own.
    objects = np.flatnonzero(name == "LOC")
    gains[objects] = rng.uniform(0, 0.5, (len(objects), len(order)))
    favourite = rng.choice(len(order), len(objects), p=_favourites())
    gains[objects, favourite] += 0.7
    second = np.where((rng.random(n) < 0.15) & (name != "LOC"), rng.integers(5, size=n), -1)
    mixed = np.flatnonzero(second >= 0)
    also = np.array([order[category] for category in LOCALIZED])[second[mixed]]
    gains[mixed, also] = np.maximum(gains[mixed, also], rng.uniform(0.4, 0.9, len(mixed)))
    within = np.clip(1 + 0.35 * rng.standard_normal((n, len(KIND_NAMES))), 0.1, 2.0)
    places = np.isin(name, ("OPA", "PPA", "RSC"))
    background = rng.standard_normal((n, len(scenes.BACKGROUNDS)))
    background *= np.where(places, 0.25, 0.10)[:, None]
    left = np.where(brain.right[voxels], -1, 1)
    parts = (
        gains[:, KIND_CATEGORY] * within,
        np.clip(1 + 0.2 * rng.standard_normal((n, len(COLOR_NAMES))), 0.2, 2),
        background,
        rng.normal(0.5 + 0.08 * left, 0.14, n),
        rng.normal(0.55, 0.12, n),
        rng.uniform(0.25, 0.5, n),
        rng.uniform(0.25, 0.5, n),
        rng.uniform(0.4, 1.0, n),
    )
    return ThingTuning(*(part.astype(np.float32) for part in parts)), second


def _favourites() -> np.ndarray:
    share = np.array([3.0 if name == "plant" else 1.0 for name in scenes.CATEGORIES])
    return share / share.sum()
