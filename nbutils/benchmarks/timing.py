"""Clocks and memory: how long a piece of work takes on a device, and what it holds at its peak."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Clock:
    """Time that may be spent, and what is left of it.

    Parameters
    ----------
    seconds : to spend from now on
    now : tells the time in seconds; another one in tests
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.perf_counter) -> None:
        self.now, self.started, self.seconds = now, now(), float(seconds)

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self.now() - self.started

    @property
    def left(self) -> float:
        """Seconds that are left, 0 at the least."""
        return max(0.0, self.seconds - self.spent)

    def part(self, share: float) -> Clock:
        """A clock for one stage: a share of the whole time, but no more than is left."""
        return Clock(min(self.left, share * self.seconds), self.now)


@dataclass(frozen=True)
class Timing:
    """What the repeats of one piece of work took.

    Parameters
    ----------
    seconds : of each repeat, see `run_once`
    memory : bytes held at the peak, first run included (see `peak_memory`); None if not known
    warm : whether a run that does not count went before; without time for two there is none
    """

    seconds: tuple[float, ...]
    memory: int | None = None
    warm: bool = True

    @property
    def least(self) -> float:
        """Seconds of the fastest repeat."""
        return min(self.seconds)


def measure(
    work: Callable[[], Any],
    device: torch.device,
    clock: Clock,
    *,
    repeats: int = 20,
    enough: float = 2.0,
) -> Timing:
    """Run a piece of work once to warm up, then several times on the clock.

    Parameters
    ----------
    work : what to time; its result is dropped
    device : where it runs; the clock stops when the device has finished
    clock : no repeat begins that would probably end after it
    repeats : at most so many
    enough : no further repeat after so many seconds of them
    """
    free_memory(device)
    reset_peak(device)
    before = clock.left
    first = run_once(work, device)
    needed = before - clock.left
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < enough and clock.left > needed:
        seconds.append(run_once(work, device))
    return Timing(tuple(seconds) or (first,), peak_memory(device), warm=bool(seconds))


def run_once(work: Callable[[], Any], device: torch.device) -> float:
    """Run a piece of work and return the seconds it took.

    On a GPU, which is this program's alone, those of the wall clock until the device has finished.
    On a CPU those of the processor over the number of threads, for other programs there would
    make the others longer.
    """
    wait_for(device)
    wall, processor = time.perf_counter(), time.process_time()
    work()
    wait_for(device)
    if device.type == "cpu":
        return (time.process_time() - processor) / torch.get_num_threads()
    return time.perf_counter() - wall


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> None:
    """Give unused GPU memory back, so that the next peak is that of the next piece of work."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    """Forget the peak so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes held since `reset_peak`.

    On a GPU what torch's allocator took from the card, weights included and CUDA's own context
    not; on a CPU what the whole process had in memory. None where the system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if not _STATUS.exists():
        return None
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", _STATUS.read_text()).group(1))
