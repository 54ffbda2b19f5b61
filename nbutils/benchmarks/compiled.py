"""The image U-Net by torch.compile, in a process of its own that may take too long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from nbutils.benchmarks import work
from nbutils.benchmarks.bench import Bench
from nbutils.benchmarks.isolated import run_job
from nbutils.benchmarks.limits import describe_networks
from nbutils.benchmarks.results import OUT_OF_TIME, Row
from nbutils.benchmarks.sizes import Sizes
from nbutils.benchmarks.timing import Clock, run_once
from nbutils.networks.loading import Networks

NAME = "compiled"


def run(bench: Bench) -> None:
    """Time compiled calls elsewhere; each batch is a process, so that one may fail alone."""
    bench.networks.release()
    for batch in bench.sizes.batches[:2]:
        job = {
            "networks": describe_networks(bench.networks),
            "sizes": asdict(bench.sizes),
            "batch": batch,
            "seconds": bench.stage_clock.left,
        }
        found = OUT_OF_TIME
        if bench.stage_clock.left:
            found = run_job("compiled", job, bench.stage_clock.left)
        rows = [Row("unet", NAME, batch=batch, note=found)] if isinstance(found, str) else found
        for row in rows:
            bench.keep(row)


def time_calls(
    networks: Mapping[str, str], sizes: Mapping[str, Any], batch: int, seconds: float
) -> list[Row]:
    """Compile the U-Net and time its guided calls, in this process.

    Parameters
    ----------
    networks : see `limits.describe_networks`
    sizes : fields of `Sizes`
    batch : images at a time
    seconds : to spend
    """
    opened = Networks(**networks, memory="more", compiled=True)
    bench = Bench(opened, Sizes(**sizes), Clock(seconds))
    first: list[float] = []

    def prepare() -> work.Work:
        call = work.call_image_flow(opened.image_unet, opened.config, 2 * batch)
        first.append(run_once(call, bench.device))
        return call

    flop = 2 * batch * bench.counts.image_flow()
    row = bench.time(Row("unet", NAME, batch=batch, flop=flop), prepare)
    return [replace(row, figures={"first call s": first[0]} if first else {})]
