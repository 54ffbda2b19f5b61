"""How much of a voxel's response could be explained at all.

NSD's noise ceiling (Allen et al. 2022, Methods, "Noise ceiling estimation"): betas are z-scored
per session, the variance over repeats of one image is noise, the rest of 1 is signal, and
``ncsnr`` is the ratio of their standard deviations.
"""

from __future__ import annotations

import numpy as np

from nbutils.nsd.layout import Layout
from nbutils.nsd.volumes import check_voxels, grid, read_volume

VOXELS_PER_BLOCK = 2000
"""Columns in memory at once: 160 MB of 10,000 images twice."""


def noise_ceiling(ncsnr: np.ndarray, n_repeats: np.ndarray | int) -> np.ndarray:
    """Turn ncsnr into the explainable variance of responses averaged over repeats.

    Parameters
    ----------
    ncsnr : (n_voxels,) ratio of signal to noise standard deviation; NaN outside the brain
    n_repeats : one number, or (n_images,) how many trials each image's response averages

    Returns
    -------
    (n_voxels,) percent of variance; the ceiling of a correlation is ``sqrt(percent / 100)``

    Raises
    ------
    ValueError
        If a number of repeats is below 1.
    """
    repeats = np.atleast_1d(np.asarray(n_repeats, np.float64))
    if repeats.size == 0 or repeats.min() < 1:
        raise ValueError("n_repeats must be at least 1 for every image: drop images never shown")
    signal = np.asarray(ncsnr, np.float64) ** 2
    return 100 * signal / (signal + np.mean(1 / repeats))


def read_ncsnr(layout: Layout, subject: int, voxels: np.ndarray) -> np.ndarray:
    """Read NSD's ncsnr of some voxels, float32; NaN outside the brain, exact 0 is normal."""
    volume = read_volume(layout.ncsnr(subject), grid(layout, subject)[0])
    return volume.reshape(-1)[check_voxels(voxels, volume.shape)].astype(np.float32)


def estimate_ncsnr(betas: np.ndarray, nsd_id: np.ndarray, session: np.ndarray) -> np.ndarray:
    """Estimate ncsnr from single trials by NSD's formula.

    Parameters
    ----------
    betas : (n_trials, n_voxels) any unit
    nsd_id : (n_trials,) image of each trial
    session : (n_trials,) session of each trial

    Returns
    -------
    (n_voxels,) float32, at least 0; NaN where no image was shown twice

    Notes
    -----
    NSD pools the images with all three trials; we pool every image with at least two, weighted
    by degrees of freedom, which is the same when all have three.
    """
    scores = zscore_sessions(betas, session)
    _, group, count = np.unique(nsd_id, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(count)[:-1]])
    ordered = scores[order]
    means = np.add.reduceat(ordered, starts, axis=0) / count[:, None].astype(np.float32)
    residual = ordered - np.repeat(means, count, axis=0)
    freedom = (count - 1).sum()
    if freedom == 0:
        return np.full(scores.shape[1], np.nan, np.float32)
    noise = np.einsum("tv,tv->v", residual, residual, dtype=np.float64) / freedom
    flat = noise == 0
    ratio = np.sqrt(np.maximum(1 - noise, 0) / np.where(flat, 1, noise))
    return np.where(flat, 0, ratio).astype(np.float32)


def repeat_reliability(betas: np.ndarray, nsd_id: np.ndarray) -> np.ndarray:
    """Correlate the first with the second showing of the same images, voxel by voxel.

    Parameters
    ----------
    betas : (n_trials, n_voxels) in order of time; z-scored per session, or drifts between
        sessions count as reliable (`zscore_sessions`)
    nsd_id : (n_trials,) image of each trial

    Returns
    -------
    (n_voxels,) float32 correlation over images; NaN where it is not defined: fewer than two
    images shown twice, or a voxel that does not change

    Notes
    -----
    Expected is s2 / (s2 + n2) with the variances of signal and noise, which is the noise ceiling
    of one trial: ``noise_ceiling(ncsnr, 1) / 100``.
    """
    first, second = _showings(np.asarray(nsd_id))
    n_voxels = np.shape(betas)[1]
    found = np.full(n_voxels, np.nan, np.float32)
    if len(first) < 2:
        return found
    for start in range(0, n_voxels, VOXELS_PER_BLOCK):
        columns = slice(start, start + VOXELS_PER_BLOCK)
        one, two = (np.asarray(betas[rows, columns], np.float32) for rows in (first, second))
        found[columns] = _correlate(one, two)
    return found


def _showings(nsd_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the first and of the second showing of every image that has both."""
    order = np.argsort(nsd_id, kind="stable")
    _, start, count = np.unique(nsd_id[order], return_index=True, return_counts=True)
    start = start[count > 1]
    return order[start], order[start + 1]


def _correlate(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Correlate columns; NaN where one is constant."""
    centred = [part - part.mean(axis=0, dtype=np.float64).astype(np.float32) for part in (one, two)]
    sums = np.einsum("iv,iv->v", *centred, dtype=np.float64)
    squares = np.prod([np.einsum("iv,iv->v", c, c, dtype=np.float64) for c in centred], axis=0)
    constant = (np.ptp(one, axis=0) == 0) | (np.ptp(two, axis=0) == 0)
    squares[constant] = 1
    return np.where(constant, np.nan, sums / np.sqrt(squares)).astype(np.float32)


def zscore_sessions(betas: np.ndarray, session: np.ndarray) -> np.ndarray:
    """Z-score every voxel within every session (ddof 1); a constant voxel becomes 0.

    Returns
    -------
    (n_trials, n_voxels) float32
    """
    session = np.asarray(session)
    scores = np.empty(np.shape(betas), np.float32)
    for number in np.unique(session):
        rows = session == number
        block = np.asarray(betas[rows], np.float32)
        centred = block - block.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = centred.std(axis=0, ddof=1) if len(block) > 1 else np.zeros(block.shape[1])
        scores[rows] = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return scores
