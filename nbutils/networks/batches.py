"""Work through many items in batches that the memory plan allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from tqdm.auto import tqdm

from nbutils.networks.memory import MemoryPlan

T = TypeVar("T")


def batches(n: int, size: int, name: str, progress: bool) -> Iterator[slice]:
    """Slices of `size` rows that cover n rows, with a progress bar that counts rows.

    Raises
    ------
    ValueError : a size below 1
    """
    if size < 1:
        raise ValueError(f"batch_size={size}: process at least one item at a time.")
    with tqdm(total=n, desc=name, disable=not progress) as bar:
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            yield rows
            bar.update(rows.stop - rows.start)


def run_batches(
    networks: Any,
    n: int,
    batch_size: int,
    work: Callable[[slice, MemoryPlan], T],
    *,
    limit: str = "image_batch",
    name: str = "",
    progress: bool = False,
) -> list[T]:
    """Run some work on every batch of n items; without memory for it, on smaller batches.

    Parameters
    ----------
    networks : `nbutils.networks.loading.Networks`
    n : items
    batch_size : items at a time, if the plan allows so many
    work : ``work(rows, plan)``; it asks `networks` for what it needs, and may run again
    limit : which batch of the plan bounds this work: "image_batch", "encode_batch" or
        "decode_batch"
    name, progress : of the progress bar

    Returns
    -------
    results : of the batches, in order

    Raises
    ------
    MemoryError : even the smallest plan ran out
    """
    results: list[T] = []
    for rows in batches(n, min(batch_size, getattr(networks.plan, limit)), name, progress):

        def run(plan: MemoryPlan, rows: slice = rows) -> list[T]:
            # After a fall-back the plan is smaller than when the batch was cut.
            step = getattr(plan, limit)
            starts = range(rows.start, rows.stop, step)
            return [work(slice(k, min(k + step, rows.stop)), plan) for k in starts]

        results += networks.attempt(run)
    return results
