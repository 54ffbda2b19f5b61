"""What is wrong with a file of weights, seen from how it begins and ends."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

_ZIP, _LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def find_fault(path: Path, suffix: str | None = None) -> str | None:
    """Look at how a file begins and ends, without reading its content.

    Parameters
    ----------
    path : the file
    suffix : of the name that it will have, if it has another one now

    Returns
    -------
    What is wrong, as the end of a sentence ("is truncated: ..."), or None.
    """
    size, suffix = path.stat().st_size, suffix or path.suffix
    with open(path, "rb") as file:
        head = file.read(200)
    if not head:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer that git-lfs left in the place of the content"
    if suffix != ".json" and head.lstrip()[:1] == b"<":
        return "is a web page, not a checkpoint"
    if suffix == ".json":
        return _fault_of_json(path)
    if suffix == ".safetensors":
        return _fault_of_safetensors(path, size)
    if head.startswith(_ZIP):
        whole = zipfile.is_zipfile(path)
        return None if whole else "is truncated: the list at the end of a zip file is missing"
    # Anything else that torch wrote is the older format or a bare pickle; reading it will tell.
    if not head.startswith((_LEGACY, b"\x80")):
        return f"is no checkpoint: it begins with {head[:8]!r}"
    return None


def _fault_of_json(path: Path) -> str | None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return "is truncated or no JSON"
    return None


def _fault_of_safetensors(path: Path, size: int) -> str | None:
    """Compare the size with what the header says."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length < size else b""
    try:
        tensors = json.loads(header)
        ends = [one["data_offsets"][1] for key, one in tensors.items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "is truncated or no safetensors file"
    whole = 8 + length + max(ends, default=0)
    if size < whole:
        return f"is truncated: {size:,} of {whole:,} bytes"
    return None if size == whole else f"has {size:,} bytes where its header says {whole:,}"
