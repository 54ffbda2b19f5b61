"""Build the frozen networks of a configuration, with random weights or empty, to be filled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedTokenizerFast

from nbutils.networks.autokl import AutoKL
from nbutils.networks.classifier import SceneClassifier
from nbutils.networks.clip import ClipEncoder
from nbutils.networks.config import NetworksConfig
from nbutils.networks.control import ControlEncoder
from nbutils.networks.optimus import Optimus
from nbutils.networks.stable import StableText, build_stable_unet
from nbutils.networks.vdvae import VDVAE
from nbutils.networks.versatile import TextUNet, build_flows, build_image_unet, mixers

NAMES = (
    *("clip", "autokl", "optimus", "vdvae", "classifier", "image_unet", "text_unet"),
    *("stable_unet", "stable_text", "stable_autokl", "control"),
)

FULL_PRECISION = ("vdvae", "classifier")
# In half precision the chain of VDVAE latents drifts, and the classifier is a measuring instrument.

TOKENIZERS = {"clip": ("clip",), "optimus": ("bert", "gpt2"), "stable_text": ("clip",)}
"""Tokenizers that a network reads or writes text with."""


@dataclass(frozen=True)
class Part:
    """Tensors that are read and given back together: those of one file, or some of them."""

    network: str
    file: str
    holds: Callable[[str], bool]


def is_image_data(key: str) -> bool:
    """Tell whether a tensor of the image U-Net is used by the image flow alone."""
    return ".attentions." not in key and not key.startswith("time_embedding.")


def _all(key: str) -> bool:
    return True


PARTS = {
    name: Part(name, name, _all) for name in NAMES if name not in ("image_unet", "text_unet")
} | {
    "image_data": Part("image_unet", "image_flow", is_image_data),
    # Mixers and time embedding belong to the image U-Net and serve both flows.
    "mixers": Part("image_unet", "image_flow", lambda key: not is_image_data(key)),
    "text_data": Part("text_unet", "text_data", _all),
}


def parts_of(name: str) -> tuple[str, ...]:
    """Name the parts that a network needs."""
    own = {"image_unet": ("mixers", "image_data"), "text_unet": ("mixers", "text_data")}
    return own.get(name, (name,))


def section(config: NetworksConfig, name: str) -> dict:
    """Return the sizes of one network.

    Raises
    ------
    ValueError : this directory has none
    """
    if name in ("image_unet", "text_unet"):
        return vars(config.versatile)
    head, _, tail = name.partition("_")
    found = config.stable.get(tail) if head == "stable" else getattr(config, name)
    if not found:
        raise ValueError(f"networks.json has no {name!r}: this world does not have that network")
    return found


def available(config: NetworksConfig) -> tuple[str, ...]:
    """Name the networks that a configuration has."""
    optional = {"classifier": config.classifier, "control": config.control}
    optional |= {name: config.stable for name in NAMES if name.startswith("stable_")}
    return tuple(name for name in NAMES if optional.get(name, True))


def build(
    name: str,
    config: NetworksConfig,
    tokenizers: Mapping[str, PreTrainedTokenizerFast] | None = None,
) -> nn.Module:
    """Build one network with random weights.

    Parameters
    ----------
    name : one of `NAMES`
    config : its sizes
    tokenizers : those it needs to read or write text; without them it takes and gives ids

    Raises
    ------
    ValueError : the configuration has no section for it
    """
    sizes, words = section(config, name), dict(tokenizers or {})
    builders = {
        "clip": lambda: ClipEncoder(sizes, words.get("clip")),
        "autokl": lambda: AutoKL(sizes),
        "optimus": lambda: Optimus(sizes, words),
        "vdvae": lambda: VDVAE(sizes),
        "classifier": lambda: SceneClassifier(**sizes),
        "image_unet": lambda: build_image_unet(config.versatile),
        "text_unet": lambda: build_flows(config.versatile)[1],
        "stable_unet": lambda: build_stable_unet(config.stable_unet),
        "stable_text": lambda: StableText(sizes, words.get("clip")),
        "stable_autokl": lambda: AutoKL(sizes),
        "control": lambda: ControlEncoder(sizes),
    }
    return builders[name]()


def build_text_flow(config: NetworksConfig, unet: nn.Module) -> TextUNet:
    """Build the text flow on the mixers of an image U-Net."""
    return TextUNet(config.versatile, mixers(unet), unet.time_embedding)


class empty_weights(TorchFunctionMode):  # noqa: N801 - used like a function: `with empty_weights():`
    """Within this context layers allocate their weights on the meta device.

    Buffers that are in no file (positions) are computed, not allocated, so they become real;
    under `torch.device("meta")` they would be lost.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Redirect `torch.empty`, which every layer takes its weights from."""
        options = dict(kwargs or {})
        if function is torch.empty:
            options["device"] = "meta"
        return function(*args, **options)
