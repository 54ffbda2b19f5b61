"""Simulate scanning sessions of real size and write them as NSD's betas files.

    beta = mean + session offset + session gain x signal + noise

The noise is partly independent, partly shared by neighbours, and partly the response to another
scene, in the shares of the miniature world. One session is held as int16 of the brain's voxels
(0.5 GB for subject 1); everything before that is done on a few trials at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
from scipy.ndimage import gaussian_filter
from tqdm.auto import tqdm

from nbutils.miniature import scenes
from nbutils.miniature.cortex import CORRELATED, INDEPENDENT, MANIFOLD
from nbutils.miniature.experiment import TRIALS
from nbutils.miniature.recording import UNITS, header
from nbutils.miniature.standin.brain import Brain
from nbutils.miniature.standin.design import Experiment
from nbutils.miniature.standin.files import open_gzip
from nbutils.miniature.standin.voxels import Voxels
from nbutils.nsd.volumes import fortran_indices

N_PATTERNS = 16
TRIALS_AT_ONCE = 6
_SMOOTH_VOXELS = 4.0
_GAIN_SD, _SMOOTH_DRIFT, _VOXEL_DRIFT = 0.05, 0.1, 0.1
_LIMITS = np.iinfo(np.int16).min, np.iinfo(np.int16).max


@dataclass(frozen=True)
class Scanner:
    """What a session needs: the brain, its voxels, what is shown.

    Attributes
    ----------
    brain : Brain
    voxels : Voxels
    experiment : Experiment
    lost : (n_x, n_y, n_z) int64, the session in which a voxel is lost, 0 for none
    seed : of noise and drifts
    """

    brain: Brain
    voxels: Voxels
    experiment: Experiment
    lost: np.ndarray
    seed: int

    @property
    def subject(self) -> int:
        """Number of the subject, 1 to 8."""
        return int(self.brain.like[4:])

    @cached_property
    def on_disk(self) -> np.ndarray:
        """Where the brain's voxels lie in a file that runs x fastest, ascending (n_brain,)."""
        return np.flatnonzero(self.brain.inside.T)

    @cached_property
    def visual(self) -> np.ndarray:
        """Position of the voxels with a signal among those of the brain, (n_signal,)."""
        place = fortran_indices(self.voxels.signal, self.brain.shape)
        return np.searchsorted(self.on_disk, place)

    @cached_property
    def patterns(self) -> np.ndarray:
        """Smooth patterns in which noise is shared (n_patterns, n_brain), squares sum to 1."""
        rng = np.random.default_rng((self.seed, self.subject, 5))
        patterns = np.empty((N_PATTERNS, len(self.on_disk)), np.float32)
        for row in patterns:
            field = rng.standard_normal(self.brain.shape[::-1], np.float32)
            row[:] = gaussian_filter(field, _SMOOTH_VOXELS).reshape(-1)[self.on_disk]
        return patterns / np.sqrt(np.einsum("pv,pv->v", patterns, patterns))

    def values(self, volume: np.ndarray) -> np.ndarray:
        """Return the brain's voxels of an (x, y, z) volume in the order on disk, (n_brain,)."""
        return volume.T.reshape(-1)[self.on_disk]

    def noise_sd(self) -> np.ndarray:
        """Return each voxel's noise in units of 1/300 percent, (n_brain,) float32."""
        sd = UNITS * self.values(self.voxels.sd)
        ncsnr = self.values(self.voxels.ncsnr)[self.visual]
        silent = np.ones(len(sd), bool)
        silent[self.visual] = False
        sd[self.visual] /= np.sqrt(1 + ncsnr**2)
        sd[silent] /= np.sqrt(np.float32(INDEPENDENT + CORRELATED))
        return sd


def record(scanner: Scanner, session: int, *, progress: bool = False) -> np.ndarray:
    """Simulate one session.

    Parameters
    ----------
    scanner : Scanner
    session : 1-based
    progress : show a bar over trials

    Returns
    -------
    (750, n_brain) int16, percent signal change x 300, the brain's voxels in the order on disk
    """
    rng = np.random.default_rng((scanner.seed, scanner.subject, 1000 + session))
    part = _Session.start(scanner, session, rng)
    stored = np.empty((TRIALS, len(scanner.on_disk)), np.int16)
    bar = tqdm(total=TRIALS, desc=f"record session {session}", disable=not progress, leave=False)
    for start in range(0, TRIALS, TRIALS_AT_ONCE):
        rows = slice(start, start + TRIALS_AT_ONCE)
        block = part.trials(rows, rng)
        stored[rows] = np.clip(np.rint(block, out=block), *_LIMITS, out=block)
        bar.update(len(block))
    bar.close()
    stored[:, scanner.values(scanner.lost) == session] = 0
    return stored


