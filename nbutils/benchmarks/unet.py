"""The image U-Net under guidance and both contexts, by batch and by how it is computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from nbutils.benchmarks import work
from nbutils.benchmarks.bench import Bench
from nbutils.benchmarks.results import Row
from nbutils.networks.versatile import set_attention

VARIANTS = {
    "fused attention, channels last": ("sdpa", torch.channels_last),
    "plain attention": ("plain", torch.contiguous_format),
    "fused attention": ("sdpa", torch.contiguous_format),
}
"""Kind of attention and memory format: ours on a GPU first, then the published code's."""


def run(bench: Bench) -> None:
    """Time one guided call for each variant and batch, the most important ones first."""
    try:
        for variant in VARIANTS:
            for batch in bench.sizes.batches:
                bench.time(
                    describe(bench, variant, batch), partial(_prepare, bench, variant, batch)
                )
    finally:
        set_attention(bench.networks.image_unet, "sdpa")
        # Filled again on their next use, the weights lie as the systems have them.
        bench.networks.release("image_unet")


def describe(bench: Bench, variant: str, batch: int) -> Row:
    """Row of a call for `batch` images, which are twice as many latents."""
    return Row("unet", variant, batch=batch, flop=2 * batch * bench.counts.image_flow())


def _prepare(bench: Bench, variant: str, batch: int) -> Callable[[], Any]:
    attention, layout = VARIANTS[variant]
    unet = bench.networks.image_unet
    set_attention(unet, attention)
    unet.to(memory_format=layout)
    return work.call_image_flow(unet, bench.networks.config, 2 * batch)
