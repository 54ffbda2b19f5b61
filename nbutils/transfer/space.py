"""Room on the disk: how much there is, and how much is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

from nbutils.transfer.transport import FetchError

_MARGIN = 2**29


def require_space(folder: Path, wanted: int, free: int, remedy: str) -> None:
    """Compare what is to be written with what is free, with a margin of 5 % and 0.5 GB.

    Parameters
    ----------
    folder : to be written into
    wanted, free : bytes
    remedy : what else the user may do

    Raises
    ------
    FetchError
        If the disk is too small.
    """
    needed = int(wanted * 1.05) + _MARGIN
    if wanted and needed > free:
        raise FetchError(
            f"{folder} has {size(free)} free and {size(needed)} are needed: free some, or {remedy}"
        )


def size(n_bytes: float) -> str:
    """Write bytes for people, such as 1.2 GB (powers of 1000, as disks are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def free_bytes(folder: Path) -> int:
    """Return the free space where a folder is or will be."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
