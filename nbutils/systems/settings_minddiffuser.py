"""The choices behind MindDiffuser, with the presets of its public code and our careful ones.

The public code exists in several versions that contradict each other, and none of them runs as it
is. Where two versions give two numbers, both are named; what no source states is "our choice".
Source: ReedOnePeck/MindDiffuser, `Image reconstruction/Reconstruction.py` (stage 1 and 2) and
`Feature decoding/*.py` (regression).
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from nbutils.decoding.encoders import FeatureOptions
from nbutils.decoding.voxels import scale_voxels
from nbutils.systems.presets import Presets

TRAINING_SCRIPT = {"stable_latent": 3000, "stable_text": 450, "control": 850}
"""N of the scripts that fit the regressions; the embedding of the control network: 850, too."""
RECONSTRUCTION_SCRIPT = {
    "stable_latent": 4000,
    "stable_text": 125,
    "control": 350,
    "control_embedding": 450,
}
"""N of the scripts that read fitted models; of the control network 350, 250 in its upper half."""


class MindDiffuserSettings(Presets):
    """Settings of MindDiffuser; the defaults are those of ``careful``.

    Raises
    ------
    pydantic.ValidationError
        If a name is unknown or a value impossible.
    """

    differences = {
        "noise": "one_sequence",
        "fresh_noise": True,
        "img2img_start": "published",
        "skipped_steps": 2,
        "latent": "sample",
        "control_numbers": "entries",
        "text_rate": 1.0,
        "optimise": ("latent",),
        "stopping": "none",
        "held_out": 0.0,
        "voxels": "reconstruction",
    }

    # --- the same in both presets
    seed: int = Field(0, ge=0, description="seed of all draws (published: 42)")
    steps: int = Field(50, ge=1, le=1000, description="DDIM steps of a full run (eta 0)")
    strength: float = Field(
        0.75, gt=0, le=1, description="part of the steps that z is noised by: int(.75*50) = 37"
    )
    guidance_scale: float = Field(5.0, ge=0, description="classifier-free guidance")
    tokens: int = Field(
        15,
        ge=2,
        description="text tokens that are used, from the first on; fewer where the text encoder "
        "has fewer. The first, begin-of-text, is a constant and is pasted",
    )
    alpha: float = Field(0.15, ge=0, description="L2 penalty of the regressions")
    kept: float = Field(
        0.25,
        gt=0,
        le=1,
        description="share of the control layers' numbers that are targets: the best predicted "
        "ones. The code reads files of 25 %; the script that makes them would keep 80 % by "
        "default. Which ones: published by sparse-group lasso (himalaya) over five folds; here "
        "by leave-one-out of plain ridge on the training images, our choice. Used with "
        "control_numbers='entries'",
    )
    kept_per: Literal["layer", "token"] = Field(
        "layer",
        description="where the best predicted entries are sought: in all of a layer, as the code "
        "does, which may leave parts of the image without any; or token, the same share in every "
        "patch. Used with control_numbers='entries'",
    )
    least_r: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="components that the brain knows less well are left out, unless none "
        "of a layer is known that well, our choice. Used "
        "with control_numbers='components'",
    )
    layer_weights: tuple[float, ...] = Field(
        (1.5, 1.2, 1.0, 1.0, 1.0, 1.0),
        min_length=1,
        description="factors on the layers' normalised weights, lowest layer first; the last one "
        "also serves further layers",
    )
    embedding_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="lambda: layers get 1 - lambda, the embedding's cosine .1 lambda. Not stated "
        "in the paper's sources; undefined in one version of the code, 0 in another; .5 is our "
        "choice",
    )
    iterations: int = Field(300, ge=0, description="most iterations of stage 2; 0 is stage 1")
    learning_rate: float = Field(0.01, gt=0, description="Adam's, at the first iteration")
    decay: float = Field(0.999, gt=0, le=1, description="factor on it after each iteration")
    patience: int = Field(
        20, ge=1, description="iterations without progress before an image stops, our choice"
    )
    recompute: bool = Field(
        True,
        description="gradient checkpointing: memory of one denoising step instead of all, for "
        "more time; the same gradients (not in the public code)",
    )

    # --- different between the presets
    noise: Literal["per_image", "one_sequence"] = Field(
        "per_image",
        description="noise on z. published: one_sequence, one seed before the loop; careful: "
        "per_image, from (seed, nsd_id)",
    )
    fresh_noise: bool = Field(
        False,
        description="published: True, new noise in every iteration, so that the target moves; "
        "careful: False, each image keeps the noise of stage 1",
    )
    img2img_start: Literal["published", "same_step"] = Field(
        "same_step",
        description="where z gets its noise. published: one grid step above the first denoised "
        "one; careful: at the same step",
    )
    skipped_steps: int = Field(
        0,
        ge=0,
        description="denoising steps left out after noising. published: 2 (noised for 37, "
        "denoised for 35); careful: 0, equal counts",
    )
    latent: Literal["mode", "sample"] = Field(
        "mode", description="latents z. published: a posterior sample; careful: the mode"
    )
    control_numbers: Literal["entries", "components"] = Field(
        "components",
        description="what is read in the control layers. published: entries, single numbers, "
        "decoded from voxels of their own and taken at face value; careful: components, principal "
        "components, decoded from all voxels, with ridge's shrinkage taken back and weighted by "
        "what the brain knows about each on training images (our choice)",
    )
    optimise: tuple[Literal["latent", "text"], ...] = Field(
        ("latent", "text"),
        min_length=1,
        description="what stage 2 changes. published: z alone (in the main version of the code); "
        "careful: z and c, as the paper says",
    )
    text_rate: float = Field(
        0.1,
        gt=0,
        description="Adam's rate for c, times that for z. published: 1, where c is optimised at "
        "all; careful: .1, since a step of c changes all of the image at once (our choice)",
    )
    stopping: Literal["none", "held_out"] = Field(
        "held_out",
        description="when an image stops. published: none, all iterations run; careful: held_out, "
        "when decoded control features that take no part in the gradient get no closer; the "
        "best iteration is kept. No presented image is needed for it (our choice)",
    )
    held_out: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the kept control features that only the stopping rule sees. "
        "published: 0; careful: .2, our choice",
    )
    voxels: Literal["training", "reconstruction"] = Field(
        "training",
        description="N, voxels of each target. published: reconstruction (z 4000, c 125, control "
        "350 or 250, embedding 450: the files it reads); careful: training (3000, 450, 850: what "
        "the fitting scripts write)",
    )

    @model_validator(mode="after")
    def _check_stopping(self) -> Self:
        if self.stopping == "held_out" and not self.held_out:
            raise ValueError(
                "held_out=0 leaves nothing for the stopping rule to see: hold out a share, or "
                "take stopping='none'"
            )
        return self

    @classmethod
    def of(cls, study: Any, **changes: Any) -> MindDiffuserSettings:
        """Settings of a study: its preset, and the parameters that its user set.

        Strength and guidance scale are the published ones unless they were set.

        Parameters
        ----------
        study : `nbutils.study.Study`
        **changes : fields that override both
        """
        chosen = {"seed": study.seed, "steps": study.steps}
        chosen |= {
            name: getattr(study, name)
            for name in ("strength", "guidance_scale", "iterations", "learning_rate")
            if name in study.model_fields_set and getattr(study, name) is not None
        }
        return cls.preset(study.preset, **{**chosen, **changes})

    def count_voxels(self, name: str, n_images: int, part: float = 0.0) -> int:
        """Voxels per target of a feature; the published number, or fewer for fewer images.

        Parameters
        ----------
        name : "stable_latent", "stable_text", "control" or "control_embedding"
        n_images : training images, see `nbutils.decoding.voxels.scale_voxels`
        part : height of a control layer among those that are read, 0 to 1
        """
        if self.voxels == "training":
            return scale_voxels(TRAINING_SCRIPT.get(name, TRAINING_SCRIPT["control"]), n_images)
        if name == "control" and part >= 0.5:
            return scale_voxels(250, n_images)
        return scale_voxels(RECONSTRUCTION_SCRIPT[name], n_images)

    def find_rate(self, name: str) -> float:
        """Adam's first rate for "latent" or "text"."""
        return self.learning_rate * (self.text_rate if name == "text" else 1)

    def weigh_layers(self, count: int) -> list[float]:
        """Factors of `count` layers, the last one repeated if there are more layers."""
        given = self.layer_weights
        return [given[min(layer, len(given) - 1)] for layer in range(count)]

    def feature_options(self) -> FeatureOptions:
        """How features are extracted under these settings."""
        return FeatureOptions(autokl_latent=self.latent, seed=self.seed)
