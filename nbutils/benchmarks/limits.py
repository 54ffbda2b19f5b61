"""Whether images and captions come out of a process that may take no more than 4 or 8 GB."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nbutils.benchmarks.bench import Bench, name_of
from nbutils.benchmarks.isolated import run_job
from nbutils.benchmarks.results import FAILED, OUT_OF_MEMORY, OUT_OF_TIME, Row
from nbutils.benchmarks.timing import peak_memory, reset_peak, run_once
from nbutils.networks.loading import Networks
from nbutils.systems import brain_diffuser, unibrain
from nbutils.systems.settings import Settings
from nbutils.world import find_world

GIGABYTE = 10**9
"""Decimal: the 4.29e9 bytes of a 4 GiB card are then some room for CUDA's own context."""

LIMITS = (4, 8)
WORKS = ("images", "caption")


def run(bench: Bench) -> None:
    """Run the systems in a process for each limit."""
    bench.networks.release()
    for limit in LIMITS:
        for row in _run_limited(bench, limit):
            bench.keep(row)


def _run_limited(bench: Bench, limit: int) -> list[Row]:
    found = _find_obstacle(bench, limit)
    if not found:
        job = {
            "networks": describe_networks(bench.networks),
            "world": bench.sizes.world,
            "limit": limit,
            "steps": bench.sizes.steps,
        }
        found = run_job("limited", job, bench.stage_clock.left)
    if not isinstance(found, str):
        return found
    about = {"dtype": name_of(bench.dtype), "note": found}
    about["figures"] = {"completed": 0} if found.startswith(FAILED) else {}
    return [Row("limits", f"{limit} GB, {one}", **about) for one in WORKS]


def _find_obstacle(bench: Bench, limit: int) -> str:
    """Say why a limit cannot be tried here; nothing if it can."""
    if bench.device.type != "cuda":
        return "not measured (no CUDA)"
    total = torch.cuda.get_device_properties(bench.device).total_memory
    if total < limit * GIGABYTE:
        return f"not measured (the card has {total / GIGABYTE:.1f} GB)"
    return "" if bench.stage_clock.left else OUT_OF_TIME


def describe_networks(networks: Networks) -> dict[str, str]:
    """Say in words how these networks were opened, for another process."""
    return {
        "directory": str(networks.directory),
        "device": str(networks.device),
        "dtype": name_of(networks.dtype),
        "weights": networks.weights,
    }


def paint_and_tell(
    networks: Mapping[str, str],
    world: str,
    steps: int,
    limit: int | None = None,
    memory: str = "auto",
) -> list[Row]:
    """Make images by Brain-Diffuser, then a caption by UniBrain, within a limit.

    Parameters
    ----------
    networks : see `describe_networks`
    world : whose number of VDVAE layers is used
    steps : of a full loop
    limit : GB that torch may take on the GPU from now on; None leaves them all
    memory : plan of the networks

    Returns
    -------
    rows : of the images, as many as the memory plan takes at a time, and of the caption
    """
    device = torch.device(networks["device"])
    if limit is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        # This function, unlike its neighbours, wants a numbered device, or none.
        place = None if device.index is None else device
        torch.cuda.set_per_process_memory_fraction(limit * GIGABYTE / total, place)
    name = "no limit" if limit is None else f"{limit} GB"
    try:
        opened = Networks(**networks, memory=memory)
    except MemoryError as error:
        failed = {"dtype": networks["dtype"], "figures": {"completed": 0}, "note": str(error)}
        return [Row("limits", f"{name}, {what}", **failed) for what in WORKS]
    settings = Settings.careful(steps=steps)
    n = opened.plan.image_batch
    features = draw_features(opened, n, find_world(world).vdvae_layers)
    one = {name: values[:1] for name, values in features.items()}
    ids, quiet = np.arange(n), {"progress": False}
    works = {
        "images": lambda: brain_diffuser.reconstruct(
            opened, features, settings, ids, batch_size=n, **quiet
        ),
        "caption": lambda: unibrain.caption(opened, one, settings, ids[:1], **quiet),
    }
    rows = []
    for what, work in works.items():
        row = Row("limits", f"{name}, {what}", n if what == "images" else 1, networks["dtype"])
        rows.append(_try(row, work, opened))
    return rows


def _try(row: Row, work: Callable[[], Any], networks: Networks) -> Row:
    """Do some work once and say under which plan it ended."""
    first = networks.plan
    reset_peak(networks.device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a plan that was too large: the note says it
            seconds = run_once(work, networks.device)
    except MemoryError:
        return replace(row, figures={"completed": 0}, note=f"{OUT_OF_MEMORY}, {networks.plan}")
    fell = "" if networks.plan == first else f"plan {first.name} was too large; "
    return replace(
        row, seconds=seconds, repeats=1, memory=peak_memory(networks.device),
        figures={"completed": 1}, note=f"{fell}{networks.plan}",
    )  # fmt: skip


def draw_features(networks: Networks, n: int, layers: int) -> dict[str, np.ndarray]:
    """Draw predicted features of n images, of the shapes that these networks have."""
    config, rng = networks.config, np.random.default_rng(0)
    shapes = {
        "clip_image": networks.clip.image_shape,
        "clip_text": networks.clip.text_shape,
        "optimus": config.versatile.text_latent_shape,
        "vdvae": (networks.vdvae.count_features(layers),),
    }
    networks.release()
    return {k: rng.standard_normal((n, *s), dtype=np.float32) for k, s in shapes.items()}
