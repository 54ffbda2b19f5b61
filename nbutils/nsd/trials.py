"""Which image was shown when: the bookkeeping of the experiment.

Three index bases meet here (NSD Data Manual, "Experiments"): the MATLAB design file, the
behaviour table and trial numbers in the stimulus table count from 1; ``nsd_id``, the rows of the
stimulus file and our ``trial`` count from 0. Everything below returns the second kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import loadmat

from nbutils.nsd.layout import Layout, require, subject_name

FIELDS = ("masterordering", "subjectim", "sharedix", "stimpattern")


@dataclass(frozen=True)
class Design:
    """The experiment, counted from 0.

    Attributes
    ----------
    order : (n_trials,) int64, position in a subject's image list shown at each trial
    images : (n_subjects, n_images) int64, nsd_id of every position, per subject
    shared : (n_shared,) int64, nsd_ids that every subject was to see
    session, run : (n_trials,) int64, 1-based
    """

    order: np.ndarray
    images: np.ndarray
    shared: np.ndarray
    session: np.ndarray
    run: np.ndarray


def design(layout: Layout) -> Design:
    """Read ``nsd_expdesign.mat``.

    Raises
    ------
    FileNotFoundError
        If the file is missing.
    ValueError
        If it is not the design of an NSD-like experiment.
    """
    path = require(
        layout.expdesign(),
        "the experimental design",
        "download nsddata/experiments/nsd or make the miniature world",
    )
    return _design(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _design(path: Path, _stamp: int) -> Design:
    try:
        fields = loadmat(path, squeeze_me=False)
    except (ValueError, OSError, NotImplementedError) as error:
        raise ValueError(f"{path} is no readable MATLAB file: fetch it again") from error
    absent = [name for name in FIELDS if name not in fields]
    if absent:
        raise ValueError(f"{path} has no {', '.join(absent)}: it is not nsd_expdesign.mat")
    # MATLAB stores small whole numbers as unsigned bytes, whose differences wrap around.
    order, shared = (
        fields[name].astype(np.int64).ravel() - 1 for name in ("masterordering", "sharedix")
    )
    images = fields["subjectim"].astype(np.int64) - 1
    session, run, _ = np.nonzero(fields["stimpattern"])
    if len(session) != len(order) or order.min() < 0 or order.max() >= images.shape[1]:
        raise ValueError(
            f"{path}: masterordering, subjectim and stimpattern do not fit together, "
            "so the file is damaged or from another experiment; fetch it again"
        )
    return Design(order, images, shared, session + 1, run + 1)


def trials(layout: Layout, subject: int, sessions: Iterable[int] | None = None) -> pd.DataFrame:
    """List a subject's trials in the order of the betas.

    Parameters
    ----------
    layout : Layout
    subject : int
    sessions : 1-based session numbers; None takes those whose betas are on disk

    Returns
    -------
    DataFrame with one row per trial, all int64 but the last: ``trial`` (0-based, over all
    sessions), ``session`` and ``run`` (1-based), ``nsd_id`` (0-based), ``repeat`` (0 for the
    first showing of that image to this subject), ``shared`` (bool, the test images)

    Raises
    ------
    ValueError
        If the experiment has no such subject, or this subject no such session.
    """
    plan = design(layout)
    subject_name(subject)
    if subject > len(plan.images):
        raise ValueError(f"subject={subject}: this experiment has subjects 1 to {len(plan.images)}")
    nsd_id = plan.images[subject - 1, plan.order]
    table = pd.DataFrame(
        {
            "trial": np.arange(len(nsd_id)),
            "session": plan.session,
            "run": plan.run,
            "nsd_id": nsd_id,
        }
    )
    table["repeat"] = table.groupby("nsd_id").cumcount().astype(np.int64)
    table["shared"] = np.isin(nsd_id, plan.shared)
    wanted = check_sessions(
        layout.sessions(subject) if sessions is None else sessions,
        recorded(layout, subject),
        f"subject {subject}",
    )
    return table[table["session"].isin(wanted)].reset_index(drop=True)


def recorded(layout: Layout, subject: int) -> int:
    """Return how many sessions of this subject took place.

    The design file plans 40 sessions for everyone, and the stimulus table gives trial numbers for
    all of them, but subjects 3, 4, 6 and 8 came 32, 30, 32 and 30 times. The behaviour table
    knows; where it is not on disk, the planned number is returned.
    """
    path = layout.behaviour(subject)
    if path.is_file():
        return _last_session(path, path.stat().st_mtime_ns)
    return int(design(layout).session.max())


@lru_cache(maxsize=16)
def _last_session(path: Path, _stamp: int) -> int:
    return int(_read_behaviour(path)["SESSION"].max())


def check_sessions(sessions: Iterable[int], last: int, whose: str = "this experiment") -> list[int]:
    """Return session numbers in ascending order; `whose` they are is said if one does not exist.

    Raises
    ------
    ValueError
        If the list is empty, names a session twice, or names one beyond `last`.
    """
    wanted = sorted(int(number) for number in sessions)
    if not wanted:
        raise ValueError("sessions is empty: name at least one session, or None for all")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"sessions={wanted}: a session is named twice")
    if wanted[0] < 1 or wanted[-1] > last:
        raise ValueError(f"sessions={wanted}: {whose} has sessions 1 to {last}")
    return wanted


def split(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split trials into training (private images) and test (shared images).

    A third of all images repeats within its session, so a split by trial would leak; this one
    is by image, and shared images are every subject's test set.

    Returns
    -------
    train, test : DataFrames with the columns of :func:`trials`
    """
    shared = table["shared"].to_numpy(bool)
    return (table[~shared].reset_index(drop=True), table[shared].reset_index(drop=True))


def behaviour(layout: Layout, subject: int) -> pd.DataFrame:
    """Read the table of button presses (columns as NSD names them, 73KID and 10KID 1-based).

    Returns
    -------
    DataFrame, one row per trial in the order of the betas, with ``nsd_id`` (0-based) added
    """
    path = require(
        layout.behaviour(subject),
        "responses.tsv",
        "download nsddata/ppdata of this subject or make the miniature world",
    )
    table = _read_behaviour(path)
    return table.assign(nsd_id=table["73KID"].astype(np.int64) - 1)


def _read_behaviour(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, sep="\t")
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise ValueError(
            f"{path} is no readable table ({' '.join(str(error).split())}): fetch it again"
        ) from error
    absent = [name for name in ("SESSION", "73KID") if name not in table]
    if absent or table.empty:
        raise ValueError(
            f"{path} has no rows or no column {' and '.join(absent)}: it is not NSD's "
            "responses.tsv, so fetch it again"
        )
    return table
