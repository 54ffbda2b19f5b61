"""Tiny networks with random weights for the systems, and the golden flows of the original code."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from nbutils.networks.checkpoints import write_state
from nbutils.networks.checkpoints_versatile import map_versatile
from nbutils.networks.config import NetworksConfig, VersatileConfig
from nbutils.networks.loading import build, load
from nbutils.networks.versatile import build_flows

GOLDEN = Path(__file__).parents[1] / "golden"
WORDS = "a an the red blue dog cat bus tree sign on in near grass beach night".split()
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}


def make_tokenizer():
    """Word-level tokenizer: 0 pad, 1 start, 2 end, 3 unknown, then the words."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def make_config():
    vocabulary = len(WORDS) + 4
    attention = {"num_attention_heads": 2, "vocab_size": vocabulary}
    text = {"max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return NetworksConfig(
        clip={
            "text_config": {**SMALL, **attention, **text},
            "vision_config": {
                **SMALL, "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
            },
            "projection_dim": 16,
        },
        autokl={
            "sample_size": 32, "latent_channels": 4, "block_out_channels": (16, 16, 16),
            "layers_per_block": 1, "norm_num_groups": 8, "scaling_factor": 0.2,
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
        },
        optimus={
            "bert": {**SMALL, **attention},
            "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 14,
                     "vocab_size": vocabulary},
            "latent_size": 12, "max_length": 10, "bos": 1, "eos": 2, "pad": 0,
        },
        vdvae={
            "image_size": 16, "image_channels": 3, "zdim": 4, "width": 8,
            "enc_blocks": "16x1,16d2,8x1,8d2,4x1,4d4,1x1", "dec_blocks": "1x1,4m1,4x1,8m4,16m8",
            "bottleneck_multiple": 0.5, "no_bias_above": 64, "num_mixtures": 3,
        },
        versatile=VersatileConfig(
            latent_channels=4, latent_size=8, channels=(32, 32), layers_per_block=1,
            attention=(True, False), heads=2, context_dim=16, text_latent_dim=12,
            prediction_type="v_prediction",
        ),
    )  # fmt: skip


def store(folder, config, files, tokenizer):
    """Write a networks directory and open it."""
    config.to_json(folder / "networks.json")
    for name, state in files.items():
        write_state(state, folder / f"{name}.safetensors")
    for name in ("clip", "bert", "gpt2"):
        tokenizer.save_pretrained(folder / "tokenizers" / name)
    return load(folder)


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """All networks of a tiny world; every call of a test sees the same random weights."""
    torch.manual_seed(0)
    config, tokenizer = make_config(), make_tokenizer()
    unet, text = build_flows(config.versatile)
    nets = {name: build(name, config) for name in ("clip", "autokl", "optimus", "vdvae")}
    nets |= {"image_flow": unet, "text_data": text}
    files = {name: net.state_dict() for name, net in nets.items()}
    return store(tmp_path_factory.mktemp("tiny"), config, files, tokenizer)


@pytest.fixture
def predicted(networks):
    """Predicted features of five images, of the shapes that the networks have."""
    rng = np.random.default_rng(1)
    shapes = {
        "autokl": networks.config.versatile.image_latent_shape,
        "clip_image": networks.clip.image_shape,
        "clip_text": networks.clip.text_shape,
        "optimus": networks.config.versatile.text_latent_shape,
        "vdvae": (networks.vdvae.count_features(3),),
    }
    return {name: rng.normal(size=(5, *shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def golden(tmp_path):
    """The golden flows of the original code, their inputs and their outputs."""
    original = json.loads((GOLDEN / "vd_tiny.json").read_text())
    image, text = original["cfg_image_unet"], original["cfg_text_unet"]
    config = VersatileConfig(
        latent_channels=image["in_channels"],
        latent_size=8,
        channels=tuple(image["model_channels"] * m for m in image["channel_mult"]),
        layers_per_block=image["num_res_blocks"][0],
        attention=tuple(text["with_attn"]),
        heads=image["num_heads"],
        context_dim=image["context_dim"],
        text_latent_dim=text["input_channels"],
        text_second_dim=text["second_dim"][0],
    )
    state = {
        key.removeprefix("w/"): torch.from_numpy(array.astype(np.float32))
        for part in ("image_and_contexts", "text_data")
        for key, array in np.load(GOLDEN / f"vd_tiny_weights_{part}.npz").items()
    }
    files = map_versatile(state, config)
    networks = store(tmp_path, replace(make_config(), versatile=config), files, make_tokenizer())
    return SimpleNamespace(networks=networks, io=dict(np.load(GOLDEN / "vd_tiny_io.npz")))
