"""Stable Diffusion from decoded z and c (Takagi & Nishimoto, CVPR 2023).

z, the latent of the image at a reduced size, is decoded from early visual cortex; c, the text
tokens of its captions, from ventral cortex. z becomes a picture, the picture is enlarged and
encoded again, and Stable Diffusion denoises it under c: strength .8 of 50 steps, scale 5, five
times. Source: yu-takagi/StableDiffusionReconstruction, `codes/diffusion_decoding.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nbutils.decoding.encoders import generators
from nbutils.networks.batches import run_batches
from nbutils.networks.memory import MemoryPlan
from nbutils.networks.sampling import ddim, noise_for
from nbutils.networks.stable import stable_flow
from nbutils.systems.generation import Callback, decode_images, take_inputs
from nbutils.systems.settings_takagi import TakagiSettings

INPUTS = ("stable_latent", "stable_text")
COMPARISON = {"z": INPUTS[:1], "c": INPUTS[1:], "z_c": INPUTS}
"""Rows of the paper's comparison -> inputs."""

_SAMPLE = 1_000_000
"""Distance between the labels of two samples of an image; nsd_ids are smaller."""


def reconstruct(
    networks: Any,
    predicted: Mapping[str, ArrayLike],
    settings: TakagiSettings,
    nsd_ids: ArrayLike,
    *,
    inputs: Sequence[str] = INPUTS,
    batch_size: int = 16,
    progress: bool = True,
    callback: Callback | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Turn predicted features into images.

    Parameters
    ----------
    networks : `nbutils.networks.loading.Networks` with Stable Diffusion
    predicted : "stable_latent" (n, c, h, w) and "stable_text" (n, T, d)
    settings : see `TakagiSettings`
    nsd_ids : (n,) images of the rows; with the seed they decide the noise
    inputs : features to use, see `COMPARISON`; without z the painting starts from noise
    batch_size : pictures at a time, at most; changes nothing but speed and memory
    progress : show a progress bar
    callback : ``callback(step, t, x, pred_x0)`` after every denoising step of each batch

    Returns
    -------
    pictures : "images" (n, samples, H, W, 3) uint8, a single sample where z is only decoded, and,
        where z is used, "low_level" (n, h, w, 3) uint8 at the reduced size

    Raises
    ------
    ValueError
        If inputs are unknown or missing, or rows and images do not match.
    """
    features, ids = take_inputs(predicted, inputs, INPUTS, nsd_ids)
    pictures, start = {}, None
    if "stable_latent" in features:
        pictures["low_level"] = decode_images(
            networks, features["stable_latent"], batch_size, network="stable_autokl"
        )
        start = encode_start(networks, pictures["low_level"], settings, ids, batch_size)
    latents, samples = start, 1
    if "stable_text" in features or settings.latent_only == "denoise":
        samples = settings.samples
        latents = paint(
            networks, start, features.get("stable_text"), settings, ids,
            batch_size=batch_size, progress=progress, callback=callback,
        )  # fmt: skip
    images = decode_images(networks, latents, batch_size, network="stable_autokl")
    pictures["images"] = images.reshape(len(ids), samples, *images.shape[1:])
    return pictures


def encode_start(
    networks: Any,
    images: NDArray[np.uint8],
    settings: TakagiSettings,
    nsd_ids: NDArray[np.int64],
    batch_size: int = 16,
) -> Tensor:
    """Enlarge low-level images (bicubic, PIL's default) and encode them: (n, c, h, w) float32."""

    def run(rows: slice, plan: MemoryPlan) -> Tensor:
        draws = None
        if settings.autokl_latent == "sample":
            draws = generators(settings.seed, nsd_ids[rows], "stable start")
        return networks.stable_autokl.encode(images[rows], draws).float().cpu()

    return torch.cat(run_batches(networks, len(images), batch_size, run, limit="decode_batch"))


def paint(
    networks: Any,
    start: Tensor | None,
    tokens: Tensor | None,
    settings: TakagiSettings,
    nsd_ids: NDArray[np.int64],
    *,
    batch_size: int = 16,
    progress: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    """Denoise each start latent as often as there are samples.

    Parameters
    ----------
    start : (n, c, h, w) latents, or None for pure noise
    tokens : (n, T, d) condition, or None for that of the empty caption
    networks, settings, nsd_ids, batch_size, progress, callback : as in `reconstruct`

    Returns
    -------
    latents : (n * samples, c, h, w) float32 on the CPU, the samples of an image side by side
    """
    config, samples = networks.config.stable_unet, settings.samples
    nothing = networks.attempt(lambda plan: networks.stable_text.unconditional().float().cpu())
    given = nothing.expand(len(nsd_ids), -1, -1) if tokens is None else tokens
    noise = draw_noise(settings, nsd_ids, config.image_latent_shape)

    def run(rows: slice, plan: MemoryPlan) -> Tensor:
        images = torch.arange(rows.start, rows.stop) // samples
        final = ddim(
            partial(stable_flow, networks.stable_unet),
            None if start is None else start[images],
            {"text": given[images]},
            {"text": nothing},
            {"text": 1.0},
            config=config,
            noise=noise[rows].to(networks.device),
            steps=settings.steps,
            strength=1.0 if start is None else settings.strength,
            # Without a condition guidance has nothing to add.
            guidance_scale=1.0 if tokens is None else settings.guidance_scale,
            start_convention=settings.img2img_start,
            split_guidance=plan.split_guidance,
            callback=callback,
        )
        return final.cpu()

    total = samples * len(nsd_ids)
    return torch.cat(
        run_batches(networks, total, batch_size, run, name="images", progress=progress)
    )


def draw_noise(
    settings: TakagiSettings, nsd_ids: NDArray[np.int64], shape: Sequence[int]
) -> Tensor:
    """Draw the start noise of all samples of all images.

    Returns
    -------
    (n * samples, *shape) float32; "per_image" sample k of an image is the same however many
    samples or images there are, "shared" gives every image the same samples
    """
    samples = range(settings.samples)
    if settings.noise == "shared":
        generator = torch.Generator().manual_seed(settings.seed)
        one = torch.stack([torch.randn(tuple(shape), generator=generator) for _ in samples])
        return one.repeat(len(nsd_ids), *[1] * len(shape))
    labels = [int(nsd_id) + _SAMPLE * k for nsd_id in nsd_ids for k in samples]
    return noise_for(settings.seed, labels, shape)
