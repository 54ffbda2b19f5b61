"""One run of the benchmark: its networks, its clock and its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

from nbutils.benchmarks.counting import Counts
from nbutils.benchmarks.results import FAILED, OUT_OF_MEMORY, OUT_OF_TIME, Row
from nbutils.benchmarks.sizes import Sizes
from nbutils.benchmarks.timing import Clock, free_memory, measure
from nbutils.networks.loading import Networks, is_out_of_memory
from nbutils.world import find_world


@dataclass
class Bench:
    """What every stage needs, and where it leaves its rows.

    Parameters
    ----------
    networks : to be timed, all on one device
    sizes : how much of everything
    clock : of the whole run; each stage gets a share of it in `stage_clock`
    say : takes one line of progress
    """

    networks: Networks
    sizes: Sizes
    clock: Clock
    say: Callable[[str], None] = lambda line: None
    rows: list[Row] = field(default_factory=list)
    stage_clock: Clock = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.stage_clock = self.stage_clock or self.clock

    @property
    def counts(self) -> Counts:
        """Operations of the networks."""
        return Counts(self.networks.config, find_world(self.sizes.world).vdvae_layers)

    @property
    def device(self) -> torch.device:
        """Where the networks live."""
        return self.networks.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the networks."""
        return self.networks.dtype

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Standard normal numbers on the device, always the same ones."""
        generator = torch.Generator(self.device).manual_seed(0)
        values = torch.randn(shape, generator=generator, device=self.device)
        return values.to(dtype or self.dtype)

    def time(self, row: Row, prepare: Callable[[], Callable[[], Any]]) -> Row:
        """Time one piece of work and keep its row, whether it ran or not.

        Parameters
        ----------
        row : stage, name, batch, precision (by default the networks'), operations
        prepare : makes the inputs and returns what to time
        """

        def run(row: Row) -> Row:
            timing = measure(prepare(), self.device, self.stage_clock, repeats=self.sizes.repeats)
            note = row.note if timing.warm else join(row.note, "one cold run")
            return replace(
                row, seconds=timing.least, repeats=len(timing.seconds), memory=timing.memory,
                median=median(timing.seconds), note=note,
            )  # fmt: skip

        return self.attempt(row, run)

    def attempt(self, row: Row, run: Callable[[Row], Row]) -> Row:
        """Fill a row and keep it; where that fails, keep it with the reason.

        What could not end in the time left at the best rate of this run so far is not begun.
        """
        row = row if row.dtype else replace(row, dtype=name_of(self.dtype))
        if self.stage_clock.left <= self._expect(row):
            return self.keep(replace(row, note=join(row.note, OUT_OF_TIME)))
        try:
            with torch.no_grad():
                return self.keep(run(row))
        except (RuntimeError, MemoryError) as error:
            reason = explain(error)
        # Outside of the except clause: the traceback held every tensor of the failed work.
        free_memory(self.device)
        return self.keep(replace(row, note=join(row.note, reason)))

    def _expect(self, row: Row) -> float:
        """Return the seconds that a row takes at least, as far as this run can tell."""
        like = [one for one in self.rows if one.rate and one.dtype == row.dtype]
        others = [one.rate for one in like if one.stage != "gemm"]
        best = max(others or [one.rate for one in like], default=None)
        return row.flop / best if best and row.flop else 0.0

    def keep(self, row: Row) -> Row:
        """Add a row to the run and say what it found."""
        self.rows.append(row)
        found = row.note if row.seconds is None else f"{row.seconds:.4g} s"
        batch = "" if row.batch is None else f", batch {row.batch}"
        self.say(f"[{self.clock.spent:4.0f} s] {row.stage}: {row.name}{batch}: {found}")
        return row


def explain(error: Exception) -> str:
    """Say in a few words why there is no figure: no memory, or a failure and its first line."""
    if isinstance(error, MemoryError) or is_out_of_memory(error):
        return OUT_OF_MEMORY
    return f"{FAILED}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"


def join(*notes: str) -> str:
    """Join the notes that are not empty."""
    return "; ".join(note for note in notes if note)


def name_of(dtype: torch.dtype) -> str:
    """Name of a precision, without "torch."."""
    return str(dtype).removeprefix("torch.")
