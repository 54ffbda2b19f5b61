"""Measures of reconstructed images, one value per image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.special import softmax
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity

from nbutils.metrics.bootstrap import mismatch
from nbutils.metrics.identification import correlation_distance, identify, pair_correlation
from nbutils.networks import pictures

Images = NDArray[np.uint8]
Values = NDArray[np.float64]
LAYERS = ("early", "middle", "late")
LOWER_IS_BETTER = ("late distance",)


def pair_images(images: Images, truth: Images) -> tuple[Images, Images]:
    """Check two stacks of images and give the first the size of the second (PIL, bicubic).

    Raises
    ------
    TypeError
        If one is not uint8.
    ValueError
        If they are not as many.
    """
    images, truth = pictures.check(images), pictures.check(truth)
    if len(images) != len(truth):
        raise ValueError(
            f"{len(images)} reconstructions for {len(truth)} images; give the same nsd_ids."
        )
    return pictures.resize(images, truth.shape[1]), truth


def check_same_images(nsd_ids: ArrayLike, other_ids: ArrayLike) -> None:
    """Refuse to compare rows that belong to different images.

    Raises
    ------
    ValueError
        If the two lists of nsd_ids differ in length, content or order.
    """
    first, second = np.asarray(nsd_ids), np.asarray(other_ids)
    if first.shape != second.shape:
        raise ValueError(f"{first.size} and {second.size} nsd_ids; compare the same images.")
    different = np.flatnonzero(first != second)
    if len(different):
        row = different[0]
        raise ValueError(
            f"row {row} is nsd_id {first[row]} on one side and {second[row]} on the other; bring "
            "both into the same order by nsd_id."
        )


def pixcorr(images: Images, truth: Images) -> Values:
    """Pearson correlation of all RGB values of each pair.

    Parameters
    ----------
    images : (n, H, W, 3) uint8 reconstructions, resized to the truth's size if need be
    truth : (n, H, W, 3) uint8 presented images

    Returns
    -------
    r : (n,); 0 for an image of one colour
    """
    images, truth = pair_images(images, truth)
    flat = (x.reshape(len(x), -1).astype(np.float64) for x in (images, truth))
    return pair_correlation(*flat)


def ssim(images: Images, truth: Images, variant: Literal["2d", "legacy_columns"] = "2d") -> Values:
    """Structural similarity of the grey images (Gaussian window, sigma 1.5, data range 1).

    Parameters
    ----------
    images, truth : as in `pixcorr`
    variant : ``2d``; or ``legacy_columns``, the mean of the one-dimensional SSIMs of the columns,
        which is what ``multichannel=True`` meant for grey images up to scikit-image 0.19, and so
        what Brain-Diffuser's pinned environment computes. From 0.20 on the same line gives ``2d``;
        the two are different quantities.

    Returns
    -------
    similarity : (n,)

    Raises
    ------
    ValueError
        If the variant is unknown or the images are smaller than the window of 11 pixels.
    """
    if variant not in ("2d", "legacy_columns"):
        raise ValueError(f"ssim variant={variant!r}: choose 2d or legacy_columns.")
    images, truth = pair_images(images, truth)
    pairs = ((rgb2gray(one), rgb2gray(other)) for one, other in zip(images, truth, strict=True))
    if variant == "legacy_columns":
        return np.array([_ssim_of_columns(*pair) for pair in pairs])
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return np.array([structural_similarity(*pair, data_range=1.0, **options) for pair in pairs])


def _ssim_of_columns(first: Values, second: Values) -> float:
    """``structural_similarity(first, second, channel_axis=-1, ...)``, all columns at once.

    scikit-image goes through the columns in a Python loop, which takes about 30 times as long.
    """
    sigma, truncate, c1, c2 = 1.5, 3.5, 0.01**2, 0.03**2  # its options and constants
    edge = int(truncate * sigma + 0.5)  # where the window hangs over the edge
    if len(first) <= 2 * edge:
        raise ValueError(f"ssim: images {len(first)} pixels high; the window needs {2 * edge + 1}.")

    def smooth(values: Values) -> Values:
        return gaussian_filter1d(values, sigma, axis=0, truncate=truncate)

    mean, other = smooth(first), smooth(second)
    variances = smooth(first**2) - mean**2 + smooth(second**2) - other**2
    covariance = smooth(first * second) - mean * other
    similarity = (2 * mean * other + c1) * (2 * covariance + c2)
    similarity /= (mean**2 + other**2 + c1) * (variances + c2)
    return float(similarity[edge:-edge].mean())


def category_hit(probabilities: ArrayLike, present: ArrayLike) -> Values:
    """Is the category that the classifier finds most likely one that was there?

    Parameters
    ----------
    probabilities : (n, n_categories) of the reconstructions
    present : (n, n_categories) bool, categories in the presented images

    Returns
    -------
    hit : (n,) 0 or 1
    """
    probabilities, present = np.asarray(probabilities), np.asarray(present, dtype=bool)
    if probabilities.shape != present.shape:
        raise ValueError(
            f"probabilities of shape {probabilities.shape}, labels of shape {present.shape}; give "
            "one column per category for the same images."
        )
    best = probabilities.argmax(axis=1)
    return present[np.arange(len(best)), best].astype(np.float64)


def background_hit(probabilities: ArrayLike, background: ArrayLike) -> Values:
    """Is the background that the classifier finds most likely the right one?

    Parameters
    ----------
    probabilities : (n, n_backgrounds) of the reconstructions
    background : (n,) index of the presented image's background

    Returns
    -------
    hit : (n,) 0 or 1
    """
    best, background = np.asarray(probabilities).argmax(axis=1), np.asarray(background)
    if best.shape != background.shape:
        raise ValueError(f"{len(best)} images for {background.size} backgrounds; give one each.")
    return (best == background).astype(np.float64)


def mark_present(names: Sequence[Sequence[str]], categories: Sequence[str]) -> NDArray[np.bool_]:
    """Turn lists of names into a table of what is in each image.

    Parameters
    ----------
    names : for each image the categories in it, as `nbutils.nsd.captions.categories` gives them
    categories : the classifier's categories, in its order; other names are left out

    Returns
    -------
    present : (n, n_categories) bool
    """
    return np.array([[category in row for category in categories] for row in names], dtype=bool)


def classify(classifier: Any, images: Images, batch_size: int = 128) -> dict[str, NDArray]:
    """Run the independent classifier in batches; see `SceneClassifier.classify`."""
    parts = [classifier.classify(batch) for batch in _batches(images, batch_size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def read_with_clip(clip: Any, images: Images, names: Sequence[str]) -> NDArray[np.float32]:
    """Read what images show by CLIP's zero-shot rule, where there is no independent classifier.

    Parameters
    ----------
    clip : `ClipEncoder`; if it also made the contexts, it is a biased judge
    images : (n, H, W, 3) uint8
    names : categories to choose from, each put into "a photo of a ..."

    Returns
    -------
    probabilities : (n, n_names), softmax of 100 times the cosine
    """
    texts = clip.text_embedding([f"a photo of a {name}" for name in names])
    cosines = embed(clip, images) @ texts.float().cpu().numpy().T
    return softmax(100 * cosines, axis=1).astype(np.float32)


def read(networks: Any, images: Images, labels: Sequence[str]) -> NDArray[np.float32]:
    """Read what images show, by the independent classifier or, where there is none, by CLIP.

    Parameters
    ----------
    networks : what `nbutils.networks.loading.load` returns
    images : (n, H, W, 3) uint8
    labels : categories, in the classifier's order

    Returns
    -------
    probabilities : (n, n_labels)

    Raises
    ------
    ValueError
        If the classifier knows another number of categories.
    """
    if not networks.config.classifier:
        return read_with_clip(networks.clip, images, labels)
    found = classify(networks.classifier, images)["category"]
    if found.shape[1] != len(labels):
        raise ValueError(
            f"{len(labels)} labels for a classifier of {found.shape[1]} categories; give its own."
        )
    return found


def embed(clip: Any, images: Images, batch_size: int = 128) -> NDArray[np.float32]:
    """CLIP image embeddings (n, d) in batches."""
    parts = [clip.image_embedding(batch) for batch in _batches(images, batch_size)]
    return np.concatenate([part.float().cpu().numpy() for part in parts])


class ImageJudge:
    """Everything that reconstructions of one set of images are measured by.

    The presented images are looked at once, then any number of conditions is measured.

    Parameters
    ----------
    truth : (n, H, W, 3) uint8 presented images
    clip : `ClipEncoder` or None; the one that made C_I is a biased judge, so read the
        classifier's measures first where there is a classifier
    classifier : `SceneClassifier` or None; took part in no other network's training
    present : (n, n_categories) bool, what is in the presented images; by default what the
        classifier finds in them
    background : (n,) index of their backgrounds; by default what the classifier finds
    """

    def __init__(
        self,
        truth: Images,
        *,
        clip: Any = None,
        classifier: Any = None,
        present: ArrayLike | None = None,
        background: ArrayLike | None = None,
    ) -> None:
        self.truth = pictures.check(truth)
        self.clip, self.classifier = clip, classifier
        self._truth_features = self._look(self.truth)
        if classifier is not None:
            seen = self._truth_features
            self.present = seen["category"] > 0.5 if present is None else np.asarray(present, bool)
            self.background = (
                seen["background"].argmax(axis=1) if background is None else np.asarray(background)
            )

    def measure(self, images: Images) -> dict[str, Values]:
        """Measure reconstructions.

        Parameters
        ----------
        images : (n, H, W, 3) uint8, in the order of the presented images

        Returns
        -------
        values : measure -> (n,); higher is better but for `LOWER_IS_BETTER`
        """
        found = self._look(pair_images(images, self.truth)[0])
        return self._compare(images, found, np.arange(len(self.truth)))

    def measure_chance(self, images: Images, repeats: int = 5, seed: int = 0) -> dict[str, Values]:
        """Measure reconstructions against other images than their own.

        Two-way identification is at one half by construction; the other measures have no fixed
        chance level, since two unrelated scenes also correlate.

        Parameters
        ----------
        images : as in `measure`
        repeats, seed : see `nbutils.metrics.bootstrap.mismatch`
        """
        n = len(self.truth)
        found = self._look(pair_images(images, self.truth)[0])
        names = list(self._compare(images, found, np.arange(n)))

        def stack(order: NDArray) -> NDArray:
            return np.stack(list(self._compare(images, found, order).values()), axis=1)

        values = mismatch(stack, n, repeats, seed)
        chance = dict(zip(names, values.T, strict=True))
        return {k: np.full(n, 0.5) if "two-way" in k else v for k, v in chance.items()}

    def _look(self, images: Images) -> dict[str, NDArray]:
        seen = {} if self.classifier is None else classify(self.classifier, images)
        if self.clip is not None:
            seen["clip"] = embed(self.clip, images)
        return seen

    def _compare(
        self, images: Images, found: Mapping[str, NDArray], order: NDArray[np.int64]
    ) -> dict[str, Values]:
        truth = self.truth[order]
        values = {
            "PixCorr": pixcorr(images, truth),
            "SSIM": ssim(images, truth),
            "SSIM legacy": ssim(images, truth, "legacy_columns"),
        }
        for name in (*LAYERS, "clip"):
            if name in found:
                own = self._truth_features[name][order]
                values[f"two-way {name}"] = identify(own, found[name])
                if name == "late":
                    values["two-way late, recon distractors"] = identify(
                        own, found[name], "reconstructions"
                    )
                    values["late distance"] = correlation_distance(own, found[name])
        if self.classifier is not None:
            values["category hit"] = category_hit(found["category"], self.present[order])
            values["background hit"] = background_hit(found["background"], self.background[order])
        return values


def _batches(images: Images, size: int) -> Iterator[Images]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
