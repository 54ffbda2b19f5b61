"""Write the stand-in's single volumes and label tables."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.ndimage import gaussian_filter

from nbutils.miniature.standin import labels
from nbutils.miniature.standin.brain import Brain
from nbutils.miniature.standin.files import make, write_volume
from nbutils.miniature.standin.voxels import Voxels
from nbutils.nsd.layout import HEMISPHERES, Layout

_N_LOST = 40
_DRAWN = ("MTL", "thalamus")


def lost_sessions(brain: Brain, n_sessions: int, seed: int = 0) -> np.ndarray:
    """Name the session (1-based) in which a voxel left the field of view, 0 for none.

    Returns
    -------
    (n_x, n_y, n_z) int64; some voxels at the brain's surface, none of nsdgeneral
    """
    rng = np.random.default_rng((seed, int(brain.like[4:]), 3))
    lost = np.zeros(brain.shape, np.int64)
    able = np.flatnonzero(brain.inside & (brain.atlases["streams"] <= 0))
    outermost = able[np.argsort(-brain.radius.reshape(-1)[able], kind="stable")[:_N_LOST]]
    lost.reshape(-1)[outermost] = rng.integers(1, n_sessions + 1, len(outermost))
    return lost


def write_volumes(
    layout: Layout, brain: Brain, voxels: Voxels, n_sessions: int, seed: int = 0
) -> None:
    """Write everything about a subject's brain but the betas; what is there is kept.

    Parameters
    ----------
    layout : of the folder to write to
    brain : Brain
    voxels : Voxels
    n_sessions : sessions that the subject took part in
    seed : of the simulated scans
    """
    subject = int(brain.like[4:])
    rng = np.random.default_rng((seed, subject, 4))
    t1 = _t1(brain, rng)
    # An echo-planar image has the opposite contrast: grey matter and fluid bright.
    epi = np.where(brain.inside, 1600 - 0.9 * t1, 20).astype(np.float32)
    explained = np.nan_to_num(voxels.ncsnr) ** 2
    variance = (100 * explained / (explained + 1)).astype(np.float32)
    named = {
        "brainmask": brain.inside.astype(np.int16),
        "T1_to_func1pt8mm": t1,
        "mean": epi,
        "R2": variance,
    }
    named |= {f"prf_{name}": values for name, values in voxels.prf.items()}
    lost = lost_sessions(brain, n_sessions, seed)
    for session in range(1, n_sessions + 1):
        valid = brain.inside & (lost != session)
        named[f"valid_session{session:02d}"] = valid.astype(np.int16)
    for name, values in named.items():
        write_volume(layout.volume(subject, name), values)
    folder = layout.betas_folder(subject)
    write_volume(layout.ncsnr(subject), voxels.ncsnr)
    write_volume(folder / "meanbeta.nii.gz", voxels.mean)
    write_volume(folder / "R2.nii.gz", variance)
    _write_atlases(layout, brain)


def _t1(brain: Brain, rng: np.random.Generator) -> np.ndarray:
    """Paint an image with the contrast of a T1 scan: white matter bright, fluid dark."""
    tissue = np.where(brain.inside, np.where(brain.cortex, 0.55, 0.95), 0.05)
    tissue = np.where(brain.inside & (brain.radius > 0.96), 0.35, tissue)
    # Where the head goes on outside the brain: skull dark, scalp bright.
    tissue = np.where((brain.radius > 1.08) & (brain.radius < 1.16), 0.5, tissue)
    smooth = gaussian_filter(tissue, 0.7) + 0.02 * rng.standard_normal(tissue.shape)
    return (1000 * np.clip(smooth, 0, None)).astype(np.float32)


def _write_atlases(layout: Layout, brain: Brain) -> None:
    """Write label volumes (-1 outside, 0 unlabelled) of both, left and right hemisphere."""
    subject = int(brain.like[4:])
    for atlas, volume in brain.atlases.items():
        halves = dict(zip(HEMISPHERES, (~brain.right, brain.right), strict=True))
        write_volume(layout.roi(subject, atlas), volume)
        for hemisphere, half in halves.items():
            values = np.where(half, volume, -1).astype(np.int16)
            write_volume(layout.roi(subject, atlas, hemisphere), values)
        tables = [layout.labels(subject, atlas)]
        if atlas in _DRAWN:
            # Drawn in the volume, not on the surface; the bucket has their names here.
            tables.append(layout.root / f"nsddata/templates/{atlas}.ctab")
        for path in tables:
            make(path, partial(labels.write_table, names=labels.TABLES[atlas]))
