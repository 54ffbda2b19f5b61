"""Brain-Diffuser: a blurry VDVAE image first, then Versatile Diffusion (Ozcelik & VanRullen 2023).

VDVAE latents are decoded to a low-level image, AutoKL turns it into the start latent, and the
image flow denoises it under C_I (weight .6) and C_T (.4): strength .75 of 50 steps, guidance 7.5.
Source: brain-diffuser, ``vdvae_reconstruct_images.py`` and ``versatilediffusion_reconstruct_
images.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nbutils.networks.batches import run_batches
from nbutils.networks.memory import MemoryPlan
from nbutils.systems.generation import (
    Callback,
    decode_images,
    draws,
    generate,
    take_inputs,
)
from nbutils.systems.settings import Settings

INPUTS = ("vdvae", "clip_image", "clip_text")


def reconstruct(
    networks: Any,
    predicted: Mapping[str, ArrayLike],
    settings: Settings,
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
    networks : `nbutils.networks.loading.Networks`
    predicted : "vdvae" (n, D), "clip_image" (n, T, d), "clip_text" (n, T, d)
    settings : see `Settings`
    nsd_ids : (n,) images of the rows; with the seed they decide the noise
    inputs : features to use, for ablations; "vdvae" alone gives the low-level image, as the
        published table does, and without it the flow starts from noise
    batch_size : images at a time, at most; changes nothing but speed and memory
    progress : show progress bars
    callback : ``callback(step, t, x, pred_x0)`` after every denoising step of each batch

    Returns
    -------
    pictures : "images" (n, H, W, 3) uint8 and, where VDVAE is used, "low_level" (n, h, w, 3)
        uint8 at VDVAE's own size

    Raises
    ------
    ValueError
        If inputs are unknown or missing, or rows and images do not match.
    """
    features, ids = take_inputs(predicted, inputs, INPUTS, nsd_ids)
    pictures, start = {}, None
    if "vdvae" in features:
        flat = features.pop("vdvae")
        pictures["low_level"] = draw_low_level(networks, flat, settings, ids, batch_size)
        start = encode_start(networks, pictures["low_level"], settings, ids, batch_size)
    latents = start
    if features or settings.latent_only == "denoise":
        latents = generate(
            networks, "image", start, features, settings, ids,
            batch_size=batch_size, progress=progress, callback=callback,
        )  # fmt: skip
    pictures["images"] = decode_images(networks, latents, batch_size)
    return pictures


def draw_low_level(
    networks: Any,
    latents: Tensor,
    settings: Settings,
    nsd_ids: NDArray[np.int64],
    batch_size: int = 16,
) -> NDArray[np.uint8]:
    """Decode predicted VDVAE latents to the low-level image.

    Parameters
    ----------
    latents : (n, D) the first layers, flattened; the remaining layers come from the prior
    settings : `vdvae_prior` says whether prior and pixels are drawn or averaged

    Returns
    -------
    images : (n, h, w, 3) uint8
    """

    def run(rows: slice, plan: MemoryPlan) -> NDArray[np.uint8]:
        prior = draws(settings, settings.vdvae_prior, nsd_ids[rows], "vdvae prior")
        return networks.vdvae.decode(latents[rows], prior)

    images = run_batches(networks, len(latents), batch_size, run, limit="encode_batch")
    return np.concatenate(images)


def encode_start(
    networks: Any,
    images: NDArray[np.uint8],
    settings: Settings,
    nsd_ids: NDArray[np.int64],
    batch_size: int = 16,
) -> Tensor:
    """Encode low-level images with AutoKL (which resizes them, bicubic) to start latents."""

    def run(rows: slice, plan: MemoryPlan) -> Tensor:
        noise = draws(settings, settings.autokl_latent, nsd_ids[rows], "autokl start")
        return networks.autokl.encode(images[rows], noise).float().cpu()

    latents = run_batches(networks, len(images), batch_size, run, limit="decode_batch")
    return torch.cat(latents)
