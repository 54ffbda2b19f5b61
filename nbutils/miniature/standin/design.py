"""The stand-in's experiment: NSD's number of images, trials and repeats, in an order of our own.

After 30, 32, 37 and 40 sessions exactly as many images have been seen three times, twice, once or
never as in NSD, so that the sets of 982 or 1,000 test images have their real sizes whichever
subject is copied. Which image comes when in between is drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nbutils.miniature.experiment import TRIALS, Plan
from nbutils.miniature.standin.coco import Photographs
from nbutils.miniature.standin.size import SUBJECTS, Size, Stage

REPEATS = 3
# Of all next showings, this share is meant to follow soon; with those that fall into the same
# session anyway, and soon ones cut off by its end, 35 % of the images repeat within their first
# session, as in NSD.
_SOON = 0.54
_LAG_SESSIONS = 0.25


@dataclass(frozen=True)
class Experiment(Plan):
    """NSD's experiment: a `Plan` for eight subjects."""

    @property
    def n_scenes(self) -> int:
        """Images of all subjects together."""
        return len(self.shared) + len(self.images) * (self.images.shape[1] - len(self.shared))

    def shown(self, subject: int, sessions: range) -> np.ndarray:
        """Return the nsd_id of every trial of some sessions (1-based), (n_trials,) int64."""
        order = self.order.reshape(-1, TRIALS)[[number - 1 for number in sessions]]
        return self.images[subject - 1, order.ravel()]


def plan(size: Size, seed: int = 0) -> Experiment:
    """Plan the experiment.

    Parameters
    ----------
    size : Size
    seed : another seed is another order, and other images for everyone

    Returns
    -------
    Experiment; shared images are the first of everyone's list, in ascending order, and private
    images belong to one subject
    """
    rng = np.random.default_rng((seed, 73_000))
    ids = rng.permutation(size.n_images)
    shared = np.sort(ids[: size.n_shared])
    private = ids[size.n_shared :].reshape(len(SUBJECTS), size.n_private)
    images = np.hstack([np.tile(shared, (len(SUBJECTS), 1)), private])
    shows = showings(size, rng)
    order, before = [], 0
    for stage, row in zip(size.stages, shows, strict=True):
        order.append(_order(row, stage.session - before, rng))
        before = stage.session
    return Experiment(shared, images, np.concatenate(order), seed, REPEATS)


def showings(size: Size, rng: np.random.Generator) -> np.ndarray:
    """Draw how often every image is shown between one stage and the next.

    Images are ranked by lateness, shared and private ones apart. A later image has never been
    seen more often than an earlier one, at any stage: the counts of the stages leave no other
    way to tie them together in which nothing is unseen again.

    Returns
    -------
    (n_stages, n_images) int64
    """
    late = np.concatenate(
        [rng.permutation(size.n_shared), size.n_shared + rng.permutation(size.n_private)]
    )
    total = np.zeros((len(size.stages) + 1, size.n_shared + size.n_private), np.int64)
    for row, stage in zip(total[1:], size.stages, strict=True):
        row[late] = np.concatenate(_totals(stage, size))
    return np.diff(total, axis=0)


def _totals(stage: Stage, size: Size) -> list[np.ndarray]:
    """Return the showings so far of images in order of lateness: threes, twos, ones, none."""
    groups = ((stage.shared, size.n_shared), (stage.private, size.n_private))
    return [np.repeat((3, 2, 1, 0), (*seen, n - sum(seen))) for seen, n in groups]


def _order(shows: np.ndarray, n_sessions: int, rng: np.random.Generator) -> np.ndarray:
    """Put the showings of some sessions into an order, (n_sessions * 750,) positions."""
    n_images = len(shows)
    times = rng.random((n_images, REPEATS))
    for k in range(1, REPEATS):
        soon = rng.random(n_images) < _SOON
        lag = rng.exponential(_LAG_SESSIONS / n_sessions, n_images)
        times[soon, k] = (times[:, k - 1] + lag)[soon]
    used = np.arange(REPEATS) < shows[:, None]
    image = np.nonzero(used)[0]
    return image[np.argsort(times[used], kind="stable")]


def write_stim_info(path: Path, plan: Experiment, photographs: Photographs) -> None:
    """Write ``nsd_stim_info_merged.csv``: NSD's 41 columns, one row per image.

    As in NSD, the columns of showings count trials from 1 and go to the end of the experiment,
    also for subjects who left before it.
    """
    n, rng = plan.n_scenes, np.random.default_rng((plan.seed, 73_001))
    shows = [_shows(plan, subject) for subject in range(1, len(plan.images) + 1)]
    table = {
        "cocoId": photographs.coco_id,
        "cocoSplit": photographs.split,
        "cropBox": photographs.crop_text(),
        "loss": np.round(rng.uniform(0, 0.3, n), 6),
        "nsdId": np.arange(n),
        "flagged": False,
        "BOLD5000": False,
        "shared1000": np.isin(np.arange(n), plan.shared),
    }
    table |= {f"subject{k + 1}": one.any(axis=1).astype(int) for k, one in enumerate(shows)}
    for k, one in enumerate(shows):
        table |= {f"subject{k + 1}_rep{repeat}": one[:, repeat] for repeat in range(REPEATS)}
    pd.DataFrame(table).to_csv(path)


def _shows(plan: Experiment, subject: int) -> np.ndarray:
    """Return the 1-based trials of an image's showings, (n_images, 3), 0 for never."""
    nsd_id = plan.images[subject - 1, plan.order]
    repeat = pd.Series(nsd_id).groupby(nsd_id).cumcount().to_numpy()
    shows = np.zeros((plan.n_scenes, REPEATS), np.int64)
    shows[nsd_id, repeat] = np.arange(len(nsd_id)) + 1
    return shows
