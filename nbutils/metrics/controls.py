"""Controls: what do the same decoder and the same generator give without the right information?

Each control is an array of responses (or of features) that goes through exactly the code that the
real responses go through. What survives a control is not decoded from the brain: it is the
generator's prior, or what all images share.

- *shuffled*: the responses to other images. Everything that is left is the prior.
- *wrong subject*: another person's responses to the same images, voxels matched by region. What is
  left is carried by regions as a whole, not by this person's voxels.
- *noise-free* (simulated brains only): a ceiling for more repeats and better scanners.
- *ground-truth features*: a ceiling for better brains and better regression.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbutils.decoding.store import Features, open_features
from nbutils.metrics.bootstrap import derange
from nbutils.nsd.betas import Responses, load_responses, noise_free
from nbutils.nsd.layout import Layout
from nbutils.nsd.rois import atlases, roi
from nbutils.nsd.single_trials import load_trials
from nbutils.nsd.trials import trials
from nbutils.systems.settings_takagi import TakagiSettings
from nbutils.systems.takagi_decoding import ATLAS, find_voxels, standardise

Float = NDArray[np.float32]
Brain = tuple[int, NDArray[np.int64]]
"""A subject, 1-based, and voxels of it as flat C-order indices."""

CONDITIONS: dict[str, str] = {
    "own responses": "",
    "noise-free responses": "_noise_free",
    "shuffled responses": "_shuffled",
    "another subject": "_other_subject",
}
"""Condition -> what follows a feature's name in the predictions decoded from it."""

MATCHED_ROIS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("prf-visualrois", ("V1",)),
    ("prf-visualrois", ("V2",)),
    ("prf-visualrois", ("V3",)),
    ("prf-visualrois", ("hV4",)),
    ("floc-faces", ()),
    ("floc-bodies", ()),
    ("floc-places", ()),
    ("floc-words", ()),
)
"""Regions within which voxels of two subjects are matched; the first that fits counts."""


def shuffle_responses(responses: ArrayLike, seed: int = 0) -> tuple[Float, NDArray[np.int64]]:
    """Give every image the response to another one.

    Parameters
    ----------
    responses : (n_images, n_voxels)
    seed : of the order

    Returns
    -------
    shuffled : (n_images, n_voxels); row i is the response to image ``order[i]``, never to i
    order : (n_images,)
    """
    responses = np.asarray(responses)
    order = derange(len(responses), np.random.default_rng(seed))
    return responses[order], order


def code_regions(
    layout: Layout,
    subject: int,
    voxels: NDArray[np.int64],
    regions: Sequence[tuple[str, Sequence[str]]] = MATCHED_ROIS,
) -> NDArray[np.int64]:
    """Number the region of every voxel, 0 where none fits.

    Parameters
    ----------
    layout, subject : whose ROI volumes
    voxels : (n_voxels,) flat C-order indices
    regions : (atlas, labels) pairs; where a voxel is in several, the first counts

    Returns
    -------
    codes : (n_voxels,) 0 to len(regions)
    """
    codes = np.zeros(len(voxels), dtype=np.int64)
    for number, (atlas, labels) in reversed(list(enumerate(regions, start=1))):
        codes[roi(layout, subject, atlas, *labels, voxels=voxels)] = number
    return codes


