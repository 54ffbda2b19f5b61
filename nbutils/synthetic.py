"""Synthetic responses: what features does a region's activity alone decode to?

A pattern is 1 in every voxel of a region and 0 elsewhere, in z-scored space, where 0 is the mean
response. It goes through the same ridge and the same diffusion as a measured response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbutils.decoding.rescale import Statistics
from nbutils.nsd import rois as nsd_rois
from nbutils.nsd.layout import Layout

Float = NDArray[np.float32]

ECCENTRICITY_BANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ecc0pt5": ("prf-eccrois", ("ecc0pt5",)),
    "ecc1": ("prf-eccrois", ("ecc1",)),
    "ecc2": ("prf-eccrois", ("ecc2",)),
    "ecc4": ("prf-eccrois", ("ecc4",)),
    "ecc4+": ("prf-eccrois", ("ecc4+",)),
}
"""Bands of pRF eccentricity: up to .5, .5-1, 1-2, 2-4 and above 4 degrees."""

ROIS: dict[str, tuple[str, tuple[str, ...]]] = {**nsd_rois.ROI_SETS, **ECCENTRICITY_BANDS}
"""Region -> (atlas, labels); no labels means every label of the atlas."""

UNIBRAIN_ROIS: tuple[str, ...] = ("faces", "words", "places", "bodies")
"""The four regions of UniBrain's figure 6."""

BRAIN_DIFFUSER_ROIS: tuple[str, ...] = (
    *UNIBRAIN_ROIS, "V1", "V2", "V3", "hV4", *ECCENTRICITY_BANDS,
)  # fmt: skip
"""The thirteen regions of Brain-Diffuser.

V1 to hV4 come from ``prf-visualrois``. The published code loads ``floc-faces`` there by mistake
(``roi_extract.py`` line 43) and reads its labels 1 to 7 as V1v ... hV4: its "V1" is OFA and FFA-1,
its "V2" FFA-2 and mTL-faces, its "V3" aTL-faces, and its "V4" is empty, so that the picture shows
the intercept. Copying that would show faces under the name of V1.
"""

PREFERRED: dict[str, str] = {
    "faces": "face", "words": "word", "places": "place", "bodies": "body", "food": "food",
}  # fmt: skip
"""Region -> the category that its localizer, or its literature, says it prefers."""

FULL_SIZE_NORMS: dict[str, float] = {"clip_text": 9.0, "clip_image": 15.0, "vdvae": 50.0}
"""Norms that the published code gives to the directions of synthetic predictions."""

_VDVAE_FINAL_NORM = 80.0


def patterns(
    layout: Layout, subject: int, names: Sequence[str], voxels: NDArray[np.int64] | None = None
) -> Float:
    """Make one synthetic response per region: 1 inside, 0 elsewhere.

    Parameters
    ----------
    layout : where the subject's ROI volumes are
    subject : 1-based
    names : regions, see `ROIS`
    voxels : (n_voxels,) flat C-order indices of the responses' mask; nsdgeneral by default

    Returns
    -------
    patterns : (n_rois, n_voxels) float32, in z-scored space

    Raises
    ------
    ValueError
        If a region is unknown, or this subject has none of its voxels in the mask.
    """
    rows = []
    for name in names:
        if name not in ROIS:
            raise ValueError(f"roi={name!r}: choose from {', '.join(ROIS)}.")
        atlas, labels = ROIS[name]
        inside = nsd_rois.roi(layout, subject, atlas, *labels, voxels=voxels)
        if not inside.any():
            raise ValueError(
                f"roi={name!r}: subject {subject} has no such voxel in the mask; leave it out."
            )
        rows.append(inside)
    if not rows:
        raise ValueError(f"no region was named; choose from {', '.join(ROIS)}.")
    return np.stack(rows).astype(np.float32)


def combine_union(patterns: ArrayLike) -> Float:
    """Activate several regions together: 1 in every voxel of any of them.

    Parameters
    ----------
    patterns : (n_rois, n_voxels) from `patterns`

    Returns
    -------
    pattern : (1, n_voxels) float32
    """
    return (np.asarray(patterns) != 0).any(axis=0, keepdims=True).astype(np.float32)


def combine_weighted(patterns: ArrayLike, weights: ArrayLike) -> Float:
    """Activate several regions, each as strongly as its weight; where they overlap, the sum.

    Parameters
    ----------
    patterns : (n_rois, n_voxels) from `patterns`
    weights : (n_rois,) in standard deviations of the training responses; negative suppresses

    Returns
    -------
    pattern : (1, n_voxels) float32

    Raises
    ------
    ValueError
        If there is not one weight per region.
    """
    stack, weights = np.asarray(patterns, np.float32), np.asarray(weights, np.float32)
    if weights.shape != (len(stack),):
        raise ValueError(f"{weights.size} weights for {len(stack)} regions; give one for each.")
    return weights[None] @ stack


