"""The whole benchmark: its stages in order of importance, each within its share of the time."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nbutils.benchmarks import (
    captions,
    compiled,
    encoders,
    gemm,
    limits,
    loop,
    machine,
    ridge,
    unet,
)
from nbutils.benchmarks.bench import Bench, explain
from nbutils.benchmarks.results import OUT_OF_TIME, STOPPED, Goal, Row, judge
from nbutils.benchmarks.sizes import Sizes
from nbutils.benchmarks.timing import Clock
from nbutils.networks.loading import Networks

STAGES: dict[str, tuple[Callable[[Bench], None], float]] = {
    "gemm": (gemm.run, 0.05),
    "unet": (unet.run, 0.22),
    "loop": (loop.run, 0.35),
    "limits": (limits.run, 0.25),
    "ridge": (ridge.run, 0.25),
    "captions": (captions.run, 0.15),
    "encoders": (encoders.run, 0.25),
}
"""In the order they run: what to do, and the share of all the time that it may take at most."""

OPTIONAL = {"compile": (compiled.run, 0.5)}
"""Only when asked for."""


@dataclass(frozen=True)
class Result:
    """What one run found.

    Parameters
    ----------
    machine : see `machine.describe`; "published" says whether the sizes were
    rows : of all stages
    goals : and whether they are met
    seconds : of the whole run
    """

    machine: dict[str, Any]
    rows: tuple[Row, ...]
    goals: tuple[Goal, ...]
    seconds: float


def run(
    networks: Networks,
    sizes: Sizes,
    minutes: float = 8.0,
    stages: Sequence[str] = tuple(STAGES),
    *,
    published: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Run stages until they are done or the time is up.

    Parameters
    ----------
    networks : to be timed; open them with ``memory="more"``, so that no plan comes between
    sizes : how much of everything
    minutes : to spend; what is not reached is a row without figures
    stages : names from `STAGES` and `OPTIONAL`
    published : whether networks and sizes are the published ones
    say : takes a line of progress for each row

    Raises
    ------
    ValueError
        If a stage is not known, or the time is not positive.
    """
    known = STAGES | OPTIONAL
    check(stages, known, minutes)
    bench = Bench(networks, sizes, Clock(60 * minutes), say)
    about = machine.describe(networks) | {"published": published}
    for name in (one for one in known if one in stages):
        try:
            _run_stage(bench, name, *known[name])
        except KeyboardInterrupt:
            rest = list(known)[list(known).index(name) :]
            for left in (one for one in rest if one in stages):
                bench.keep(Row(left, "the rest", note=STOPPED))
            break
    seconds = bench.clock.spent
    late = any(OUT_OF_TIME in row.note for row in bench.rows)
    complete = set(STAGES) <= set(stages) and not late
    goals = judge(bench.rows, about, seconds if complete else None)
    return Result(about, tuple(bench.rows), tuple(goals), seconds)


def check(stages: Iterable[str], known: Iterable[str], minutes: float) -> None:
    """Refuse unknown stages and impossible times."""
    if wrong := set(stages) - set(known):
        raise ValueError(f"stages {', '.join(sorted(wrong))}: choose from {', '.join(known)}")
    if not minutes > 0:
        raise ValueError(f"minutes={minutes}: give the run more than no time")


def _run_stage(bench: Bench, name: str, stage: Callable[[Bench], None], share: float) -> None:
    bench.stage_clock = bench.clock.part(share)
    if not bench.clock.left:
        bench.keep(Row(name, "all of it", note=OUT_OF_TIME))
        return
    try:
        stage(bench)
    except Exception as error:  # one stage must not lose the figures of the others
        bench.say(traceback.format_exc().rstrip())
        bench.keep(Row(name, "the rest", note=explain(error)))
    finally:
        bench.networks.release()
