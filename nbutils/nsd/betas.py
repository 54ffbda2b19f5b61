"""From single-trial betas to the responses that decoders are fitted on.

Published decoders (Brain-Diffuser, UniBrain) average the repeats of an image and z-score with the
mean and standard deviation of the training images. Nothing here looks at test images for its
statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nbutils.nsd.layout import FORMATS, Layout, require
from nbutils.nsd.rois import mask
from nbutils.nsd.session_files import read_session
from nbutils.nsd.trials import check_sessions, trials
from nbutils.nsd.volumes import check_voxels, grid

UNITS = 300
"""Stored integers per percent signal change. Ridge penalties depend on it."""
ZSCORES = ("published", "session")


@dataclass(frozen=True)
class Responses:
    """Responses of one subject, z-scored with statistics of the training images.

    Attributes
    ----------
    subject : int
    train, test : (n_images, n_voxels) float32, averaged over repeats
    train_id, test_id : (n_images,) int64 nsd_ids, in order of first appearance (as
        Brain-Diffuser; other papers sort them, so always match by id)
    n_repeats_train, n_repeats_test : (n_images,) int64 trials averaged
    voxels : (n_voxels,) int64 flat C-order indices of the columns
    shape : (n_x, n_y, n_z) of the volume
    mean, std : (n_voxels,) float32, percent signal change; z = (betas - mean) / std
    test_trials : (n_trials, n_voxels) float32, the single test trials, z-scored likewise
    test_trial_id : (n_trials,) int64 their nsd_ids
    """

    subject: int
    train: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)
    train_id: np.ndarray = field(repr=False)
    test_id: np.ndarray = field(repr=False)
    n_repeats_train: np.ndarray = field(repr=False)
    n_repeats_test: np.ndarray = field(repr=False)
    voxels: np.ndarray = field(repr=False)
    shape: tuple[int, int, int]
    mean: np.ndarray = field(repr=False)
    std: np.ndarray = field(repr=False)
    test_trials: np.ndarray = field(repr=False)
    test_trial_id: np.ndarray = field(repr=False)

    def standardise(self, betas: np.ndarray) -> np.ndarray:
        """Z-score other betas (n, n_voxels) in percent signal change as the training data."""
        return ((betas - self.mean) / self.std).astype(np.float32)


def load_responses(
    layout: Layout,
    subject: int,
    sessions: Iterable[int] | None = None,
    voxels: np.ndarray | None = None,
    file_format: str = "auto",
    zscore: str = "published",
    progress: bool = False,
) -> Responses:
    """Load, average and z-score a subject's responses, one session in memory at a time.

    Parameters
    ----------
    layout : Layout
    subject : int
    sessions : 1-based; None takes all on disk
    voxels : (n_voxels,) flat C-order indices; None takes the nsdgeneral mask
    file_format : "nii.gz", "hdf5", or "auto" for HDF5 where it is on disk (faster)
    zscore : "published" z-scores the averages over training images (ddof 1); "session"
        z-scores each session's trials before averaging as well, by its training trials, which
        removes drifts between sessions
    progress : show a bar over sessions

    Returns
    -------
    Responses

    Raises
    ------
    ValueError
        If an argument is not one of the choices or a file has the wrong shape.
    FileNotFoundError
        If a session is missing.
    """
    if zscore not in ZSCORES:
        raise ValueError(f"zscore={zscore!r}: choose one of {', '.join(ZSCORES)}")
    shape, _ = grid(layout, subject)
    voxels = check_voxels(mask(layout, subject) if voxels is None else voxels, shape)
    files = session_files(layout, subject, sessions, file_format)
    table = trials(layout, subject, files)
    total = _Total(table, len(voxels), per_session=zscore == "session")
    for session, path in tqdm(files.items(), desc="sessions", disable=not progress):
        total.add(session, read_session(path, voxels, shape))
    return total.finish(subject, voxels, shape)


def session_files(
    layout: Layout, subject: int, sessions: Iterable[int] | None = None, file_format: str = "auto"
) -> dict:
    """Return the betas file of every session wanted, as a dict from session to path.

    Raises
    ------
    FileNotFoundError
        If one is missing; a gap in the sessions on disk is an unfinished download, and
        going on without it would silently change the number of repeats.
    """
    if sessions is None:
        sessions = range(1, layout.sessions(subject)[-1] + 1)
    wanted = check_sessions(sessions, 99)
    choices = ("hdf5", "nii.gz") if file_format == "auto" else (file_format,)
    if set(choices) - set(FORMATS):
        raise ValueError(f"file_format={file_format!r}: choose auto, {' or '.join(FORMATS)}")
    for choice in choices:
        files = {number: layout.betas(subject, number, choice) for number in wanted}
        if all(path.is_file() for path in files.values()):
            return files
    missing = next(number for number, path in files.items() if not path.is_file())
    require(
        files[missing],
        f"session {missing} of subject {subject} ({' or '.join(choices)})",
        "download or make it, or name the sessions to use with sessions=",
    )
    raise AssertionError("unreachable")


class _Total:
    """Sums over repeats, filled session by session."""

    def __init__(self, table: pd.DataFrame, n_voxels: int, *, per_session: bool) -> None:
        self.table, self.per_session = table, per_session
        self.nsd_id, first = np.unique(table["nsd_id"], return_index=True)
        self.first = first
        self.row = np.searchsorted(self.nsd_id, table["nsd_id"])
        # Sums of a few int16 stay below 2**24, so float32 holds them exactly.
        self.sums = np.zeros((len(self.nsd_id), n_voxels), np.float32)
        self.test = np.empty((int(table["shared"].sum()), n_voxels), np.float32)
        self.centres: list[np.ndarray] = []
        self.spreads: list[np.ndarray] = []

    def add(self, session: int, block: np.ndarray) -> None:
        here = (self.table["session"] == session).to_numpy()
        if here.sum() != len(block):
            raise ValueError(
                f"session {session} has {len(block)} betas but {here.sum()} trials in "
                "the design: the file belongs to another experiment"
            )
        shared = self.table["shared"].to_numpy()
        if self.per_session:
            block = self._zscore(block, ~shared[here])
        for row, betas in zip(self.row[here], block, strict=True):
            self.sums[row] += betas
        self.test[here[shared]] = block[shared[here]]

    def _zscore(self, block: np.ndarray, training: np.ndarray) -> np.ndarray:
        if training.sum() < 2:
            raise ValueError("a session has fewer than two training trials: use zscore='published'")
        centre, spread = _statistics(block[training].astype(np.float32))
        self.centres.append(centre / UNITS)
        self.spreads.append(spread / UNITS)
        return (block - centre) / spread

    def finish(self, subject: int, voxels: np.ndarray, shape: tuple[int, int, int]) -> Responses:
        count = np.bincount(self.row, minlength=len(self.nsd_id))
        shared = self.table["shared"].to_numpy()
        if shared.all() or not shared.any():
            raise ValueError("these sessions hold no training or no test images: load more of them")
        scale = np.float32(1 if self.per_session else UNITS)
        is_test = shared[self.first]
        parts = []
        for wanted in (~is_test, is_test):
            rows = np.flatnonzero(wanted)
            rows = rows[np.argsort(self.first[rows])]
            parts.append((self.sums[rows] / (count[rows, None] * scale), rows))
        self.sums = np.empty(0, np.float32)
        (train, train_rows), (test, test_rows) = parts
        centre, spread = _statistics(train)
        trials_ = self.test if self.per_session else np.divide(self.test, scale, out=self.test)
        for values in (train, test, trials_):
            values -= centre
            values /= spread
        mean, std = self._in_percent(centre, spread)
        return Responses(
            subject,
            train,
            test,
            self.nsd_id[train_rows],
            self.nsd_id[test_rows],
            count[train_rows],
            count[test_rows],
            voxels,
            shape,
            mean,
            std,
            trials_,
            self.table["nsd_id"].to_numpy()[shared],
        )

    def _in_percent(self, centre: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what to subtract from and divide betas by, in percent signal change."""
        if not self.per_session:
            return centre, spread
        # Betas of no particular session go through the average session's statistics.
        middle, width = np.mean(self.centres, axis=0), np.mean(self.spreads, axis=0)
        return middle + width * centre, width * spread


