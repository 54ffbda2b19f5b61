"""What stage 2 of MindDiffuser reads in the control layers, and how the brain says it.

Two ways. `Entries` are single numbers of the layers, as published: the ones that the brain predicts
best, each decoded from voxels of its own. `Components` are our choice: principal components of a
layer, decoded by ridge from all voxels and treated as what they are, noisy measurements that ridge
has shrunk towards the mean.

Source: Lu et al. 2023 (MindDiffuser), section 3.3; ReedOnePeck/MindDiffuser, `Feature decoding/*`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from nbutils.decoding.ridge import RidgeOperator
from nbutils.decoding.store import Features
from nbutils.decoding.voxels import SelectedVoxels
from nbutils.systems.settings_minddiffuser import MindDiffuserSettings

Float = NDArray[np.float32]
Read = Callable[[Tensor], Tensor]
"""(n, layers, T, d) -> (n, sum of sizes), the numbers of all layers, lowest layer first."""
_ROWS = 512
"""Training images of which one layer is in memory at once; with copies 200 MB at published size."""


class Reading(Protocol):
    """Numbers of the control layers in which a picture and the brain are compared."""

    @property
    def sizes(self) -> Sequence[int]:
        """How many numbers of each layer, (layers,)."""

    @property
    def out_of(self) -> Sequence[int]:
        """What a layer's sum of squared errors is divided by, (layers,)."""

    def reader(self, device: torch.device) -> Read:
        """Prepare reading of pictures' layers on a device; differentiable."""

    def decode(self, responses: ArrayLike, *, progress: bool = False) -> Float:
        """Read the same numbers off responses, (n, n_voxels) -> (n, sum of sizes)."""


