"""Bytes from servers, through cut connections: our thin layer over obstore.

obstore asks once and says what happened; the attempts, the waits between them and the byte to go
on at are decided here, because what is worked on while it arrives must not start again. All
waiting ends as soon as the meter says that all work is to end.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import obstore
from obstore.exceptions import (
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import HTTPStore, S3Store

from nbutils.transfer.progress import Meter
from nbutils.transfer.waiting import await_answer

_PIECE = 128 * 1024
_HOPELESS = (FileNotFoundError, PermissionDeniedError, UnauthenticatedError)
T = TypeVar("T")
_PLAIN_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class FetchError(RuntimeError):
    """Something could not be fetched; the sentence says what, why and what to do."""


class ChangedError(FetchError):
    """The file on the server is no longer the one whose first bytes came."""


@dataclass(frozen=True)
class Retry:
    """How to go on after a failed request.

    Attributes
    ----------
    attempts : requests in a row that bring no byte, before giving up
    restarts : fresh starts of a file that arrived damaged, before giving up
    first_wait, longest_wait : seconds; the wait doubles from the first to the longest
    stall : seconds without a byte after which a connection counts as cut
    """

    attempts: int = 8
    restarts: int = 2
    first_wait: float = 0.5
    longest_wait: float = 60.0
    stall: float = 60.0

    def wait(self, failures: int) -> float:
        """Return seconds to wait after so many failures in a row, with jitter.

        Without jitter all threads that a server turned away would come back together.
        """
        longest = min(self.longest_wait, self.first_wait * 2 ** (failures - 1))
        return random.uniform(longest / 2, longest)


def client_options(retry: Retry, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return how obstore's stores are to connect.

    Parameters
    ----------
    retry : its `stall` is the time without a byte after which a connection counts as cut
    headers : sent with every request, such as an access token; a redirection to another server
        goes without it
    """
    seconds = f"{max(1, round(retry.stall))}s"
    client = {
        "allow_http": True,  # COCO has no other; its zip is held to a checksum
        "connect_timeout": seconds,
        "read_timeout": seconds,
        "timeout": "1 day",  # of a whole file, which obstore would end after 30 s
    }
    return {
        "client_options": client | ({"default_headers": dict(headers)} if headers else {}),
        "retry_config": {"max_retries": 0},
    }


def open_http(address: str, retry: Retry, headers: Mapping[str, str] | None = None) -> Remote:
    """Return a web server; keys are the paths below `address`."""
    store = HTTPStore(address.rstrip("/"), **client_options(retry, headers))
    return Remote(store, address, retry)


@dataclass(frozen=True)
class Entry:
    """One file on a server.

    Attributes
    ----------
    key : its path there
    size : bytes
    etag : the server's name for this very content, if it has one
    """

    key: str
    size: int
    etag: str | None

    @property
    def md5(self) -> str | None:
        """MD5 of the content where the ETag is one; files uploaded in parts have another."""
        plain = _PLAIN_MD5.fullmatch(self.etag or "")
        return plain.group(1) if plain else None


class Remote:
    """One server: what is there, and bytes of it.

    Parameters
    ----------
    store : obstore store
    address : what to call the server in errors
    retry : Retry
    """

    def __init__(self, store: S3Store | HTTPStore, address: str, retry: Retry) -> None:
        self._store, self.address, self.retry = store, address, retry

    def list(self, folder: str, meter: Meter) -> dict[str, Entry]:
        """List all files below a folder.

        Returns
        -------
        dict from key to Entry, without the empty keys that stand for folders
        """
        prefix = folder.rstrip("/")
        listing = lambda: obstore.list(self._store, prefix).collect_async()  # noqa: E731
        found = self._ask(lambda: await_answer(listing, meter), folder, meter)
        entries = (_entry(meta) for meta in found)
        return {entry.key: entry for entry in entries if entry.size}

    def head(self, key: str, meter: Meter) -> Entry:
        """Ask for size and ETag of one file.

        Raises
        ------
        FileNotFoundError
            If the server has no such file.
        """
        request = lambda: obstore.head_async(self._store, key)  # noqa: E731
        return _entry(self._ask(lambda: await_answer(request, meter), key, meter))

    def stream(
        self, entry: Entry, meter: Meter, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop`, going on at the byte when the connection ends.

        Raises
        ------
        ChangedError
            If the file was replaced on the server meanwhile.
        FetchError
            If `retry.attempts` requests in a row bring nothing.
        """
        at, stop, failures = start, entry.size if stop is None else stop, 0
        while at < stop:
            try:
                for piece in self._open(entry, at, stop, meter):
                    at, failures = at + len(piece), 0
                    meter.add(len(piece))
                    yield piece
                if at < stop:
                    raise EOFError(f"the answer ended at byte {at} of {stop}")
            except PreconditionError as error:
                raise ChangedError(f"{entry.key} was replaced on {self.address}") from error
            except (BaseError, OSError, EOFError) as error:
                failures += 1
                self._wait_or_give_up(error, entry.key, failures, meter)

    def read(self, entry: Entry, meter: Meter, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop` at once."""
        return b"".join(self.stream(entry, meter, start, stop))

    def read_whole(self, key: str, meter: Meter) -> tuple[bytes, Entry]:
        """Return a small file, and what the server says of it, with a single request.

        Raises
        ------
        FileNotFoundError
            If the server has no such file.
        """

        def ask() -> tuple[bytes, Entry]:
            answer = await_answer(lambda: obstore.get_async(self._store, key), meter)
            return bytes(await_answer(answer.bytes_async, meter)), _entry(answer.meta)

        content, entry = self._ask(ask, key, meter)
        meter.add(len(content))
        return content, entry

    def _open(self, entry: Entry, start: int, stop: int, meter: Meter) -> Iterator[bytes]:
        options: dict[str, Any] = {"range": (start, stop)}
        # A weak tag never matches: the server would call every file replaced.
        if entry.etag is not None and not entry.etag.startswith("W/"):
            options["if_match"] = entry.etag
        answer = await_answer(
            lambda: obstore.get_async(self._store, entry.key, options=options), meter
        )
        if answer.meta["size"] != entry.size or tuple(answer.range) != (start, stop):
            raise EOFError(
                f"asked for bytes {start} to {stop} of {entry.size}, the server offers "
                f"{tuple(answer.range)} of {answer.meta['size']}"
            )
        pieces = aiter(answer.stream(min_chunk_size=_PIECE))
        while True:
            try:
                piece = await_answer(lambda: anext(pieces), meter)
            except StopAsyncIteration:
                return
            yield piece

    def _ask(self, request: Callable[[], T], key: str, meter: Meter) -> T:
        """Make one short request until it is answered."""
        failures = 0
        while True:
            try:
                return request()
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{self.address} has no {key}") from error
            except (BaseError, OSError) as error:
                failures += 1
                self._wait_or_give_up(error, key, failures, meter)

    def _wait_or_give_up(self, error: Exception, key: str, failures: int, meter: Meter) -> None:
        hopeless = isinstance(error, _HOPELESS)
        if hopeless or failures >= self.retry.attempts:
            raise FetchError(
                f"{key} does not come from {self.address} ({_reason(error)}; {failures} attempts "
                "without a byte): check the connection and run the same command again, which goes "
                "on where this one ended"
            ) from error
        meter.wait(self.retry.wait(failures))


def _entry(meta: Any) -> Entry:
    return Entry(str(meta["path"]), int(meta["size"]), meta["e_tag"])


def _reason(error: Exception) -> str:
    """Shorten obstore's report, which goes on for pages, to its first line."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return first.rstrip(" :")[:300]