def match_voxels(own_regions: ArrayLike, other_regions: ArrayLike) -> NDArray[np.int64]:
    """For every voxel of one brain, a voxel of another brain in the same region.

    Within a region the voxels of both are taken in their order through the volume and the longer
    list is thinned, or the shorter repeated, evenly. This is our choice; it matches regions, not
    what single voxels prefer. A region that the other brain lacks is filled from all its voxels.

    Parameters
    ----------
    own_regions : (n_own,) region number of each voxel
    other_regions : (n_other,) region number of each voxel of the other brain

    Returns
    -------
    match : (n_own,) positions in the other brain
    """
    own, other = np.asarray(own_regions), np.asarray(other_regions)
    match = np.empty(len(own), dtype=np.int64)
    for region in np.unique(own):
        mine = np.flatnonzero(own == region)
        theirs = np.flatnonzero(other == region)
        if not len(theirs):
            theirs = np.arange(len(other))
        match[mine] = theirs[np.arange(len(mine)) * len(theirs) // len(mine)]
    return match


def swap_subject(own: Responses, other: Responses, layout: Layout) -> Float:
    """Responses of another subject to the same images, in the place of one's own voxels.

    Parameters
    ----------
    own : responses of the subject whose decoder is tested
    other : responses of the other subject
    layout : where both subjects' ROI volumes are

    Returns
    -------
    responses : (n_test, n_voxels of `own`) float32, z-scored with the other's own statistics

    Raises
    ------
    ValueError
        If both are the same subject or the other did not see a test image.
    """
    if own.subject == other.subject:
        raise ValueError(
            f"subject {own.subject} on both sides; the control needs another subject's responses."
        )
    test = Features(other.test, other.test_id)
    return _put_in_place(
        layout, own.test_id, test, (own.subject, own.voxels), (other.subject, other.voxels)
    )


def _put_in_place(
    layout: Layout, nsd_ids: NDArray[np.int64], test: Features, own: Brain, other: Brain
) -> Float:
    """Arrange another subject's test responses by one's own images and voxels."""
    match = match_voxels(code_regions(layout, *own), code_regions(layout, *other))
    return test.array[test.rows(nsd_ids)][:, match]


def borrow_responses(
    layout: Layout,
    subject: int,
    voxels: NDArray[np.int64],
    nsd_ids: ArrayLike,
    others: Iterable[int],
    *,
    progress: bool = False,
) -> Float | None:
    """Load another subject's responses to the same images, arranged like one's own.

    Parameters
    ----------
    layout : where the data are
    subject : whose decoder is tested, 1-based
    voxels : (n_voxels,) flat C-order indices of this subject
    nsd_ids : (n_images,) test images, in the order wanted
    others : subjects to try; the first whose betas and atlases are on disk and who saw all images
        is taken
    progress : show a bar over sessions

    Returns
    -------
    responses : (n_images, n_voxels) float32, see `swap_subject`; None if nobody can stand in
    """
    ids = np.asarray(nsd_ids, dtype=np.int64)
    other = _find_stand_in(layout, subject, ids, others)
    if other is None:
        return None
    found = load_responses(layout, other, progress=progress)
    test = Features(found.test, found.test_id)
    return _put_in_place(layout, ids, test, (subject, voxels), (other, found.voxels))


def borrow_streams(
    layout: Layout,
    subject: int,
    nsd_ids: ArrayLike,
    others: Iterable[int],
    settings: TakagiSettings,
    *,
    progress: bool = False,
) -> tuple[Float, Float] | None:
    """Load another subject's responses for Takagi & Nishimoto's two maps, one region at a time.

    Like `borrow_responses`, but a voxel of `region_z` gets one of the other's `region_z`, and
    within it one of the same area where there is one; and the averages are scaled as the system
    scales its own, by the other's single trials.

    Parameters
    ----------
    layout, subject, nsd_ids, others, progress : as in `borrow_responses`
    settings : regions, voxels and scaling

    Returns
    -------
    for_z, for_c : (n_images, n_voxels of the region) float32; None if nobody can stand in
    """
    ids = np.asarray(nsd_ids, dtype=np.int64)
    other = _find_stand_in(layout, subject, ids, others, ATLAS)
    if other is None:
        return None
    mine, theirs = (find_voxels(layout, who, settings) for who in (subject, other))
    recorded = load_trials(layout, other, voxels=theirs, progress=progress)

    def borrow(region: str) -> Float:
        here = roi(layout, subject, ATLAS, region, voxels=mine)
        there = roi(layout, other, ATLAS, region, voxels=theirs)
        scaled = standardise(recorded, there, settings)
        test = Features(scaled.test, scaled.test_id)
        return _put_in_place(layout, ids, test, (subject, mine[here]), (other, theirs[there]))

    return borrow(settings.region_z), borrow(settings.region_c)


def _find_stand_in(
    layout: Layout, subject: int, nsd_ids: NDArray[np.int64], others: Iterable[int], *more: str
) -> int | None:
    """Return the first other subject with betas and atlases on disk who saw all images."""
    needed = {"nsdgeneral", *(atlas for atlas, _ in MATCHED_ROIS), *more}
    for other in others:
        if other == subject or not _on_disk(layout, other):
            continue
        if not needed.issubset(atlases(layout, other)):
            continue
        if np.isin(nsd_ids, trials(layout, other)["nsd_id"]).all():
            return other
    return None


def _on_disk(layout: Layout, subject: int) -> bool:
    try:
        return bool(layout.sessions(subject))
    except FileNotFoundError:
        return False


def remove_noise(layout: Layout, own: Responses) -> Float | None:
    """Responses to the test images without noise, z-scored as the others; None for real brains.

    Parameters
    ----------
    layout : where the data are
    own : responses of the subject

    Returns
    -------
    responses : (n_test, n_voxels) float32 or None
    """
    values = noise_free(layout, own.subject, own.test_id, own.voxels)
    return None if values is None else own.standardise(values)


def take_truth(features: Mapping[str, Features], nsd_ids: ArrayLike) -> dict[str, Float]:
    """Features of the presented images themselves, in the place of predicted ones.

    Parameters
    ----------
    features : name -> stored features
    nsd_ids : (n,) test images

    Returns
    -------
    predicted : name -> (n, ...) float32, to be given to a system as ``predicted``
    """
    return {name: stored.take(nsd_ids) for name, stored in features.items()}


def take_rows(study: Any, kind: str, name: str, nsd_ids: ArrayLike) -> Any:
    """Rows of an artifact that belong to given images, in their order.

    Parameters
    ----------
    study : `nbutils.study.Study`
    kind, name : as for `Study.load`; an array or a list, saved with its nsd_ids
    nsd_ids : (n,) images

    Returns
    -------
    rows : (n, ...) array or list of n; None where the artifact has no rows at all, which says
        that this condition cannot be had

    Raises
    ------
    ValueError
        If some of the images are not among its rows.
    """
    known = study.ids(kind, name)
    if not len(known):
        return None
    values = study.load(kind, name)
    rows = Features(values, known).rows(nsd_ids)
    return [values[row] for row in rows] if isinstance(values, list) else np.asarray(values[rows])


def load_predictions(
    study: Any, nsd_ids: ArrayLike, names: Sequence[str]
) -> dict[str, dict[str, Float]]:
    """Features of test images in every condition that notebook 03 could decode.

    Parameters
    ----------
    study : `nbutils.study.Study`
    nsd_ids : (n,) test images
    names : features

    Returns
    -------
    predicted : condition of `CONDITIONS`, and "ground-truth features" -> feature -> (n, ...)
    """
    found = {
        condition: {name: take_rows(study, "predictions", f"{name}{end}.npy", nsd_ids)
                    for name in names}
        for condition, end in CONDITIONS.items()
    }  # fmt: skip
    stored = {name: open_features(study.require("features", f"{name}.npy")) for name in names}
    possible = {
        condition: features
        for condition, features in found.items()
        if all(values is not None for values in features.values())
    }
    return {**possible, "ground-truth features": take_truth(stored, nsd_ids)}