@dataclass(frozen=True)
class Entries:
    """Single numbers of the layers, each decoded from its own voxels, as published.

    Parameters
    ----------
    chosen : (layers, T, d) bool, see `choose_entries`
    ridge : on the training responses
    control : (n, layers, T, d) features of the training images
    settings : number of voxels, penalty
    """

    chosen: NDArray[np.bool_]
    ridge: SelectedVoxels
    control: Features
    settings: MindDiffuserSettings

    def __str__(self) -> str:
        pairs = zip(self.sizes, self.out_of, strict=True)
        return _list_layers(f"{size:,} of {count:,} numbers" for size, count in pairs)

    @property
    def sizes(self) -> list[int]:
        """How many numbers of each layer, (layers,)."""
        return [int(one.sum()) for one in self.chosen]

    @property
    def out_of(self) -> list[int]:
        """All numbers of a layer: in the published loss those that were not chosen count as 0."""
        return [one.size for one in self.chosen]

    def reader(self, device: torch.device) -> Read:
        """Take the chosen numbers, (n, layers, T, d) -> (n, chosen)."""
        places = torch.from_numpy(np.flatnonzero(self.chosen)).to(device)
        return lambda layers: layers.flatten(1)[:, places]

    def decode(self, responses: ArrayLike, *, progress: bool = False) -> Float:
        """Predict the chosen numbers, (n, n_voxels) -> (n, chosen)."""
        array, parts = self.control.array, []
        for layer, places in enumerate(self.chosen):
            values = Features(np.asarray(array[:, layer])[:, places], self.control.nsd_id)
            height = layer / len(self.chosen)
            count = self.settings.count_voxels("control", self.ridge.n_images, height)
            parts.append(
                self.ridge.predict(
                    responses, values, count, self.settings.alpha,
                    progress=progress, label=f"control {layer + 1}",
                )
            )  # fmt: skip
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class Components:
    """Principal components of the layers in units of what the brain does not know about them.

    Ridge predicts a component t as ``y = s t + e``: shrunk by s < 1, with an error of standard
    deviation sigma. Both are measured on training images. A picture is read as ``s t / sigma``, a
    response as ``y / sigma``. For one component with a Gaussian error their squared difference is,
    up to a constant, minus twice the log likelihood of the picture. Errors of several components
    are not independent, so that the sum is a weighting and no likelihood. A component that the
    brain hardly knows hardly pulls, and a pull is not towards the mean.

    Parameters
    ----------
    mean : (layers, D) mean of the training images, D = T d
    bases : for each layer (D, K) directions times s / sigma
    r : for each layer (K,) correlation of truth and leave-one-out prediction
    operator : ridge on the training responses
    alpha : its penalty
    scores : (n_images, sum of K) y's targets, t / sigma of the training images
    """

    mean: Float
    bases: tuple[Float, ...]
    r: tuple[NDArray[np.float64], ...]
    operator: RidgeOperator
    alpha: float
    scores: Float

    def __str__(self) -> str:
        lines = (
            f"{len(r)} components, left-out r from {r.max():.2f} to {r.min():.2f}, "
            f"{(r > 0.8).sum()} above .8"
            for r in self.r
        )
        return _list_layers(lines)

    @property
    def sizes(self) -> list[int]:
        """How many components of each layer, (layers,)."""
        return [base.shape[1] for base in self.bases]

    @property
    def out_of(self) -> list[int]:
        """As many as there are: a layer's error is the mean over its components."""
        return self.sizes

    def reader(self, device: torch.device) -> Read:
        """Project onto the components, (n, layers, T, d) -> (n, sum of K)."""
        mean = torch.from_numpy(self.mean).to(device)
        bases = [torch.from_numpy(base).to(device) for base in self.bases]

        def read(layers: Tensor) -> Tensor:
            flat = layers.flatten(2) - mean.to(layers.dtype)
            parts = [flat[:, k] @ base.to(flat.dtype) for k, base in enumerate(bases)]
            return torch.cat(parts, dim=1)

        return read

    def decode(self, responses: ArrayLike, *, progress: bool = False) -> Float:
        """Predict the components, (n, n_voxels) -> (n, sum of K)."""
        return self.operator.predict(responses, self.scores, self.alpha, progress=progress)

    @classmethod
    def fit(
        cls,
        operator: RidgeOperator,
        control: Features,
        alpha: float,
        settings: MindDiffuserSettings,
        *,
        n_images: int = 1000,
    ) -> Components:
        """Find components, and how well the brain knows them, on training images alone.

        Parameters
        ----------
        operator : ridge on the training responses
        control : (n, layers, T, d) features of the training images
        alpha : its penalty
        settings : least correlation of a component (`least_r`)
        n_images : training images, evenly spread, whose components are taken and which are
            predicted from all others

        Warns
        -----
        UserWarning
            If no component of a layer reaches `least_r`; then the two best are read.

        Raises
        ------
        ValueError
            If a layer never varies.
        """
        rows = _spread(operator, n_images)
        left_out = operator.leave_one_out(alpha, rows)
        found = []
        for layer in range(control.array.shape[1]):
            mean, directions, scores = _find_components(operator, control, layer, rows)
            r, gain, sigma = _calibrate(scores[rows], operator.apply(left_out, scores))
            known = _choose(r, settings.least_r, layer)
            base = (directions[known].T * (gain / sigma)[known]).astype(np.float32)
            found.append((mean, base, r[known], scores[:, known] / sigma[known]))
        means, bases, r, scores = zip(*found, strict=True)
        scores = np.concatenate(scores, axis=1).astype(np.float32)
        return cls(np.stack(means), bases, r, operator, alpha, scores)


def _find_components(
    operator: RidgeOperator, control: Features, layer: int, rows: NDArray[np.int64]
) -> tuple[Float, Float, Float]:
    """Mean and directions (K, D) of some images of a layer, scores (n_images, K) of all."""
    places = control.rows(operator.nsd_id)
    values = np.asarray(control.array[places[rows], layer], np.float32).reshape(len(rows), -1)
    if not np.ptp(values, axis=0).any():
        raise ValueError(
            f"control layer {layer + 1} is the same for all images; extract the features again."
        )
    pca = PCA(svd_solver="full").fit(values)
    # The last component of n centred images is empty, and so is one without variance.
    filled = pca.explained_variance_ > 1e-10 * pca.explained_variance_[0]
    filled[len(rows) - 1 :] = False
    directions = pca.components_[filled].astype(np.float32)
    scores = np.empty((len(places), len(directions)), np.float32)
    for first in range(0, len(places), _ROWS):
        part = slice(first, first + _ROWS)
        block = np.asarray(control.array[places[part], layer], np.float32)
        scores[part] = (block.reshape(len(block), -1) - pca.mean_) @ directions.T
    return pca.mean_.astype(np.float32), directions, scores


