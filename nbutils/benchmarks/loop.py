"""Whole images, and within them the denoising loop against the calls it cannot do without."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor

from nbutils.benchmarks import work
from nbutils.benchmarks.bench import Bench
from nbutils.benchmarks.results import OUT_OF_TIME, Row
from nbutils.benchmarks.timing import free_memory, peak_memory, reset_peak, run_once
from nbutils.networks.sampling import Flow, ddim, plan_steps
from nbutils.networks.versatile import image_flow

ROUNDS = 3
CALLS_SECONDS = 10.0
"""Bare calls are timed for about so long after each batch, but not fewer than five of them."""


def run(bench: Bench) -> None:
    """Paint images one by one and in batches; each time gives a row of images and one of loops."""
    counts, steps = bench.counts, count_steps(bench)
    calls = 2 * steps * counts.image_flow()
    one = calls + counts.autokl_encode() + counts.autokl_decode()
    for batch, images in ((1, ROUNDS), (bench.sizes.image_batch, bench.sizes.images)):
        painted = Row("images", "AutoKL, the loop, AutoKL", batch=batch, flop=batch * one)
        looped = Row("loop", f"{steps} steps", batch=batch, flop=batch * calls)
        turns = _Turns()
        found = bench.attempt(painted, partial(_paint_all, bench, turns, images, one))
        bench.attempt(looped, partial(_compare, turns, steps, found.memory, found.note))


def count_steps(bench: Bench) -> int:
    """Steps that the loop takes from a start latent; 37 of 50 at strength 0.75."""
    return len(plan_steps(bench.sizes.steps, bench.sizes.strength)[1])


def denoise(bench: Bench, flow: Flow, start: Tensor) -> Tensor:
    """Run a flow's loop from start latents as the systems do, on random contexts.

    The latents are float32 whatever the network computes in, and so are the contexts.
    """
    config = bench.networks.config
    return ddim(
        flow,
        start,
        work.draw_contexts(config, len(start), start),
        work.draw_contexts(config, 1, start),
        work.WEIGHTS,
        config=config.versatile,
        noise=work.draw(tuple(start.shape), start),
        steps=bench.sizes.steps,
        strength=bench.sizes.strength,
    )


@dataclass
class _Turns:
    """Seconds of batch after batch: all of it, its loop, and some bare calls right after it."""

    whole: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    calls: int = 0


def _paint_all(bench: Bench, turns: _Turns, images: int, flop: float, row: Row) -> Row:
    """Paint batch after batch while there is time."""
    free_memory(bench.device)
    reset_peak(bench.device)
    call = work.call_image_flow(bench.networks.image_unet, bench.networks.config, 2 * row.batch)
    run_once(call, bench.device)
    turns.calls = max(5, min(count_steps(bench), int(CALLS_SECONDS / run_once(call, bench.device))))
    done, needed = 0, 0.0
    while done < images and bench.stage_clock.left > needed:
        before = bench.stage_clock.left
        turns.whole.append(run_once(partial(_paint, bench, turns, row.batch), bench.device))
        turns.bare.append(run_once(partial(_repeat, call, turns.calls), bench.device))
        done, needed = done + row.batch, before - bench.stage_clock.left
    if not done:
        return replace(row, note=OUT_OF_TIME)
    note = "" if done >= images else f"{done} of {images} images, the others {OUT_OF_TIME}"
    total = sum(turns.whole)
    return replace(
        row, seconds=total, repeats=1, flop=flop * done, memory=peak_memory(bench.device),
        figures={"images": done, "s per image": total / done}, note=note,
    )  # fmt: skip


def _compare(turns: _Turns, steps: int, memory: int | None, note: str, row: Row) -> Row:
    """Hold the fastest loop against the fastest calls, scaled to as many as it has steps."""
    if not turns.bare:
        return replace(row, note=note)
    bare = min(turns.bare) * steps / turns.calls
    return replace(
        row, seconds=min(turns.loop), repeats=len(turns.loop), median=median(turns.loop),
        memory=memory,
        figures={"of calls": min(turns.loop) / bare, "calls timed": turns.calls},
    )  # fmt: skip


def _paint(bench: Bench, turns: _Turns, n: int) -> None:
    """Images to latents, through the loop, and back to images."""
    networks, part = bench.networks, bench.sizes.decode_batch
    size = networks.autokl.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    starts = [networks.autokl.encode(pictures[i : i + part]).float() for i in range(0, n, part)]
    latents: list[Tensor] = []

    def loop() -> None:
        flow = lambda x, t, c: image_flow(networks.image_unet, x, t, c)  # noqa: E731
        latents.append(denoise(bench, flow, torch.cat(starts)))

    turns.loop.append(run_once(loop, bench.device))
    for i in range(0, n, part):
        networks.autokl.decode(latents[0][i : i + part])


def _repeat(call: work.Work, times: int) -> None:
    for _ in range(times):
        call()
