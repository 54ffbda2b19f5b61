"""Hash everything again and say what is missing or damaged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from nbutils.nsd.download.fetching import request_path
from nbutils.nsd.layout import Layout
from nbutils.nsd.masked import check_masked
from nbutils.transfer.ledger import Ledger, hash_file


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes
    ----------
    n_files, n_bytes : what was read and is whole
    missing, damaged : files below the root
    """

    n_files: int
    n_bytes: int
    missing: tuple[str, ...]
    damaged: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is missing or damaged."""
        return not self.missing and not self.damaged


def check(root: Path, subject: int, *, progress: bool = True) -> Checked:
    """Read every file of a subject again and compare it with what was recorded.

    Parameters
    ----------
    root : folder of the data
    subject : 1 to 8
    progress : show a bar

    Returns
    -------
    Checked

    Raises
    ------
    FileNotFoundError
        If no fetch of this subject ever ended here.
    """
    layout, ledger = Layout(root), Ledger(root)
    names = _names(ledger, subject)
    missing, damaged, n_bytes = [], [], 0
    for name in tqdm(names, desc="check", unit="file", disable=not progress):
        path = layout.root / name
        if not path.is_file():
            missing.append(name)
        elif not _whole(layout, ledger, subject, path):
            damaged.append(name)
            ledger.distrust(path)  # size and time still fit, so a fetch would pass it over
        else:
            n_bytes += path.stat().st_size
    whole = len(names) - len(missing) - len(damaged)
    return Checked(whole, n_bytes, tuple(missing), tuple(damaged))


def _names(ledger: Ledger, subject: int) -> list[str]:
    path = request_path(ledger, subject)
    if not path.is_file():
        raise FileNotFoundError(
            f"no finished fetch of subject {subject} is recorded in {ledger.folder}: run "
            f"`python -m nbutils nsd fetch --subject {subject}` with the same --data"
        )
    return sorted(json.loads(path.read_text(encoding="utf-8"))["paths"])


def _whole(layout: Layout, ledger: Ledger, subject: int, path: Path) -> bool:
    record = ledger.records.get(ledger.name(path))
    if record is None:  # put there by someone else before the fetch
        return True
    if path.stat().st_size != record["bytes"] or hash_file(path) != record["sha256"]:
        return False
    folder = layout.betas(subject, 1, "masked").parent
    if path.parent != folder or path.suffix != ".npy" or path == layout.masked_voxels(subject):
        return True
    return check_masked(layout, subject, int(path.stem.removeprefix("betas_session")))
