"""Simulate scanning sessions and write them as NSD's betas files."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel
import numpy as np

from nbutils.miniature.cortex import CORRELATED, INDEPENDENT, MANIFOLD, Cortex
from nbutils.miniature.experiment import TRIALS, Plan
from nbutils.nsd.layout import Layout

UNITS = 300
VOXEL_MM, SECONDS = 1.8, 1.3333334
_REST_BASELINE, _REST_SD = 0.3, 0.9
_N_LOST = 6


@dataclass(frozen=True)
class Recording:
    """What a session needs: the brain, what it answers, what was shown.

    Attributes
    ----------
    folder : where the subject is written; holds ``answers.npy`` (n_images, n_voxels)
    cortex : Cortex
    nsd_id : (n_images,) ascending, the rows of the answers
    shown : Plan
    snr : factor on the signal
    """

    folder: Path
    cortex: Cortex
    nsd_id: np.ndarray
    shown: Plan
    snr: float

    @property
    def trial_ids(self) -> np.ndarray:
        """nsd_id of every trial of all sessions."""
        return self.shown.images[self.cortex.subject - 1, self.shown.order]

    def answers(self) -> np.ndarray:
        """Noise-free responses, standardised, (n_images, n_voxels) float16 memory map."""
        return np.load(self.folder / "answers.npy", mmap_mode="r")


def write_session(recording: Recording, session: int) -> np.ndarray:
    """Simulate one session and write both betas files.

    Returns
    -------
    (750, n_brain_voxels) int16 as stored, brain voxels in ascending flat C order
    """
    brain = recording.cortex.anatomy.brain
    betas = record_session(recording, session)
    limits = np.iinfo(np.int16)  # MATLAB's int16() saturates at both
    stored = np.clip(np.rint(UNITS * betas), limits.min, limits.max).astype(np.int16)
    lost = lost_voxels(recording.cortex, recording.shown.n_sessions)
    stored[:, lost == session] = 0
    volumes = np.zeros((TRIALS, *brain.shape[::-1]), np.int16)
    volumes.reshape(TRIALS, -1)[:, disk_order(brain)] = stored
    layout, subject = Layout(recording.folder), recording.cortex.subject
    write_nifti(layout.betas(subject, session, "nii.gz"), volumes)
    _write_hdf5(layout.betas(subject, session, "hdf5"), volumes)
    return stored


def disk_order(inside: np.ndarray) -> np.ndarray:
    """Return where voxels (given in flat C order) lie in a file that runs x fastest."""
    return np.ravel_multi_index(np.nonzero(inside), inside.shape, order="F")


def lost_voxels(cortex: Cortex, n_sessions: int) -> np.ndarray:
    """Name the session (1-based) in which a voxel left the field of view, 0 for none.

    Returns
    -------
    (n_brain_voxels,) int; a few voxels at the brain's edge, none of nsdgeneral
    """
    inside = np.flatnonzero(cortex.anatomy.brain)
    outside = np.flatnonzero(~np.isin(inside, cortex.anatomy.voxels))
    rng = np.random.default_rng((cortex.seed, cortex.subject, 3))
    lost = np.zeros(len(inside), int)
    lost[outside[-_N_LOST:]] = rng.integers(1, n_sessions + 1, len(outside[-_N_LOST:]))
    return lost


def record_session(recording: Recording, session: int) -> np.ndarray:
    """Simulate the betas of one session.

    beta = baseline + session offset + session gain x signal + noise, where the noise is partly
    independent, partly shared by neighbours, and partly the response to another scene.

    Returns
    -------
    (750, n_brain_voxels) float32, percent signal change
    """
    cortex = recording.cortex
    rng = np.random.default_rng((cortex.seed, cortex.subject, 1000 + session))
    patterns = cortex.patterns()
    n_brain = patterns.shape[1]
    visual = np.searchsorted(np.flatnonzero(cortex.anatomy.brain), cortex.anatomy.voxels)
    sd = np.full(n_brain, _REST_SD, np.float32)
    baseline = np.full(n_brain, _REST_BASELINE, np.float32)
    sd[visual], baseline[visual] = cortex.noise_sd, cortex.baseline
    betas = rng.standard_normal((TRIALS, n_brain), np.float32)
    betas *= np.float32(np.sqrt(INDEPENDENT))
    states = rng.standard_normal((TRIALS, len(patterns)), np.float32)
    betas += (np.float32(np.sqrt(CORRELATED)) * states) @ patterns
    answers, rows = recording.answers(), np.arange(session * TRIALS - TRIALS, session * TRIALS)
    seen = np.searchsorted(recording.nsd_id, recording.trial_ids[rows])
    stray = np.asarray(answers[rng.integers(len(answers), size=TRIALS)], np.float32)
    betas[:, visual] += np.float32(np.sqrt(MANIFOLD)) * stray
    shift = 0.2 * rng.standard_normal(len(patterns), np.float32) @ patterns
    betas += shift + 0.1 * rng.standard_normal(n_brain, np.float32)
    betas *= sd
    betas += baseline
    strength = cortex.gain(recording.snr) * np.float32(1 + 0.05 * rng.standard_normal())
    betas[:, visual] += np.asarray(answers[seen], np.float32) * strength
    return betas


def header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Return the 352 bytes that NSD's MATLAB code writes before the data.

    ``qfac`` is 0 and only the s-form is set: voxel size, and the centre of the box as origin.
    It is no anatomical space.

    Parameters
    ----------
    shape : (n_x, n_y, n_z) or (n_x, n_y, n_z, n_trials)
    dtype : number type of the data
    """
    head = nibabel.Nifti1Header()
    head.set_data_dtype(dtype)
    head.set_data_shape(shape)
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = [-(n - 1) / 2 * VOXEL_MM for n in shape[:3]]
    head.set_sform(affine, code=1)
    head["pixdim"] = [0, VOXEL_MM, VOXEL_MM, VOXEL_MM, SECONDS, 1, 1, 1]
    head["vox_offset"], head["magic"] = 352, b"n+1"
    # NSD's writer says "no scale factor" with 0, nibabel's with NaN.
    head["scl_slope"], head["scl_inter"] = 0, 0
    head["xyzt_units"] = 10
    return head.binaryblock + bytes(4)


def write_nifti(path: Path, volumes: np.ndarray) -> None:
    """Write volumes, given as (z, y, x) or (trials, z, y, x), the order of their bytes."""
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as file:
        file.write(header(volumes.shape[::-1], volumes.dtype))
        file.write(np.ascontiguousarray(volumes).data.cast("B"))


def _write_hdf5(path: Path, volumes: np.ndarray) -> None:
    """Write ``/betas`` with all trials of one voxel as one chunk."""
    n_trials, *zyx = volumes.shape
    columns = np.ascontiguousarray(volumes.reshape(n_trials, -1).T)
    with h5py.File(path, "w") as file:
        betas = file.create_dataset("betas", volumes.shape, np.int16, chunks=(n_trials, 1, 1, 1))
        for place, column in zip(np.ndindex(*zyx), columns, strict=True):
            betas.id.write_direct_chunk((0, *place), column.data)
