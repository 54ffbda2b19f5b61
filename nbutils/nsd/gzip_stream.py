"""Uncompress gzip bytes while they arrive, from a file or from a connection.

zlib-ng inflates two to three times as fast as the zlib that Python is built with, and isal nearly
so; both are optional and give the same bytes. All three write into memory that the caller gives,
follow files of several gzip members, and compare checksum and length at the end of each.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterable
from typing import IO

_FAST: dict[str, Callable[..., IO[bytes]]] = {}
crc32: Callable[..., int] = zlib.crc32
"""gzip's checksum by the fastest library."""
_ERRORS: list[type[Exception]] = [EOFError, gzip.BadGzipFile, zlib.error]

try:
    from zlib_ng import gzip_ng, zlib_ng
except ImportError:  # pragma: no cover
    pass
else:
    _FAST["zlib-ng"], crc32 = gzip_ng.GzipNGFile, zlib_ng.crc32
    _ERRORS.append(zlib_ng.error)
try:
    from isal import igzip, isal_zlib
except ImportError:  # pragma: no cover
    pass
else:
    _FAST["isal"] = igzip.IGzipFile
    _ERRORS.append(isal_zlib.error)

LIBRARIES: dict[str, Callable[..., IO[bytes]]] = {**_FAST, "zlib": gzip.GzipFile}
"""Libraries that can be imported here, the fastest first."""
DAMAGE: tuple[type[Exception], ...] = tuple(_ERRORS)
"""What reading damaged or cut-off gzip bytes raises; errors of the source are none of these."""


class _Pieces(io.RawIOBase):
    """A file to read from, made of pieces of bytes of any size."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._left = iter(pieces), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while not self._left.nbytes:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece).cast("B")
        n = min(len(buffer), self._left.nbytes)
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n


def uncompress(pieces: Iterable[bytes], library: str | None = None) -> IO[bytes]:
    """Open compressed bytes for reading what they hold, front to back.

    Parameters
    ----------
    pieces : bytes of a gzip file, cut anywhere
    library : one of `LIBRARIES`; None takes the fastest

    Returns
    -------
    file object with ``read`` and ``readinto``; reading to the end compares the checksums and uses
    up `pieces`. Damage raises one of `DAMAGE`, and an error of `pieces` itself comes through.
    """
    opened = LIBRARIES[library or next(iter(LIBRARIES))]
    # Python's gzip takes a short read within its header for the end of the file.
    return opened(fileobj=io.BufferedReader(_Pieces(pieces)), mode="rb")


def read_fully(file: IO[bytes], buffer: memoryview) -> int:
    """Fill `buffer` and return how many bytes came; fewer than asked only at the file's end."""
    done = 0
    while done < len(buffer):
        n = file.readinto(buffer[done:])
        if not n:
            break
        done += n
    return done
