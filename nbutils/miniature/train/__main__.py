"""Train the networks of the miniature world: ``python -m nbutils.miniature.train``.

Stages run in order; each continues where its checkpoint stands, so the command can be
interrupted and given again. The flows take most of the time and use all processes.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from nbutils.miniature.train.autokl import polish_decoder, train_autokl
from nbutils.miniature.train.classifier import train_classifier
from nbutils.miniature.train.clip import train_clip
from nbutils.miniature.train.data import training_scenes
from nbutils.miniature.train.export import export
from nbutils.miniature.train.flows import train_flows
from nbutils.miniature.train.optimus import train_optimus
from nbutils.miniature.train.prepare import prepare_flows
from nbutils.miniature.train.vdvae import train_vdvae

SINGLE = {
    "clip": train_clip,
    "autokl": train_autokl,
    "optimus": train_optimus,
    "vdvae": train_vdvae,
    "classifier": train_classifier,
}
STAGES = (*SINGLE, "flows", "polish", "export")


def load_prepared(folder: Path):
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


def main(arguments: list[str] | None = None) -> None:
    """Run the stages that the command line names (all of them by default)."""
    parser = argparse.ArgumentParser(prog="python -m nbutils.miniature.train", description=__doc__)
    parser.add_argument("stages", nargs="*", default=STAGES, help=f"some of {', '.join(STAGES)}")
    parser.add_argument("--folder", type=Path, default=Path("results/train"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "weights")
    parser.add_argument("--processes", type=int, default=2, help="processes of the flows")
    parser.add_argument("--steps", type=int, default=16_000, help="optimiser steps of the flows")
    parser.add_argument("--port", type=int, default=29_511, help="local port of the processes")
    given = parser.parse_args(arguments)
    unknown = set(given.stages) - set(STAGES)
    if unknown:
        parser.error(f"unknown stages {sorted(unknown)}: choose from {', '.join(STAGES)}")
    data = training_scenes(given.folder)
    for stage in [s for s in STAGES if s in given.stages]:
        if stage in SINGLE:
            SINGLE[stage](data, given.folder)
        elif stage == "flows":
            options = {"steps": given.steps, "port": given.port}
            load_prepared(given.folder)
            arguments_of_rank = (given.processes, given.folder, options)
            mp.spawn(train_rank, arguments_of_rank, nprocs=given.processes)
        elif stage == "polish":
            polish_decoder(data, train_autokl(data, given.folder), given.folder)
        else:
            export_all(given.folder, given.out)


if __name__ == "__main__":
    main()
