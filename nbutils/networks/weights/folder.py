"""The folder of originals: which published files lie in it, and whether they are what they say."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nbutils.networks.weights.faults import find_fault
from nbutils.networks.weights.registry import FLOW_FOLDERS, WEIGHTS, Weight
from nbutils.transfer.ledger import Ledger, hash_file
from nbutils.transfer.space import size
from nbutils.world import find_root

_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Found:
    """What the folder has of one published file.

    Attributes
    ----------
    weight : which
    path : where it lies, or where it would
    state : "missing"; "there" (size and form fit, content not hashed here); "checked" (content
        hashed and as published, or as recorded before); "truncated"; "foreign" (something else)
    note : what is wrong, or what else is to be said
    """

    weight: Weight
    path: Path
    state: str
    note: str = ""

    @property
    def usable(self) -> bool:
        """Whether it can be converted."""
        return self.state in ("there", "checked")


def default_folder() -> Path:
    """Return the folder of originals: `$NBUTILS_WEIGHTS`, or data/weights of the project."""
    shared = os.environ.get("NBUTILS_WEIGHTS")
    return Path(shared) if shared else find_root() / "data" / "weights"


def locate(weight: Weight, folder: Path) -> Path:
    """Return where a file lies below a folder, or where a fetch puts it.

    Two arrangements are known: as in a copy of its repository (`Weight.place`), and, for names
    that only one published file has, directly in the folder.
    """
    places = [Path(folder) / place for place in _places(weight)]
    return next((place for place in places if place.is_file()), places[0])


def _places(weight: Weight) -> list[str]:
    unique = sum(weight.file == other.file for other in WEIGHTS) == 1
    return [weight.place] + ([weight.file] if unique else [])


def look(weights: Iterable[Weight], folder: Path, ledger: Ledger | None = None) -> list[Found]:
    """Look at files without reading their content: sizes, beginnings and ends, the journal.

    Parameters
    ----------
    weights : which
    folder : of originals
    ledger : its journal, which says what was hashed before
    """
    ledger = ledger or Ledger(Path(folder))
    return [_look(weight, Path(folder), ledger) for weight in weights]


def _look(weight: Weight, folder: Path, ledger: Ledger) -> Found:
    path = locate(weight, folder)
    if not path.is_file():
        return Found(weight, path, "missing")
    there = path.stat().st_size
    if weight.exact and there < weight.size:
        return Found(weight, path, "truncated", f"{there:,} of {weight.size:,} bytes")
    if fault := find_fault(path):
        return Found(
            weight, path, "truncated" if "truncated" in fault else "foreign", f"it {fault}"
        )
    if weight.exact and there > weight.size:
        note = f"{there:,} bytes where the published file has {weight.size:,}"
        return Found(weight, path, "foreign", note)
    if _recorded(path, ledger):
        return Found(weight, path, "checked")
    return Found(weight, path, "there")


def _recorded(path: Path, ledger: Ledger) -> bool:
    """Whether the journal has this very file: its size and its time of change."""
    record = ledger.records.get(ledger.name(path))
    if record is None:
        return False
    state = path.stat()
    return (record["bytes"], record["mtime_ns"]) == (state.st_size, state.st_mtime_ns)


def examine(weight: Weight, folder: Path, ledger: Ledger) -> Found:
    """Hash a file and compare it with the published SHA-256, or with the one recorded before.

    A file that is whole is recorded; with no SHA-256 to compare with, the first one counts.
    """
    found = _look(weight, Path(folder), ledger)
    if not found.usable:
        return found
    sha256 = hash_file(found.path)
    if complaint := compare(weight, sha256, ledger):
        ledger.distrust(found.path)
        return Found(weight, found.path, "foreign", complaint)
    new = expected_sha256(weight, ledger) is None
    note = "no SHA-256 is published: this one is recorded and kept to from now on" if new else ""
    try:
        ledger.add(found.path, sha256)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        note = "the folder cannot be written to, so this is not recorded"
    return Found(weight, found.path, "checked", note)


def expected_sha256(weight: Weight, ledger: Ledger) -> str | None:
    """Return the SHA-256 that a file must have: the published one, or the first that was seen."""
    records = (ledger.records.get(place) for place in _places(weight))
    return weight.sha256 or next((one["sha256"] for one in records if one), None)


def compare(weight: Weight, sha256: str, ledger: Ledger) -> str | None:
    """Say what is wrong with a content, None if it is the published one."""
    wanted = expected_sha256(weight, ledger)
    if wanted is None or sha256.startswith(wanted):
        return None
    other = [one.name for one in WEIGHTS if one.sha256 == sha256]
    if other:
        return f"its content is {other[0]}, published under another name"
    which = "published" if weight.sha256 else "recorded at the first fetch"
    return f"SHA-256 {sha256[:12]}..., not {wanted[:12]}... as {which}"


def choose_sources(found: Iterable[Found]) -> dict[str, Path]:
    """Choose what of a folder of originals goes into `convert_directory`.

    Where several files give the same network, the first one is taken.

    Parameters
    ----------
    found : what the folder has, in the order of the registry

    Returns
    -------
    {name as in `nbutils.networks.checkpoints.SOURCES`: file, or folder of diffusers' layout}
    """
    usable = [one for one in found if one.usable and one.weight.network]
    sources: dict[str, Path] = {}
    for one in usable:
        if _in_flow_folder(one):
            if sum(map(_in_flow_folder, usable)) == len(FLOW_FOLDERS):
                sources.setdefault(one.weight.network, one.path.parent.parent)
        else:
            sources.setdefault(one.weight.network, one.path)
    return sources


def _in_flow_folder(found: Found) -> bool:
    return found.path.parent.name in FLOW_FOLDERS


def describe_missing(weights: Iterable[Weight], folder: Path) -> list[str]:
    """Write a line for each missing file: its name, its size, and where it belongs."""
    return [
        f"missing: {one.name} ({size(one.size)}), to be put at {Path(folder) / one.place}"
        for one in weights
    ]
