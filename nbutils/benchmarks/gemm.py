"""How fast the device multiplies large matrices: what every other rate is held against."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from nbutils.benchmarks.bench import Bench, name_of
from nbutils.benchmarks.results import Row


def run(bench: Bench) -> None:
    """Multiply square matrices in the networks' precision and in float32."""
    settings = torch.backends.cuda.matmul
    before, settings.allow_tf32 = settings.allow_tf32, False
    try:
        for dtype in dict.fromkeys((bench.dtype, torch.float32)):
            for side in bench.sizes.gemm:
                row = Row("gemm", f"{side} x {side}", dtype=name_of(dtype), flop=2 * side**3)
                bench.time(row, partial(_prepare, bench, side, dtype))
    finally:
        settings.allow_tf32 = before


def _prepare(bench: Bench, side: int, dtype: torch.dtype) -> Callable[[], Any]:
    a, b = bench.random(2, side, side, dtype=dtype)
    out = torch.empty_like(a)
    return lambda: torch.matmul(a, b, out=out)