@dataclass(frozen=True)
class _Session:
    """What stays the same over the trials of a session; all in units of 1/300 percent.

    Attributes
    ----------
    scanner : Scanner
    answers : (n_images, n_miniature) float32, noise-free
    seen, other : (750,) rows of `answers`: the image shown, and another one on the mind
    states : (750, n_patterns) float32, strength of the shared noise
    sd, offset : (n_brain,) float32, of the noise; mean and drift
    strength, stray : (n_signal,) float32, size of the signal, and of the other image's
    """

    scanner: Scanner
    answers: np.ndarray
    seen: np.ndarray
    other: np.ndarray
    states: np.ndarray
    sd: np.ndarray
    offset: np.ndarray
    strength: np.ndarray
    stray: np.ndarray

    @classmethod
    def start(cls, scanner: Scanner, session: int, rng: np.random.Generator) -> _Session:
        """Draw the drifts of a session and look at its images."""
        shown = scanner.experiment.shown(scanner.subject, range(session, session + 1))
        nsd_id, seen = np.unique(shown, return_inverse=True)
        described = [scenes.scene(int(i)) for i in nsd_id]
        answers = scanner.voxels.respond(scenes.draw_many(nsd_id), described)
        sd, n_patterns = scanner.noise_sd(), len(scanner.patterns)
        drift = _SMOOTH_DRIFT * rng.standard_normal(n_patterns, np.float32) @ scanner.patterns
        drift += _VOXEL_DRIFT * rng.standard_normal(len(sd), np.float32)
        gain = np.float32(1 + _GAIN_SD * rng.standard_normal())
        states = rng.standard_normal((TRIALS, n_patterns), np.float32)
        visual_sd = sd[scanner.visual]
        return cls(
            scanner,
            answers,
            seen,
            rng.integers(len(nsd_id), size=TRIALS),
            np.float32(np.sqrt(CORRELATED)) * states,
            sd,
            drift * sd + UNITS * scanner.values(scanner.voxels.mean),
            gain * scanner.values(scanner.voxels.ncsnr)[scanner.visual] * visual_sd,
            np.float32(np.sqrt(MANIFOLD)) * visual_sd,
        )

    def trials(self, rows: slice, rng: np.random.Generator) -> np.ndarray:
        """Simulate some trials, (n, n_brain) float32."""
        visual, mix = self.scanner.visual, self.scanner.voxels.mix
        states = self.states[rows]
        block = rng.standard_normal((len(states), len(self.sd)), np.float32)
        block *= np.float32(np.sqrt(INDEPENDENT))
        block += states @ self.scanner.patterns
        block *= self.sd
        block += self.offset
        block[:, visual] += mix(self.answers[self.seen[rows]]) * self.strength
        block[:, visual] += mix(self.answers[self.other[rows]]) * self.stray
        return block


def write_nifti(path: Path, stored: np.ndarray, scanner: Scanner) -> None:
    """Write a session as ``betas_sessionNN.nii.gz``, one volume in memory at a time."""
    volume = np.zeros(scanner.brain.inside.size, np.int16)
    with open_gzip(path) as file:
        file.write(header((*scanner.brain.shape, len(stored)), np.dtype(np.int16)))
        for row in stored:
            volume[scanner.on_disk] = row
            file.write(volume.data.cast("B"))


def write_hdf5(path: Path, stored: np.ndarray, scanner: Scanner) -> None:
    """Write a session as ``betas_sessionNN.hdf5``: all trials of one voxel are one chunk."""
    n_x, n_y, n_z = scanner.brain.shape
    with h5py.File(path, "w") as file:
        betas = file.create_dataset(
            "betas", (len(stored), n_z, n_y, n_x), np.int16, chunks=(len(stored), 1, 1, 1)
        )
        level = n_x * n_y
        edges = np.searchsorted(scanner.on_disk, level * np.arange(n_z + 1))
        for z in range(n_z):
            part = slice(edges[z], edges[z + 1])
            columns = np.zeros((level, len(stored)), np.int16)
            columns[scanner.on_disk[part] - z * level] = stored[:, part].T
            for place, column in zip(np.ndindex(n_y, n_x), columns, strict=True):
                betas.id.write_direct_chunk((0, z, *place), column.data)


WRITERS = {"nii.gz": write_nifti, "hdf5": write_hdf5}
