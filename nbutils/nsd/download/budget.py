"""How much will come over the network and onto the disk, said before it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nbutils.nsd.download.annotations import annotations_whole
from nbutils.nsd.download.betas import choose_voxels, session_whole
from nbutils.nsd.download.catalogue import Catalogue, Request
from nbutils.nsd.download.images import own_images
from nbutils.nsd.layout import Layout
from nbutils.transfer.ledger import Ledger
from nbutils.transfer.space import free_bytes, require_space, size
from nbutils.transfer.transport import Entry

_VOXELS = 32_000
"""Voxels of nsdgeneral and streams together, about; the masks themselves say it exactly later."""
_TRIALS = 750
_IMAGE_BYTES = 541_875
_SESSIONS = (0, 1, 5, 30, 32, 37, 40)
_PRIVATE = (0, 536, 2267, 8302, 8481, 8859, 9000)
"""Private images seen after so many sessions; the design file says it exactly later."""
_PNG_SHARE, _PHOTOGRAPH_BYTES, _UNZIPPED = 0.65, 165_000, 2.5
"""A PNG's share of the pixels' bytes; a COCO photograph; the annotations' size out of the zip."""


@dataclass(frozen=True)
class Estimate:
    """What a fetch will cost.

    Attributes
    ----------
    n_files : files still to be written
    network : bytes still to come
    disk : bytes still to be written
    free : bytes free where they will be written
    exact : False where some of it follows from NSD's published numbers
    missing : keys that the server lacks and that one can do without
    """

    n_files: int
    network: int
    disk: int
    free: int
    exact: bool
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        about = "" if self.exact else "about "
        return (
            f"{about}{self.n_files:,} files to fetch: {size(self.network)} over the network, "
            f"{size(self.disk)} on disk ({size(self.free)} free)"
        )

    def require_space(self, root: Path) -> None:
        """Raise `FetchError` if the disk is too small, with a margin of 5 % and 0.5 GB."""
        require_space(
            root, self.disk, self.free, "name another disk with --data, or fewer sessions"
        )


def add_up(
    layout: Layout, request: Request, catalogue: Catalogue, archive: Entry | None, ledger: Ledger
) -> Estimate:
    """Add up what is not yet there.

    Parameters
    ----------
    layout : of the copy on disk
    request : what is wanted
    catalogue : what the bucket has of it
    archive : COCO's zip, None if its files are there
    ledger : says what is whole
    """
    parts = [
        _whole_files(layout, catalogue, ledger),
        _sessions(layout, request, catalogue, ledger),
        _images(layout, request, catalogue, ledger),
    ]
    if archive is not None and not annotations_whole(layout, ledger):
        parts.append((4, archive.size, int(archive.size * (1 + _UNZIPPED)), True))
    n_files, network, disk, exact = zip(*parts, strict=True)
    return Estimate(
        sum(n_files), sum(network), sum(disk), free_bytes(layout.root), all(exact),
        catalogue.missing,
    )  # fmt: skip


def _whole_files(
    layout: Layout, catalogue: Catalogue, ledger: Ledger
) -> tuple[int, int, int, bool]:
    shared = {layout.image(i, "shared"): one for i, one in catalogue.shared.items()}
    left = [
        entry for path, entry in (catalogue.files | shared).items() if not ledger.whole(path, entry)
    ]
    total = sum(entry.size for entry in left)
    return len(left), total, total, True


def _sessions(
    layout: Layout, request: Request, catalogue: Catalogue, ledger: Ledger
) -> tuple[int, int, int, bool]:
    n_voxels = _try(lambda: len(choose_voxels(layout, request.subject, request.atlases).voxels))
    masked = _TRIALS * 2 * (_VOXELS if n_voxels is None else n_voxels)
    files = network = disk = 0
    for session, entry in catalogue.betas.items():
        raw = layout.betas(request.subject, session)
        there = raw.is_file() and raw.stat().st_size == entry.size
        if not session_whole(layout, request.subject, session, entry, ledger):
            files, network, disk = files + 1, network + entry.size * (not there), disk + masked
        elif request.keep_raw and not there:
            network += entry.size
        if request.keep_raw and not there:
            files, disk = files + 1, disk + entry.size
    return files, network, disk, n_voxels is not None or not files


def _images(
    layout: Layout, request: Request, catalogue: Catalogue, ledger: Ledger
) -> tuple[int, int, int, bool]:
    if request.images == "none" or layout.stimuli().is_file():
        return 0, 0, 0, True
    n_own, origin = _n_own(layout, request, ledger)
    each = _IMAGE_BYTES if origin == "stimuli" else _PHOTOGRAPH_BYTES
    return n_own, n_own * each, int(n_own * _IMAGE_BYTES * _PNG_SHARE), not n_own


def _n_own(layout: Layout, request: Request, ledger: Ledger) -> tuple[int, str]:
    ids = _try(lambda: own_images(layout, request.subject, request.sessions))
    if ids is None:
        return round(np.interp(len(request.sessions), _SESSIONS, _PRIVATE)), request.images
    left = [i for i in ids.tolist() if not ledger.whole(layout.image(i, request.images))]
    return len(left), request.images


def _try(look: Callable[[], int | np.ndarray]) -> int | np.ndarray | None:
    """Return what files on disk say, or None where they are not there yet."""
    try:
        return look()
    except (FileNotFoundError, ValueError):
        return None
