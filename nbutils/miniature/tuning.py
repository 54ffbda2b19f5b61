"""What simulated voxels respond to: oriented edges, light and colour early, things later.

Early voxels see the picture: Gabor energy and opponent colour, pooled by a Gaussian population
receptive field with a compressive exponent (after Kay et al. 2013). Later voxels see the scene's
description: which things, of which kind and colour, how large and where. That second half makes
simulated category areas easier to decode than cortex, and must be said wherever scores are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft

from nbutils.miniature.scenes import BACKGROUNDS, CATEGORIES, COLORS, KINDS, Scene

FIELD_DEGREES = 8.4
"""Width of NSD's stimulus; the frame of a scene is taken to be as wide."""
IMAGE_SIZE, SURROUND, GRID = 64, 8, 32
WAVELENGTHS = (4.0, 8.0, 16.0)
N_ORIENTATIONS = 6
N_ENERGY = len(WAVELENGTHS) * N_ORIENTATIONS
CHANNELS = (
    *(
        f"energy:{w:g}px:{180 * k // N_ORIENTATIONS}deg"
        for w in WAVELENGTHS
        for k in range(N_ORIENTATIONS)
    ),
    "light",
    "dark",
    "red",
    "green",
    "blue",
    "yellow",
)
KIND_NAMES = tuple(kind for kinds in KINDS.values() for kind in kinds)
KIND_CATEGORY = np.array([k for k, name in enumerate(CATEGORIES) for _ in KINDS[name]])
COLOR_NAMES = tuple(sorted({color for colors in COLORS.values() for color in colors}))


@lru_cache(maxsize=1)
def _filters() -> np.ndarray:
    """Return one-sided log-Gabor filters (n_energy, side, side) in the frequency domain.

    One-sided, so the inverse transform is complex: its magnitude is the energy of a
    quadrature pair.
    """
    side = IMAGE_SIZE + 2 * SURROUND
    fy, fx = np.meshgrid(fft.fftfreq(side), fft.fftfreq(side), indexing="ij")
    radius = np.hypot(fx, fy)
    radius[0, 0] = 1
    angle = np.arctan2(fy, fx)
    bank = []
    for wavelength in WAVELENGTHS:
        band = np.exp(-(np.log(radius * wavelength) ** 2) / (2 * np.log(0.6) ** 2))
        band[0, 0] = 0
        for k in range(N_ORIENTATIONS):
            # k = 0: gratings that vary along x, i.e. vertical edges.
            off = np.angle(np.exp(1j * (angle - np.pi * k / N_ORIENTATIONS)))
            bank.append(2 * band * np.exp(-(off**2) / (2 * 0.35**2)))
    return np.stack(bank).astype(np.float32)


