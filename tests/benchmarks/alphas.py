"""Choice of the penalty: ours against the peers, and how often each agrees with exact LOO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ridge import design
from timing import compare, interleave

SIZES = {
    "usual": {"n": 1200, "p": 2000, "targets": 6144},
    "tiny": {"n": 50, "p": 80, "targets": 12},
}
REPEATS = {"sklearn": 1, "himalaya": 1, "loo": 1, "gcv": 3}
NAMES = {
    "sklearn": "scikit-learn RidgeCV(alpha_per_target=True), exact LOO",
    "himalaya": "himalaya KernelRidgeCV(cv=5)",
    "loo": 'ours, `method="loo"`, exact',
    "gcv": '**ours**, `method="gcv"`',
}
GOALS = {"himalaya": "10"}
ALPHAS = np.logspace(1, 5.5, 10)
Run = Callable[[], np.ndarray]


def prepare(folder: Path, size: str) -> None:
    """Write responses and targets of many signal-to-noise ratios, so that penalties differ."""
    rng, sizes = np.random.default_rng(1), SIZES[size]
    train, targets = design(rng, **sizes)
    noise = rng.standard_normal(targets.shape, dtype=np.float32)
    targets += noise * rng.uniform(0, 10, targets.shape[1]).astype(np.float32)
    np.save(folder / "train.npy", train)
    np.save(folder / "targets.npy", targets)


def _read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "train.npy"), np.load(folder / "targets.npy")


def load_ours(method: str) -> Callable[[Path], Run]:
    """Choose one penalty per target by a method of ours."""

    def load(folder: Path) -> Run:
        from nbutils.decoding.selection import choose_alphas

        train, targets = _read(folder)
        options = {"method": method, "per": "target", "n_targets": targets.shape[1]}
        return lambda: choose_alphas(train, {"x": targets}, ALPHAS, **options)["x"].alpha

    return load


def load_himalaya(folder: Path) -> Run:
    """Cross-validate in five folds."""
    from himalaya.kernel_ridge import KernelRidgeCV

    train, targets = _read(folder)
    return lambda: (
        KernelRidgeCV(alphas=ALPHAS, cv=5, fit_intercept=True).fit(train, targets).best_alphas_
    )


def load_sklearn(folder: Path) -> Run:
    """Choose by exact leave-one-out, one penalty per target."""
    from sklearn.linear_model import RidgeCV

    train, targets = (x.astype(np.float64) for x in _read(folder))
    return lambda: RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(train, targets).alpha_


VARIANTS = {
    "sklearn": load_sklearn,
    "himalaya": load_himalaya,
    "loo": load_ours("loo"),
    "gcv": load_ours("gcv"),
}


def report(folder: Path, size: str) -> list[str]:
    """Run all variants and write their table."""
    prepare(folder, size)
    timings = interleave("alphas", folder, REPEATS)
    exact = timings["sklearn"].value()
    notes = {
        key: f"{np.isclose(timing.value(), exact, rtol=1e-3).mean():.1%}"
        for key, timing in timings.items()
    }
    notes["gcv"] += " (goal 99 %)"
    sizes = SIZES[size]
    title = f"penalty per target, {sizes['n']} images x {sizes['p']} voxels, {sizes['targets']} "
    title += f"targets, {len(ALPHAS)} candidates"
    return compare(title, timings, NAMES, "gcv", GOALS, notes, "same choice as exact LOO")
