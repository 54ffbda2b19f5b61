"""Key maps of the other published checkpoints: CLIP, AutoKL, Optimus, VDVAE, Stable Diffusion 1.4.

As for the flows, a map is a rule over names, so it works at any size, and what comes out is
compared with the network of the given configuration: every key, and every shape.

Sources: the key names of `kl-f8.pth`, `optimus-vae.pth` (SHI-Labs/Versatile-Diffusion),
`imagenet64-iter-1600000-model-ema.th` (openai/vdvae), `openai/clip-vit-large-patch14`, and of the
diffusers edition of Stable Diffusion 1.4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.networks.autokl import AutoKL
from nbutils.networks.checkpoints_keys import fit_tensors, strip_parallel
from nbutils.networks.clip import ClipEncoder
from nbutils.networks.config import StableConfig
from nbutils.networks.control import ControlEncoder
from nbutils.networks.optimus import Optimus
from nbutils.networks.stable import StableText, build_stable_unet
from nbutils.networks.vdvae import VDVAE

CLIP_VIT_L14: dict[str, Any] = {
    "projection_dim": 768,
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "hidden_act": "quick_gelu",
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
    },
}
"""OpenAI's ViT-L/14, with the token numbers its tokenizer really uses."""

KL_F8: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
"""The image autoencoder of latent diffusion, 512x512 pixels to 4x64x64."""

OPTIMUS_VD: dict[str, Any] = {
    "bert": {"vocab_size": 28996},
    "gpt2": {"vocab_size": 50260},
    "latent_size": 768,
    "max_length": 30,
    "pad": 50257,
    "bos": 50258,
    "eos": 50259,
}
"""Versatile Diffusion's Optimus: BERT-base cased, GPT-2 small with three added tokens."""

VDVAE_IMAGENET64: dict[str, Any] = {
    "image_size": 64,
    "image_channels": 3,
    "enc_blocks": "64x11,64d2,32x20,32d2,16x9,16d2,8x8,8d2,4x7,4d4,1x5",
    "dec_blocks": "1x2,4m1,4x3,8m4,8x7,16m8,16x15,32m16,32x31,64m32,64x12",
    "zdim": 16,
    "width": 512,
    "bottleneck_multiple": 0.25,
    "no_bias_above": 64,
    "num_mixtures": 10,
}
"""The ImageNet-64 VDVAE; its first 31 latent maps hold 91,168 numbers."""

_AUTOKL_RULES = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
    # diffusers' own names of 2022
    (r"\.attentions\.0\.(query|key|value)\.", lambda m: f".attentions.0.to_{m[1][0]}."),
    (r"\.attentions\.0\.proj_attn\.", ".attentions.0.to_out.0."),
)
_OPTIMUS_PREFIXES = (
    ("encoder.linear.", "encode_latent."),
    ("encoder.", "bert."),
    ("decoder.transformer.linear_emb.", "embedding."),
    ("decoder.transformer.linear.", "memory."),
    ("decoder.transformer.", "gpt2."),
)
_BUFFERS = (".position_ids", ".attn.bias", ".attn.masked_bias")  # constants, not weights
_TOWER = ("vision_model.", "visual_projection.")


def rename_autokl(key: str, levels: int) -> str | None:
    """Name a kl-f8 tensor as diffusers does today; None for the parts only training needs.

    Parameters
    ----------
    key : original name, or diffusers' name of any year
    levels : number of resolution levels; the original counts the decoder's from the finest,
        diffusers from the coarsest
    """
    if key.startswith("loss."):
        return None
    original = ".up." in key
    for pattern, replacement in _AUTOKL_RULES:
        key = re.sub(pattern, replacement, key)
    if not original:
        return key
    return re.sub(r"up_blocks\.(\d+)", lambda m: f"up_blocks.{levels - 1 - int(m[1])}", key)


def rename_optimus(key: str) -> str | None:
    """Name an optimus-vae tensor as `Optimus` does; None for mask buffers and the tied output."""
    if key.endswith(_BUFFERS) or key == "decoder.lm_head.weight":
        return None
    for theirs, ours in _OPTIMUS_PREFIXES:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def keep_name(key: str) -> str:
    """Name a tensor as it is: VDVAE's and the Stable Diffusion U-Net's names are ours."""
    return key


