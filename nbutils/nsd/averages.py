"""Averages over the repeats of an image, z-scored, without ever holding all trials.

The sums of a subject's 10,000 images over 15,724 voxels take 0.63 GB as float32, and so do the
results. Everything else here goes by blocks of rows: a temporary in float64 of the size of the
whole would alone break the memory of a small machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

UNITS = 300
"""Stored integers per percent signal change. Ridge penalties depend on it."""
ZSCORES = ("published", "session")
_BLOCK = 2**20
"""Numbers in a block of rows, 8 MiB in float64."""


class Averages:
    """Sums over the repeats of every image, filled session by session.

    Parameters
    ----------
    table : the trials, as :func:`nbutils.nsd.trials.trials` lists them
    n_voxels : int
    zscore : "published" or "session", see :func:`nbutils.nsd.betas.load_responses`

    Raises
    ------
    ValueError
        If the trials hold no training or no test images.
    """

    def __init__(self, table: pd.DataFrame, n_voxels: int, zscore: str) -> None:
        self.session, self.shared = table["session"].to_numpy(), table["shared"].to_numpy(bool)
        if self.shared.all() or not self.shared.any():
            raise ValueError("these sessions hold no training or no test images: load more of them")
        shown = table["nsd_id"].to_numpy()
        self.test_trial_id = shown[self.shared]
        # factorize numbers images by first appearance. Training images get the first rows.
        train, self.train_id = pd.factorize(shown[~self.shared])
        test, self.test_id = pd.factorize(self.test_trial_id)
        self.row = np.empty(len(table), np.int64)
        self.row[~self.shared], self.row[self.shared] = train, test + len(self.train_id)
        # Sums of a few int16 stay below 2**24, so float32 holds them exactly.
        self.sums = np.zeros((len(self.train_id) + len(self.test_id), n_voxels), np.float32)
        self.per_session = zscore == "session"
        stored = np.float32 if self.per_session else np.int16
        self.trials = np.empty((len(self.test_trial_id), n_voxels), stored)
        self.centres: list[np.ndarray] = []
        self.spreads: list[np.ndarray] = []

    def add(self, session: int, block: np.ndarray, name: str | Path = "the file") -> None:
        """Add one session's betas (n_trials, n_voxels) int16, from the file called `name`.

        Raises
        ------
        ValueError
            If there is not one row per trial of that session.
        """
        here = self.session == session
        if here.sum() != len(block):
            raise ValueError(
                f"{name} has {len(block)} betas but {here.sum()} trials are planned for session "
                f"{session}: it is of another experiment or damaged, so fetch or make it again"
            )
        if self.per_session:
            block = self._zscore_session(block, ~self.shared[here])
        # A third of the images repeats within the session, so rows come up more than once.
        for row, betas in zip(self.row[here], block, strict=True):
            self.sums[row] += betas
        self.trials[here[self.shared]] = block[self.shared[here]]

    def _zscore_session(self, block: np.ndarray, training: np.ndarray) -> np.ndarray:
        if training.sum() < 2:
            raise ValueError("a session has fewer than two training trials: use zscore='published'")
        centre, spread = statistics(block[training], np.ones(training.sum()))
        self.centres.append(centre / UNITS)
        self.spreads.append(spread / UNITS)
        return (block - centre) / spread

    def finish(self, folder: Path | None) -> dict[str, np.ndarray]:
        """Average and z-score; the sums are used up.

        Parameters
        ----------
        folder : where ``train.npy``, ``test.npy`` and ``test_trials.npy`` are written and mapped
            from; None keeps them in memory

        Returns
        -------
        the arrays of :class:`nbutils.nsd.betas.Responses`, by name
        """
        unit = 1 if self.per_session else UNITS
        count = np.bincount(self.row)
        images, n = count * unit, len(self.train_id)
        centre, spread = statistics(self.sums[:n], images[:n])
        sources = {
            "train": (self.sums[:n], images[:n]),
            "test": (self.sums[n:], images[n:]),
            "test_trials": (self.trials, np.full(len(self.trials), unit)),
        }
        arrays = {}
        for name, (values, divisor) in sources.items():
            path = None if folder is None else folder / f"{name}.npy"
            arrays[name] = _collect(values, _standardised(values, divisor, centre, spread), path)
        arrays["mean"], arrays["std"] = self._in_percent(centre, spread)
        arrays["n_repeats_train"], arrays["n_repeats_test"] = count[:n], count[n:]
        return arrays | {
            name: getattr(self, name) for name in ("train_id", "test_id", "test_trial_id")
        }

    def _in_percent(self, centre: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what to subtract from and divide betas by, in percent signal change."""
        if not self.per_session:
            return centre, spread
        # Betas of no particular session go through the average session's statistics.
        middle, width = np.mean(self.centres, axis=0), np.mean(self.spreads, axis=0)
        return middle + width * centre, width * spread


def statistics(values: np.ndarray, divisor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (ddof 1) over rows; 1 where a voxel is constant.

    A voxel that left the field of view is all zeros for a session, and would divide by zero. A
    constant other than zero leaves a rounding error instead of zero, which counts as constant.

    Parameters
    ----------
    values : (n, n_voxels) numbers
    divisor : (n,) what to divide each row by first

    Returns
    -------
    mean, std : (n_voxels,) float32, computed in float64 in two passes
    """
    if len(values) < 2:
        raise ValueError("fewer than two training images: load more sessions")
    total, squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for _, block in _blocks(values, divisor):
        total += block.sum(axis=0)
    mean = total / len(values)
    for _, block in _blocks(values, divisor):
        block -= mean
        squares += np.einsum("nv,nv->v", block, block)
    spread = np.sqrt(squares / (len(values) - 1)).astype(np.float32)
    mean = mean.astype(np.float32)
    spread[spread <= np.finfo(np.float32).eps * np.abs(mean)] = 1
    return mean, spread


def _blocks(values: np.ndarray, divisor: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    step = max(1, _BLOCK // max(1, values.shape[1]))
    for first in range(0, len(values), step):
        rows = slice(first, first + step)
        yield rows, values[rows] / divisor[rows, None].astype(np.float64)


def _standardised(
    values: np.ndarray, divisor: np.ndarray, centre: np.ndarray, spread: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    for rows, block in _blocks(values, divisor):
        block -= centre
        block /= spread
        yield rows, block.astype(np.float32)


def _collect(
    values: np.ndarray, blocks: Iterator[tuple[slice, np.ndarray]], path: Path | None
) -> np.ndarray:
    """Put blocks made from `values` into their place, in memory or in a file."""
    if path is not None:
        return _write(path, values.shape, blocks)
    out = values if values.dtype == np.float32 else np.empty(values.shape, np.float32)
    for rows, block in blocks:
        out[rows] = block
    return out


def _write(
    path: Path, shape: tuple[int, int], blocks: Iterator[tuple[slice, np.ndarray]]
) -> np.ndarray:
    """Write a ``.npy`` file block by block, rename it, and map it read-only.

    Written through a file and not through a map: mapped pages would count as our memory.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    head = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
    try:
        with open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, head)
            for _, block in blocks:
                file.write(block.data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")
