"""The choices behind Takagi & Nishimoto's system, with two presets.

`published` follows the public code (yu-takagi/StableDiffusionReconstruction: `make_subjmri.py`,
`img2feat_sd.py`, `ridge.py`, `diffusion_decoding.py`), `careful` does what we would defend.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from nbutils.decoding.encoders import FeatureOptions
from nbutils.systems.presets import Presets

PUBLISHED_ALPHAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class TakagiSettings(Presets):
    """Settings of Takagi & Nishimoto's system; the defaults are those of ``careful``.

    Raises
    ------
    pydantic.ValidationError
        If a name is unknown or a value impossible.
    """

    differences = {
        "ridge_intercept": False,
        "folds_by_image": False,
        "alphas": PUBLISHED_ALPHAS,
        "alpha_per": "target",
        "test_scaling": "trials",
        "voxels": "atlas",
        "noise": "shared",
        "img2img_start": "published",
        "autokl_latent": "sample",
    }

    # --- the same in both presets
    seed: int = Field(0, ge=0, description="seed of all draws (published: 42)")
    steps: int = Field(50, ge=1, le=1000, description="DDIM steps of a full run (eta 0)")
    strength: float = Field(
        0.8, gt=0, le=1, description="part of the steps that runs from z: int(.8*50) = 40"
    )
    guidance_scale: float = Field(5.0, ge=0, description="classifier-free guidance")
    samples: int = Field(5, ge=1, description="images painted for each test image")
    z_fraction: float = Field(
        320 / 512, gt=0, le=1, description="side of the image behind z, as a part of the painter's"
    )
    region_z: str = Field("early", description="region of the streams atlas that z comes from")
    region_c: str = Field("ventral", description="region of the streams atlas that c comes from")
    folds: int = Field(5, ge=2, description="folds of the cross-validation that chooses alpha")
    latent_only: Literal["decode", "denoise"] = Field(
        "decode",
        description="'z alone', our choice (the paper does not say, the code has z with c only): "
        "decode the predicted latent as it is, or denoise it without condition",
    )

    # --- different between the presets
    ridge_intercept: bool = Field(
        True,
        description="published: False, himalaya's default, on features that are not centred, so "
        "that predictions have mean zero; careful: True. Which of the two made the paper's "
        "figures is not known",
    )
    folds_by_image: bool = Field(
        True,
        description="published: False, folds are runs of trials, and repeats of an image fall "
        "into several; careful: True, no image is in two folds",
    )
    alphas: tuple[float, ...] = Field(
        (*PUBLISHED_ALPHAS, 1e1, 1e2, 1e3, 1e4, 1e5),
        min_length=1,
        description="candidate penalties. published: up to 1, which shrinks nothing here; "
        "careful: on to 1e5 (our choice)",
    )
    alpha_per: Literal["feature", "target"] = Field(
        "feature",
        description="published: target, a penalty for each number, himalaya's default; careful: "
        "one for z and one for c",
    )
    test_scaling: Literal["averages", "trials"] = Field(
        "averages",
        description="mean and standard deviation that z-score test averages. published: trials, "
        "of the single training trials, so test averages vary less than 1; careful: averages, of "
        "the training images' averages",
    )
    voxels: Literal["nsdgeneral", "atlas"] = Field(
        "nsdgeneral",
        description="published: atlas, all voxels of the region; careful: those in nsdgeneral "
        "(our choice: the voxels that masked downloads hold)",
    )
    noise: Literal["per_image", "shared"] = Field(
        "per_image",
        description="start noise. published: shared, the script runs once for each image from "
        "the same seed, so all images get the same five noises; careful: per_image",
    )
    img2img_start: Literal["published", "same_step"] = Field(
        "same_step",
        description="where z gets its noise. published: one grid step above the first denoised "
        "one; careful: at the same step",
    )
    autokl_latent: Literal["mode", "sample"] = Field(
        "mode", description="autoencoder. published: a posterior sample; careful: the mode"
    )

    @classmethod
    def of(cls, study: Any, **changes: Any) -> TakagiSettings:
        """Settings of a study: its preset and seed, and the parameters that its user set.

        Strength, guidance scale and number of samples (`n_seeds`) are the paper's own .8, 5 and 5
        unless they were set: a study's defaults are those of other systems.

        Parameters
        ----------
        study : `nbutils.study.Study`
        **changes : fields that override both
        """
        chosen = {"seed": study.seed, "steps": study.steps}
        fields = {"strength": "strength", "guidance_scale": "guidance_scale", "samples": "n_seeds"}
        given = {name: getattr(study, field) for name, field in fields.items()}
        chosen |= {
            name: given[name] for name, field in fields.items() if field in study.model_fields_set
        }
        return cls.preset(study.preset, **{**chosen, **changes})

    def feature_options(self) -> FeatureOptions:
        """How features are extracted under these settings."""
        return FeatureOptions(
            autokl_latent=self.autokl_latent, z_fraction=self.z_fraction, seed=self.seed
        )