def _calibrate(truth: Float, told: Float) -> tuple[NDArray, NDArray, NDArray]:
    """Correlation, gain s and noise sigma of predictions ``s t + e``, column by column."""
    r = _correlate(truth, told)
    truth, told = (x - x.mean(axis=0, dtype=np.float64) for x in (truth, told))
    gain = (truth * told).sum(axis=0) / (truth**2).sum(axis=0)
    return r, gain, (told - gain * truth).std(axis=0)


def _choose(r: NDArray, least: float, layer: int) -> NDArray[np.bool_]:
    """Components that the brain knows well enough; if there are none, the two best."""
    if r.max() >= least:
        return r >= least
    warnings.warn(
        f"no component of control layer {layer + 1} reaches least_r={least} (best {r.max():.2f}), "
        "so the two best are read; check that responses and features belong together",
        stacklevel=3,
    )
    return r >= np.sort(r)[-2:].min()


def choose_entries(
    operator: RidgeOperator,
    control: Features,
    alpha: float,
    settings: MindDiffuserSettings,
    *,
    n_images: int = 1000,
) -> NDArray[np.bool_]:
    """Choose the numbers of the control layers that the brain predicts best.

    Parameters
    ----------
    operator : ridge on the training responses
    control : (n, layers, T, d) features of the training images
    alpha : its penalty
    settings : share that is chosen (`kept`), of each layer or of each token (`kept_per`)
    n_images : training images, evenly spread, that are predicted from all others

    Returns
    -------
    chosen : (layers, T, d) bool, those of highest correlation between leave-one-out prediction
        and truth over training images
    """
    rows = _spread(operator, n_images)
    truth = control.array.reshape(len(control.array), -1)[control.rows(operator.nsd_id[rows])]
    r = np.empty(truth.shape[1])
    for columns, found in operator.stream(operator.leave_one_out(alpha, rows), control):
        r[columns] = _correlate(truth[:, columns], found)
    r = r.reshape(control.array.shape[1:])
    axes = (1, 2) if settings.kept_per == "layer" else 2
    return r >= np.quantile(r, 1 - settings.kept, axis=axes, keepdims=True)


def find_reading(
    operator: RidgeOperator,
    ridge: SelectedVoxels,
    control: Features,
    alpha: float,
    settings: MindDiffuserSettings,
) -> Entries | Components:
    """Choose what stage 2 reads in the control layers, the way that the settings say.

    Parameters
    ----------
    operator, alpha : plain ridge on the training responses and its penalty
    ridge : on the same responses, with voxels of its own for each number
    control : (n, layers, T, d) features of the training images
    settings : `control_numbers`, and what belongs to it
    """
    if settings.control_numbers == "components":
        return Components.fit(operator, control, alpha, settings)
    return Entries(choose_entries(operator, control, alpha, settings), ridge, control, settings)


def _list_layers(lines: Iterable[str]) -> str:
    return "\n".join(f"layer {k}: {line}" for k, line in enumerate(lines, 1))


def _correlate(first: NDArray, second: NDArray) -> NDArray[np.float64]:
    """Correlation of each column; 0 for a column that never varies."""
    first, second = (x - x.mean(axis=0, dtype=np.float64) for x in (first, second))
    norms = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    return (first * second).sum(axis=0) / np.where(norms > 0, norms, 1)


def _spread(operator: RidgeOperator, n_images: int) -> NDArray[np.int64]:
    """Positions of training images, evenly spread."""
    return np.linspace(0, operator.n_images - 1, min(n_images, operator.n_images)).astype(int)
