"""Measuring reconstructions as one paper does, through its networks or their stand-ins."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from nbutils.metrics.bootstrap import mismatch
from nbutils.metrics.identification import correlation_distance, identify_samples
from nbutils.metrics.images import Images, Values, pixcorr, ssim
from nbutils.metrics.readers import Readers
from nbutils.metrics.variants import FeatureMeasure, MetricVariant
from nbutils.networks import pictures
from nbutils.networks.batches import batches

STAND_INS: dict[str, tuple[str, str]] = {
    "AlexNet(2)": ("classifier", "early"),
    "AlexNet(5)": ("classifier", "middle"),
    "AlexNet(7)": ("classifier", "late"),
    "Inception": ("classifier", "late"),
    "EffNet-B": ("classifier", "late"),
    "SwAV": ("classifier", "middle"),
    "CLIP": ("clip", "embedding"),
    "CLIP(6)": ("clip", "hidden 1/4"),
    "CLIP(12)": ("clip", "hidden 1/2"),
    "CLIP cosine": ("clip", "embedding"),
}
"""Published measure -> network and layer that stand in for it, where there is a classifier."""


class VariantJudge:
    """Measures reconstructions of one set of images as one paper does.

    The presented images are looked at once, then any number of conditions is measured.

    Parameters
    ----------
    truth : (n, H, W, 3) uint8 presented images
    variant : of `nbutils.metrics.variants.VARIANTS`
    readers : networks to look through
    batch_size : images that pass through a network at once

    Attributes
    ----------
    names : published name of each measure -> the name it has here, which says so where another
        network stands in
    lower_is_better : measures, by their names here, of which less is better

    Raises
    ------
    FileNotFoundError
        If the weights of a published network are not there; see `load_metric_network`.
    """

    def __init__(
        self, truth: Images, variant: MetricVariant, readers: Readers, batch_size: int = 64
    ) -> None:
        self.truth, self.variant = pictures.check(truth), variant
        self.readers, self.batch_size = readers, batch_size
        self._places = {m: self._place(m) for m in variant.measures}
        self.names = {name: name for name in variant.pixels}
        self.names |= {measure.name: self._name(measure) for measure in variant.measures}
        self.lower_is_better = tuple(
            self.names[m.name] for m in variant.measures if m.rule == "distance"
        )
        self._truth_features = self._look(self.truth)

    def measure(self, images: NDArray[np.uint8]) -> dict[str, Values]:
        """Measure reconstructions.

        Parameters
        ----------
        images : (n, H, W, 3) or (n, samples, H, W, 3) uint8, in the order of the presented images

        Returns
        -------
        values : measure -> (n,), by its name here; of several samples the mean over them, or for
            two-way identification what `identify_samples` says
        """
        samples = self._take_samples(images)
        found = self._look_at_samples(samples)
        values = self._compare_pairs(samples, found, np.arange(len(self.truth)))
        values |= self._identify(found)
        return {name: values[name] for name in self.names.values()}

    def measure_chance(
        self, images: NDArray[np.uint8], repeats: int = 5, seed: int = 0
    ) -> dict[str, Values]:
        """Measure reconstructions against other images than their own.

        Two-way identification is at one half by construction.

        Parameters
        ----------
        images : as in `measure`
        repeats, seed : see `nbutils.metrics.bootstrap.mismatch`
        """
        samples, n = self._take_samples(images), len(self.truth)
        found = self._look_at_samples(samples)
        names = list(self._compare_pairs(samples, found, np.arange(n)))

        def stack(order: NDArray) -> NDArray:
            return np.stack(list(self._compare_pairs(samples, found, order).values()), axis=1)

        chance = dict(zip(names, mismatch(stack, n, repeats, seed).T, strict=True)) if names else {}
        return {name: chance.get(name, np.full(n, 0.5)) for name in self.names.values()}

    def _place(self, measure: FeatureMeasure) -> tuple[str, str]:
        own = measure.network, measure.layer
        return STAND_INS[measure.name] if self.readers.stand_ins else own

    def _name(self, measure: FeatureMeasure) -> str:
        if not self.readers.stand_ins:
            return measure.name
        network, layer = self._places[measure]
        rule = {"two_way": "", "distance": " distance", "cosine": " cosine"}[measure.rule]
        place = f"own CLIP, {layer}" if network == "clip" else f"classifier {layer}"
        return f"{place}{rule} (stand-in for {measure.name})"

    def _take_samples(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        images = np.asarray(images)
        samples = images[:, None] if images.ndim == 4 else images
        if len(samples) != len(self.truth):
            raise ValueError(
                f"{len(samples)} reconstructions for {len(self.truth)} images; give the same "
                "nsd_ids."
            )
        return samples

    def _look_at_samples(self, samples: NDArray[np.uint8]) -> dict[FeatureMeasure, NDArray]:
        n, s = samples.shape[:2]
        found = self._look(samples.reshape(n * s, *samples.shape[2:]))
        return {measure: values.reshape(n, s, -1) for measure, values in found.items()}

    def _look(self, images: Images) -> dict[FeatureMeasure, NDArray[np.float32]]:
        """Read every measure's features, (n, d), each network once for each way of resizing."""
        images, groups = pictures.check(images), {}
        for measure, (network, layer) in self._places.items():
            size = self.readers[network].size or measure.size
            groups.setdefault((network, size, measure.method), []).append((measure, layer))
        seen = {}
        for (network, size, method), group in groups.items():
            layers = list(dict.fromkeys(layer for _, layer in group))
            found = {layer: [] for layer in layers}
            for rows in batches(len(images), self.batch_size, network, progress=False):
                pixels = self._resize(images[rows], size, method)
                read = self.readers[network].read(pixels, layers)
                for layer in layers:
                    found[layer].append(read[layer].flatten(1).numpy())
            joined = {layer: np.concatenate(parts) for layer, parts in found.items()}
            seen |= {measure: joined[layer] for measure, layer in group}
        return {measure: seen[measure] for measure in self._places}

    def _resize(self, images: Images, size: int, method: str) -> Tensor:
        """Resize as the paper does: (n, 3, size, size) in [0, 1]."""
        if self.variant.resize == "pil":
            return to_tensor(pictures.resize(images, size, method))
        return resize_tensor(self._shrink(images), size)

    def _shrink(self, images: Images) -> Tensor:
        first = self.variant.first_size
        pixels = to_tensor(images)
        return pixels if first is None else resize_tensor(pixels, first)

    def _compare_pairs(
        self,
        samples: NDArray[np.uint8],
        found: dict[FeatureMeasure, NDArray],
        order: NDArray[np.int64],
    ) -> dict[str, Values]:
        """Values of the measures that need only a reconstruction and one image."""
        values = self._compare_pixels(samples, self.truth[order]) if self.variant.pixels else {}
        for measure, features in found.items():
            if measure.rule == "two_way":
                continue
            own = self._truth_features[measure][order]
            rule = correlation_distance if measure.rule == "distance" else cosine
            per_sample = [rule(own, features[:, s]) for s in range(features.shape[1])]
            values[self.names[measure.name]] = np.mean(per_sample, axis=0)
        return values

    def _compare_pixels(self, samples: NDArray[np.uint8], truth: Images) -> dict[str, Values]:
        rules = {"PixCorr": pixcorr, "SSIM": lambda a, b: ssim(a, b, self.variant.ssim)}
        truth = self._prepare_pixels(truth)
        prepared = [self._prepare_pixels(samples[:, s]) for s in range(samples.shape[1])]
        return {
            name: np.mean([rules[name](images, truth) for images in prepared], axis=0)
            for name in self.variant.pixels
        }

    def _prepare_pixels(self, images: Images) -> Images:
        """Bring images to the size at which the paper compares pixels.

        They are 8-bit again then; MindEye keeps fractions, which moves a PixCorr by less than .001.
        """
        if self.variant.pixel_size is None:
            return images  # the measures resize reconstructions to the presented images
        pixels = resize_tensor(self._shrink(images), self.variant.pixel_size)
        return (255 * pixels).round().byte().permute(0, 2, 3, 1).numpy()

    def _identify(self, found: dict[FeatureMeasure, NDArray]) -> dict[str, Values]:
        return {
            self.names[measure.name]: identify_samples(
                self._truth_features[measure], features, self.variant.distractors
            )
            for measure, features in found.items()
            if measure.rule == "two_way"
        }


def cosine(truth: ArrayLike, found: ArrayLike) -> Values:
    """Cosine of each pair of rows, (n,); 0 where a row is zero."""
    truth, found = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (truth, found))
    scale = np.linalg.norm(truth, axis=1) * np.linalg.norm(found, axis=1)
    product = (truth * found).sum(axis=1)
    return np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)


def to_tensor(images: Images) -> Tensor:
    """Turn (n, H, W, 3) uint8 into (n, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def resize_tensor(pixels: Tensor, size: int) -> Tensor:
    """Resize (n, 3, H, W) bilinearly without smoothing, as ``transforms.Resize`` did on tensors.

    From torchvision 0.17 on it smooths when images become smaller; MindEye's code ran before.
    """
    if pixels.shape[-2:] == (size, size):
        return pixels
    return nn.functional.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
