"""Measure speed as ratios within one run: ``make bench`` prints the tables of BENCHMARKS.md.

Every stage does one thing in several ways, interleaved, each way in a process of its own on one
thread, and prints how far the results lie apart. CPU times count, for wall times depend on what
else runs; no test asserts either. ``make bench-full`` does the same at NSD's size; see ``full.py``.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from pathlib import Path

from timing import describe_machine

STAGES = {
    "ridge": "ridge",
    "alphas": "alphas",
    "loading": "loading",
    "identification": "identification",
    "ssim": "similarity",
    "sampler": "sampler",
}


def main() -> None:
    """Run the stages and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(STAGES), help="stages, with commas between")
    parser.add_argument("--size", choices=("usual", "tiny"), default="usual")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(STAGES):
        parser.error(f"--only {', '.join(sorted(unknown))}: choose from {', '.join(STAGES)}.")
    print(f"{describe_machine()}.\n", flush=True)
    for stage in options.only.split(","):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            module = importlib.import_module(STAGES[stage])
            print("\n".join(module.report(Path(folder), options.size)), flush=True)
        print(f"({stage}: {time.perf_counter() - started:.0f} s of wall time.)\n", flush=True)
    print(f"{describe_machine()}.")


if __name__ == "__main__":
    main()
