"""Files a notebook leaves for the next: written whole or not at all, each with a sidecar.

The sidecar `<file>.meta.json` says what made the file (parameters, seed, versions, inputs,
seconds, peak memory) and what it must look like (bytes, SHA-256). A file without one is foreign;
one that disagrees with it is half-written or was changed by hand. Neither is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

WHOLE = 64 * 2**20
"""Files up to this many bytes are hashed whole; larger ones by evenly spaced blocks."""

RECORDED = ("nbutils", "numpy", "scipy", "torch", "diffusers", "transformers", "scikit-learn")


class ArtifactError(RuntimeError):
    """A file that a notebook needs is missing, half-written or made by something else."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` that takes its place only if the block succeeds.

    Yields
    ------
    Path
        Where to write. It keeps the suffix of `path`, since writers choose formats by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """Return a SHA-256 over the size and content of a file, in blocks where it is large.

    A feature array of the real data has gigabytes; 64 blocks of 1 MiB, first and last among
    them, tell a truncated or rewritten one from the right one in milliseconds.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE:
            while block := file.read(2**20):
                digest.update(block)
        else:
            for start in np.linspace(0, size - 2**20, 64).astype(np.int64):
                file.seek(int(start))
                digest.update(file.read(2**20))
    return digest.hexdigest()


def sidecar_path(path: Path) -> Path:
    """Return where the sidecar of `path` lies."""
    return path.with_name(path.name + ".meta.json")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; arrays become lists, paths strings."""
    with replacing(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False, default=_plain, allow_nan=True)
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__}: a .json artifact holds numbers, text, lists, dicts")


def _write_array(path: Path, value: Any) -> None:
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise TypeError(f"{path.name}: an array of Python objects; save text as .json")
    np.save(path, array, allow_pickle=False)


def _write_image(path: Path, value: Any) -> None:
    from PIL import Image

    image = np.asarray(value)
    if image.dtype != np.uint8:
        raise TypeError(f"{path.name}: {image.dtype} values; a picture is uint8, 0 to 255")
    Image.fromarray(image).save(path)


def _write_table(path: Path, value: Any) -> None:
    value.to_csv(path, index=False, lineterminator="\n")


def _write_text(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False, default=_plain)
    path.write_text(text + "\n", encoding="utf-8")


def _read_array(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def _read_table(path: Path) -> Any:
    import pandas as pd

    return pd.read_csv(path)


def _read_text(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


FORMATS: dict[str, tuple[Callable[[Path, Any], None], Callable[[Path], Any]]] = {
    ".npy": (_write_array, _read_array),
    ".png": (_write_image, _read_image),
    ".csv": (_write_table, _read_table),
    ".json": (_write_text, _read_text),
}


def write(path: Path, value: Any) -> None:
    """Write `value` in the format that the suffix of `path` names, whole or not at all.

    Parameters
    ----------
    path : Path
        `.npy` (array), `.png` (uint8 picture), `.csv` (DataFrame) or `.json` (plain values).
    value : array, DataFrame, dict or list
        What to write.

    Raises
    ------
    ValueError
        If the suffix is another one.
    TypeError
        If the value does not fit the format.
    """
    with replacing(path) as temporary:
        _format(path)[0](temporary, value)


def read(path: Path) -> Any:
    """Read what `write` wrote; arrays come memory-mapped and read-only."""
    return _format(path)[1](path)


def _format(path: Path) -> tuple[Callable[[Path, Any], None], Callable[[Path], Any]]:
    if path.suffix not in FORMATS:
        raise ValueError(f"{path.name}: artifacts end in {', '.join(FORMATS)}")
    return FORMATS[path.suffix]


def describe(path: Path) -> dict[str, Any]:
    """Return the part of a sidecar that pins the file itself: its bytes and hash."""
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the sidecar of `path` after holding the file to it.

    Raises
    ------
    ArtifactError
        If there is no sidecar, it cannot be read, or the file disagrees with it.
    """
    side = sidecar_path(path)
    try:
        record = json.loads(side.read_text(encoding="utf-8"))
        pinned = {key: record[key] for key in ("bytes", "sha256")}
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: has no {side.name} beside it, so it was not made here; move it away"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(
            f"{side}: not a sidecar of nbutils; move it and {path.name} away"
        ) from None
    size = path.stat().st_size
    if size != pinned["bytes"]:
        raise ArtifactError(
            f"{path}: {size:,} bytes where {pinned['bytes']:,} were written; "
            "it is half-written: delete it and make it again"
        )
    if hash_file(path) != pinned["sha256"]:
        raise ArtifactError(f"{path}: changed since it was made; delete it and make it again")
    return record


def versions() -> dict[str, str]:
    """Return the versions that can change a result, Python's among them."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in RECORDED:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def peak_memory() -> float:
    """Return the largest memory this process has held, GB (10^9 bytes)."""
    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return info.peak_wset / 1e9
    import resource

    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
