"""Golden numbers of the tiny Versatile Diffusion, shared by the tests of both flows."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nbutils.networks.checkpoints_versatile import map_versatile
from nbutils.networks.config import VersatileConfig
from nbutils.networks.versatile import build_flows

GOLDEN = Path(__file__).parents[1] / "golden"


def read_npz(name: str) -> dict[str, torch.Tensor]:
    """Read arrays as float32 (weights are stored as exact float16) or int64 tensors."""
    arrays = np.load(GOLDEN / name)
    return {
        k: torch.from_numpy(
            arrays[k].astype(np.float32 if arrays[k].dtype.kind == "f" else np.int64)
        )
        for k in arrays
    }


@pytest.fixture(scope="session")
def vd_state() -> dict[str, torch.Tensor]:
    """Weights of the tiny model under the original v1-0 keys."""
    files = ("vd_tiny_weights_image_and_contexts.npz", "vd_tiny_weights_text_data.npz")
    return {k.removeprefix("w/"): v for f in files for k, v in read_npz(f).items()}


@pytest.fixture(scope="session")
def vd_config() -> VersatileConfig:
    """Our configuration of the tiny model, read from the original's."""
    original = json.loads((GOLDEN / "vd_tiny.json").read_text())
    image, text = original["cfg_image_unet"], original["cfg_text_unet"]
    return VersatileConfig(
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


@pytest.fixture(scope="session")
def vd(vd_state, vd_config) -> SimpleNamespace:
    """Both tiny flows with the golden weights, and the golden inputs and outputs."""
    unet, text = build_flows(vd_config)
    tensors = map_versatile(vd_state, vd_config)
    unet.load_state_dict(tensors["image_flow"])
    text.load_state_dict(tensors["text_data"])
    io = read_npz("vd_tiny_io.npz")
    return SimpleNamespace(config=vd_config, unet=unet.eval(), text=text.eval(), io=io)
