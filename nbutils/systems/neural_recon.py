"""Neural-Recon: Brain-Diffuser's method on one GPU (Neelamegham Ravindranath et al. 2024).

A project that rebuilt Brain-Diffuser. Its public code has the same split, features,
penalties, rescaling and generation settings, so the system is Brain-Diffuser's with a preset of its
own; `DIFFERENCES` lists what is not the same.
Source: sarabesh/Neural-Recon, and the authors' report of December 2024.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from nbutils.systems import brain_diffuser
from nbutils.systems.settings import Settings, recall_choices

INPUTS = brain_diffuser.INPUTS

REFERENCE = (
    "Neelamegham Ravindranath, Ben seddik, Adeyemi & Saleem 2024, Image Reconstruction from Human "
    "Brain Activity Using Diffusion Models; code: sarabesh/Neural-Recon"
)

PUBLISHED: dict[str, Any] = {
    "steps": 50,
    "strength": 0.75,
    "guidance_scale": 7.5,
    "mix_image": 0.6,
    "seed": 0,
}
"""Settings that its code states. They are Brain-Diffuser's."""

DIFFERENCES: dict[str, tuple[str, str, str]] = {
    "GPUs": (
        "two, the second one fixed in the code",
        "one",
        "one, or none; networks are loaded when they are needed",
    ),
    "memory": (
        "40 GB arrays of images and betas",
        "failed on 4 GB of GPU and 32 GB of RAM; ran on an A100 with 40 GB and 117 GB of RAM",
        "betas and features are read in blocks; a plan is chosen for the GPU that is there",
    ),
    "NSD": (
        "downloaded by a command whose pattern does not expand",
        "boto3; access was found cumbersome",
        "`python -m nbutils nsd fetch` shows the terms, and fetches only what is needed",
    ),
    "libraries": (
        "pinned to versions of 2022",
        "not pinned, so that SSIM and CLIP's preprocessing changed meaning",
        "locked, and both traps are tested",
    ),
    "VDVAE regression": (
        "a missing import loses its weights",
        "mended; weights are stored under other names than for CLIP",
        "one format for all features",
    ),
    "regions": (
        "V1 to V4 are read from the face areas' file",
        "none",
        "from the retinotopic file, see notebook 07",
    ),
    "measures": ("eight", "none, pictures only", "eight, in five papers' variants"),
}
"""What -> (in Brain-Diffuser, in Neural-Recon, here)."""


def settings(**changes: Any) -> Settings:
    """Return Neural-Recon's settings, with changes.

    Parameters
    ----------
    **changes : fields of `Settings`
    """
    return Settings.published(**{**PUBLISHED, **changes})


def settings_of(study: Any, **changes: Any) -> Settings:
    """Return Neural-Recon's settings with the parameters that a study's user chose.

    Parameters
    ----------
    study : `nbutils.study.Study`; its guidance scale counts also where it is the world's default,
        because small networks want less
    **changes : fields of `Settings`
    """
    chosen = {
        name: getattr(study, name)
        for name in PUBLISHED
        if name in study.model_fields_set or name == "guidance_scale"
    }
    return settings(**{**chosen, **changes})


def recorded(study: Any, kind: str, name: str) -> Settings:
    """Settings under which an artifact was made, as `Settings.recorded` for Brain-Diffuser's.

    Parameters
    ----------
    study : `nbutils.study.Study` that holds the artifact
    kind, name : as for `Study.load`

    Raises
    ------
    ArtifactError
        If the artifact is not there.
    """
    return settings_of(recall_choices(study, kind, name, PUBLISHED))


def differences() -> pd.DataFrame:
    """Table of what Neural-Recon shares and changes, and how it is solved here."""
    columns = ["Brain-Diffuser", "Neural-Recon", "here"]
    return pd.DataFrame.from_dict(DIFFERENCES, orient="index", columns=columns)


reconstruct = brain_diffuser.reconstruct
"""Neural-Recon's reconstruction is Brain-Diffuser's; give it `settings`."""
