"""From single trials to z and c: the regressions of Takagi & Nishimoto.

Ridge is fitted on single trials, each with the features of its image, and applied to the averages
of the test images. Source: yu-takagi/StableDiffusionReconstruction, `codes/utils/make_subjmri.py`
and `codes/utils/ridge.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nbutils.decoding.ridge import RidgeOperator
from nbutils.decoding.selection import AlphaChoice, choose_alpha
from nbutils.decoding.store import Features
from nbutils.nsd.averages import statistics
from nbutils.nsd.betas import average_repeats
from nbutils.nsd.layout import Layout
from nbutils.nsd.rois import mask, roi
from nbutils.nsd.single_trials import SingleTrials
from nbutils.systems.settings_takagi import TakagiSettings

Float = NDArray[np.float32]

ATLAS = "streams"


def find_voxels(layout: Layout, subject: int, settings: TakagiSettings) -> NDArray[np.int64]:
    """List the voxels of both regions, as flat C-order indices, ascending."""
    voxels = mask(layout, subject, "nsdgeneral" if settings.voxels == "nsdgeneral" else ATLAS)
    regions = {settings.region_z, settings.region_c}
    return voxels[roi(layout, subject, ATLAS, *regions, voxels=voxels)]


@dataclass(frozen=True)
class Standardised:
    """Responses of one region, z-scored.

    Attributes
    ----------
    train : (n_trials, n_voxels) float32 single training trials
    train_id : (n_trials,) image of each
    test : (n_images, n_voxels) float32 averages over repeats
    test_id : (n_images,) image of each
    """

    train: Float = field(repr=False)
    train_id: NDArray[np.int64] = field(repr=False)
    test: Float = field(repr=False)
    test_id: NDArray[np.int64] = field(repr=False)


def standardise(
    trials: SingleTrials,
    inside: NDArray[np.bool_],
    settings: TakagiSettings,
    n_train: int | None = None,
) -> Standardised:
    """Z-score single training trials and test averages with training statistics only.

    Parameters
    ----------
    trials : of the subject
    inside : (n_voxels,) bool, the region
    settings : `test_scaling` chooses the statistics of the test averages
    n_train : the first so many training images; None for all
    """
    train, train_id = trials.train(inside, n_train)
    test, test_id = trials.test(inside)
    mean, std = statistics(train, np.ones(len(train)))
    train -= mean
    train /= std
    if settings.test_scaling == "averages":
        # Averages of z-scored trials, so that only their spread is left to correct.
        averages, _ = average_repeats(train, train_id)
        centre, spread = statistics(averages, np.ones(len(averages)))
        mean, std = mean + centre * std, std * spread
    return Standardised(train, train_id, (test - mean) / std, test_id)


def decode(
    responses: Standardised,
    features: Features,
    settings: TakagiSettings,
    *,
    device: str = "cpu",
    progress: bool = False,
) -> tuple[Float, AlphaChoice]:
    """Choose the penalty on training trials, fit, and predict from the test averages.

    Parameters
    ----------
    responses : of the feature's region
    features : z or c of (at least) the training images
    settings : intercept, penalties, folds
    device : "cpu" or "cuda"
    progress : show a progress bar over the folds

    Returns
    -------
    predicted : (n_images, ...) float32
    choice : `nbutils.decoding.selection.AlphaChoice`; one penalty for the feature is chosen on
        256 of its numbers, drawn at random (our choice)
    """
    images = responses.train_id
    choice = choose_alpha(
        responses.train,
        features,
        settings.alphas,
        "kfold",
        nsd_id=images,
        folds=settings.folds,
        n_targets=256,
        seed=settings.seed,
        per=settings.alpha_per,
        groups=images if settings.folds_by_image else None,
        intercept=settings.ridge_intercept,
        progress=progress,
    )
    return apply(responses, responses.test, features, choice, settings, device=device), choice


def apply(
    responses: Standardised,
    new: Float,
    features: Features,
    choice: AlphaChoice,
    settings: TakagiSettings,
    *,
    device: str = "cpu",
) -> Float:
    """Predict a feature from new responses, with the map that `decode` fits.

    Parameters
    ----------
    responses : whose training trials the map is fitted on
    new : (n, n_voxels) responses scaled like the test averages, such as a control's
    features, settings, device : as in `decode`
    choice : what `decode` chose

    Returns
    -------
    predicted : (n, ...) float32
    """
    intercept = settings.ridge_intercept
    operator = RidgeOperator(responses.train, responses.train_id, device, intercept)
    return operator.predict(new, features, choice.alpha)


def decode_both(
    layout: Layout,
    subject: int,
    trials: SingleTrials,
    features: Mapping[str, Features],
    settings: TakagiSettings,
    *,
    n_train: int | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> tuple[dict[str, Float], NDArray[np.int64], dict[str, AlphaChoice]]:
    """Decode z from its region and c from its own.

    Parameters
    ----------
    layout, subject : where the atlas is
    trials : of the voxels of `find_voxels`
    features : "stable_latent" and "stable_text" of the training images
    settings, device, progress : as in `decode`
    n_train : as in `standardise`

    Returns
    -------
    predicted : name -> (n_images, ...) float32
    nsd_id : (n_images,) test images of the rows
    choices : name -> `AlphaChoice`
    """
    predicted, choices = {}, {}
    for name, region in (("stable_latent", settings.region_z), ("stable_text", settings.region_c)):
        inside = roi(layout, subject, ATLAS, region, voxels=trials.voxels)
        responses = standardise(trials, inside, settings, n_train)
        predicted[name], choices[name] = decode(
            responses, features[name], settings, device=device, progress=progress
        )
    return predicted, responses.test_id, choices
