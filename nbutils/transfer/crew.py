"""Work on several threads that ends together: when all is done, or one fails, or at Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from nbutils.transfer.progress import Meter, Stopped

Job = Callable[[], object]


def run(groups: Iterable[tuple[int, list[Job]]], meter: Meter) -> None:
    """Do all jobs.

    Parameters
    ----------
    groups : (threads, jobs), all groups at the same time
    meter : told to stop when a job fails, so that the others end, whatever they wait for

    Raises
    ------
    The first error of a job
    """
    with ExitStack() as stack:
        futures: list[Future] = []
        try:
            for threads, jobs in groups:
                pool = stack.enter_context(ThreadPoolExecutor(max(1, threads)))
                futures += [pool.submit(job) for job in jobs]
            wait(futures, return_when=FIRST_EXCEPTION)
            _raise_first(futures)
        except BaseException:
            meter.stop()
            for future in futures:
                future.cancel()
            raise


def _raise_first(futures: list[Future]) -> None:
    errors = [
        error
        for future in futures
        if future.done() and not future.cancelled() and (error := future.exception())
    ]
    for error in sorted(errors, key=lambda one: isinstance(one, Stopped)):
        raise error
