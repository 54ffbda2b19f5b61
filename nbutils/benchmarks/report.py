"""A benchmark's result as Markdown tables, and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from nbutils.benchmarks import machine
from nbutils.benchmarks.results import Goal, Row, gemm_rates, share
from nbutils.benchmarks.run import Result

TITLES = {
    "gemm": "matrix product",
    "unet": "image U-Net, one call with guidance and both contexts",
    "images": "whole images",
    "loop": "the loop alone",
    "captions": "captions",
    "encoders": "encoders and decoders",
    "ridge": "ridge, all targets from float16 features",
    "limits": "process limited to (loading included)",
}
"""Stage -> head of its table; other stages are called by their names."""


def write_markdown(result: Result) -> list[str]:
    """Write the machine, a table for each stage, and the goals."""
    rates = gemm_rates(result.rows)
    lines = [f"{machine.in_words(result.machine)}; {result.seconds:.0f} s in all.", ""]
    for stage in dict.fromkeys(row.stage for row in result.rows):
        lines += tabulate_stage(stage, [r for r in result.rows if r.stage == stage], rates)
    return lines + tabulate_goals(result.goals)


def tabulate_stage(stage: str, rows: Sequence[Row], rates: Mapping[str, float]) -> list[str]:
    """Write the table of one stage; columns that no row fills are left out."""
    order = list(dict.fromkeys(row.name for row in rows))
    rows = sorted(rows, key=lambda row: (order.index(row.name), row.batch or 0))
    figures = dict.fromkeys(name for row in rows for name in row.figures)
    columns = {
        "batch": [number(row.batch) for row in rows],
        "precision": [row.dtype for row in rows],
        "s": [number(row.seconds) for row in rows],
        "TFLOP/s": [number(row.rate and row.rate / 1e12) for row in rows],
        "of GEMM": [number(share(row, rates)) for row in rows],
        "peak GB": [number(row.memory and row.memory / 1e9) for row in rows],
        **{name: [number(row.figures.get(name)) for row in rows] for name in figures},
        "note": [row.note for row in rows],
    }
    used = {head: cells for head, cells in columns.items() if any(cells)}
    names = [row.name for row in rows]
    return table((TITLES.get(stage, stage), *used), list(zip(names, *used.values(), strict=True)))


def tabulate_goals(goals: Sequence[Goal]) -> list[str]:
    """Write the goals, what was found and whether that meets them."""
    rows = [
        (
            goal.text, f"{'at most' if goal.at_most else 'at least'} {number(goal.limit)}",
            number(goal.found), goal.verdict,
        )
        for goal in goals
    ]  # fmt: skip
    return table(("goal", "asked", "found", ""), rows)


def number(value: float | None) -> str:
    """Three digits that count; whole numbers whole, and nothing for None."""
    if value is None:
        return ""
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Write a Markdown table; all columns but the first are right-aligned."""
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)] + [""]


def write_json(result: Result, path: str | Path) -> Path:
    """Write everything as JSON, whole or not at all."""
    path = Path(path)
    rates = gemm_rates(result.rows)
    document = {
        "machine": result.machine,
        "seconds": result.seconds,
        "rows": [
            asdict(row) | {"flop_per_s": row.rate, "share_of_gemm": share(row, rates)}
            for row in result.rows
        ],
        "goals": [asdict(goal) | {"verdict": goal.verdict} for goal in result.goals],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path
