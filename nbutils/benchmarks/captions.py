"""Captions: the text flow's loop, and Optimus that turns latents into words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from nbutils.benchmarks import work
from nbutils.benchmarks.bench import Bench
from nbutils.benchmarks.loop import count_steps, denoise
from nbutils.benchmarks.results import Row
from nbutils.networks.versatile import text_flow


def run(bench: Bench) -> None:
    """Time the loop and the words of one batch of captions, and of a single one."""
    steps = count_steps(bench)
    for n in dict.fromkeys((1, bench.sizes.captions)):
        flop = 2 * n * steps * bench.counts.text_flow()
        row = Row("captions", f"text flow, {steps} steps", batch=n, flop=flop)
        bench.time(row, partial(_prepare_loop, bench, n))
        row = Row("captions", "Optimus, words", batch=n, flop=n * bench.counts.words())
        bench.time(row, lambda n=n: work.tell(bench.networks.optimus, n))


def _prepare_loop(bench: Bench, n: int) -> Callable[[], Any]:
    networks = bench.networks
    shape = networks.config.versatile.text_latent_shape
    start = bench.random(n, *shape, dtype=torch.float32)
    flow = lambda x, t, given: text_flow(networks.text_unet, x, t, given)  # noqa: E731
    return lambda: denoise(bench, flow, start)
