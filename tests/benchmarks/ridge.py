"""Ridge of many tokens: as published, with peers, and by the prediction operator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gemm
import numpy as np
from timing import compare, differ, interleave

SIZES = {
    "usual": {"n": 1500, "p": 2600, "m": 170, "tokens": 24, "width": 768},
    "tiny": {"n": 60, "p": 90, "m": 7, "tokens": 2, "width": 20},
}
REPEATS = {"sklearn_token": 1, "sklearn_once": 1, "himalaya": 1, "ours": 7, "gemm": 7}
NAMES = {
    "sklearn_token": "scikit-learn per token, float64 (published)",
    "sklearn_once": "scikit-learn, one fit, float64",
    "himalaya": "himalaya KernelRidge, numpy",
    "ours": "**ours**, `RidgeOperator`",
}
GOALS = {"sklearn_token": "45", "himalaya": "12"}
Run = Callable[[], np.ndarray]


def design(rng: np.random.Generator, n: int, p: int, targets: int) -> tuple[np.ndarray, np.ndarray]:
    """Responses with a power-law spectrum and targets that share 64 causes with them, float32."""
    rank = min(n, p)
    causes = rng.standard_normal((n, rank), dtype=np.float32)
    causes *= np.arange(1, rank + 1, dtype=np.float32) ** -0.5
    responses = causes @ rng.standard_normal((rank, p), dtype=np.float32)
    responses += rng.standard_normal((n, p), dtype=np.float32)
    responses /= responses.std(axis=0)
    shared = min(64, rank)
    values = causes[:, :shared] @ rng.standard_normal((shared, targets), dtype=np.float32)
    values += 2 * rng.standard_normal(values.shape, dtype=np.float32)
    return responses, values


def prepare(folder: Path, size: str) -> None:
    """Write responses and targets, float32."""
    sizes = SIZES[size]
    n, m, targets = sizes["n"], sizes["m"], sizes["tokens"] * sizes["width"]
    responses, values = design(np.random.default_rng(0), n + m, sizes["p"], targets)
    np.save(folder / "train.npy", responses[:n])
    np.save(folder / "new.npy", responses[n:])
    np.save(folder / "targets.npy", values[:n])
    # Subject 1's penalty for CLIP's vision tokens, scaled to as many images.
    (folder / "size.json").write_text(json.dumps({**sizes, "alpha": 60_000 * n / 8859}))


def _read(folder: Path, dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
    arrays = (np.load(folder / f"{name}.npy") for name in ("train", "new", "targets"))
    size = json.loads((folder / "size.json").read_text())
    return *(x.astype(dtype, copy=False) for x in arrays), size


def load_sklearn_token(folder: Path) -> Run:
    """Fit and predict token by token, all in double precision, as the published scripts do."""
    from sklearn.linear_model import Ridge

    train, new, targets, size = _read(folder, np.float64)
    parts = [np.ascontiguousarray(x) for x in np.split(targets, size["tokens"], axis=1)]
    del targets
    return lambda: np.hstack([Ridge(size["alpha"]).fit(train, y).predict(new) for y in parts])


def load_sklearn_once(folder: Path) -> Run:
    """Fit all targets at once."""
    from sklearn.linear_model import Ridge

    train, new, targets, size = _read(folder, np.float64)
    return lambda: Ridge(size["alpha"]).fit(train, targets).predict(new)


def load_himalaya(folder: Path) -> Run:
    """Fit all targets at once from one eigendecomposition of the kernel."""
    from himalaya.kernel_ridge import KernelRidge

    train, new, targets, size = _read(folder, np.float32)
    return lambda: (
        KernelRidge(alpha=size["alpha"], fit_intercept=True).fit(train, targets).predict(new)
    )


def load_ours(folder: Path) -> Run:
    """Apply the prediction operator."""
    from nbutils.decoding.ridge import RidgeOperator

    train, new, targets, size = _read(folder, np.float32)
    return lambda: RidgeOperator(train).predict(new, targets, size["alpha"])


VARIANTS = {
    "sklearn_token": load_sklearn_token,
    "sklearn_once": load_sklearn_once,
    "himalaya": load_himalaya,
    "ours": load_ours,
    **gemm.VARIANTS,
}


def flop(n: int, p: int, m: int, tokens: int, width: int, **_: float) -> float:
    """Floating-point operations of the operator: kernels, factor, solve, and A Y."""
    return n * n * p + 2 * m * n * p + n**3 / 3 + 2 * n * n * m + 2 * m * n * tokens * width


def report(folder: Path, size: str) -> list[str]:
    """Run all variants and write their table."""
    prepare(folder, size)
    timings = interleave("ridge", folder, REPEATS)
    reference = timings["sklearn_token"].value()
    notes = {key: differ(timings[key], reference) for key in NAMES if key != "sklearn_token"}
    sizes = SIZES[size]
    title = "ridge, {n} images x {p} voxels x {tokens} tokens of {width}".format(**sizes)
    lines = compare(title, timings, NAMES, "ours", GOALS, notes, "difference / std")
    ours = flop(**sizes) / timings["ours"].least / 1e9
    peak = gemm.FLOP / timings["gemm"].least / 1e9
    return [
        *lines,
        f"Ours works at {ours:.0f} GFLOP/s, {ours / peak:.2f} of the {peak:.0f} GFLOP/s that one "
        "float32 matrix product reaches in the same run (goal 0.7).",
        "",
    ]
