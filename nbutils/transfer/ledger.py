"""What was fetched: size and SHA-256 of every finished file, in a journal that a kill cannot tear.

``<root>/.fetch/files.jsonl`` gets one line per finished file, and the last line of a path counts.
A line that a kill or a full disk cut off is no JSON and is passed over, so the file it was about
counts as not fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nbutils.transfer.transport import Entry, FetchError

_FIELDS = ("path", "bytes", "mtime_ns", "sha256")


class Ledger:
    """The journal of one copy of the data.

    Parameters
    ----------
    root : folder of the data
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.folder = self.root / ".fetch"
        self._file = self.folder / "files.jsonl"
        self._lock = threading.Lock()
        self.records = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        records: dict[str, dict[str, Any]] = {}
        if self._file.is_file():
            for line in self._file.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(line)
                    records[record["path"]] = {key: record[key] for key in record}
                    _ = [record[key] for key in _FIELDS]
                except (ValueError, KeyError, TypeError):
                    continue
        return {path: one for path, one in records.items() if set(_FIELDS) <= set(one)}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from fetching into the same folder.

        Raises
        ------
        FetchError
            If one already does.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FetchError(
                f"another process is fetching into {self.root}: wait for it or stop it"
            ) from None
        try:
            self._compact()
            yield
        finally:
            lock.release()

    def _compact(self) -> None:
        """Write the journal anew without torn and outdated lines."""
        self.records = self._read()
        if self._file.is_file():
            temporary = self._file.with_suffix(".part")
            lines = (json.dumps(one, sort_keys=True) + "\n" for one in self.records.values())
            temporary.write_text("".join(lines), encoding="utf-8")
            os.replace(temporary, self._file)

    def add(self, path: Path, sha256: str, entry: Entry | None = None, **facts: Any) -> None:
        """Record a finished file."""
        state = path.stat()
        record = {
            "path": self.name(path),
            "bytes": state.st_size,
            "mtime_ns": state.st_mtime_ns,
            "sha256": sha256,
            **facts,
        }
        if entry is not None:
            record |= {"key": entry.key, "etag": entry.etag, "source_bytes": entry.size}
        self._append(record)

    def distrust(self, path: Path) -> None:
        """Forget a file's time, so that `whole` hashes its content before it believes it again."""
        if record := self.records.get(self.name(path)):
            self._append(record | {"mtime_ns": -1})

    def _append(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record, sort_keys=True) + "\n").encode()
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self._file, "ab", buffering=0) as file:
                file.write(line)
            self.records[record["path"]] = record

    def name(self, path: Path) -> str:
        """Return the path below the root."""
        return Path(path).relative_to(self.root).as_posix()

    def whole(self, path: Path, entry: Entry | None = None) -> bool:
        """Return whether a file is the one that was fetched.

        Size and time of change are compared; the content is hashed only where the time differs
        (a copied folder, say). With `entry` it must also be the one that the server has today.
        """
        record = self.records.get(self.name(path))
        if record is None or not path.is_file():
            return False
        if entry is not None and (record.get("etag"), record.get("source_bytes")) != (
            entry.etag,
            entry.size,
        ):
            return False
        state = path.stat()
        if state.st_size != record["bytes"]:
            return False
        if state.st_mtime_ns == record["mtime_ns"]:
            return True
        if hash_file(path) != record["sha256"]:
            return False
        self.add(path, record["sha256"], **{k: record[k] for k in record if k not in _FIELDS})
        return True


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Return the SHA-256 (or another hash) of a file's whole content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
