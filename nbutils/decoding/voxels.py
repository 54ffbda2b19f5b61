"""Ridge regression in which every target has voxels of its own.

MindDiffuser decodes each number of a feature from the N voxels that correlate most with it over
the training images, with hardly any penalty on top: the choice of voxels is the regularisation.
The published code uses `fastl2lir` for it, one target after the other; this solves the same
systems, cut from one Gram matrix, in blocks of targets.

Source: Lu et al. 2023 (MindDiffuser), `Feature decoding/*.py`; KamitaniLab/PyFastL2LiR,
`fastl2lir.py` (`fit` with `n_feat`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm.auto import tqdm

from nbutils.decoding.blocks import column_blocks
from nbutils.decoding.gram import check_alpha
from nbutils.decoding.ridge import centre_rows
from nbutils.decoding.store import Features

Float = NDArray[np.float32]

PUBLISHED_IMAGES = 8000
"""Training images behind the published numbers of voxels; 859 others were held out."""
_BYTES = 256 * 2**20
_REFINEMENTS = 8


class SelectedVoxels:
    """Ridge regression on the voxels that correlate most with each target.

    For each target equal to ``sklearn.linear_model.Ridge(alpha)`` fitted on the chosen voxels
    alone. `fastl2lir` also puts the penalty on its column of ones; with centred responses and
    targets, as published, that column is orthogonal to all others and the results are the same.
    Solutions have double precision.

    Parameters
    ----------
    responses_train : (n_images, n_voxels), z-scored responses to the training images
    nsd_id : (n_images,) int or None, the image of each row; needed to align `Features`
    device : "cpu" or "cuda"; where there is no double precision the CPU is used

    Raises
    ------
    ValueError
        If the responses are not a finite matrix or `nsd_id` does not fit them.
    """

    def __init__(
        self, responses_train: ArrayLike, nsd_id: ArrayLike | None = None, device: str = "cpu"
    ) -> None:
        centred, self.mean = centre_rows(responses_train)
        self.nsd_id = None if nsd_id is None else np.asarray(nsd_id, dtype=np.int64)
        if self.nsd_id is not None and self.nsd_id.shape != (len(centred),):
            raise ValueError(
                f"nsd_id has shape {self.nsd_id.shape} for {len(centred)} training responses; "
                "give one image number per row."
            )
        self.n_images, self.n_voxels = centred.shape
        self.device = torch.device("cpu" if str(device) == "mps" else device)
        self._x = torch.from_numpy(centred).to(self.device, torch.float64)
        self._gram = self._x.T @ self._x
        self._single = self._gram.float()
        self._spread = self._gram.diagonal().sqrt()

    def predict(
        self,
        responses: ArrayLike,
        targets: ArrayLike | Features,
        n_voxels: int,
        alpha: float = 0.15,
        *,
        progress: bool = False,
        label: str = "ridge",
    ) -> Float:
        """Predict the targets of new responses.

        Parameters
        ----------
        responses : (n_new, n_voxels), z-scored like the training responses
        targets : (n_images, ...) training targets in the order of the training responses, or
            `Features`, whose rows are found by nsd_id
        n_voxels : N, voxels per target; more than there are means all
        alpha : penalty on the squared weights (published: 0.15)
        progress, label : show a progress bar, and its name

        Returns
        -------
        predicted : (n_new, ...) float32

        Raises
        ------
        ValueError
            If the targets or responses do not fit, there is no voxel to choose, or a system is
        singular.
        """
        if n_voxels < 1:
            raise ValueError(f"n_voxels={n_voxels}: choose at least one voxel for each target")
        alpha, count = check_alpha(alpha), min(int(n_voxels), self.n_voxels)
        new = self._centre(responses)
        array, rows = self._align(targets)
        predicted = np.empty((len(new), array[:1].size), np.float32)
        step = max(1, _BYTES // (4 * count * count))
        bar = tqdm(total=predicted.shape[1], desc=label, unit="target", disable=not progress)
        with bar:
            for columns, values in column_blocks(array, rows, block=1024):
                block = torch.from_numpy(values).to(self.device, torch.float64)
                for first in range(0, block.shape[1], step):
                    part = block[:, first : first + step]
                    place = slice(columns.start + first, columns.start + first + part.shape[1])
                    predicted[:, place] = self._predict(new, part, count, alpha).cpu().numpy()
                    bar.update(part.shape[1])
        return predicted.reshape(len(new), *array.shape[1:])

    def choose(self, targets: ArrayLike, n_voxels: int) -> NDArray[np.int64]:
        """The voxels of each target: the N of highest absolute correlation, best first.

        Parameters
        ----------
        targets : (n_images, n_targets) training targets
        n_voxels : N

        Returns
        -------
        voxels : (n_targets, N) positions among the voxels
        """
        values = torch.as_tensor(np.asarray(targets), dtype=torch.float64, device=self.device)
        products = self._x.T @ (values - values.mean(dim=0))
        return self._rank(products, min(int(n_voxels), self.n_voxels)).cpu().numpy()

    def _predict(self, new: Tensor, values: Tensor, count: int, alpha: float) -> Tensor:
        mean = values.mean(dim=0)
        products = (self._x.T @ (values - mean)).T
        chosen = self._rank(products.T, count)
        weights = self._solve(products, chosen, alpha)
        # One product with mostly empty weights is faster than picking voxels for each target.
        return new @ weights.T + mean

    def _solve(self, products: Tensor, chosen: Tensor, alpha: float) -> Tensor:
        """Weights (n_targets, n_voxels), 0 where a voxel was not chosen.

        The factor is made in single precision, at half the cost; steps of iterative refinement,
        whose residuals are double, bring the solution to double precision. Systems for which that
        fails are factored in double precision.
        """
        right = products.gather(1, chosen)
        factor, failed = self._factor(chosen, alpha, torch.float32)
        if not failed:
            weights, residual = torch.zeros_like(products), right
            for _ in range(_REFINEMENTS):
                change = torch.cholesky_solve(residual.float()[:, :, None], factor)[:, :, 0]
                weights.scatter_add_(1, chosen, change.double())
                reached = self._apply_gram(weights) + alpha * weights
                residual = right - reached.gather(1, chosen)
                if (residual.norm(dim=1) <= 1e-9 * right.norm(dim=1)).all():
                    return weights
        factor, failed = self._factor(chosen, alpha, torch.float64)
        if failed:
            raise ValueError(
                f"alpha={alpha:g} leaves the system of {chosen.shape[1]} voxels singular; choose a "
                "larger alpha or fewer voxels."
            )
        solved = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
        return torch.zeros_like(products).scatter_(1, chosen, solved)

    def _apply_gram(self, weights: Tensor) -> Tensor:
        """Rows times the Gram matrix, over the images where they are few."""
        if 2 * self.n_images < self.n_voxels:
            return (weights @ self._x.T) @ self._x
        return weights @ self._gram

    def _factor(self, chosen: Tensor, alpha: float, dtype: torch.dtype) -> tuple[Tensor, bool]:
        gram = self._single if dtype == torch.float32 else self._gram
        systems = gram[chosen[:, :, None], chosen[:, None, :]]
        systems.diagonal(dim1=1, dim2=2).add_(alpha)
        factor, info = torch.linalg.cholesky_ex(systems)
        return factor, bool(info.any())

    def _rank(self, products: Tensor, count: int) -> Tensor:
        """Voxels by absolute correlation; a target's own spread does not change their order."""
        # A voxel that never varies correlates with nothing.
        safe = torch.where(self._spread > 1e-4 * self.n_images**0.5, self._spread, torch.inf)
        return (products.abs() / safe[:, None]).T.topk(count, dim=1).indices

    def _centre(self, responses: ArrayLike) -> Tensor:
        new = np.asarray(responses, dtype=np.float32)
        if new.ndim != 2 or new.shape[1] != self.n_voxels:
            raise ValueError(
                f"responses have shape {new.shape}; give one row per image and the "
                f"{self.n_voxels} voxels of the training responses."
            )
        if not np.isfinite(new).all():
            raise ValueError("responses hold NaN or infinite values; check them.")
        return torch.from_numpy(new - self.mean).to(self.device, torch.float64)

    def _align(self, targets: ArrayLike | Features) -> tuple[NDArray, NDArray | None]:
        if isinstance(targets, Features):
            if self.nsd_id is None:
                raise ValueError(
                    "Features are aligned by nsd_id; give SelectedVoxels the nsd_id of its rows."
                )
            return targets.array, targets.rows(self.nsd_id)
        array = np.asanyarray(targets)
        if len(array) != self.n_images:
            raise ValueError(
                f"targets have {len(array)} rows for {self.n_images} training responses; give "
                "the same images in the same order, or Features, which are aligned by nsd_id."
            )
        return array, None


def scale_voxels(published: int, n_images: int) -> int:
    """Number of voxels per target where there are fewer training images than were published.

    With next to no penalty, it is voxels per training image that decide about overfitting, so N
    shrinks in proportion (our choice); from 8,000 images on it is the published number.

    Parameters
    ----------
    published : N, for 8,000 training images
    n_images : training images at hand
    """
    return max(1, round(published * min(1.0, n_images / PUBLISHED_IMAGES)))