def rename_clip(key: str) -> str | None:
    """Name a CLIPModel tensor as `ClipEncoder` does; None for the temperature and positions."""
    return None if key == "logit_scale" or key.endswith(_BUFFERS) else key


def rename_control(key: str) -> str | None:
    """Name a CLIPModel tensor as `ControlEncoder` does; None outside the image tower."""
    return key if key.startswith(_TOWER) and not key.endswith(_BUFFERS) else None


def map_autokl(state: Mapping[str, Tensor], config: Mapping) -> dict[str, Tensor]:
    """Turn the tensors of kl-f8.pth into those of `AutoKL`.

    The 1x1 convolutions of the attention become matrices.

    Parameters
    ----------
    state : original name -> tensor
    config : see `AutoKL`

    Returns
    -------
    tensors : our name -> tensor, the same memory

    Raises
    ------
    ValueError
        If keys are missing or left over, or a shape belongs to a network of another size.
    """
    levels = len(config["block_out_channels"])
    return _convert(state, lambda key: rename_autokl(key, levels), AutoKL, config)


def map_optimus(state: Mapping[str, Tensor], config: Mapping) -> dict[str, Tensor]:
    """Turn the tensors of optimus-vae.pth into those of `Optimus`; see `map_autokl`.

    Raises
    ------
    ValueError
        As `map_autokl`, or if the output layer differs from the token embedding it is tied to.
    """
    output = state.get("decoder.lm_head.weight")
    words = state.get("decoder.transformer.wte.weight")
    if output is not None and words is not None and not torch.equal(output, words):
        raise ValueError(
            "decoder.lm_head.weight differs from decoder.transformer.wte.weight: Optimus shares "
            "the two, so this checkpoint was trained otherwise and cannot be used."
        )
    return _convert(state, rename_optimus, Optimus, config)


def map_vdvae(state: Mapping[str, Tensor], config: Mapping) -> dict[str, Tensor]:
    """Turn the tensors of an openai/vdvae .th file into those of `VDVAE`; see `map_autokl`."""
    return _convert(state, keep_name, VDVAE, config)


def map_clip(state: Mapping[str, Tensor], config: Mapping) -> dict[str, Tensor]:
    """Turn the tensors of transformers' CLIPModel into those of `ClipEncoder`; see `map_autokl`."""
    return _convert(state, rename_clip, ClipEncoder, config)


def map_stable_unet(state: Mapping[str, Tensor], config: Mapping) -> dict[str, Tensor]:
    """Check the tensors of Stable Diffusion's U-Net in diffusers' format; see `map_autokl`."""
    return _convert(state, keep_name, _stable_unet, config)


def map_stable_text(state: Mapping[str, Tensor], config: Mapping) -> dict[str, Tensor]:
    """Turn the tensors of transformers' CLIPTextModel into those of `StableText`."""
    return _convert(state, rename_clip, StableText, config)


def map_control(state: Mapping[str, Tensor], config: Mapping) -> dict[str, Tensor]:
    """Take the image tower of transformers' CLIPModel as `ControlEncoder`; see `map_autokl`."""
    return _convert(state, rename_control, ControlEncoder, config)


def _stable_unet(config: Mapping) -> nn.Module:
    return build_stable_unet(StableConfig(**config))


_TITLES = {_stable_unet: "the Stable Diffusion U-Net"}


def _convert(
    state: Mapping[str, Tensor],
    rename: Callable[[str], str | None],
    network: Callable[[Mapping], nn.Module],
    config: Mapping,
) -> dict[str, Tensor]:
    what = f"the checkpoint of {_TITLES.get(network, network.__name__)}"
    renamed: dict[str, Tensor] = {}
    for key, value in strip_parallel(state).items():
        ours = rename(key)
        if ours in renamed:
            raise ValueError(f"{what} has {ours} twice, the second time as {key}")
        if ours is not None:
            renamed[ours] = value
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in network(config).state_dict().items()}
    return fit_tensors(renamed, shapes, what)
