"""Waiting for servers such that an interruption takes effect though the server says nothing.

obstore's synchronous calls come back when the server speaks or when its time is up, a minute later.
So its asynchronous ones are used: they run on one thread of the process, and whoever waits for one
looks several times a second whether all work is to end, and then gives the request up.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import wait
from typing import TypeVar

from nbutils.transfer.progress import Meter

_LOOK = 0.1
"""Seconds from one look to the next."""
_RELEASE = 1.0
"""Seconds that obstore gets to let go of a request that was given up; it takes milliseconds."""
_STARTING = threading.Lock()
"""Held while the loop is looked for, or each thread that comes first would start one."""
T = TypeVar("T")


def await_answer(request: Callable[[], Awaitable[T]], meter: Meter) -> T:
    """Make an asynchronous request and wait for its answer, or until all work is to end.

    Parameters
    ----------
    request : makes obstore's awaitable, where an event loop runs
    meter : says whether all work is to end

    Raises
    ------
    Stopped
        If all work is to end; the request is given up then, as it is at Ctrl-C.
    """
    asked: list[weakref.ref] = []
    ended = threading.Event()

    async def ask() -> T:
        answer = None
        try:
            answer = request()
            asked.append(weakref.ref(answer))
            return await answer
        finally:
            del answer  # or the traceback of the cancelled wait would keep it
            ended.set()

    meter.check()
    future = asyncio.run_coroutine_threadsafe(ask(), _find_loop())
    try:
        while not wait([future], _LOOK).done:
            meter.check()
    except BaseException:
        future.cancel()
        _await_release(ended, asked)
        raise
    return future.result()


def _await_release(ended: threading.Event, asked: list[weakref.ref]) -> None:
    """Wait until obstore's own thread is done with a request that was given up.

    It speaks to Python once more then, which ends in a crash if Python has ended before. A request
    that was given up before it was sent is still sent: asyncio starts a task, then cancels it.
    """
    until = time.monotonic() + _RELEASE
    ended.wait(_RELEASE)
    while any(one() is not None for one in asked) and time.monotonic() < until:
        time.sleep(0.002)


def _find_loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process."""
    with _STARTING:
        return _start_loop()


@functools.cache
def _start_loop() -> asyncio.AbstractEventLoop:
    """Start the loop; its thread only waits, so it need not be ended."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="nbutils-transfer", daemon=True).start()
    return loop