def scale_to_training_norm(
    predicted: ArrayLike, training: Statistics, amplitude: float = 1.0
) -> Float:
    """Scale the direction a pattern moves the features in to the norm of real features.

    ``mean + amplitude * norm * d / |d|`` with ``d = predicted - mean``: every region, and every
    dose of it, is as far from the mean image as a typical training image, whatever its size and
    whichever regions are in the list. Our choice; no source states one for Z_I and Z_T.

    Parameters
    ----------
    predicted : (n_rois, ...) ridge predictions of the patterns
    training : statistics of the training features, from `nbutils.decoding.rescale.describe`
    amplitude : 1 for the norm of a typical training image, less for a weaker one

    Returns
    -------
    features : (n_rois, ...) float32
    """
    direction = np.asarray(predicted, dtype=np.float32) - training.mean
    return training.mean + np.float32(amplitude * training.norm) * _unit(direction)


def scale_as_published(name: str, predicted: ArrayLike, training: Statistics) -> Float:
    """Scale the predictions of patterns as the published code does, at full size.

    CLIP features: intercept plus the direction at norm 15 (image) or 9 (text). VDVAE: norm 50,
    then standardised across the regions in the list, given the training mean and spread, then
    norm 80; so a region depends on the others in the list, and one alone is impossible.

    Parameters
    ----------
    name : "clip_image", "clip_text" or "vdvae"; Brain-Diffuser has no other feature
    predicted : (n_rois, ...) ridge predictions of the patterns
    training : statistics of the training features; their mean is the intercept, because the
        training responses are z-scored

    Returns
    -------
    features : (n_rois, ...) float32

    Raises
    ------
    ValueError
        If the feature is not one of the published ones, or VDVAE comes with a single region.

    Notes
    -----
    Source: brain-diffuser, ``roi_generate_features.py``.
    """
    if name not in FULL_SIZE_NORMS:
        raise ValueError(
            f"roi_norm='published' exists for {', '.join(FULL_SIZE_NORMS)}, not for {name}; use "
            "training_norm."
        )
    direction = np.asarray(predicted, dtype=np.float32) - training.mean
    features = np.float32(FULL_SIZE_NORMS[name]) * _unit(direction) + training.mean
    if name != "vdvae":
        return features
    if len(features) < 2:
        raise ValueError(
            "roi_norm='published' standardises VDVAE across the regions and cannot scale a single "
            "one; use training_norm."
        )
    spread = features.std(axis=0)
    standard = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return np.float32(_VDVAE_FINAL_NORM) * _unit(standard * training.std + training.mean)


def normalise(
    predicted: Mapping[str, ArrayLike],
    training: Mapping[str, Statistics],
    mode: str = "training_norm",
    amplitude: float = 1.0,
) -> dict[str, Float]:
    """Scale the predicted features of synthetic patterns before they are turned into images.

    Parameters
    ----------
    predicted : feature -> (n_rois, ...) ridge predictions of the patterns
    training : feature -> statistics of the training features
    mode : ``training_norm`` (`scale_to_training_norm`) or ``published`` (`scale_as_published`
        for the features it knows; Z_I and Z_T, which it does not, get the training norm)
    amplitude : for ``training_norm``

    Returns
    -------
    features : feature -> (n_rois, ...) float32

    Raises
    ------
    ValueError
        If the mode is unknown.
    """
    if mode not in ("training_norm", "published"):
        raise ValueError(f"roi_norm={mode!r}: choose training_norm or published.")
    scaled = {}
    for name, values in predicted.items():
        if mode == "published" and name in FULL_SIZE_NORMS:
            scaled[name] = scale_as_published(name, values, training[name])
        else:
            scaled[name] = scale_to_training_norm(values, training[name], amplitude)
    return scaled


def measure_push(
    predicted: Mapping[str, ArrayLike], training: Mapping[str, Statistics]
) -> dict[str, Float]:
    """How far patterns move the features from their mean, before any scaling.

    Parameters
    ----------
    predicted : feature -> (n_rois, ...) ridge predictions of the patterns
    training : feature -> statistics of the training features

    Returns
    -------
    push : feature -> (n_rois,), 1 for the distance of a typical training image
    """
    push = {}
    for name, values in predicted.items():
        moved = np.asarray(values, dtype=np.float32) - training[name].mean
        distance = np.linalg.norm(moved.reshape(len(moved), -1), axis=1)
        push[name] = (distance / training[name].norm).astype(np.float32)
    return push


def repeat_for_noises(
    features: Mapping[str, ArrayLike], n_noises: int
) -> tuple[dict[str, Float], NDArray[np.int64]]:
    """Repeat the features of every region, once for each start noise.

    Parameters
    ----------
    features : feature -> (n_rois, ...)
    n_noises : pictures wanted of each region

    Returns
    -------
    repeated : feature -> (n_rois * n_noises, ...), the pictures of one region beside each other
    noise_ids : (n_rois * n_noises,) 0 ... n_noises - 1 again and again; given to a system as
        ``nsd_ids``, they let all regions start from the same noises
    """
    repeated = {
        name: np.repeat(np.asarray(values, dtype=np.float32), n_noises, axis=0)
        for name, values in features.items()
    }
    n_rois = len(next(iter(repeated.values()))) // n_noises
    return repeated, np.tile(np.arange(n_noises), n_rois)


def _unit(directions: Float) -> Float:
    """Each row divided by its Euclidean norm over all other axes."""
    flat = directions.reshape(len(directions), -1)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return (flat / (norms + np.float32(1e-8))).reshape(directions.shape)