def _statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (ddof 1) over rows; 1 where a voxel is constant.

    A voxel that left the field of view is all zeros for a session, and would divide by zero.
    """
    if len(values) < 2:
        raise ValueError("fewer than two training images: load more sessions")
    mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    spread = values.std(axis=0, ddof=1, dtype=np.float64).astype(np.float32)
    spread[spread == 0] = 1
    return mean, spread


def average_repeats(betas: np.ndarray, nsd_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average the trials that showed the same image.

    Parameters
    ----------
    betas : (n_trials, n_voxels) percent signal change
    nsd_id : (n_trials,) int, 0-based image shown in each trial

    Returns
    -------
    responses : (n_images, n_voxels) float32, percent signal change
    nsd_id : (n_images,) int, in order of first appearance

    Raises
    ------
    ValueError
        If there is not one image per trial.
    """
    betas, nsd_id = np.asarray(betas), np.asarray(nsd_id)
    if betas.ndim != 2 or nsd_id.shape != betas.shape[:1]:
        raise ValueError(f"betas {betas.shape} and nsd_id {nsd_id.shape}: give one image per trial")
    images, first, row, count = np.unique(
        nsd_id, return_index=True, return_inverse=True, return_counts=True
    )
    sums = np.zeros((len(images), betas.shape[1]), np.float64)
    np.add.at(sums, row, betas)
    order = np.argsort(first)
    return (sums / count[:, None])[order].astype(np.float32), images[order]


def noise_free(
    layout: Layout,
    subject: int,
    nsd_ids: np.ndarray | None = None,
    voxels: np.ndarray | None = None,
) -> np.ndarray | None:
    """Read what a simulated brain would have answered without noise.

    Parameters
    ----------
    layout : Layout
    subject : int
    nsd_ids : (n_images,) images wanted, in this order; None gives all, ascending
    voxels : (n_voxels,) flat C-order indices; None takes the nsdgeneral mask

    Returns
    -------
    (n_images, n_voxels) float32 percent signal change (z-score with
    :meth:`Responses.standardise`), or None for a measured brain

    Raises
    ------
    KeyError
        If an image was not shown to this subject, or a voxel was not simulated.
    """
    folder = layout.truth(subject)
    if not (folder / "noise_free.npy").is_file():
        return None
    known = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("noise_free", "nsd_id", "voxels")
    }
    rows = _positions(known["nsd_id"], nsd_ids, "nsd_id")
    columns = _positions(known["voxels"], voxels, "voxel")
    return known["noise_free"][rows][:, columns].astype(np.float32)


def _positions(known: np.ndarray, wanted: np.ndarray | None, name: str) -> np.ndarray:
    """Find `wanted` in the ascending array `known`."""
    if wanted is None:
        return np.arange(len(known))
    wanted = np.asarray(wanted)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    absent = wanted[known[place] != wanted]
    if absent.size:
        raise KeyError(
            f"{name} {absent[0]} is not part of this simulated brain: "
            "take ids from trials() and voxels from mask() of the same subject"
        )
    return place
