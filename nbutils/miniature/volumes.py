"""Write a simulated subject's single volumes, label tables and truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nbutils.miniature import scenes
from nbutils.miniature.anatomy import AREAS as REGIONS
from nbutils.miniature.anatomy import ECCENTRICITY_EDGES, NAMES, TABLES
from nbutils.miniature.cortex import LOCALIZED, Cortex
from nbutils.miniature.recording import UNITS, Recording, lost_voxels, write_nifti
from nbutils.miniature.tuning import CHANNELS, COLOR_NAMES, KIND_NAMES
from nbutils.nsd.layout import Layout
from nbutils.nsd.noise import estimate_ncsnr

VOXELS_PER_BLOCK = 1500
_SCAN_SD = 3.0
_ATLAS = {
    "face": "floc-faces",
    "body": "floc-bodies",
    "place": "floc-places",
    "word": "floc-words",
    "food": "floc-food",
}


def write_subject_volumes(
    layout: Layout, cortex: Cortex, betas: list[np.ndarray], recording: Recording
) -> None:
    """Write everything about a subject but the betas.

    Parameters
    ----------
    layout : of the folder to write to
    cortex : Cortex
    betas : (750, n_brain_voxels) int16 of every session
    recording : Recording
    """
    subject, brain = cortex.subject, cortex.anatomy.brain
    found = _statistics(betas, recording.trial_ids[: sum(map(len, betas))])
    folder = layout.betas_folder(subject)
    _write(folder / "ncsnr.nii.gz", _fill(brain, found["ncsnr"], np.nan))
    _write(folder / "meanbeta.nii.gz", _fill(brain, found["mean"], 0))
    _write(folder / "R2.nii.gz", _fill(brain, _explained(found["mean square"]), 0))
    _write(layout.volume(subject, "R2"), _fill(brain, _explained(found["mean"] ** 2), 0))
    lost = lost_voxels(cortex, recording.shown.n_sessions)
    for session in range(1, len(betas) + 1):
        valid = _fill(brain, lost != session, 0)
        _write(layout.volume(subject, f"valid_session{session:02d}"), valid.astype(np.int16))
    _write(layout.volume(subject, "brainmask"), brain.astype(np.int16))
    _write(layout.volume(subject, "T1_to_func1pt8mm"), cortex.anatomy.t1)
    # An echo-planar image has the opposite contrast: grey matter and fluid bright.
    epi = np.where(brain, 1600 - 0.9 * cortex.anatomy.t1, 20).astype(np.float32)
    _write(layout.volume(subject, "mean"), epi)
    _write_prf(layout, cortex, epi)
    _write_atlases(layout, cortex)
    _write_truth(layout, cortex, recording)


def _statistics(betas: list[np.ndarray], nsd_id: np.ndarray) -> dict[str, np.ndarray]:
    """Estimate ncsnr from the simulated repeats, as NSD does, and means in percent."""
    session = np.repeat(np.arange(len(betas)), [len(block) for block in betas])
    found: dict[str, list] = {"ncsnr": [], "mean": [], "mean square": []}
    for start in range(0, betas[0].shape[1], VOXELS_PER_BLOCK):
        block = np.concatenate([one[:, start : start + VOXELS_PER_BLOCK] for one in betas])
        found["ncsnr"].append(estimate_ncsnr(block, nsd_id, session))
        found["mean"].append(block.mean(axis=0) / UNITS)
        found["mean square"].append((block / np.float32(UNITS)).var(axis=0))
    values = {name: np.concatenate(parts) for name, parts in found.items()}
    values["mean square"] += values["mean"] ** 2
    return values


def _explained(power: np.ndarray) -> np.ndarray:
    """Return R2 in percent of a model whose predictions have this mean square.

    No time series is simulated, only betas; this is what they would explain of single volumes
    whose noise has a standard deviation of `_SCAN_SD` percent.
    """
    return 100 * power / (power + _SCAN_SD**2)


def _write_prf(layout: Layout, cortex: Cortex, epi: np.ndarray) -> None:
    early, voxels = cortex.early, cortex.anatomy.voxels[cortex.early_voxels]
    quality = 100 * cortex.ncsnr**2 / (cortex.ncsnr**2 + 1 / 3)
    maps = {
        "angle": early.angle,
        "eccentricity": early.eccentricity,
        "size": early.size,
        "exponent": early.exponent,
        "gain": cortex.gain()[cortex.early_voxels],
        "meanvol": epi.reshape(-1)[voxels],
        "R2": quality[cortex.early_voxels],
    }
    for name, values in maps.items():
        _write(
            layout.volume(cortex.subject, f"prf_{name}"),
            _place(cortex, voxels, values, np.nan).astype(np.float32),
        )


def atlas_labels(cortex: Cortex) -> dict[str, np.ndarray]:
    """Label the voxels of the mask.

    Returns
    -------
    dict from atlas to (n_voxels,) int16, 0 where the atlas says nothing. Voxels with a second
    preference lie in that category's atlas too: localizer regions overlap, as in NSD.
    """
    names = np.array(NAMES)[cortex.anatomy.area]
    labels = {atlas: np.zeros(len(names), np.int16) for atlas in TABLES}
    labels["nsdgeneral"][:] = 1
    labels["streams"][:] = [REGIONS[name].stream for name in names]
    for name, region in REGIONS.items():
        if region.atlas is not None:
            labels[region.atlas][names == name] = TABLES[region.atlas].index(region.label) + 1
    early = cortex.early_voxels
    band = np.digitize(cortex.early.eccentricity, ECCENTRICITY_EDGES)
    labels["prf-eccrois"][early] = band + 1
    for k, category in enumerate(LOCALIZED):
        also = np.flatnonzero((cortex.second == k) & (labels[_ATLAS[category]] == 0))
        labels[_ATLAS[category]][also] = _nearest(cortex, also, labels[_ATLAS[category]])
    return labels


def _nearest(cortex: Cortex, voxels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the label of the nearest labelled voxel."""
    known, where = np.flatnonzero(labels), cortex.anatomy.position
    distance = ((where[voxels][:, None] - where[known]) ** 2).sum(axis=-1)
    return labels[known[distance.argmin(axis=1)]]


