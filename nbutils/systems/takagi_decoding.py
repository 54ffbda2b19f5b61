"""From single trials to z and c: the regressions of Takagi & Nishimoto.

Ridge is fitted on single trials, each with the features of its image, and applied to the averages
of the test images. Source: yu-takagi/StableDiffusionReconstruction, `codes/utils/make_subjmri.py`
and `codes/utils/ridge.py`.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class FittedMap:
    """Ridge from one region's responses to one feature, for any number of predictions.

    In memory are the training responses and their Gram matrix, on the device of the fit. One
    penalty is factored once; with a penalty for each number every prediction factors them again.

    Attributes
    ----------
    choice : `nbutils.decoding.selection.AlphaChoice`
    operator : of the training trials
    features : that it was fitted to
    """

    choice: AlphaChoice
    operator: RidgeOperator = field(repr=False)
    features: Features = field(repr=False)

    def predict(self, new: Float) -> Float:
        """Predict the feature, (n, ...) float32.

        Parameters
        ----------
        new : (n, n_voxels) responses scaled like the test averages: these, or a control's
        """
        return self.operator.predict(new, self.features, self.choice.alpha)


def fit(
    responses: Standardised,
    features: Features,
    settings: TakagiSettings,
    *,
    device: str = "cpu",
    progress: bool = False,
) -> FittedMap:
    """Choose the penalty on training trials, and fit.

    Parameters
    ----------
    responses : of the feature's region
    features : z or c of (at least) the training images
    settings : intercept, penalties, folds
    device : as for `RidgeOperator`
    progress : show a progress bar over the folds

    Returns
    -------
    fitted : one penalty for the feature is chosen on 256 of its numbers, drawn at random (our
        choice)
    """
    images, intercept = responses.train_id, settings.ridge_intercept
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
        intercept=intercept,
        progress=progress,
    )
    operator = RidgeOperator(responses.train, images, device, intercept)
    return FittedMap(choice, operator, features)
