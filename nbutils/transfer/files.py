"""Whole files: into a ``.part`` beside the target, to the byte, checked, then renamed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from nbutils.transfer.ledger import Ledger, hash_file
from nbutils.transfer.progress import Meter
from nbutils.transfer.transport import ChangedError, Entry, FetchError, Remote

_BLOCK = 2**20
Result = TypeVar("Result")
Check = Callable[[Path, str, str], bool]
"""Reads a whole file (path, the name it will have, its SHA-256), raises `DamagedError` or
`ForeignError` if it is not as it should be, and returns whether its content could tell."""


class DamagedError(FetchError):
    """What arrived is not what the server says it is, or cannot be read."""


class ForeignError(FetchError):
    """A whole file came, and it is another one than the one that was wanted."""


def trust(path: Path, name: str, sha256: str) -> bool:
    """Take any content: a `Check` for files that nothing is known of."""
    return False


def restarting(
    remote: Remote, entry: Entry, meter: Meter, work: Callable[[Entry], Result]
) -> Result:
    """Do `work` with a file of the server, from its start again if it came damaged or changed.

    Raises
    ------
    FetchError
        If it comes damaged or changes more than `retry.restarts` times.
    """
    for left in range(remote.retry.restarts, -1, -1):
        try:
            return work(entry)
        except (ChangedError, DamagedError) as error:
            if not left:
                raise FetchError(
                    f"{error} (after {remote.retry.restarts + 1} attempts): the file on "
                    f"{remote.address} or the connection to it is damaged; run the same command "
                    "again later, and if that does not help tell whoever keeps the server"
                ) from error
            meter.wait(remote.retry.wait(1))
            entry = remote.head(entry.key, meter)
    raise AssertionError("unreachable")


def fetch_file(
    remote: Remote, entry: Entry, path: Path, ledger: Ledger, meter: Meter, check: Check = trust
) -> Path:
    """Fetch one file unless it is there and whole.

    Parameters
    ----------
    remote, entry : the server, and what it says of the file
    path : where to put it
    ledger : gets its SHA-256
    meter : counts the bytes
    check : looks at the content before the file gets its name

    Returns
    -------
    `path`

    Raises
    ------
    FetchError
        If it does not come, comes damaged again and again, or is another file.
    """
    if ledger.whole(path, entry) or _adopt(entry, path, ledger, check):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    restarting(
        remote, entry, meter, lambda now: _fetch_once(remote, now, path, ledger, meter, check)
    )
    return path


def part_path(path: Path, entry: Entry) -> Path:
    """Return where a file grows; another content on the server has another name here."""
    tag = hashlib.sha256(f"{entry.key} {entry.size} {entry.etag}".encode()).hexdigest()[:10]
    return path.with_name(f".{path.name}.{tag}.part")


def pieces_of(path: Path) -> Iterator[bytes]:
    """Yield the content of a file on disk in blocks."""
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _adopt(entry: Entry, path: Path, ledger: Ledger, check: Check) -> bool:
    """Take a file that someone put there by other means, if its MD5 is the server's.

    Files uploaded in parts have no MD5 there; of these size and what the content says of itself.
    """
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    if entry.md5 is None and ledger.name(path) in ledger.records:
        return False
    if entry.md5 is not None and hash_file(path, "md5") != entry.md5:
        return False
    sha256 = hash_file(path)
    try:
        if entry.md5 is None and not check(path, path.name, sha256):
            return False
    except (DamagedError, ForeignError):
        return False
    ledger.add(path, sha256, entry)
    return True


def _fetch_once(
    remote: Remote, entry: Entry, path: Path, ledger: Ledger, meter: Meter, check: Check
) -> None:
    part = part_path(path, entry)
    for stale in path.parent.glob(f".{path.name}.*.part"):
        if stale != part:
            stale.unlink()
    if entry.etag is None:  # nothing would say whether the rest belongs to the beginning
        part.unlink(missing_ok=True)
    try:
        sha256 = _grow(remote, entry, part, meter)
        check(part, path.name, sha256)
    except (ChangedError, DamagedError, ForeignError):
        meter.add(-min(part.stat().st_size, entry.size) if part.exists() else 0)
        part.unlink(missing_ok=True)
        raise
    os.replace(part, path)
    ledger.add(path, sha256, entry)


def _grow(remote: Remote, entry: Entry, part: Path, meter: Meter) -> str:
    """Add the missing bytes to a part; return the SHA-256 of the whole."""
    digest, sha256 = Fingerprint(entry), hashlib.sha256()
    with open(part, "ab") as file:
        for block in digest.watch(pieces_of(part)):
            sha256.update(block)
            meter.check()  # gigabytes take a while
        meter.add(digest.n_bytes)
        for piece in digest.watch(remote.stream(entry, meter, start=digest.n_bytes)):
            file.write(piece)
            sha256.update(piece)
        file.flush()
        os.fsync(file.fileno())
    digest.verify()
    return sha256.hexdigest()


class Fingerprint:
    """Length and MD5 of bytes that pass by, to compare with what the server says of them.

    Parameters
    ----------
    entry : what the server says of them
    """

    def __init__(self, entry: Entry) -> None:
        self.entry, self.n_bytes = entry, 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, piece: bytes) -> None:
        """Take in the next bytes."""
        self.n_bytes += len(piece)
        if self.entry.md5 is not None:
            self._md5.update(piece)

    def watch(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Pass bytes on, taking them in."""
        for piece in pieces:
            self.update(piece)
            yield piece

    def matches(self) -> bool:
        """Return whether MD5 says that these are the server's bytes (False where it has none)."""
        return self.entry.md5 is not None and self._md5.hexdigest() == self.entry.md5

    def verify(self) -> None:
        """Compare with what the server says.

        Raises
        ------
        DamagedError
            If length or MD5 differ.
        """
        if self.n_bytes != self.entry.size:
            raise DamagedError(
                f"{self.entry.key} came with {self.n_bytes} of {self.entry.size} bytes"
            )
        if self.entry.md5 is not None and not self.matches():
            raise DamagedError(f"{self.entry.key} does not have the MD5 that the server states")
