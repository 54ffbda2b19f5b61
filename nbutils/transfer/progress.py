"""One bar in bytes for everything that is fetched, which also is how work is told to stop."""

from __future__ import annotations

import threading

from tqdm.auto import tqdm


class Stopped(Exception):
    """Other work failed or the user pressed Ctrl-C, so this work ends early."""


class Meter:
    """Counts bytes over the network from all threads.

    Parameters
    ----------
    progress : show a bar with rate and time left
    """

    def __init__(self, progress: bool) -> None:
        self._bar = tqdm(
            total=0, unit="B", unit_scale=True, unit_divisor=1000, smoothing=0.05,
            desc="fetch", disable=not progress,
        )  # fmt: skip
        self._lock, self._stop, self.n_bytes = threading.Lock(), threading.Event(), 0

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def expect(self, n_bytes: int) -> None:
        """Add to what is still to come."""
        with self._lock:
            self._bar.total += n_bytes
            self._bar.refresh()

    def add(self, n_bytes: int) -> None:
        """Count bytes that arrived; a negative number takes back what has to come again.

        Raises
        ------
        Stopped
            If all work is to end.
        """
        with self._lock:
            self.n_bytes += max(n_bytes, 0)
            try:
                self._bar.update(n_bytes)
                self._bar.total = max(self._bar.total, self._bar.n)
            except OSError:  # nobody reads it any more: no fault of the connection
                self._bar.disable = True
        self.check()

    def name(self, text: str) -> None:
        """Say what is being fetched."""
        self._bar.set_description(text)

    def stop(self) -> None:
        """Tell all threads to end, at once where they wait for a server or to try again."""
        self._stop.set()

    def check(self) -> None:
        """Raise `Stopped` if all work is to end."""
        if self._stop.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Wait before another attempt; raise `Stopped` as soon as all work is to end."""
        self._stop.wait(seconds)
        self.check()
