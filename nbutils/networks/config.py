"""Sizes of the frozen networks: dataclasses, stored as JSON beside the weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

PREDICTION_TYPES = ("epsilon", "v_prediction")
OPTIONAL = {"classifier", "stable", "control"}
"""Sections that a networks.json may leave out."""


@dataclass(frozen=True)
class VersatileConfig:
    """Sizes and noise schedule of Versatile Diffusion's image and text flows.

    Parameters
    ----------
    latent_channels, latent_size : channels and side of the image latents, (c, s, s)
    channels : channels of each level, finest first; multiples of `norm_groups`
    layers_per_block : residual blocks per level on the way down (one more on the way up)
    attention : per level, whether its residual blocks are followed by context mixers;
        the middle block always has one
    heads : attention heads at every level
    context_dim : width d of the context tokens (n, T, d)
    norm_groups : groups of every group normalisation
    text_latent_dim : width of the text latent (n, text_latent_dim)
    text_second_dim : tokens per level of the text U-Net, its "image side"
    prediction_type : what a flow predicts, "epsilon" (published) or "v_prediction"
    beta_start, beta_end : ends of the scaled-linear noise schedule over 1000 timesteps

    Source: Xu et al. 2023 (Versatile Diffusion), configuration vd_four_flow_v1-0.
    """

    latent_channels: int
    latent_size: int
    channels: tuple[int, ...]
    layers_per_block: int
    attention: tuple[bool, ...]
    heads: int
    context_dim: int
    norm_groups: int = 32
    text_latent_dim: int = 768
    text_second_dim: int = 4
    prediction_type: str = "epsilon"
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def __post_init__(self) -> None:
        _check_unet(self)

    @property
    def image_latent_shape(self) -> tuple[int, int, int]:
        """Shape (channels, height, width) of one image latent."""
        return (self.latent_channels, self.latent_size, self.latent_size)

    @property
    def text_latent_shape(self) -> tuple[int]:
        """Shape (width,) of one text latent."""
        return (self.text_latent_dim,)


def _check_unet(config: VersatileConfig | StableConfig) -> None:
    """Bring the sizes of a U-Net to tuples and refuse those that no U-Net has."""
    # JSON has lists only; tuples keep the dataclass hashable.
    object.__setattr__(config, "channels", tuple(int(c) for c in config.channels))
    object.__setattr__(config, "attention", tuple(bool(a) for a in config.attention))
    if len(config.attention) != len(config.channels):
        raise ValueError(
            f"attention has {len(config.attention)} flags for {len(config.channels)} levels: "
            "give one per entry of channels"
        )
    for count in config.channels:
        if count % config.norm_groups or count % config.heads:
            raise ValueError(
                f"channels={config.channels}: every level must be a multiple of "
                f"norm_groups={config.norm_groups} and of heads={config.heads}"
            )
    if config.prediction_type not in PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type={config.prediction_type!r}: choose one of {PREDICTION_TYPES}"
        )


FULL = VersatileConfig(
    latent_channels=4,
    latent_size=64,
    channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    attention=(True, True, True, False),
    heads=8,
    context_dim=768,
    norm_groups=32,
    text_latent_dim=768,
    text_second_dim=4,
)
"""The published four-flow model, vd-four-flow-v1-0."""


@dataclass(frozen=True)
class StableConfig:
    """Sizes and noise schedule of a Stable Diffusion U-Net.

    Parameters
    ----------
    latent_channels, latent_size, channels, layers_per_block, attention, heads, norm_groups,
    prediction_type, beta_start, beta_end : as in `VersatileConfig`
    context_dim : width d of the text tokens (n, T, d)

    Source: Rombach et al. 2022 (latent diffusion), configuration v1-inference of Stable Diffusion.
    """

    latent_channels: int
    latent_size: int
    channels: tuple[int, ...]
    layers_per_block: int
    attention: tuple[bool, ...]
    heads: int
    context_dim: int
    norm_groups: int = 32
    prediction_type: str = "epsilon"
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def __post_init__(self) -> None:
        _check_unet(self)

    @property
    def image_latent_shape(self) -> tuple[int, int, int]:
        """Shape (channels, height, width) of one image latent."""
        return (self.latent_channels, self.latent_size, self.latent_size)


@dataclass(frozen=True)
class NetworksConfig:
    """Everything needed to build the networks of one directory, before any weight is read.

    Parameters
    ----------
    clip : arguments of `transformers.CLIPConfig`
    autokl : arguments of `diffusers.AutoencoderKL`
    optimus : {"bert": ..., "gpt2": ..., "latent_size", "max_length", "bos", "eos", "pad"}
    vdvae : hyper-parameters H of the VDVAE
    versatile : sizes of the two flows
    classifier : arguments of `SceneClassifier`; empty where a directory has none
    stable : {"unet": arguments of `StableConfig`, "text": of `transformers.CLIPTextConfig`,
        "autokl": of `diffusers.AutoencoderKL`}, Stable Diffusion; empty where a directory has none
    control : arguments of `transformers.CLIPVisionConfig` with `projection_dim`, optional
        `image_mean` and `image_std`: MindDiffuser's control network; empty where there is none
    """

    clip: dict[str, Any]
    autokl: dict[str, Any]
    optimus: dict[str, Any]
    vdvae: dict[str, Any]
    versatile: VersatileConfig
    classifier: dict[str, Any] = field(default_factory=dict)
    stable: dict[str, Any] = field(default_factory=dict)
    control: dict[str, Any] = field(default_factory=dict)

    @property
    def stable_unet(self) -> StableConfig:
        """Sizes and schedule of the Stable Diffusion U-Net.

        Raises
        ------
        ValueError : this directory has none
        """
        if not self.stable:
            raise ValueError("networks.json has no 'stable': this world has no Stable Diffusion")
        return StableConfig(**self.stable["unet"])

    def to_json(self, path: str | Path) -> Path:
        """Write the configuration to `path`, whole or not at all."""
        path = Path(path)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")
        os.replace(partial, path)
        return path

    @classmethod
    def from_json(cls, path: str | Path) -> NetworksConfig:
        """Read a configuration that `to_json` wrote.

        Raises
        ------
        FileNotFoundError : no such file
        ValueError : a section is missing or not known
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: a networks directory holds networks.json beside its weights; "
                "convert the published checkpoints first or point to another directory"
            )
        return cls.from_dict(json.loads(path.read_text()), str(path))

    @classmethod
    def from_dict(
        cls, sections: Mapping[str, Any], source: str = "networks.json"
    ) -> NetworksConfig:
        """Build a configuration from its sections, as `dataclasses.asdict` gives them.

        Raises
        ------
        ValueError : a section is missing or not known; `source` is named
        """
        known = {f.name for f in fields(cls)}
        wrong = set(sections) ^ known - (OPTIONAL - set(sections))
        if wrong:
            raise ValueError(f"{source}: sections {sorted(wrong)} are missing or not known")
        return cls(**{**sections, "versatile": VersatileConfig(**sections["versatile"])})
