"""Structural similarity, both readings of the published line: scikit-image and ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from timing import compare, interleave

SIZES = {"usual": {"n": 12, "side": 425}, "tiny": {"n": 1, "side": 24}}
NAMES = {
    "skimage_2d": "scikit-image, two-dimensional",
    "ours_2d": 'ours, `variant="2d"`',
    "skimage_columns": "scikit-image, `channel_axis=-1` (0.17's reading)",
    "ours_columns": 'ours, `variant="legacy_columns"`',
}


def prepare(folder: Path, size: str) -> None:
    """Write smooth random images and noisy copies of them, uint8."""
    from scipy.ndimage import gaussian_filter

    rng, (n, side) = np.random.default_rng(0), SIZES[size].values()
    smooth = gaussian_filter(rng.standard_normal((n, side, side, 3)), (0, 6, 6, 0))
    truth = np.clip(128 + 50 * smooth / smooth.std(), 0, 255)
    found = np.clip(truth + 20 * rng.standard_normal(truth.shape), 0, 255)
    np.savez(folder / "images.npz", truth=truth.astype(np.uint8), found=found.astype(np.uint8))


def load_skimage(axis: int | None) -> Callable[[Path], Callable[[], np.ndarray]]:
    """Go through the pairs with scikit-image."""

    def load(folder: Path) -> Callable[[], np.ndarray]:
        from skimage.color import rgb2gray
        from skimage.metrics import structural_similarity

        images = np.load(folder / "images.npz")
        pairs = list(zip(images["found"], images["truth"], strict=True))
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        options |= {"data_range": 1.0, "channel_axis": axis}
        return lambda: np.array(
            [structural_similarity(rgb2gray(a), rgb2gray(b), **options) for a, b in pairs]
        )

    return load


def load_ours(variant: str) -> Callable[[Path], Callable[[], np.ndarray]]:
    """Measure all pairs by ours."""

    def load(folder: Path) -> Callable[[], np.ndarray]:
        from nbutils.metrics.images import ssim

        images = np.load(folder / "images.npz")
        found, truth = images["found"], images["truth"]
        return lambda: ssim(found, truth, variant)

    return load


VARIANTS = {
    "skimage_2d": load_skimage(None),
    "ours_2d": load_ours("2d"),
    "skimage_columns": load_skimage(-1),
    "ours_columns": load_ours("legacy_columns"),
}


def report(folder: Path, size: str) -> list[str]:
    """Run all four and write a table for each reading."""
    prepare(folder, size)
    repeats = {"skimage_2d": 3, "ours_2d": 3, "skimage_columns": 1, "ours_columns": 3}
    timings, lines = interleave("similarity", folder, repeats), []
    for reading, goal in (("2d", "0.9"), ("columns", "0.9")):
        pair = {key: t for key, t in timings.items() if key.endswith(reading)}
        plain, ours = pair.values()
        error = np.abs(plain.value() - ours.value()).max()
        title = "SSIM, {n} images of {side} pixels".format(**SIZES[size])
        notes = {f"ours_{reading}": f"max {error:.1e} (goal 1e-6)"}
        goals = {f"skimage_{reading}": goal}
        lines += compare(title, pair, NAMES, f"ours_{reading}", goals, notes)
    return lines
