"""Single trials: every showing of a training image is a row of its own.

Takagi & Nishimoto fit on single trials and test on averages. Trials are kept as NSD stores them,
16-bit integers, and become floats for the voxels of one region at a time: all 30,000 trials of
15,724 voxels are 0.9 GB, the regions of one regression a fraction of the 1.9 GB as floats.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from nbutils.nsd.betas import UNITS, average_repeats, read_ahead, session_files
from nbutils.nsd.layout import Layout
from nbutils.nsd.rois import mask
from nbutils.nsd.trials import trials
from nbutils.nsd.volumes import check_voxels, grid


@dataclass(frozen=True)
class SingleTrials:
    """Trials of one subject, not standardised.

    Attributes
    ----------
    betas : (n_trials, n_voxels) int16, percent signal change x 300, in the order of recording
    nsd_id : (n_trials,) int64 image of each trial
    shared : (n_trials,) bool, the test images
    voxels : (n_voxels,) int64 flat C-order indices of the columns
    """

    betas: np.ndarray = field(repr=False)
    nsd_id: np.ndarray = field(repr=False)
    shared: np.ndarray = field(repr=False)
    voxels: np.ndarray = field(repr=False)

    def train(self, inside: np.ndarray, n_images: int | None = None) -> tuple[np.ndarray, ...]:
        """Return the training trials of a region.

        Parameters
        ----------
        inside : (n_voxels,) bool
        n_images : only the trials of the first so many images, in order of first appearance

        Returns
        -------
        responses : (n_train_trials, n_inside) float32, percent signal change
        nsd_id : (n_train_trials,) image of each
        """
        rows = np.flatnonzero(~self.shared)
        if n_images is not None:
            seen = self.nsd_id[rows]
            _, first = np.unique(seen, return_index=True)
            rows = rows[np.isin(seen, seen[np.sort(first)[:n_images]])]
        return self._take(rows, inside), self.nsd_id[rows]

    def test(self, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the averages over repeats of the test images in a region.

        Returns
        -------
        responses : (n_images, n_inside) float32, percent signal change
        nsd_id : (n_images,) in order of first appearance
        """
        rows = np.flatnonzero(self.shared)
        return average_repeats(self._take(rows, inside), self.nsd_id[rows])

    def _take(self, rows: np.ndarray, inside: np.ndarray) -> np.ndarray:
        columns = np.flatnonzero(inside)
        if not len(columns):
            raise ValueError("this region has no voxel in this subject: choose another region")
        taken = np.empty((len(rows), len(columns)), np.float32)
        for first in range(0, len(rows), 512):
            some = slice(first, first + 512)
            taken[some] = self.betas[rows[some]][:, columns]
        taken /= UNITS
        return taken


def load_trials(
    layout: Layout,
    subject: int,
    sessions: Iterable[int] | None = None,
    voxels: np.ndarray | None = None,
    file_format: str = "auto",
    progress: bool = False,
) -> SingleTrials:
    """Read all trials of some voxels.

    Parameters
    ----------
    layout : Layout
    subject : int
    sessions : 1-based; None takes all on disk
    voxels : (n_voxels,) flat C-order indices; None takes the nsdgeneral mask
    file_format : as for `nbutils.nsd.betas.load_responses`
    progress : show a bar over sessions

    Raises
    ------
    ValueError
        If a file has another number of trials than the experiment, or another shape.
    FileNotFoundError
        If a session is missing.
    """
    shape, _ = grid(layout, subject)
    voxels = check_voxels(mask(layout, subject) if voxels is None else voxels, shape)
    files = session_files(layout, subject, sessions, file_format)
    table = trials(layout, subject, files)
    betas = np.empty((len(table), len(voxels)), np.int16)
    session = table["session"].to_numpy()
    blocks = read_ahead(files, voxels, shape)
    for number, block in tqdm(blocks, "sessions", len(files), disable=not progress):
        here = np.flatnonzero(session == number)
        if len(here) != len(block):
            raise ValueError(
                f"{files[number]} has {len(block)} betas but {len(here)} trials are planned for "
                f"session {number}: it is of another experiment or damaged, so fetch it again"
            )
        betas[here] = block
    return SingleTrials(betas, table["nsd_id"].to_numpy(), table["shared"].to_numpy(bool), voxels)
