"""Files that appear whole or not at all, and fast gzip where a library for it is installed."""

from __future__ import annotations

import gzip
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nbutils.miniature.recording import header

LEVEL = 1
_BUFFER = 1 << 20


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success it gets the name of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file if it is not there yet."""
    if not path.exists():
        with whole(path) as temporary:
            write(temporary)


@contextmanager
def open_gzip(path: Path) -> Iterator[BinaryIO]:
    """Open a gzip file for writing, without name and date so that its bytes repeat.

    isal's igzip is eight times as fast as the standard library's fastest level; the content of
    the file is the same, the compressed bytes are not.
    """
    kind = _gzip_class()
    with open(path, "wb", _BUFFER) as raw, kind("", "wb", LEVEL, raw, mtime=0) as file:
        yield file


def _gzip_class() -> type[gzip.GzipFile]:
    try:
        return importlib.import_module("isal.igzip").IGzipFile
    except ImportError:
        return gzip.GzipFile


def write_volume(path: Path, volume: np.ndarray) -> None:
    """Write one (x, y, z) volume with NSD's header, if it is not there yet."""

    def write(temporary: Path) -> None:
        with open_gzip(temporary) as file:
            file.write(header(volume.shape, volume.dtype))
            file.write(np.ascontiguousarray(volume.T).data.cast("B"))

    make(path, write)
