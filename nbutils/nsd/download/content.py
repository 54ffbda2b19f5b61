"""What the files of NSD say of themselves: gzip and PNG have checksums inside."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from nbutils.nsd.gzip_stream import DAMAGE, uncompress
from nbutils.transfer.files import DamagedError, pieces_of

_BLOCK = 2**20
_GZIP = (".gz", ".mgz")


def check_content(path: Path, name: str, sha256: str) -> bool:
    """Read a compressed file to its end, because a file can be cut off at its source too.

    Returns
    -------
    bool
        Whether the file holds a checksum of its whole content.

    Raises
    ------
    DamagedError
        If its own checksums disagree.
    """
    try:
        if name.endswith(_GZIP):
            with uncompress(pieces_of(path)) as stream:
                while stream.read(_BLOCK):
                    pass
        elif name.endswith(".png"):
            with Image.open(path, formats=["PNG"]) as image:
                image.load()
    except (*DAMAGE, OSError, SyntaxError, ValueError) as error:
        raise DamagedError(f"{name} cannot be read to its end ({error})") from error
    return name.endswith(_GZIP)
