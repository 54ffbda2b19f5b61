"""Run one variant of one stage in a process of its own, once for every line that comes in.

``python worker.py STAGE VARIANT FOLDER`` loads the inputs that the stage put into the folder,
then answers each line on standard input by one line of JSON: CPU and wall seconds of the run, and
the most memory it took beyond what was resident before it, in MB.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from pathlib import Path

import numpy as np

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> float:
    """Return the memory of this process now, MB."""
    return _memory("VmRSS")


def reset_peak() -> None:
    """Forget the peak so far; the peak of `getrusage` would keep that of the parent process."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def peak() -> float:
    """Return the most memory this process has had since `reset_peak`, MB."""
    return _memory("VmHWM")


def _memory(field: str) -> float:
    if _STATUS.exists():
        return int(re.search(rf"{field}:\s+(\d+)", _STATUS.read_text()).group(1)) / 1024
    import resource  # elsewhere only the peak of the whole process is known

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def serve(stage: str, variant: str, folder: Path) -> None:
    """Load the inputs, then run at every line."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints stays out of the way
    run = importlib.import_module(stage).VARIANTS[variant](folder)
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        before = resident()
        reset_peak()
        cpu, wall = time.process_time(), time.perf_counter()
        result = run()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        answer = {"cpu": cpu, "wall": wall, "memory": peak() - before, "peak": peak()}
        if result is not None:
            np.save(folder / f"result_{variant}.npy", result)
        del result
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
