"""Floating-point operations of the networks, counted on the meta device: no memory, no time.

A multiply-add is 2 operations. Matrix products and convolutions are counted, as everywhere;
normalisations and activations are not. Source: `torch.utils.flop_counter`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nbutils.benchmarks import work
from nbutils.networks.building import build
from nbutils.networks.config import NetworksConfig

META = torch.device("meta")


class Counts:
    """Operations of each network's work on one image or caption.

    Parameters
    ----------
    config : sizes
    vdvae_layers : latent layers of VDVAE that are features
    """

    def __init__(self, config: NetworksConfig, vdvae_layers: int) -> None:
        self._text, self.vdvae_layers = json.dumps(asdict(config), sort_keys=True), vdvae_layers

    def image_flow(self, kinds: tuple[str, ...] = work.KINDS) -> int:
        """One latent through the image U-Net; with guidance an image needs two."""
        return _count_flow(self._text, "image_unet", work.call_image_flow, kinds)

    def text_flow(self, kinds: tuple[str, ...] = work.KINDS) -> int:
        """One latent through the text U-Net; with guidance a caption needs two."""
        return _count_flow(self._text, "text_unet", work.call_text_flow, kinds)

    def clip_image(self) -> int:
        """All tokens of one image."""
        return _count(self._text, "clip", work.see)

    def clip_text(self) -> int:
        """All tokens of one caption."""
        return _count(self._text, "clip", work.read)

    def autokl_encode(self) -> int:
        """One image to its latent."""
        return _count(self._text, "autokl", work.encode)

    def autokl_decode(self) -> int:
        """One latent to its image."""
        return _count(self._text, "autokl", work.decode)

    def vdvae_encode(self) -> int:
        """One image to the latent layers that are features; the later ones are not run."""
        return _count(self._text, "vdvae", work.descend, self.vdvae_layers)

    def vdvae_encode_all(self) -> int:
        """One image to all latent layers, as the published code runs it."""
        return _count(self._text, "vdvae", work.descend, None)

    def vdvae_decode(self) -> int:
        """The latent layers that are features to one image."""
        return _count(self._text, "vdvae", work.ascend, self.vdvae_layers)

    def words(self) -> int:
        """One latent to a caption of the greatest length."""
        return _count(self._text, "optimus", work.retell)


def count(function: Callable[[], Any]) -> int:
    """Count the operations of a function that works on meta tensors."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def count_ridge(n: int, m: int, p: int, targets: int) -> float:
    """Operations of ridge as an operator, n training and m new images, p voxels, n < p.

    The symmetric Gram matrix n² p, its Cholesky factor n³ / 3, the operator 2 n m p + 2 n² m, and
    2 m n for each target.
    """
    return n**2 * p + n**3 / 3 + 2 * n * m * p + 2 * n**2 * m + 2.0 * m * n * targets


@functools.lru_cache(maxsize=64)
def _count(text: str, name: str, prepare: Callable[..., work.Work], *arguments: Any) -> int:
    config = NetworksConfig.from_dict(json.loads(text))
    with META:
        return count(prepare(_build(name, config), 1, *arguments))


@functools.lru_cache(maxsize=64)
def _count_flow(
    text: str, name: str, prepare: Callable[..., work.Work], kinds: tuple[str, ...]
) -> int:
    config = NetworksConfig.from_dict(json.loads(text))
    with META:
        return count(prepare(_build(name, config), config, 1, kinds))


def _build(name: str, config: NetworksConfig) -> nn.Module:
    # The counter's hooks would look for gradients of parameters that a network only passes on.
    return build(name, config).requires_grad_(False)
