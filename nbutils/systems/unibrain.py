"""UniBrain: images from Z_I, C_I, C_T and captions from Z_T, C_I, C_T (Mai & Zhang 2023).

No public code exists. From the paper: four ridge regressions, DDIM with 50 steps, strength .75 for
both flows, mixing .6 for images and .9 for captions, repeated phrases removed from captions. What
our sources leave open (guidance, which side has the mixing weight, rescaling, the decoder's
temperature) is a field of `Settings`, marked there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbutils.networks.batches import run_batches
from nbutils.networks.memory import MemoryPlan
from nbutils.networks.optimus import remove_repeated_phrases
from nbutils.systems.generation import (
    Callback,
    decode_images,
    draws,
    generate,
    take_inputs,
)
from nbutils.systems.settings import Settings

IMAGE_INPUTS = ("autokl", "clip_image", "clip_text")
CAPTION_INPUTS = ("optimus", "clip_image", "clip_text")


def reconstruct(
    networks: Any,
    predicted: Mapping[str, ArrayLike],
    settings: Settings,
    nsd_ids: ArrayLike,
    *,
    inputs: Sequence[str] = IMAGE_INPUTS,
    batch_size: int = 16,
    progress: bool = True,
    callback: Callback | None = None,
) -> NDArray[np.uint8]:
    """Turn predicted features into images.

    Parameters
    ----------
    networks : `nbutils.networks.loading.Networks`
    predicted : "autokl" (n, c, h, w), "clip_image" (n, T, d), "clip_text" (n, T, d)
    settings : see `Settings`
    nsd_ids : (n,) images of the rows; with the seed they decide the noise
    inputs : features to use, for ablations; without a latent the flow starts from noise, without
        contexts `settings.latent_only` says what happens
    batch_size : images at a time, at most; changes nothing but speed and memory
    progress : show progress bars
    callback : ``callback(step, t, x, pred_x0)`` after every denoising step of each batch

    Returns
    -------
    images : (n, H, W, 3) uint8

    Raises
    ------
    ValueError
        If inputs are unknown or missing, or rows and images do not match.
    """
    features, ids = take_inputs(predicted, inputs, IMAGE_INPUTS, nsd_ids)
    latents = features.pop("autokl", None)
    if features or settings.latent_only == "denoise":
        latents = generate(
            networks, "image", latents, features, settings, ids,
            batch_size=batch_size, progress=progress, callback=callback,
        )  # fmt: skip
    return decode_images(networks, latents, batch_size)


def caption(
    networks: Any,
    predicted: Mapping[str, ArrayLike],
    settings: Settings,
    nsd_ids: ArrayLike,
    *,
    inputs: Sequence[str] = CAPTION_INPUTS,
    batch_size: int = 64,
    progress: bool = True,
    callback: Callback | None = None,
) -> list[str]:
    """Turn predicted features into captions.

    Parameters
    ----------
    predicted : "optimus" (n, d_z), "clip_image" (n, T, d), "clip_text" (n, T, d)
    networks, settings, nsd_ids, inputs, batch_size, progress, callback : as in `reconstruct`

    Returns
    -------
    captions : n sentences, repeated phrases removed

    Raises
    ------
    ValueError
        If inputs are unknown or missing, or rows and images do not match.
    """
    features, ids = take_inputs(predicted, inputs, CAPTION_INPUTS, nsd_ids)
    latents = features.pop("optimus", None)
    if features or settings.latent_only == "denoise":
        latents = generate(
            networks, "caption", latents, features, settings, ids,
            batch_size=batch_size, progress=progress, callback=callback,
        )  # fmt: skip
    choice = "sample" if settings.caption_temperature > 0 else "mode"

    def run(rows: slice, plan: MemoryPlan) -> list[str]:
        return networks.captioner.optimus.decode(
            latents[rows],
            temperature=settings.caption_temperature,
            generator=draws(settings, choice, ids[rows], "words"),
            keep_last_word=settings.keep_last_word,
        )

    parts = run_batches(networks, len(ids), batch_size, run, limit="encode_batch")
    return [remove_repeated_phrases(sentence) for part in parts for sentence in part]
