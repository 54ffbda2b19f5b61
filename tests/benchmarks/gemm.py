"""How fast this core multiplies matrices in single precision: what the others are held against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

SIDE = 1536
FLOP = 2 * SIDE**3


def prepare(folder: Path, size: str) -> None:
    """Need nothing."""


def load(folder: Path) -> Callable[[], None]:
    """Two random matrices."""
    a, b = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), dtype=np.float32)
    out = np.empty_like(a)

    def run() -> None:
        np.matmul(a, b, out=out)

    return run


VARIANTS = {"gemm": load}
