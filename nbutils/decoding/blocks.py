"""Column blocks of arrays that are larger than memory, read and written.

A block of columns touches every row of a file. The system maps more pages around each one that is
touched, so a map is given back every few hundred rows: resident memory stays at two blocks however
large the file is.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

# Rows between two releases of mapped pages: 16 pages around each row make 32 MB.
_ROWS = 512
# A row of all voxels or all features is long, so fewer of them are read at once.
_BYTES = 32 * 2**20


def column_blocks(
    array: NDArray, rows: NDArray | None = None, *, block: int = 4096
) -> Iterator[tuple[slice, Float]]:
    """Columns of a matrix as float32, block after block, the next one read while one is used.

    Parameters
    ----------
    array : (n_rows, ...) of any float type, usually a memory map; further axes are flattened
    rows : (n,) positions of the rows wanted, in any order; all by default
    block : number of columns in memory at a time (twice, one is read ahead)

    Yields
    ------
    columns : which of the flattened columns
    values : (n, n_columns) float32, free to change and overwritten at the next step but one
    """
    flat = array.reshape(len(array), -1)
    order = np.arange(len(flat)) if rows is None else np.argsort(rows, kind="stable")
    sorted_rows = order if rows is None else np.asarray(rows)[order]
    starts = list(range(0, flat.shape[1], block))
    width = min(block, flat.shape[1])
    buffers = [np.empty((len(order), width), np.float32) for _ in starts[:2]]

    def read(k: int) -> tuple[slice, Float]:
        columns = slice(starts[k], min(starts[k] + block, flat.shape[1]))
        values = buffers[k % 2].reshape(-1)[: len(order) * (columns.stop - columns.start)]
        values = values.reshape(len(order), -1)
        _gather(flat, sorted_rows, order, columns, values)
        return columns, values

    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(read, 0) if starts else None
        for k in range(len(starts)):
            current = following.result()
            following = pool.submit(read, k + 1) if k + 1 < len(starts) else None
            yield current


def _gather(
    flat: NDArray, rows: NDArray[np.intp], order: NDArray[np.intp], columns: slice, out: Float
) -> None:
    """Copy sorted rows to their places; ascending positions read a disk in one direction."""
    for first in range(0, len(rows), _ROWS):
        part, place = rows[first : first + _ROWS], order[first : first + _ROWS]
        low, high = int(part[0]), int(part[-1]) + 1
        source = _as_slice(part)
        target = _as_slice(place)
        out[target] = flat[source, columns]
        release(flat, low, high)


def _as_slice(positions: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Consecutive positions as a slice, which NumPy copies faster than a list."""
    if len(positions) and (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def row_blocks(array: NDArray) -> Iterator[slice]:
    """Slices of rows of about 32 MB; a map's pages are released after each."""
    step = max(1, _BYTES // max(1, array[:1].size * 4))
    for first in range(0, len(array), step):
        rows = slice(first, min(first + step, len(array)))
        yield rows
        release(array, rows.start, rows.stop)


def take_columns(array: NDArray, rows: NDArray | None, columns: NDArray) -> Float:
    """Scattered columns of chosen rows as (n, n_columns) float32, without reading all at once."""
    flat = array.reshape(len(array), -1)
    rows = np.arange(len(flat)) if rows is None else np.asarray(rows)
    values = np.empty((len(rows), len(columns)), np.float32)
    for part in row_blocks(flat):
        here = np.flatnonzero((rows >= part.start) & (rows < part.stop))
        values[here] = flat[rows[here][:, None], columns]
    return values


def release(array: NDArray, first: int, last: int) -> None:
    """Give the mapped pages of some rows back to the system; the file keeps their values.

    Does nothing for arrays in memory and for private maps, whose changes would be lost.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is None or getattr(array, "mode", "c") == "c" or not hasattr(mapped, "madvise"):
        return
    origin = np.frombuffer(mapped, np.uint8).ctypes.data
    start = array[first:last].ctypes.data - origin
    stop = start + (last - first) * array.strides[0]
    start -= start % mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, start, min(stop, len(mapped)) - start)


@contextmanager
def write_npy(path: str | Path, shape: tuple[int, ...]) -> Iterator[np.memmap]:
    """Write a float32 ``.npy`` file through a map; it gets its name when all went well.

    Parameters
    ----------
    path : file to be made or replaced
    shape : of the array

    Yields
    ------
    array : writable map of `shape`, to be filled
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        yield array
        array.flush()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
