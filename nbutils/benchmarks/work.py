"""Pieces of work of the networks, ready to be run: the same ones are timed and counted.

Each function prepares random inputs on the network's own device and in its precision, and
returns what runs it. On the meta device nothing is computed, which is how operations are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.networks.autokl import AutoKL
from nbutils.networks.clip import ClipEncoder
from nbutils.networks.config import NetworksConfig
from nbutils.networks.optimus import Optimus
from nbutils.networks.vdvae import VDVAE

Work = Callable[[], Any]

KINDS = ("image", "text")
WEIGHTS = {"image": 0.6, "text": 0.4}
"""Mixing weights of Brain-Diffuser; speed does not depend on them unless one is 0."""


def draw(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draw standard normal numbers on the device and in the precision of `like`."""
    return torch.randn(shape, device=like.device, dtype=like.dtype)


def draw_contexts(config: NetworksConfig, n: int, like: Tensor) -> dict[str, Tensor]:
    """Draw context tokens (n, T, d) of both kinds, as many as CLIP gives."""
    vision, text = config.clip["vision_config"], config.clip["text_config"]
    lengths = {
        "image": (vision["image_size"] // vision["patch_size"]) ** 2 + 1,
        "text": text["max_position_embeddings"],
    }
    width = config.versatile.context_dim
    return {kind: draw((n, length, width), like) for kind, length in lengths.items()}


def call_image_flow(
    unet: nn.Module, config: NetworksConfig, n: int, kinds: tuple[str, ...] = KINDS
) -> Work:
    """One bare call of the image U-Net on n latents; guidance needs twice as many as images."""
    like = unet.conv_in.weight
    x = draw((n, *config.versatile.image_latent_shape), like)
    tokens, t = draw_contexts(config, n, like), torch.full((n,), 481, device=like.device)
    kwargs = {"contexts": {kind: (tokens[kind], WEIGHTS[kind]) for kind in kinds}}
    return lambda: unet(x, t, None, cross_attention_kwargs=kwargs, return_dict=False)


def call_text_flow(
    net: nn.Module, config: NetworksConfig, n: int, kinds: tuple[str, ...] = KINDS
) -> Work:
    """One bare call of the text U-Net on n latents."""
    like = net.linear_out.weight
    x = draw((n, *config.versatile.text_latent_shape), like)
    tokens, t = draw_contexts(config, n, like), torch.full((n,), 481, device=like.device)
    contexts = {kind: (tokens[kind], WEIGHTS[kind]) for kind in kinds}
    return lambda: net(x, t, contexts)


def see(clip: ClipEncoder, n: int) -> Work:
    """CLIP's tokens of n images, which are resized already."""
    size = clip.vision_model.config.image_size
    pixels = draw((n, 3, size, size), clip.visual_projection.weight)
    return lambda: clip.project_pixels(pixels)


def read(clip: ClipEncoder, n: int) -> Work:
    """CLIP's tokens of n captions, before they are divided by a norm."""
    device = clip.text_projection.weight.device
    ids = torch.zeros((n, clip.text_shape[0]), dtype=torch.int64, device=device)
    return lambda: clip.text_projection(clip.text_model(input_ids=ids).last_hidden_state)


def encode(autokl: AutoKL, n: int) -> Work:
    """AutoKL's posterior of n images."""
    size = autokl.image_size
    pixels = draw((n, 3, size, size), autokl.encoder.conv_in.weight)
    return lambda: autokl.posterior(pixels)


def decode(autokl: AutoKL, n: int) -> Work:
    """AutoKL's images of n latents."""
    weight = autokl.decoder.conv_in.weight
    side = autokl.image_size // 2 ** (len(autokl.decoder.up_blocks) - 1)
    latents = draw((n, weight.shape[1], side, side), weight)
    return lambda: autokl.decode_float(latents)


def descend(vdvae: VDVAE, n: int, layers: int | None) -> Work:
    """VDVAE's first latent layers of n images, all for None; the later ones are not run."""
    size = vdvae.H["image_size"]
    pixels = draw((n, 3, size, size), vdvae.decoder.gain)
    return lambda: vdvae.decoder.descend(n, vdvae.encoder(pixels), n_layers=layers)


def ascend(vdvae: VDVAE, n: int, layers: int) -> Work:
    """VDVAE's image features of n sets of first latent layers."""
    given = [draw((n, *shape), vdvae.decoder.gain) for shape in vdvae.layer_shapes[:layers]]
    return lambda: vdvae.decoder.out_net.out_conv(vdvae.decoder(n, given=given)[0])


def tell(optimus: Optimus, n: int) -> Work:
    """Greedy captions of n latents, as token numbers; random weights seldom end them early."""
    z = draw((n, optimus.latent_size), optimus.memory.weight)
    return lambda: optimus.decode_ids(z)


def retell(optimus: Optimus, n: int) -> Work:
    """The same tokens in one pass, as many as `tell` makes at most: what can be counted."""
    like = optimus.memory.weight
    z, length = draw((n, optimus.latent_size), like), optimus.config["max_length"] - 1
    ids = torch.zeros((n, length), dtype=torch.int64, device=like.device)
    return lambda: optimus.decoder_logits(ids, z)
