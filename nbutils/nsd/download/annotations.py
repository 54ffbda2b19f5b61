"""COCO's captions and objects, out of its one zip file."""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from pathlib import Path

from nbutils.nsd.layout import SPLITS, Layout
from nbutils.transfer.files import DamagedError, fetch_file, restarting
from nbutils.transfer.ledger import Ledger, hash_file
from nbutils.transfer.progress import Meter
from nbutils.transfer.transport import Entry, Remote

KEY = "annotations/annotations_trainval2017.zip"


def annotation_files(layout: Layout) -> list[Path]:
    """Return the four files that are taken out of the zip."""
    return [place(split) for split in SPLITS for place in (layout.captions, layout.instances)]


def annotations_whole(layout: Layout, ledger: Ledger) -> bool:
    """Return whether the four files are there, as fetched or as someone else put them there."""
    return all(
        ledger.whole(path) or (path.is_file() and ledger.name(path) not in ledger.records)
        for path in annotation_files(layout)
    )


def fetch_annotations(
    remote: Remote, entry: Entry, sha1: str | None, layout: Layout, ledger: Ledger, meter: Meter
) -> None:
    """Fetch the zip, take four files out of it, and delete it.

    Parameters
    ----------
    remote, entry : COCO's server, and what it says of the zip
    sha1 : that the zip must have; None trusts the checksums inside it
    layout : where the files go
    ledger, meter : where files are recorded and bytes counted
    """
    archive = ledger.folder / Path(KEY).name

    def work(now: Entry) -> None:
        fetch_file(remote, now, archive, ledger, meter)
        try:
            _check_sha1(archive, sha1)
            for path in annotation_files(layout):
                _extract(archive, path, ledger)
        except DamagedError:
            archive.unlink()
            meter.add(-now.size)
            raise

    restarting(remote, entry, meter, work)
    archive.unlink()


def _check_sha1(archive: Path, sha1: str | None) -> None:
    if sha1 is None:
        return
    found = hash_file(archive, "sha1")
    if found != sha1:
        raise DamagedError(f"{KEY} has SHA-1 {found}, not the published {sha1}")


def _extract(archive: Path, path: Path, ledger: Ledger) -> None:
    """Take one member out; its name and its place are ours, never the zip's."""
    member = f"annotations/{path.name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with zipfile.ZipFile(archive) as file, file.open(member) as source:
            with open(part, "wb") as target:
                shutil.copyfileobj(source, target, 2**20)
        os.replace(part, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError) as error:
        raise DamagedError(f"{KEY} does not give {member} ({error})") from error
    finally:
        part.unlink(missing_ok=True)
    ledger.add(path, hash_file(path), member=member)
