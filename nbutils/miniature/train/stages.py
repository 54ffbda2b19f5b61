"""The stages of training, as functions that a fresh process can import."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist

from nbutils.miniature.train.autokl import polish_decoder, train_autokl
from nbutils.miniature.train.classifier import train_classifier
from nbutils.miniature.train.clip import train_clip
from nbutils.miniature.train.data import training_scenes
from nbutils.miniature.train.export import export, export_stable
from nbutils.miniature.train.flows import FlowData, train_flows
from nbutils.miniature.train.optimus import train_optimus
from nbutils.miniature.train.prepare import prepare_flows
from nbutils.miniature.train.stable import prepare_stable, train_stable
from nbutils.miniature.train.vdvae import train_vdvae
from nbutils.networks.loading import load

SINGLE = {
    "clip": train_clip,
    "autokl": train_autokl,
    "optimus": train_optimus,
    "vdvae": train_vdvae,
    "classifier": train_classifier,
}
STAGES = (*SINGLE, "flows", "polish", "export", "stable", "quality")


def load_prepared(folder: Path) -> FlowData:
    """Train, or read back, what the flows need, and encode all scenes with it."""
    data = training_scenes(folder)
    nets = [SINGLE[name](data, folder) for name in ("clip", "autokl", "optimus")]
    return prepare_flows(data, *nets, folder / "prepared")


def train_rank(rank: int, processes: int, folder: Path, options: dict) -> None:
    """Train the flows as one of several processes."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    if processes > 1:
        address = f"tcp://127.0.0.1:{options.pop('port')}"
        dist.init_process_group("gloo", address, rank=rank, world_size=processes)
    else:
        options.pop("port")
    train_flows(load_prepared(folder), folder, rank=rank, processes=processes, **options)


def export_all(folder: Path, out: Path) -> None:
    """Export every network from its finished checkpoint."""
    data = training_scenes(folder)
    nets = {name: train(data, folder) for name, train in SINGLE.items()}
    prepared = prepare_flows(
        data, nets["clip"], nets["autokl"], nets["optimus"], folder / "prepared"
    )
    nets["autokl"] = polish_decoder(data, nets["autokl"], folder)
    flows = train_flows(prepared, folder, steps=0)
    nets |= {"image": flows.image_unet, "text": flows.text_unet}
    export(nets, folder / "prepared", out)


def make_stable(folder: Path, out: Path, steps: int, n_scenes: int) -> None:
    """Train Stable Diffusion on the shipped networks, and write it beside them when it is done."""
    networks = load(out)
    data = prepare_stable(training_scenes(folder, n_scenes), networks, folder / "prepared_stable")
    if loss := train_stable(data, networks, folder, steps):
        states = networks.clip.state_dict(), networks.autokl.state_dict()
        export_stable(loss.unet, *states, out)
