"""One session of betas, masked while its bytes arrive."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nbutils.nsd.download.content import check_content
from nbutils.nsd.layout import Layout
from nbutils.nsd.masked import check_masked, record_path, restore_voxels, write_masked
from nbutils.nsd.rois import mask
from nbutils.nsd.session_files import stream_nifti
from nbutils.nsd.volumes import grid
from nbutils.transfer.files import (
    DamagedError,
    Fingerprint,
    fetch_file,
    pieces_of,
    restarting,
)
from nbutils.transfer.ledger import Ledger, hash_file
from nbutils.transfer.progress import Meter
from nbutils.transfer.transport import Entry, FetchError, Remote

# Writing holds a session three times; one at a time keeps that out of the peak of memory.
_WRITING = threading.Lock()


@dataclass(frozen=True)
class Target:
    """Which voxels of whom.

    Attributes
    ----------
    layout : Layout
    subject : int
    voxels : (n_voxels,) ascending flat C-order indices
    shape : (n_x, n_y, n_z)
    """

    layout: Layout
    subject: int
    voxels: np.ndarray
    shape: tuple[int, int, int]


def choose_voxels(layout: Layout, subject: int, atlases: Iterable[str]) -> Target:
    """Return the voxels with any label of any of the atlases, whose files are on disk."""
    voxels = np.unique(np.concatenate([mask(layout, subject, atlas) for atlas in atlases]))
    if not len(voxels):
        raise ValueError(f"atlases {', '.join(atlases)} label no voxel: choose others")
    return Target(layout, subject, voxels, grid(layout, subject)[0])


def claim_voxels(target: Target, ledger: Ledger, replace: bool) -> None:
    """See that sessions on disk hold the same voxels, or delete them.

    Raises
    ------
    ValueError
        If they hold others and `replace` is False.
    """
    path = target.layout.masked_voxels(target.subject)
    for torn in path.parent.glob(".*.part"):  # of a killed write; we are alone in this folder
        torn.unlink()
    held = _load_voxels(path)
    if held is not None and np.array_equal(held, target.voxels):
        return
    if restore_voxels(target.layout, target.subject, target.voxels):
        return ledger.add(path, hash_file(path))
    sessions = sorted(path.parent.glob("betas_session??.npy"))
    if sessions and not replace:
        there = "other" if held is None else f"{len(held)}"
        raise ValueError(
            f"{path.parent} holds {len(sessions)} sessions of {there} voxels, and "
            f"these atlases label {len(target.voxels)}: name the atlases of the first fetch, or "
            "fetch all sessions again with --replace (replace=True)"
        )
    for session in sessions:
        session.unlink()
        record_path(session).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _load_voxels(path: Path) -> np.ndarray | None:
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError):
        return None


def session_whole(layout: Layout, subject: int, session: int, entry: Entry, ledger: Ledger) -> bool:
    """Return whether a masked session is there, whole, and from the server's present file."""
    path = layout.betas(subject, session, "masked")
    beside = (record_path(path), layout.masked_voxels(subject))
    if not all(one.is_file() for one in beside):
        return False
    if ledger.whole(path, entry) and all(ledger.whole(one) for one in beside):
        return True
    # A kill can fall between the session and its line in the journal.
    if ledger.name(path) in ledger.records or not check_masked(layout, subject, session):
        return False
    record = json.loads(record_path(path).read_text(encoding="utf-8"))
    if record.get("source", {}).get("etag") != entry.etag:
        return False
    _record(layout, subject, path, record["sha256"], entry, ledger)
    return True


def _record(
    layout: Layout, subject: int, path: Path, sha256: str, entry: Entry, ledger: Ledger
) -> None:
    """Record a session last, after the two files without which it is not whole."""
    for beside in (layout.masked_voxels(subject), record_path(path)):
        ledger.add(beside, hash_file(beside))
    ledger.add(path, sha256, entry)


def fetch_session(
    remote: Remote,
    entry: Entry,
    target: Target,
    session: int,
    ledger: Ledger,
    meter: Meter,
    raw: Path | None = None,
) -> None:
    """Bring one masked session to disk unless it is there and whole.

    Parameters
    ----------
    remote, entry : the server, and what it says of the session's ``.nii.gz``
    target : which voxels
    session : 1-based
    ledger, meter : where files are recorded and bytes counted
    raw : where to keep the compressed file too; None never stores it
    """
    layout, subject = target.layout, target.subject
    if raw is not None:
        fetch_file(remote, entry, raw, ledger, meter, check_content)
    if session_whole(layout, subject, session, entry, ledger):
        return
    local = layout.betas(subject, session)
    if local.is_file() and local.stat().st_size == entry.size:
        try:
            return _write(_mask_file(local, target), entry, target, session, ledger)
        except ValueError:
            if raw is not None:
                raise
    betas = restarting(remote, entry, meter, lambda now: _mask_stream(remote, now, target, meter))
    _write(betas, entry, target, session, ledger)


def _mask_file(path: Path, target: Target) -> tuple[np.ndarray, Entry | None]:
    return stream_nifti(pieces_of(path), target.voxels, target.shape, path), None


def _mask_stream(
    remote: Remote, entry: Entry, target: Target, meter: Meter
) -> tuple[np.ndarray, Entry]:
    digest = Fingerprint(entry)
    pieces = digest.watch(remote.stream(entry, meter))
    try:
        betas = stream_nifti(pieces, target.voxels, target.shape, entry.key)
        digest.verify()
    except ValueError as error:
        if digest.n_bytes == entry.size and digest.matches():
            raise FetchError(
                f"{error}; and so it is on {remote.address}, as its MD5 agrees: tell whoever keeps "
                "the server, and leave this session out meanwhile"
            ) from error
        meter.add(-digest.n_bytes)
        raise DamagedError(str(error)) from error
    except (DamagedError, FetchError):
        meter.add(-digest.n_bytes)
        raise
    return betas, entry


def _write(
    masked: tuple[np.ndarray, Entry | None],
    entry: Entry,
    target: Target,
    session: int,
    ledger: Ledger,
) -> None:
    betas, entry = masked[0], masked[1] or entry
    facts = {"key": entry.key, "etag": entry.etag, "bytes": entry.size}
    with _WRITING:
        path = write_masked(
            target.layout, target.subject, session, betas, target.voxels, target.shape, **facts
        )
    record = json.loads(record_path(path).read_text(encoding="utf-8"))
    _record(target.layout, target.subject, path, record["sha256"], entry, ledger)
