"""Write trained networks as a networks directory: float16 safetensors, configs, tokenizers."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

from nbutils.miniature.train.autokl import autokl_config
from nbutils.miniature.train.classifier import classifier_config
from nbutils.miniature.train.clip import ClipTrainer, clip_config
from nbutils.miniature.train.data import WORDS
from nbutils.miniature.train.flows import REACH, flow_config
from nbutils.miniature.train.optimus import LATENT, optimus_config
from nbutils.miniature.train.stable import stable_config
from nbutils.miniature.train.vdvae import vdvae_config
from nbutils.networks.config import NetworksConfig

State = dict[str, torch.Tensor]


def write_weights(state: State, path: Path) -> None:
    """Write one float16 safetensors file under a temporary name, then rename it."""
    temporary = path.with_suffix(".part")
    save_file({key: t.detach().half().contiguous() for key, t in state.items()}, temporary)
    os.replace(temporary, path)


def clip_state(net: ClipTrainer) -> State:
    """Keep both towers and their projections; the readers of labels stay behind."""
    kept = {**net.text.state_dict(), **net.vision.state_dict()}
    return {key: tensor for key, tensor in kept.items() if "position_ids" not in key}


def control_state(state: State) -> State:
    """Keep the image tower of a written CLIP, for MindDiffuser's control network."""
    parts = ("vision_model.", "visual_projection.")
    return {key: tensor for key, tensor in state.items() if key.startswith(parts)}


def autokl_state(net: nn.Module) -> State:
    """Give the posterior, of which only the mean was trained, a small fixed spread."""
    state = dict(net.state_dict())
    half = len(state["quant_conv.bias"]) // 2
    state["quant_conv.weight"] = state["quant_conv.weight"].clone()
    state["quant_conv.bias"] = state["quant_conv.bias"].clone()
    state["quant_conv.weight"][half:] = 0
    state["quant_conv.bias"][half:] = -8.0
    return state


def optimus_state(net: nn.Module, scale: list[float]) -> State:
    """Fold the unit-variance scale of the latent into the layers on both of its sides."""
    state, factor = dict(net.state_dict()), torch.tensor(scale)
    both = torch.cat([factor, torch.ones(LATENT)])
    state["encode_latent.weight"] = both[:, None] * state["encode_latent.weight"]
    for layer in ("memory.weight", "embedding.weight"):
        state[layer] = state[layer] / factor
    return state


def image_flow_state(unet: nn.Module) -> State:
    """Fold the reach of the contexts into the keys and values of cross-attention."""
    folded = ("attn2.to_k.weight", "attn2.to_v.weight")
    return {k: REACH * t if k.endswith(folded) else t for k, t in unet.state_dict().items()}


def export_stable(unet: nn.Module, text: State, autokl: State, out: Path) -> Path:
    """Add Stable Diffusion to a networks directory that holds everything else.

    Parameters
    ----------
    unet : the trained U-Net
    text : state of the shipped CLIP, whose text tower is copied
    autokl : state of the shipped AutoKL, copied
    out : the networks directory

    Returns
    -------
    Path, ``out``
    """
    config = NetworksConfig.from_json(out / "networks.json")
    tower = {key: t for key, t in text.items() if key.startswith("text_model.")}
    write_weights(unet.state_dict(), out / "stable_unet.safetensors")
    write_weights(tower, out / "stable_text.safetensors")
    write_weights(autokl, out / "stable_autokl.safetensors")
    sizes = config.clip["text_config"]
    stable = {
        "unet": asdict(stable_config(sizes["hidden_size"])),
        "text": sizes,
        "autokl": config.autokl,
    }
    replace(config, stable=stable).to_json(out / "networks.json")
    return out


def write_tokenizers(folder: Path) -> None:
    """Write one word-level tokenizer for all three readers of captions."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<BOS> $A <EOS>", special_tokens=[("<BOS>", 1), ("<EOS>", 2)]
    )
    for name in ("clip", "bert", "gpt2"):
        path = folder / "tokenizers" / name / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(words.to_str(pretty=True) + "\n")


def networks_config(scale: float) -> NetworksConfig:
    """Collect the sizes of all networks; ``scale`` gives image latents unit variance."""
    config, looks = clip_config(), {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    keep = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    text = (*keep, "vocab_size", "max_position_embeddings", "pad_token_id", "bos_token_id")
    vision = {k: getattr(config.vision_config, k) for k in (*keep, "image_size", "patch_size")}
    projection = {"projection_dim": config.projection_dim}
    return NetworksConfig(
        clip={
            "text_config": {k: getattr(config.text_config, k) for k in (*text, "eos_token_id")},
            "vision_config": vision,
            **projection,
            **looks,
        },
        control={**vision, **projection, **looks},
        autokl={**autokl_config(), "scaling_factor": scale},
        optimus=optimus_config(),
        vdvae=vdvae_config(),
        versatile=flow_config(),
        classifier=classifier_config(),
    )


def export(nets: dict[str, nn.Module], prepared: Path, out: Path) -> Path:
    """Write the networks directory.

    Parameters
    ----------
    nets : trained modules ``clip autokl optimus vdvae classifier image text``
    prepared : folder of ``prepare.prepare_flows``, whose scales the flows were trained with
    out : the networks directory

    Returns
    -------
    Path, ``out``
    """
    out.mkdir(parents=True, exist_ok=True)
    scale = json.loads((prepared / "scales.json").read_text())
    clip = clip_state(nets["clip"])
    write_weights(clip, out / "clip.safetensors")
    write_weights(control_state(clip), out / "control.safetensors")
    write_weights(autokl_state(nets["autokl"]), out / "autokl.safetensors")
    write_weights(optimus_state(nets["optimus"], scale["optimus"]), out / "optimus.safetensors")
    write_weights(image_flow_state(nets["image"]), out / "image_flow.safetensors")
    for name, file in (("vdvae", "vdvae"), ("classifier", "classifier"), ("text", "text_data")):
        write_weights(nets[name].state_dict(), out / f"{file}.safetensors")
    write_tokenizers(out)
    networks_config(scale["autokl"]).to_json(out / "networks.json")
    return out
