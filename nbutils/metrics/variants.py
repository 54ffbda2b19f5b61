"""The measures of each paper by name: what is called "SSIM" or "AlexNet(2)" differs between them.

A variant follows the public code of one paper, where there is one. Two tables may be put beside
each other only if they were made by the same variant on the same images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from nbutils.metrics.identification import Distractors

Rule = Literal["two_way", "distance", "cosine"]


@dataclass(frozen=True)
class FeatureMeasure:
    """One measure that compares features of a network.

    Parameters
    ----------
    name : as the papers' tables call it
    network : of `nbutils.metrics.readers.METRIC_NETWORKS`, or "clip"
    layer : as that network's reader calls it
    rule : "two_way" identification, correlation "distance", or "cosine"
    size : side of the images that it sees, pixels
    method : filter when they are resized
    """

    name: str
    network: str
    layer: str
    rule: Rule = "two_way"
    size: int = 224
    method: Literal["bilinear", "bicubic"] = "bilinear"


@dataclass(frozen=True)
class MetricVariant:
    """How one paper measures reconstructions.

    Parameters
    ----------
    name, paper : short name, and where it is from
    measures : those that compare features
    pixels : names of those that compare pixels, of "PixCorr" and "SSIM"
    ssim : see `nbutils.metrics.images.ssim`
    distractors : of two-way identification, see `nbutils.metrics.identification.identify`
    samples : reconstructions per image that the paper measures
    resize : "pil", 8-bit and smoothed when made smaller; "tensor", floating-point and, in the
        library versions of that time, not smoothed
    first_size : side to which everything is resized before anything else; None where it is not
    pixel_size : side at which pixels are compared; None for that of the presented images (NSD: 425)
    test_images : what the paper's numbers are means over
    note : what else to know
    """

    name: str
    paper: str
    measures: tuple[FeatureMeasure, ...]
    pixels: tuple[str, ...] = ("PixCorr", "SSIM")
    ssim: Literal["2d", "legacy_columns"] = "2d"
    distractors: Distractors = "ground_truth"
    samples: int = 1
    resize: Literal["pil", "tensor"] = "pil"
    first_size: int | None = None
    pixel_size: int | None = None
    test_images: str = "982 (37 sessions)"
    note: str = field(default="", compare=False)


def _eight(sizes: tuple[int, int, int, int], efficientnet: str) -> tuple[FeatureMeasure, ...]:
    """Six feature measures; sizes of AlexNet, Inception, EfficientNet, and CLIP and SwAV."""
    alexnet, inception, efficient, others = sizes
    return (
        FeatureMeasure("AlexNet(2)", "alexnet", "features.4", size=alexnet),
        FeatureMeasure("AlexNet(5)", "alexnet", "features.11", size=alexnet),
        FeatureMeasure("Inception", "inception", "avgpool", size=inception),
        FeatureMeasure("CLIP", "clip", "embedding", size=others),
        FeatureMeasure("EffNet-B", efficientnet, "avgpool", "distance", efficient),
        FeatureMeasure("SwAV", "swav", "avgpool", "distance", others),
    )


_MINDEYE = _eight((256, 342, 255, 224), "efficientnet_v2")

_TAKAGI = (
    FeatureMeasure("AlexNet(2)", "alexnet", "features.5", size=299),
    FeatureMeasure("AlexNet(5)", "alexnet", "features.12", size=299),
    FeatureMeasure("AlexNet(7)", "alexnet", "classifier.5", size=299),
    FeatureMeasure("Inception", "inception", "flatten", size=299),
    FeatureMeasure("CLIP(6)", "clip", "hidden 1/4", method="bicubic"),
    FeatureMeasure("CLIP(12)", "clip", "hidden 1/2", method="bicubic"),
    FeatureMeasure("CLIP", "clip", "embedding", method="bicubic"),
)

VARIANTS: dict[str, MetricVariant] = {
    variant.name: variant
    for variant in (
        MetricVariant(
            "brain_diffuser",
            "Ozcelik & VanRullen 2023, eval_extract_features.py and evaluate_reconstruction.py",
            _eight((224, 224, 224, 224), "efficientnet_v1"),
            ssim="legacy_columns",
            note="AlexNet after ReLU. SSIM by columns is what the pinned scikit-image 0.17.2 "
            "computes; in which environment the printed numbers were made is not known.",
        ),
        MetricVariant(
            "takagi",
            "Takagi & Nishimoto 2023, img2feat_decoded.py and identification.py",
            _TAKAGI,
            pixels=(),
            distractors="reconstructions",
            samples=5,
            note="AlexNet after pooling, at Inception's 299 pixels. The correlations of five "
            "samples are averaged before two reconstructions are compared.",
        ),
        MetricVariant(
            "minddiffuser",
            "Lu et al. 2023, table 2",
            (FeatureMeasure("CLIP cosine", "clip", "embedding", "cosine", method="bicubic"),),
            note="The sources known to us state neither the settings of SSIM nor which CLIP was "
            "used; two-dimensional SSIM and the CLIP of the networks directory are our choice.",
        ),
        MetricVariant(
            "mindeye1",
            "Scotti et al. 2023, Reconstruction_Metrics.py",
            _MINDEYE,
            resize="tensor",
            first_size=256,
            pixel_size=425,
            note="The paper's image is the best of 16 candidates by CLIP; the choice is a part "
            "of that system, not of the measure.",
        ),
        MetricVariant(
            "mindeye2",
            "Scotti et al. 2024, final_evaluations.ipynb",
            _MINDEYE,
            resize="tensor",
            first_size=256,
            pixel_size=425,
            test_images="1000 (40 sessions)",
            note="Measured as MindEye1, on another set of test images. The paper's text speaks "
            "of reconstructions as distractors, its code takes presented images.",
        ),
    )
}
"""Short name -> variant."""


def find_variant(name: str) -> MetricVariant:
    """Return a variant by its short name.

    Raises
    ------
    ValueError
        If there is no such variant.
    """
    if name not in VARIANTS:
        raise ValueError(f"variant={name!r}: choose from {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def table() -> pd.DataFrame:
    """What differs between the variants: one column for each, one row for each choice."""
    return pd.DataFrame({name: _describe(variant) for name, variant in VARIANTS.items()})


def _describe(variant: MetricVariant) -> dict[str, str]:
    where = {measure.name: measure for measure in variant.measures}
    nodes = {"features.4": "ReLU", "features.5": "pooling"}
    alexnet, inception = where.get("AlexNet(2)"), where.get("Inception")
    efficientnet = where.get("EffNet-B")
    none = "–"
    return {
        "test images": variant.test_images,
        "reconstructions per image": str(variant.samples),
        "distractors": (
            "other reconstructions"
            if variant.distractors == "reconstructions"
            else "other presented images"
            if any(measure.rule == "two_way" for measure in variant.measures)
            else none
        ),
        "PixCorr": "yes" if "PixCorr" in variant.pixels else none,
        "SSIM": {"2d": "two-dimensional", "legacy_columns": "by columns"}[variant.ssim]
        if "SSIM" in variant.pixels
        else none,
        "resized": "8-bit, PIL" if variant.resize == "pil" else "tensors, first to 256",
        "AlexNet": f"after {nodes[alexnet.layer]}, {alexnet.size} px" if alexnet else none,
        "Inception": f"{inception.layer}, {inception.size} px" if inception else none,
        "CLIP": " and ".join(
            sorted({f"{m.rule.replace('_', '-')}, {m.method}" for m in where.values()
                    if m.network == "clip"})
        ),
        "EfficientNet": (
            f"weights {efficientnet.network[-2:].upper()}, {efficientnet.size} px"
            if efficientnet
            else none
        ),
        "SwAV": f"{where['SwAV'].size} px" if "SwAV" in where else none,
        "source": variant.paper,
    }  # fmt: skip
