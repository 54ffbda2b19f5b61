"""Time variants in turn, each in a process of its own, and write tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median

import numpy as np

# Several BLAS threads wait for one another on busy cores, which makes timings meaningless.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Timing:
    """What one variant took in every round, and where its result lies."""

    result: Path
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)

    @property
    def least(self) -> float:
        """Least CPU time, s."""
        return min(self.cpu)

    @property
    def extra(self) -> float:
        """Memory of the first round beyond the inputs, MB; later rounds reuse some of it."""
        return self.memory[0]

    def value(self) -> np.ndarray:
        """Load the result."""
        return np.load(self.result)


class Worker:
    """A process that waits to run one variant."""

    def __init__(self, stage: str, variant: str, folder: Path, threads: int = 1) -> None:
        script = Path(__file__).with_name("worker.py")
        limits = dict.fromkeys(THREADS, str(threads))
        self.name, self.timing = f"{stage} {variant}", Timing(folder / f"result_{variant}.npy")
        self.process = subprocess.Popen(
            [sys.executable, str(script), stage, variant, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **limits},
        )  # fmt: skip

    def wait(self) -> None:
        """Wait until the inputs are loaded."""
        self._answer()

    def run(self) -> None:
        """Run once."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        for key, value in json.loads(self._answer()).items():
            getattr(self.timing, key).append(value)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self.process.wait()}; see above.")
        return line


def interleave(
    stage: str, folder: Path, repeats: Mapping[str, int], threads: int = 1
) -> dict[str, Timing]:
    """Run the variants in turn: all once, all twice, and so on.

    Parameters
    ----------
    stage : module with ``VARIANTS``, name -> function that loads inputs and returns what to time
    folder : inputs, and where the results go
    repeats : variant -> rounds it takes part in
    threads : of BLAS
    """
    workers: dict[str, Worker] = {}
    try:
        for variant in repeats:
            workers[variant] = Worker(stage, variant, folder, threads)
        for worker in workers.values():  # libraries are imported side by side
            worker.wait()
        for turn in range(max(repeats.values())):
            for variant, worker in workers.items():
                if turn < repeats[variant]:
                    worker.run()
    finally:
        for worker in workers.values():
            worker.close()
    return {variant: worker.timing for variant, worker in workers.items()}


def compare(
    title: str,
    timings: Mapping[str, Timing],
    names: Mapping[str, str],
    ours: str,
    goals: Mapping[str, str],
    notes: Mapping[str, str],
    note: str = "difference",
) -> list[str]:
    """Table of variants: seconds, how many times those of `ours`, goal, memory, and a note."""
    least = timings[ours].least
    rows = [
        (
            names[key], f"{t.least:.3f} ({median(t.cpu):.3f})", f"{t.least / least:.1f}",
            goals.get(key, ""), f"{t.extra:.0f}", notes.get(key, ""),
        )
        for key, t in timings.items() if key in names
    ]  # fmt: skip
    head = (title, "CPU s, least (median)", "times ours", "goal", "memory, MB", note)
    return table(head, rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Write a Markdown table; all columns but the first are right-aligned."""
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)] + [""]


def differ(timing: Timing, reference: np.ndarray) -> str:
    """Largest and rms difference to a reference, in units of its standard deviation."""
    error = timing.value().astype(np.float64) - reference
    return f"max {np.abs(error).max():.1e}, rms {error.std() / reference.std():.1e}"


def describe_machine() -> str:
    """One line: date, processor, cores, Python, load."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        found = [x.partition(":")[2] for x in info.read_text().splitlines() if "model name" in x]
        model = found[0].strip() if found else model
    load = " ".join(f"{x:.1f}" for x in os.getloadavg()) if hasattr(os, "getloadavg") else "?"
    return (
        f"{date.today()}, {model}, {os.cpu_count()} cores, {platform.system()}, Python "
        f"{platform.python_version()}, load average {load}"
    )
