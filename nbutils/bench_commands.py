"""The command line of the benchmarks: `python -m nbutils bench gpu`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def add_commands(commands: Any) -> None:
    """Add `bench` and what it can do to the subparsers of the main command."""
    bench = commands.add_parser("bench", help="measure speed and memory on this machine")
    kinds = bench.add_subparsers(dest="bench", required=True)
    gpu = kinds.add_parser(
        "gpu", help="networks and ridge on one GPU (or, with --device cpu, on this processor)"
    )
    gpu.add_argument("--device", default="cuda", help="cuda (default), cuda:1 or cpu")
    gpu.add_argument(
        "--size", choices=("full", "miniature"), default="full",
        help="the published sizes (default), or the miniature world's",
    )  # fmt: skip
    gpu.add_argument(
        "--weights", choices=("random", "stored"), default="random",
        help="random (default) needs no download and is as fast",
    )  # fmt: skip
    gpu.add_argument("--networks", type=Path, help="networks folder; by default that of the world")
    gpu.add_argument(
        "--precision", default="auto",
        help="auto (default: float16 on a GPU, float32 on a CPU), float32, float16 or bfloat16",
    )  # fmt: skip
    gpu.add_argument("--minutes", type=float, default=8.0, help="to spend; 8 by default")
    gpu.add_argument(
        "--only", metavar="STAGES", help="with commas between: gemm,unet,loop,limits,ridge,"
        "captions,encoders; all by default",
    )  # fmt: skip
    gpu.add_argument("--batches", type=int, nargs="+", metavar="N", help="images in the U-Net")
    gpu.add_argument("--compile", action="store_true", help="time torch.compile too; takes longer")
    gpu.add_argument("--threads", type=int, help="of a CPU; by default as many as torch takes")
    gpu.add_argument("--out", type=Path, help="a JSON file for all figures")


def run(options: argparse.Namespace) -> None:
    """Do what one `bench` command asks."""
    from nbutils.benchmarks.report import write_json, write_markdown
    from nbutils.benchmarks.results import FAILED, STOPPED
    from nbutils.benchmarks.run import STAGES, run
    from nbutils.benchmarks.sizes import SIZES

    stages = options.only.split(",") if options.only else list(STAGES)
    stages += ["compile"] if options.compile else []
    sizes = SIZES[options.size]
    if options.batches:
        sizes = replace(sizes, batches=tuple(options.batches))
    networks = _open(options, sizes.world)
    published = options.size == "full"
    result = run(networks, sizes, options.minutes, stages, published=published, say=_say)
    _say("")
    for line in write_markdown(result):
        _say(line)
    if options.out:
        _say(f"all figures are in {write_json(result, options.out)}")
    if any(row.note == STOPPED for row in result.rows):
        raise SystemExit(130)
    if failed := [row for row in result.rows if row.note.startswith(FAILED)]:
        raise RuntimeError(f"{len(failed)} rows failed for other reasons than time and memory")


def _open(options: argparse.Namespace, world: str) -> Any:
    import torch

    from nbutils.devices import find_device
    from nbutils.networks.loading import Networks
    from nbutils.world import find_root, find_world

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            "torch finds no GPU here: say --device cpu --size miniature to run the same stages on "
            "the processor"
        )
    device = find_device(options.device)
    if device.startswith("cuda"):
        # With its number: some of torch's functions take no other.
        device = "cuda:0" if device == "cuda" else device
        torch.cuda.set_device(device)
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = options.networks or find_root() / find_world(world).networks
    return Networks(folder, device, options.precision, memory="more", weights=options.weights)
