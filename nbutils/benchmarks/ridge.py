"""Ridge at a subject's size on the device, from 16-bit features, and how exact it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nbutils.benchmarks.bench import Bench, join
from nbutils.benchmarks.counting import count_ridge
from nbutils.benchmarks.results import OUT_OF_TIME, Row
from nbutils.benchmarks.timing import free_memory, peak_memory, reset_peak, run_once
from nbutils.decoding.ridge import RidgeOperator

ALPHA_SHARE = 60_000 / 15_724
"""Published penalty of the image contexts over subject 1's voxels: alike at every size."""

CAUSES = 64
"""Random responses and features share so many causes, so that there is something to predict."""

BLOCKS = 4
"""Blocks of features in memory. They are streamed again and again: only their numbers repeat."""

CHECKED = 64
"""Targets that are predicted in float64 as well."""


def run(bench: Bench) -> None:
    """Fit, predict all targets, compare some with the textbook's equation in float64."""
    n, m, p = bench.sizes.ridge
    row = Row(
        "ridge", f"{n:,} images x {p:,} voxels, {m:,} new", dtype="float32",
        flop=count_ridge(n, m, p, bench.sizes.targets),
    )  # fmt: skip
    bench.attempt(row, partial(_predict_all, bench))


def make_responses(n: int, m: int, p: int) -> tuple[NDArray, NDArray, NDArray]:
    """Draw training and new responses of a few shared causes, and the training images' causes."""
    rng = np.random.default_rng(0)
    causes = rng.standard_normal((n + m, CAUSES), dtype=np.float32)
    responses = rng.standard_normal((n + m, p), dtype=np.float32)
    responses *= np.float32(2)
    responses += causes @ rng.standard_normal((CAUSES, p), dtype=np.float32) / CAUSES**0.5
    responses /= np.float32(5**0.5)
    return responses[:n], responses[n:], causes[:n]


def make_targets(causes: NDArray, count: int) -> NDArray:
    """Draw features (n, count) in float16 from the causes, with noise."""
    rng = np.random.default_rng(1)
    mixture = rng.standard_normal((causes.shape[1], count), dtype=np.float32) / CAUSES**0.5
    noise = rng.standard_normal((len(causes), count), dtype=np.float32)
    return ((causes @ mixture + 2 * noise) / 5**0.5).astype(np.float16)


def _predict_all(bench: Bench, row: Row) -> Row:
    sizes = bench.sizes
    n, m, p = sizes.ridge
    train, new, causes = make_responses(n, m, p)
    targets = make_targets(causes, min(sizes.targets, BLOCKS * sizes.block))
    alpha = ALPHA_SHARE * p
    free_memory(bench.device)
    reset_peak(bench.device)
    held: dict[str, Any] = {}
    fit = run_once(lambda: held.update(_fit(bench, train, new, alpha)), bench.device)
    streamed, done = _stream(bench, held, targets)
    memory = peak_memory(bench.device)
    few = np.ascontiguousarray(targets[:, :CHECKED])
    ours = held["ridge"].predict(new, few, alpha)
    held.clear()  # the check in float64 needs the device's memory
    free_memory(bench.device)
    error = compare(ours, train, new, few, alpha, bench.device)
    note = "" if done == sizes.targets else (
        f"{done:,} of {sizes.targets:,} targets, the others {OUT_OF_TIME}"
    )  # fmt: skip
    return replace(
        row, seconds=fit + streamed, repeats=1, memory=memory, note=join(row.note, note),
        flop=count_ridge(n, m, p, done),
        figures={"fit s": fit, "targets": done, "rms difference": error},
    )  # fmt: skip


def _fit(bench: Bench, train: NDArray, new: NDArray, alpha: float) -> dict[str, Any]:
    ridge = RidgeOperator(train, device=str(bench.device))
    return {"ridge": ridge, "operator": ridge.operator(new, alpha)}


def _stream(bench: Bench, held: dict[str, Any], targets: NDArray) -> tuple[float, int]:
    """Predict the targets, the same features again and again, until all are done or time is up."""
    seconds, done, all_of_them = 0.0, 0, bench.sizes.targets
    while done < all_of_them and (not done or bench.stage_clock.left > 0):
        part = targets[:, : min(targets.shape[1], all_of_them - done)]
        seconds += run_once(_pass(bench, held, part), bench.device)
        done += part.shape[1]
    return seconds, done


def _pass(bench: Bench, held: dict[str, Any], part: NDArray) -> Callable[[], None]:
    def run() -> None:
        for _ in held["ridge"].stream(held["operator"], part, block=bench.sizes.block):
            pass  # whoever wants the predictions takes them block by block

    return run


def compare(
    ours: NDArray,
    train: NDArray,
    new: NDArray,
    targets: NDArray,
    alpha: float,
    device: torch.device,
) -> float:
    """Return the rms difference to the textbook's equation in float64, over its predictions' std.

    ``Y_hat = y_mean + (x - x_mean) Xᵀ (X Xᵀ + alpha I)⁻¹ (Y - y_mean)``, X centred.
    """

    def up(values: NDArray) -> torch.Tensor:
        return torch.from_numpy(values).to(device, torch.float64)

    x, y = up(train), up(targets)
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x -= x_mean
    kernel = x @ x.T
    kernel.diagonal().add_(alpha)
    dual = torch.cholesky_solve(y - y_mean, torch.linalg.cholesky(kernel))
    exact = (up(new) - x_mean) @ (x.T @ dual)
    return float((up(ours) - y_mean - exact).square().mean().sqrt() / exact.std())
