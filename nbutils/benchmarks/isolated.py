"""Work in a process of its own: with less memory than the card has, or compiled.

``python -m nbutils.benchmarks.isolated`` reads one job as JSON from its input and answers by rows
as JSON in the last line of its output. The memory that torch may take can be limited only once for
a process, and compiling can neither be hurried nor stopped within one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nbutils.benchmarks.results import FAILED, OUT_OF_TIME, Row


def run_job(job: str, arguments: Mapping[str, Any], seconds: float) -> list[Row] | str:
    """Run a job elsewhere.

    Parameters
    ----------
    job : one of `_jobs`
    arguments : of it, as JSON can hold them
    seconds : after so many the process is ended

    Returns
    -------
    rows : or, if there are none, the reason in a few words
    """
    command = [sys.executable, "-m", "nbutils.benchmarks.isolated"]
    try:
        done = subprocess.run(
            command, input=json.dumps({"job": job, "arguments": dict(arguments)}), timeout=seconds,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return OUT_OF_TIME
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        reason = words[-1].strip() if words else f"status {done.returncode}"
        return f"{FAILED}: {reason[:160]}"
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def _jobs() -> dict[str, Any]:
    from nbutils.benchmarks import compiled, limits

    return {"limited": limits.paint_and_tell, "compiled": compiled.time_calls}


def main() -> None:
    """Read a job, do it, answer."""
    told = json.load(sys.stdin)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints stays out of the way
    rows = _jobs()[told["job"]](**told["arguments"])
    answers.write(json.dumps([asdict(row) for row in rows]) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
