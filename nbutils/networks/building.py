"""Build the frozen networks of a configuration, with random weights or empty, to be filled."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedTokenizerFast

from nbutils.networks.autokl import AutoKL
from nbutils.networks.classifier import SceneClassifier
from nbutils.networks.clip import ClipEncoder
from nbutils.networks.config import NetworksConfig
from nbutils.networks.control import ControlEncoder
from nbutils.networks.inventory import section
from nbutils.networks.optimus import Optimus
from nbutils.networks.stable import StableText, build_stable_unet
from nbutils.networks.vdvae import VDVAE
from nbutils.networks.versatile import TextUNet, build_flows, build_image_unet, mixers


def build(
    name: str,
    config: NetworksConfig,
    tokenizers: Mapping[str, PreTrainedTokenizerFast] | None = None,
) -> nn.Module:
    """Build one network with random weights.

    Parameters
    ----------
    name : one of `nbutils.networks.inventory.NAMES`
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
