"""From single-trial betas to the responses that decoders are fitted on.

Published decoders (Brain-Diffuser, UniBrain) average the repeats of an image and z-score with the
mean and standard deviation of the training images. Nothing here looks at test images for its
statistics.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from nbutils.nsd.averages import UNITS, ZSCORES, Averages
from nbutils.nsd.layout import FORMATS, Layout, require
from nbutils.nsd.rois import mask
from nbutils.nsd.session_files import read_session
from nbutils.nsd.trials import check_sessions, trials
from nbutils.nsd.volumes import check_voxels, grid

__all__ = [
    "UNITS",
    "Responses",
    "average_repeats",
    "load_responses",
    "noise_free",
    "session_files",
]

_PREFERRED = ("masked", "hdf5", "nii.gz")
"""Formats by speed, the fastest first."""
_READERS = 2


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
    folder: Path | None = None,
) -> Responses:
    """Load, average and z-score a subject's responses, a few sessions in memory at a time.

    All 30,000 trials of 15,724 voxels take 1.2 GB of memory; with `folder` less is left
    afterwards, since the results are read from disk when they are used.

    Parameters
    ----------
    layout : Layout
    subject : int
    sessions : 1-based; None takes all on disk
    voxels : (n_voxels,) flat C-order indices; None takes the nsdgeneral mask
    file_format : one of `FORMATS`, or "auto" for the fastest that all sessions are in: our masked
        files, then HDF5, then NIfTI
    zscore : "published" or "session", see Notes
    progress : show a bar over sessions
    folder : where to write ``train.npy``, ``test.npy`` and ``test_trials.npy``, which then come
        back as read-only memory maps of the same values; None keeps them in memory

    Returns
    -------
    Responses

    Raises
    ------
    ValueError
        If an argument is not one of the choices, a file is damaged or of the wrong shape, or
        the sessions are not all in one format.
    FileNotFoundError
        If a session is missing.

    Notes
    -----
    "published" is Brain-Diffuser's recipe: single trials in percent signal change are averaged
    over the repeats of an image without any z-score per session; then training and test averages
    go through the mean and the standard deviation (ddof 1) of the training averages. Its division
    by 300 cancels here.

    "session" first z-scores each session's trials, which removes drifts between sessions, then
    does the same. Usual practice with NSD takes a session's mean and standard deviation over all
    its 750 trials, test images included; here only its training trials count, so that nothing of
    a test image reaches the training data.

    A voxel lost in a session (``valid_sessionNN`` is 0) holds zeros in all its trials. They are
    averaged as they are, as in published code. "session" leaves them at zero, the mean of the
    other sessions; a voxel that is constant in all training images becomes zero everywhere.
    """
    if zscore not in ZSCORES:
        raise ValueError(f"zscore={zscore!r}: choose one of {', '.join(ZSCORES)}")
    shape, _ = grid(layout, subject)
    voxels = check_voxels(mask(layout, subject) if voxels is None else voxels, shape)
    files = session_files(layout, subject, sessions, file_format)
    averages = Averages(trials(layout, subject, files), len(voxels), zscore)
    blocks = read_ahead(files, voxels, shape)
    for session, block in tqdm(blocks, "sessions", len(files), disable=not progress):
        averages.add(session, block, files[session])
    arrays = averages.finish(None if folder is None else Path(folder))
    return Responses(subject=subject, voxels=voxels, shape=shape, **arrays)


def read_ahead(
    files: dict[int, Path], voxels: np.ndarray, shape: tuple[int, int, int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Read sessions in order, two at a time: inflating needs a core and not the interpreter.

    Parameters
    ----------
    files : session -> betas file, as `session_files` gives them
    voxels : (n_voxels,) flat C-order indices
    shape : (n_x, n_y, n_z) the subject's grid

    Yields
    ------
    session, betas : (n_trials, n_voxels) int16, percent signal change x `UNITS`
    """
    waiting: deque = deque()
    with ThreadPoolExecutor(_READERS) as pool:
        for session, path in files.items():
            waiting.append((session, pool.submit(read_session, path, voxels, shape)))
            if len(waiting) > _READERS:
                first, block = waiting.popleft()
                yield first, block.result()
        for last, block in waiting:
            yield last, block.result()


def session_files(
    layout: Layout, subject: int, sessions: Iterable[int] | None = None, file_format: str = "auto"
) -> dict[int, Path]:
    """Return the betas file of every session wanted, as a dict from session to path.

    Raises
    ------
    FileNotFoundError
        If one is missing; a gap in the sessions on disk is an unfinished download, and
        going on without it would silently change the number of repeats.
    ValueError
        If no one format holds them all.
    """
    choices = _PREFERRED if file_format == "auto" else (file_format,)
    if set(choices) - set(FORMATS):
        raise ValueError(f"file_format={file_format!r}: choose auto, {' or '.join(FORMATS)}")
    if sessions is None:
        only = None if file_format == "auto" else file_format
        sessions = range(1, layout.sessions(subject, only)[-1] + 1)
    wanted = check_sessions(sessions, 99)
    files = {
        choice: {number: layout.betas(subject, number, choice) for number in wanted}
        for choice in choices
    }
    held = {
        choice: [number for number, path in paths.items() if path.is_file()]
        for choice, paths in files.items()
    }
    for choice in choices:
        if held[choice] == wanted:
            return files[choice]
    for number in wanted:
        if not any(number in numbers for numbers in held.values()):
            require(
                files[choices[-1]][number],
                f"session {number} of subject {subject} ({' or '.join(choices)})",
                "download or make it, or name the sessions to use with sessions=",
            )
    found = "; ".join(f"{choice}: {_names(held[choice])}" for choice in choices if held[choice])
    raise ValueError(
        f"sessions {_names(wanted)} of subject {subject} are in no one format ({found}): fetch or "
        "make the missing ones in one of them, or name the sessions to use with sessions="
    )


def _names(numbers: list[int]) -> str:
    """Write ascending session numbers briefly: 1-3, 5."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


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
