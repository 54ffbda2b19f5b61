"""One subject's decoder: all features from one ridge operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbutils.decoding.blocks import write_npy
from nbutils.decoding.rescale import MODES, Statistics, describe, describe_predictions, rescale
from nbutils.decoding.ridge import RidgeOperator
from nbutils.decoding.store import Features

Float = NDArray[np.float32]


class Decoder:
    """Predict the features of several networks from responses.

    Parameters
    ----------
    operator : ridge on the training responses, with their nsd_ids
    features : name -> stored features of (at least) the training images
    alphas : name -> ridge penalty, or an array of the feature's shape with a penalty for each value
    mode : how predictions regain their spread, see `nbutils.decoding.rescale.rescale`

    Raises
    ------
    ValueError
        If a feature has no penalty, the mode is unknown, or training images lack features.
    """

    def __init__(
        self,
        operator: RidgeOperator,
        features: Mapping[str, Features],
        alphas: Mapping[str, float | ArrayLike],
        mode: str = "none",
    ) -> None:
        missing = [name for name in features if name not in alphas]
        if missing:
            raise ValueError(f"{missing[0]} has no alpha; give one for each feature.")
        if mode not in MODES:
            raise ValueError(f"prediction_rescale={mode!r}: choose one of {', '.join(MODES)}.")
        if operator.nsd_id is None:
            raise ValueError("the operator has no nsd_id; give RidgeOperator the training images'.")
        for stored in features.values():
            stored.rows(operator.nsd_id)
        self.operator, self.features = operator, dict(features)
        self.alphas, self.mode = dict(alphas), mode
        self._training: dict[str, Statistics] = {}
        self._left_out: dict[str, Statistics] = {}

    def describe_training(self, name: str) -> Statistics:
        """Mean, spread and typical norm of a feature over the training images, computed once."""
        if name not in self._training:
            self._training[name] = describe(self._find(name), self.operator.nsd_id)
        return self._training[name]

    def decode(
        self,
        responses: ArrayLike,
        names: Iterable[str] | None = None,
        *,
        mode: str | None = None,
        progress: bool = False,
        folder: str | Path | None = None,
        suffix: str = "",
    ) -> dict[str, Float]:
        """Predict features from responses.

        Parameters
        ----------
        responses : (n, n_voxels), z-scored like the training responses
        names : features to predict, all by default
        mode : "none", "train_cv" or "test_stats" instead of the decoder's own; synthetic patterns
            are decoded with "none" and scaled by `nbutils.synthetic.normalise`
        progress : show a progress bar for each feature
        folder : where ``<name><suffix>.npy`` are written, so that predictions need no memory
        suffix : what follows a feature's name in its file's name

        Returns
        -------
        predicted : name -> (n, ...) float32, with `folder` read-only memory maps
        """
        mode = self.mode if mode is None else mode
        names = list(self.features if names is None else names)
        found = {}
        # Features of one penalty follow each other: the operator keeps one factor.
        for name in sorted(names, key=self._order):
            if folder is None:
                found[name] = self._decode_memory(responses, name, mode, progress)
            else:
                path = Path(folder) / f"{name}{suffix}.npy"
                found[name] = self._decode_file(responses, name, mode, progress, path)
        return {name: found[name] for name in names}

    def _decode_memory(self, responses: ArrayLike, name: str, mode: str, progress: bool) -> Float:
        targets, alpha = self._find(name), self.alphas[name]
        values = self.operator.predict(responses, targets, alpha, progress=progress)
        return rescale(values, mode, **self._statistics(name, mode), out=values)

    def _decode_file(
        self, responses: ArrayLike, name: str, mode: str, progress: bool, path: Path
    ) -> Float:
        targets, alpha = self._find(name), self.alphas[name]
        if mode == "none":
            return self.operator.predict(responses, targets, alpha, progress=progress, out=path)
        plain = path.with_name(f"{path.stem}.plain.npy")
        try:
            values = self.operator.predict(responses, targets, alpha, progress=progress, out=plain)
            with write_npy(path, values.shape) as array:
                rescale(values, mode, **self._statistics(name, mode), out=array)
        finally:
            plain.unlink(missing_ok=True)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def _statistics(self, name: str, mode: str) -> dict[str, Any]:
        return {
            "targets": None if mode == "none" else self.describe_training(name),
            "predictions": lambda: self._describe_left_out(name),
        }

    def _order(self, name: str) -> float:
        self._find(name)
        return float(np.max(self.alphas[name]))

    def _describe_left_out(self, name: str) -> Statistics:
        if name not in self._left_out:
            self._left_out[name] = describe_predictions(
                self.operator, self._find(name), self.alphas[name]
            )
        return self._left_out[name]

    def _find(self, name: str) -> Features:
        if name not in self.features:
            raise ValueError(f"feature {name!r}: this decoder has {', '.join(self.features)}.")
        return self.features[name]