def channel_maps(images: np.ndarray) -> np.ndarray:
    """Filter pictures.

    Parameters
    ----------
    images : (n, 64, 64, 3) uint8

    Returns
    -------
    (n_channels, n, 32 * 32) float32, non-negative; channels as in ``CHANNELS``

    Raises
    ------
    TypeError
        If the pictures are not uint8.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise TypeError(f"images are {images.dtype}: give uint8 pictures from 0 to 255")
    rgb = images.astype(np.float32) / 255
    light = rgb.mean(axis=-1)
    maps = np.empty((len(CHANNELS), len(images), GRID * GRID), np.float32)
    maps[:N_ENERGY] = _energy(light)
    opponents = (light - 0.5, rgb[..., 0] - rgb[..., 1], rgb[..., 2] - rgb[..., :2].mean(axis=-1))
    for k, signal in enumerate(opponents):
        small = _halve(signal).reshape(len(images), -1)
        maps[N_ENERGY + 2 * k] = np.maximum(small, 0)
        maps[N_ENERGY + 2 * k + 1] = np.maximum(-small, 0)
    return maps


def _halve(pictures: np.ndarray) -> np.ndarray:
    """Average blocks of 2 x 2 pixels of (n, height, width) pictures."""
    return (
        pictures[:, ::2, ::2]
        + pictures[:, 1::2, ::2]
        + pictures[:, ::2, 1::2]
        + pictures[:, 1::2, 1::2]
    ) / 4


def _energy(light: np.ndarray) -> np.ndarray:
    """Return Gabor energy maps (n_energy, n, 32 * 32) of luminance in a grey surround."""
    side, edge = IMAGE_SIZE + 2 * SURROUND, SURROUND // 2
    padded = np.zeros((len(light), side, side), np.float32)
    padded[:, SURROUND:-SURROUND, SURROUND:-SURROUND] = light - 0.5
    spectrum = fft.fft2(padded)
    out = np.empty((N_ENERGY, len(light), GRID, GRID), np.float32)
    for k, one in enumerate(_filters()):
        # Adding the aliases gives every second pixel of the filtered picture for a quarter
        # of the work.
        folded = (spectrum * one).reshape(-1, 2, side // 2, 2, side // 2).sum(axis=(1, 3)) / 4
        out[k] = np.abs(fft.ifft2(folded))[:, edge:-edge, edge:-edge]
    return out.reshape(N_ENERGY, len(light), -1)


@dataclass(frozen=True)
class EarlyTuning:
    """Population receptive fields.

    Attributes
    ----------
    x, y : (n,) float32 centre in degrees, right and up positive, 0 at fixation
    size : (n,) float32 standard deviation in degrees
    exponent : (n,) float32 compression
    weights : (n, n_channels) float32, non-negative
    """

    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    exponent: np.ndarray
    weights: np.ndarray

    @property
    def eccentricity(self) -> np.ndarray:
        """Distance from fixation in degrees, (n,)."""
        return np.hypot(self.x, self.y)

    @property
    def angle(self) -> np.ndarray:
        """Polar angle in degrees, 0 right, 90 up, (n,)."""
        return np.degrees(np.arctan2(self.y, self.x)) % 360

    def fields(self) -> np.ndarray:
        """Return every receptive field on the map grid, (n, 32 * 32) float32, rows sum to 1."""
        steps = (np.arange(GRID) + 0.5) / GRID * FIELD_DEGREES - FIELD_DEGREES / 2
        x, y, size = self.x[:, None], self.y[:, None], self.size[:, None]
        across = np.exp(-((steps - x) ** 2) / (2 * size**2))
        down = np.exp(-((-steps - y) ** 2) / (2 * size**2))
        field = (down[:, :, None] * across[:, None]).reshape(len(x), GRID * GRID)
        return (field / field.sum(axis=1, keepdims=True)).astype(np.float32)

    def respond(self, images: np.ndarray) -> np.ndarray:
        """Return noise-free responses (n_images, n) float32 in arbitrary units."""
        fields, drive = self.fields(), np.zeros((len(images), len(self.x)), np.float32)
        for channel, picture in enumerate(channel_maps(images)):
            used = np.flatnonzero(self.weights[:, channel])
            drive[:, used] += (picture @ fields[used].T) * self.weights[used, channel]
        return np.power(drive + 1e-3, self.exponent).astype(np.float32)


@dataclass(frozen=True)
class ThingTuning:
    """Tuning of later voxels to what is in the scene.

    Attributes
    ----------
    kinds : (n, n_kinds) float32 gain for every kind of thing (``KIND_NAMES``)
    colors : (n, n_colors) float32 factor near 1 (``COLOR_NAMES``)
    backgrounds : (n, n_backgrounds) float32 response to the background alone
    x, y : (n,) float32 preferred place as fractions of the frame, from its upper left corner
    spread : (n,) float32 tolerance for place, fraction of the frame
    floor : (n,) float32 share of the response that does not depend on place
    size_exponent : (n,) float32 growth with size
    """

    kinds: np.ndarray
    colors: np.ndarray
    backgrounds: np.ndarray
    x: np.ndarray
    y: np.ndarray
    spread: np.ndarray
    floor: np.ndarray
    size_exponent: np.ndarray

    @property
    def categories(self) -> np.ndarray:
        """Mean gain over the kinds of every category, (n, n_categories) float32."""
        members = np.eye(len(CATEGORIES), dtype=np.float32)[KIND_CATEGORY]
        return self.kinds @ (members / members.sum(axis=0))

    def respond(self, scenes: list[Scene]) -> np.ndarray:
        """Return noise-free responses (n_scenes, n) float32 in arbitrary units."""
        background = np.array([BACKGROUNDS.index(one.background) for one in scenes], int)
        out = self.backgrounds.T[background].astype(np.float32)
        rows = np.array([row for row, one in enumerate(scenes) for _ in one.things], int)
        things = [thing for one in scenes for thing in one.things]
        kind = [KIND_NAMES.index(thing.kind) for thing in things]
        color = [COLOR_NAMES.index(thing.color) for thing in things]
        x, y, size = np.array([(t.x, t.y, t.size) for t in things], np.float32).T[..., None]
        near = np.exp(-((x - self.x) ** 2 + (y - self.y) ** 2) / (2 * self.spread**2))
        seen = self.floor + (1 - self.floor) * near
        grown = (size / np.float32(0.35)) ** self.size_exponent
        np.add.at(out, rows, self.kinds.T[kind] * self.colors.T[color] * seen * grown)
        return out
