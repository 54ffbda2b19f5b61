"""Train the networks of the miniature world: ``python -m nbutils.miniature.train``.

Stages run in order; each continues where its checkpoint stands, so the command can be
interrupted and given again. The flows take most of the time and use all processes. ``stable``
starts from the networks in ``--out``, so the shipped ones need not be trained again for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch.multiprocessing as mp

from nbutils.miniature.train.autokl import polish_decoder, train_autokl
from nbutils.miniature.train.data import training_scenes
from nbutils.miniature.train.quality import measure
from nbutils.miniature.train.stages import (
    SINGLE,
    STAGES,
    export_all,
    load_prepared,
    make_stable,
    train_rank,
)


def main(arguments: list[str] | None = None) -> None:
    """Run the stages that the command line names (all of them by default)."""
    parser = argparse.ArgumentParser(prog="python -m nbutils.miniature.train", description=__doc__)
    parser.add_argument("stages", nargs="*", default=STAGES, help=f"some of {', '.join(STAGES)}")
    parser.add_argument("--folder", type=Path, default=Path("results/train"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "weights")
    parser.add_argument("--processes", type=int, default=2, help="processes of the flows")
    parser.add_argument("--steps", type=int, default=7_200, help="optimiser steps of the flows")
    parser.add_argument("--stable-steps", type=int, default=720, help="those of stable")
    parser.add_argument("--stable-scenes", type=int, default=20_000, help="scenes of stable")
    parser.add_argument("--compile", action="store_true", help="compile the image flow first")
    parser.add_argument("--port", type=int, default=29_511, help="local port of the processes")
    given = parser.parse_args(arguments)
    unknown = set(given.stages) - set(STAGES)
    if unknown:
        parser.error(f"unknown stages {sorted(unknown)}: choose from {', '.join(STAGES)}")
    needed = set(given.stages) - {"stable", "quality"}
    data = training_scenes(given.folder) if needed else None
    for stage in [s for s in STAGES if s in given.stages]:
        if stage in SINGLE:
            SINGLE[stage](data, given.folder)
        elif stage == "flows":
            options = {"steps": given.steps, "port": given.port, "compiled": given.compile}
            load_prepared(given.folder)
            arguments_of_rank = (given.processes, given.folder, options)
            mp.spawn(train_rank, arguments_of_rank, nprocs=given.processes)
        elif stage == "polish":
            polish_decoder(data, train_autokl(data, given.folder), given.folder)
        elif stage == "export":
            export_all(given.folder, given.out)
        elif stage == "stable":
            make_stable(given.folder, given.out, given.stable_steps, given.stable_scenes)
        else:
            for name, value in measure(given.out).items():
                sys.stdout.write(f"{name:<40} {value:.3f}\n")


if __name__ == "__main__":
    main()
