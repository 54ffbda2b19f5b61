"""What a benchmark found: rows of figures, and goals that are met, missed or not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OUT_OF_TIME = "not measured (out of time)"
OUT_OF_MEMORY = "out of memory"
STOPPED = "not measured (stopped)"
FAILED = "failed"


@dataclass(frozen=True)
class Row:
    """One line of a table: a piece of work and what it took.

    Parameters
    ----------
    stage : which table
    name : what was done
    batch : images, or captions, at a time
    dtype : precision of the arithmetic, such as "float16"; says which GEMM it is held against
    seconds : of the fastest repeat, see `timing.run_once`; None if there is no figure
    repeats : how many there were
    median : seconds of the repeat in the middle
    flop : floating-point operations of one repeat, 2 to a multiply-add, counted
    memory : bytes at the peak
    figures : further numbers by name
    note : why there is no figure, or what to know about it
    """

    stage: str
    name: str
    batch: int | None = None
    dtype: str = ""
    seconds: float | None = None
    repeats: int = 0
    median: float | None = None
    flop: float | None = None
    memory: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def rate(self) -> float | None:
        """Operations per second."""
        return self.flop / self.seconds if self.flop and self.seconds else None


def gemm_rates(rows: Sequence[Row]) -> dict[str, float]:
    """Fastest matrix product of the run in each precision, operations per second."""
    best: dict[str, float] = {}
    for row in rows:
        if row.stage == "gemm" and row.rate:
            best[row.dtype] = max(best.get(row.dtype, 0.0), row.rate)
    return best


def share(row: Row, rates: Mapping[str, float]) -> float | None:
    """Rate of a row as a share of the same run's matrix product in the same precision."""
    peak = rates.get(row.dtype)
    return row.rate / peak if row.rate and peak else None


@dataclass(frozen=True)
class Goal:
    """A figure that a run is held to.

    Parameters
    ----------
    text : what is asked
    limit : of the figure
    at_most : whether the figure must stay below the limit, or reach it
    found : the figure; None if this run did not measure it
    """

    text: str
    limit: float
    at_most: bool
    found: float | None = None

    @property
    def verdict(self) -> str:
        """Return "met", "missed" or "not measured"."""
        if self.found is None:
            return "not measured"
        reached = self.found <= self.limit if self.at_most else self.found >= self.limit
        return "met" if reached else "missed"


def judge(rows: Sequence[Row], machine: Mapping[str, Any], seconds: float | None) -> list[Goal]:
    """Hold the rows of a run to the goals.

    Parameters
    ----------
    rows : of all stages
    machine : "gpu", whether it was a GPU, and "published", whether sizes were the published ones;
        speed and memory of the published networks are goals for a GPU alone
    seconds : of the whole run; None if it did not get to all of its stages
    """
    real = machine["gpu"] and machine["published"]
    on_gpu = list(rows) if real else []
    calls = [row for row in on_gpu if row.stage == "unet"]
    shares = [share(row, gemm_rates(rows)) for row in calls if row.batch == 16]
    loops = [row.figures.get("of calls") for row in rows if row.stage == "loop"]
    errors = [row.figures.get("rms difference") for row in rows if row.stage == "ridge"]
    limited = [row.figures.get("completed") for row in on_gpu if row.name.startswith("4 GB")]
    return [
        Goal("the loop, times its bare U-Net calls", 1.05, True, _of(max, loops)),
        Goal("U-Net, batch 16, share of the GEMM rate", 0.5, False, _of(max, shares)),
        Goal("batch 16 over one by one in plain attention, speed", 4, False, _speedup(calls)),
        Goal("one image with AutoKL, batch 1, peak GB", 3.6, True, _peak(on_gpu, 1)),
        Goal("images with AutoKL, batch 16, peak GB", 12, True, _peak(on_gpu, 16)),
        Goal("a process limited to 4 GB completes (1 = yes)", 1, False, _worst(limited)),
        Goal("ridge, rms difference to float64 / std", 1e-5, True, _of(max, errors)),
        Goal("the whole run, minutes", 8, True, seconds / 60 if real and seconds else None),
    ]


def _of(choose: Any, found: Sequence[float | None]) -> float | None:
    known = [value for value in found if value is not None]
    return choose(known) if known else None


def _worst(found: Sequence[float | None]) -> float | None:
    """Return the least of the figures, if none is missing."""
    return None if not found or None in found else min(found)


def _speedup(calls: Sequence[Row]) -> float | None:
    """Images per second, batch 16 at its fastest over batch 1 with plain attention."""
    many = _of(min, [row.seconds for row in calls if row.batch == 16])
    one = [row.seconds for row in calls if row.batch == 1 and row.name == "plain attention"]
    single = _of(min, one)
    return 16 * single / many if many and single else None


def _peak(rows: Sequence[Row], batch: int) -> float | None:
    """GB at the peak of whole images in batches of this size."""
    found = [row.memory for row in rows if row.stage == "images" and row.batch == batch]
    bytes_held = _of(max, found)
    return None if bytes_held is None else bytes_held / 1e9
