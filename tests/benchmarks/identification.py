"""Two-way identification: the published corrcoef and ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from timing import compare, interleave

SIZES = {"usual": {"n": 982, "width": 2048}, "tiny": {"n": 20, "width": 30}}
NAMES = {"corrcoef": "`np.corrcoef` (published)", "ours": "**ours**, `identify`"}


def prepare(folder: Path, size: str) -> None:
    """Write features of images and of good reconstructions, float32."""
    rng, shape = np.random.default_rng(0), tuple(SIZES[size].values())
    truth = rng.standard_normal(shape, dtype=np.float32)
    np.save(folder / "truth.npy", truth)
    np.save(folder / "found.npy", truth + rng.standard_normal(shape, dtype=np.float32))


def load_corrcoef(folder: Path) -> Callable[[], np.ndarray]:
    """Score by ``pairwise_corr_all`` of brain-diffuser."""
    truth, found = np.load(folder / "truth.npy"), np.load(folder / "found.npy")
    n = len(truth)

    def run() -> np.ndarray:
        correlation = np.corrcoef(truth, found)[:n, n:]
        return (correlation < np.diag(correlation)).sum(axis=0) / (n - 1)

    return run


def load_ours(folder: Path) -> Callable[[], np.ndarray]:
    """Score by ours."""
    from nbutils.metrics.identification import identify

    truth, found = np.load(folder / "truth.npy"), np.load(folder / "found.npy")
    return lambda: identify(truth, found)


VARIANTS = {"corrcoef": load_corrcoef, "ours": load_ours}


def report(folder: Path, size: str) -> list[str]:
    """Run both and write their table."""
    prepare(folder, size)
    timings = interleave("identification", folder, {"corrcoef": 7, "ours": 7})
    error = np.abs(timings["ours"].value() - timings["corrcoef"].value()).max()
    title = "two-way identification, {n} images x {width}".format(**SIZES[size])
    notes = {"ours": f"max {error:.1e} (goal 1e-9)"}
    return compare(title, timings, NAMES, "ours", {"corrcoef": "3"}, notes)
