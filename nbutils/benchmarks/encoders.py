"""The networks that turn images and captions into features, and features into images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nbutils.benchmarks import work
from nbutils.benchmarks.bench import Bench, name_of
from nbutils.benchmarks.results import Row
from nbutils.benchmarks.work import Work
from nbutils.networks.inventory import FULL_PRECISION


def run(bench: Bench) -> None:
    """Time each network on one item and on a batch; resizing of images is not part of it."""
    counts, layers = bench.counts, bench.counts.vdvae_layers
    large, few = bench.sizes.encoder_batch, bench.sizes.decode_batch
    few_layers, all_layers = (partial(work.descend, layers=one) for one in (layers, None))
    back = partial(work.ascend, layers=layers)
    tasks = [
        ("CLIP, images", "clip", work.see, counts.clip_image, large),
        ("CLIP, captions", "clip", work.read, counts.clip_text, large),
        (f"VDVAE, images to {layers} layers", "vdvae", few_layers, counts.vdvae_encode, large),
        ("VDVAE, images to all layers", "vdvae", all_layers, counts.vdvae_encode_all, large),
        (f"VDVAE, {layers} layers to images", "vdvae", back, counts.vdvae_decode, large),
        ("AutoKL, images to latents", "autokl", work.encode, counts.autokl_encode, few),
        ("AutoKL, latents to images", "autokl", work.decode, counts.autokl_decode, few),
    ]
    for name, network, prepare, count, most in tasks:
        # Alone on the device, so that the peak is this network's own.
        bench.networks.release(*({"clip", "vdvae", "autokl"} - {network}))
        dtype = "float32" if network in FULL_PRECISION else name_of(bench.dtype)
        for n in dict.fromkeys((1, most)):
            row = Row("encoders", name, batch=n, dtype=dtype, flop=n * count())
            bench.time(row, partial(_prepare, bench, network, prepare, n))


def _prepare(bench: Bench, network: str, prepare: Callable[..., Work], n: int) -> Work:
    return prepare(getattr(bench.networks, network), n)
