"""The choices behind a published system, with two presets.

Published code and published text disagree in places, and some published code is wrong. Every such
place is one field here: `Settings.published` follows the public code, `Settings.careful` does what
we would defend. What no source states is marked "our choice".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from nbutils import artifacts
from nbutils.decoding.encoders import FeatureOptions
from nbutils.systems.presets import Presets

PUBLISHED: dict[str, Any] = {
    "prediction_rescale": "test_stats",
    "noise": "one_sequence",
    "img2img_start": "published",
    "vdvae_latents": "sample",
    "vdvae_prior": "sample",
    "autokl_latent": "sample",
    "caption_temperature": 1.0,
    "keep_last_word": False,
    "roi_norm": "published",
}
"""Fields in which the public code differs from our careful defaults."""


class Settings(Presets):
    """Settings of Brain-Diffuser and UniBrain; the defaults are those of ``careful``.

    Fields that differ between the presets say how in their description;
    `Settings.table` lists them all.

    Raises
    ------
    pydantic.ValidationError
        If a name is unknown or a value impossible.
    """

    differences = PUBLISHED

    # --- the same in both presets
    seed: int = Field(0, ge=0, description="seed of all draws")
    steps: int = Field(50, ge=1, le=1000, description="DDIM steps of a full run (eta 0)")
    strength: float = Field(
        0.75, gt=0, le=1, description="part of the steps that runs from a latent: int(.75*50) = 37"
    )
    guidance_scale: float = Field(
        7.5,
        ge=0,
        description="classifier-free guidance (Brain-Diffuser's code; UniBrain: not "
        "stated, our choice is the same; small networks want less)",
    )
    mix_image: float = Field(
        0.6,
        ge=0,
        le=1,
        description="weight of C_I when an image is generated, C_T has the rest "
        "(Brain-Diffuser's code: 1 - .4; UniBrain: .6, which side is our reading)",
    )
    mix_caption: float = Field(
        0.9,
        ge=0,
        le=1,
        description="weight of C_I when a caption is generated (UniBrain: .9, "
        "which side is our reading)",
    )
    unconditional_image: Literal["grey", "black", "zeros"] = Field(
        "grey",
        description="image context of 'no condition': CLIP of a grey image "
        "(Brain-Diffuser), of a black one (VD's demo), or zeros (VD's image variation)",
    )
    latent_only: Literal["decode", "denoise"] = Field(
        "decode",
        description="'only Z' ablation, our choice: decode the predicted latent as it "
        "is, or denoise it without condition",
    )

    # --- different between the presets
    prediction_rescale: Literal["none", "train_cv", "test_stats"] = Field(
        "train_cv",
        description="spread of the predicted features. published: test_stats, over all "
        "test predictions, so items of the test set influence each other; careful: train_cv, "
        "measured by leave-one-out on training images",
    )
    noise: Literal["per_image", "one_sequence"] = Field(
        "per_image",
        description="start noise. published: one_sequence, one seed before the loop, "
        "so an image depends on those before it; careful: per_image, from (seed, nsd_id)",
    )
    img2img_start: Literal["published", "same_step"] = Field(
        "same_step",
        description="where a start latent gets its noise. published: one grid step "
        "above the first denoised one (741 before 721); careful: at the same step",
    )
    vdvae_latents: Literal["mean", "sample"] = Field(
        "mean",
        description="VDVAE features. published: a posterior sample (unseeded there, seeded "
        "here); careful: the posterior mean",
    )
    vdvae_prior: Literal["mean", "sample"] = Field(
        "mean",
        description="VDVAE layers that are not predicted, and the pixels. published: drawn "
        "at temperature 1; careful: the mean",
    )
    autokl_latent: Literal["mode", "sample"] = Field(
        "mode", description="AutoKL latents. published: a posterior sample; careful: the mode"
    )
    caption_temperature: float = Field(
        0.0,
        ge=0,
        description="Optimus decoding. published: 1, drawn from the whole vocabulary; "
        "careful: 0, the most probable word each time",
    )
    keep_last_word: bool = Field(
        True,
        description="published: False, the last token is dropped even where a sentence "
        "ended by its length; careful: True",
    )
    roi_norm: Literal["training_norm", "published"] = Field(
        "training_norm",
        description="scale of features of a synthetic response. published: fixed "
        "norms, VDVAE standardised across the regions in the list; careful: the training "
        "features' norm, so that a region does not depend on the others",
    )

    @classmethod
    def of(cls, study: Any, **changes: Any) -> Settings:
        """Settings of a study: its preset, and the parameters that its user chose.

        Parameters
        ----------
        study : `nbutils.study.Study`
        **changes : fields that override both
        """
        chosen = {name: getattr(study, name) for name in _STUDY_FIELDS}
        if study.rescale is not None:
            chosen["prediction_rescale"] = study.rescale
        if "temperature" in study.model_fields_set:
            chosen["caption_temperature"] = study.temperature
        return cls.preset(study.preset, **{**chosen, **changes})

    @classmethod
    def recorded(cls, study: Any, kind: str, name: str) -> Settings:
        """Settings under which an artifact was made, so that a control can be made likewise.

        Parameters
        ----------
        study : `nbutils.study.Study` that holds the artifact
        kind, name : as for `Study.load`

        Raises
        ------
        ArtifactError
            If the artifact is not there.
        """
        fields = (*_STUDY_FIELDS, "preset", "rescale", "temperature")
        return cls.of(recall_choices(study, kind, name, fields))

    def feature_options(self, vdvae_layers: int | None = None) -> FeatureOptions:
        """How features are extracted under these settings."""
        return FeatureOptions(
            vdvae_layers=vdvae_layers,
            vdvae_latents=self.vdvae_latents,
            autokl_latent=self.autokl_latent,
            seed=self.seed,
        )


def recall_choices(study: Any, kind: str, name: str, fields: Iterable[str]) -> Any:
    """Study with the parameters that its user had set when an artifact was made.

    Parameters
    ----------
    study : `nbutils.study.Study` that holds the artifact
    kind, name : as for `Study.load`
    fields : parameters to take over where they were set; the others stay the study's

    Returns
    -------
    study : a copy

    Raises
    ------
    ArtifactError
        If the artifact is not there.
    """
    record = artifacts.read_sidecar(study.require(kind, name))
    chosen = set(fields) & set(record["set"])
    return study.model_copy(update={key: record["parameters"][key] for key in chosen})


_STUDY_FIELDS = ("seed", "steps", "strength", "guidance_scale", "mix_image", "mix_caption")
