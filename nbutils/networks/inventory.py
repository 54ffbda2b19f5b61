"""Which networks there are, of which parts they are read, and where their sizes stand.

Nothing here needs the networks themselves, whose libraries take long to import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nbutils.networks.config import NetworksConfig

NAMES = (
    *("clip", "autokl", "optimus", "vdvae", "classifier", "image_unet", "text_unet"),
    *("stable_unet", "stable_text", "stable_autokl", "control"),
)

FULL_PRECISION = ("vdvae", "classifier")
"""Networks that stay in 32 bits: in half precision the chain of VDVAE latents drifts, and the
classifier is a measuring instrument."""

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