def _write_atlases(layout: Layout, cortex: Cortex) -> None:
    """Write label volumes (-1 outside cortex, 0 unlabelled) of both, left and right hemisphere."""
    brain, subject = cortex.anatomy, cortex.subject
    right_half = np.arange(brain.shape[0])[:, None, None] >= brain.shape[0] / 2
    for atlas, values in atlas_labels(cortex).items():
        volume = np.where(brain.cortex, 0, -1).astype(np.int16)
        volume.reshape(-1)[brain.voxels] = values
        _write(layout.roi(subject, atlas), volume)
        _write(layout.roi(subject, atlas, "lh"), np.where(right_half, -1, volume).astype(np.int16))
        _write(layout.roi(subject, atlas, "rh"), np.where(right_half, volume, -1).astype(np.int16))
        table = layout.labels(subject, atlas)
        table.parent.mkdir(parents=True, exist_ok=True)
        # NSD's tables have blanks and tabs at the ends of lines.
        lines = [f"{k} {name}\t    \n" for k, name in enumerate(("Unknown", *TABLES[atlas]))]
        table.write_text("".join(lines), encoding="utf-8")


def _write_truth(layout: Layout, cortex: Cortex, recording: Recording) -> None:
    folder = layout.truth(cortex.subject)
    gain, answers = cortex.gain(recording.snr), recording.answers()
    clean = np.lib.format.open_memmap(folder / "noise_free.npy", "w+", np.float16, answers.shape)
    for start in range(0, len(answers), 500):
        block = np.asarray(answers[start : start + 500], np.float32)
        clean[start : start + 500] = cortex.baseline + gain * block
    clean.flush()
    np.save(folder / "nsd_id.npy", recording.nsd_id)
    np.save(folder / "voxels.npy", cortex.anatomy.voxels)
    early, late = cortex.early, cortex.late
    np.savez(
        folder / "tuning.npz",
        area=np.array(NAMES)[cortex.anatomy.area],
        prefers=cortex.prefers(),
        ncsnr=recording.snr * cortex.ncsnr,
        noise_sd=cortex.noise_sd,
        baseline=cortex.baseline,
        early_voxels=cortex.early_voxels,
        late_voxels=cortex.late_voxels,
        channels=np.array(CHANNELS),
        kinds=np.array(KIND_NAMES),
        colors=np.array(COLOR_NAMES),
        backgrounds=np.array(scenes.BACKGROUNDS),
        categories=np.array(scenes.CATEGORIES),
        **{f"early_{key}": value for key, value in vars(early).items()},
        **{f"late_{key}": value for key, value in vars(late).items()},
    )


def _fill(inside: np.ndarray, values: np.ndarray, fill: float) -> np.ndarray:
    volume = np.full(inside.shape, fill, np.float32)
    volume[inside] = values
    return volume


def _place(cortex: Cortex, voxels: np.ndarray, values: np.ndarray, fill: float) -> np.ndarray:
    volume = np.full(cortex.anatomy.shape, fill, np.float32)
    volume.reshape(-1)[voxels] = values
    return volume


def _write(path: Path, volume: np.ndarray) -> None:
    write_nifti(path, volume.transpose(2, 1, 0))
