"""What Brain-Diffuser and UniBrain share: checked inputs, contexts, both flows in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nbutils.decoding.encoders import generators
from nbutils.networks.batches import run_batches
from nbutils.networks.memory import MemoryPlan
from nbutils.networks.sampling import Flow, ddim, noise_for
from nbutils.networks.versatile import image_flow, text_flow
from nbutils.systems.settings import Settings

CONTEXTS = {"clip_image": "image", "clip_text": "text"}
"""Predicted feature -> kind of context in the flows."""

Target = Literal["image", "caption"]
Callback = Callable[[int, int, Tensor, Tensor], None]


def ablations(inputs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Name the rows of a published ablation table: everything, only one input, without one input.

    Parameters
    ----------
    inputs : all inputs of a system, such as ``unibrain.IMAGE_INPUTS``

    Returns
    -------
    rows : name -> inputs to use; pass one of these as ``inputs=``
    """
    rows = {"full": tuple(inputs)}
    rows |= {f"only {name}": (name,) for name in inputs}
    rows |= {f"without {name}": tuple(n for n in inputs if n != name) for name in inputs}
    return rows


def take_inputs(
    predicted: Mapping[str, ArrayLike],
    inputs: Sequence[str],
    known: Sequence[str],
    nsd_ids: ArrayLike,
) -> tuple[dict[str, Tensor], NDArray[np.int64]]:
    """Pick the predicted features that are to be used, after checking them.

    Parameters
    ----------
    predicted : feature name -> (n, ...) array
    inputs : names to use
    known : names that the system can use
    nsd_ids : (n,) image of each row

    Returns
    -------
    features : name -> (n, ...) float32 tensor on the CPU
    nsd_ids : (n,) int64

    Raises
    ------
    ValueError
        If a name is unknown or missing, nothing is used, or the rows do not match the images.
    """
    ids = np.atleast_1d(np.asarray(nsd_ids, dtype=np.int64))
    wrong = [name for name in inputs if name not in known]
    if wrong or not inputs:
        found = f"{wrong[0]!r}" if wrong else "nothing"
        raise ValueError(f"inputs={found}: choose from {', '.join(known)}.")
    missing = [name for name in inputs if name not in predicted]
    if missing:
        raise ValueError(
            f"{missing[0]} is to be used but was not predicted; predict it (03_fit_ridge) or "
            "leave it out of inputs."
        )
    features = {}
    for name in inputs:
        values = np.asarray(predicted[name], dtype=np.float32)
        if len(values) != len(ids):
            raise ValueError(
                f"{name} has {len(values)} rows for {len(ids)} nsd_ids; give the rows of the "
                "same images."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds NaN or infinite values; check responses and features.")
        features[name] = torch.from_numpy(np.ascontiguousarray(values))
    return features, ids


def weigh_contexts(features: Mapping[str, Tensor], mix: float) -> dict[str, float]:
    """Weights of the contexts: C_I gets `mix` and C_T the rest, a single one gets all.

    Parameters
    ----------
    features : features in use; those that are no context are ignored
    mix : weight of C_I
    """
    kinds = {CONTEXTS[name] for name in features if name in CONTEXTS}
    if kinds == {"image", "text"}:
        return {"image": mix, "text": 1 - mix}
    return dict.fromkeys(kinds, 1.0)


def generate(
    networks: Any,
    target: Target,
    start: Tensor | None,
    features: Mapping[str, Tensor],
    settings: Settings,
    nsd_ids: NDArray[np.int64],
    *,
    batch_size: int = 16,
    progress: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    """Run the image or the text flow from a latent (img2img) or from noise, in batches.

    Parameters
    ----------
    networks : `nbutils.networks.loading.Networks`
    target : "image" or "caption"
    start : (n, ...) clean latents to start from, or None for pure noise
    features : "clip_image" (n, T, d) and "clip_text" (n, T, d) contexts, each optional
    settings : steps, strength, guidance, mixing, noise
    nsd_ids : (n,) images; with the seed they decide the noise
    batch_size : items at a time, at most; the memory plan may allow fewer
    progress : show a progress bar over the items
    callback : ``callback(step, t, x, pred_x0)`` within each batch; without memory for a batch its
        steps come again, in smaller ones

    Returns
    -------
    latents : (n, ...) float32, on the CPU

    Raises
    ------
    ValueError : latents or contexts of other networks
    MemoryError : too little memory even for the smallest plan
    """
    shape, mix = _describe(networks, target, settings)
    contexts = {CONTEXTS[name]: values for name, values in features.items() if name in CONTEXTS}
    weights = weigh_contexts(features, mix) or {"image": mix, "text": 1 - mix}
    _check_sizes(start, contexts, shape, networks.config.versatile.context_dim)
    kind = settings.unconditional_image
    unconditional = networks.attempt(lambda plan: networks.unconditional(kind))
    noise = start_noise(settings, nsd_ids, shape)

    def run(rows: slice, plan: MemoryPlan) -> Tensor:
        here = networks.captioner if target == "caption" else networks
        # Without any context "no condition" is all there is, so guidance has nothing to add.
        given = {kind: values[rows] for kind, values in contexts.items()} or unconditional
        final = ddim(
            _flow(here, target),
            None if start is None else start[rows],
            given,
            unconditional,
            weights,
            config=networks.config.versatile,
            # In float32 whatever the network computes in: the steps add up.
            noise=noise[rows].to(here.device),
            steps=settings.steps,
            strength=1.0 if start is None else settings.strength,
            guidance_scale=settings.guidance_scale if contexts else 1.0,
            start_convention=settings.img2img_start,
            split_guidance=plan.split_guidance,
            callback=callback,
        )
        return final.cpu()

    n = len(nsd_ids)
    return torch.cat(
        run_batches(networks, n, batch_size, run, name=f"{target}s", progress=progress)
    )


def start_noise(settings: Settings, nsd_ids: NDArray[np.int64], shape: Sequence[int]) -> Tensor:
    """Start noise of each image, (n, *shape) float32.

    Of one sequence, as published (an image depends on those before it), or of (seed, nsd_id).
    """
    if settings.noise == "per_image":
        return noise_for(settings.seed, nsd_ids, shape)
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.stack([torch.randn(tuple(shape), generator=generator) for _ in nsd_ids])


def decode_images(
    networks: Any,
    latents: Tensor,
    batch_size: int = 16,
    progress: bool = False,
    *,
    network: str = "autokl",
) -> NDArray[np.uint8]:
    """Decode latents of "autokl" or "stable_autokl" to (n, H, W, 3) uint8 images in batches."""
    images = run_batches(
        networks,
        len(latents),
        batch_size,
        lambda rows, plan: np.asarray(getattr(networks, network).decode(latents[rows])),
        limit="decode_batch",
        name="decoding",
        progress=progress,
    )
    return np.concatenate(images)


def draws(settings: Settings, choice: str, nsd_ids: NDArray[np.int64], purpose: str):
    """Generators of a draw, one per image, or None where the preset takes the mean or mode."""
    return generators(settings.seed, nsd_ids, purpose) if choice == "sample" else None


def _describe(networks: Any, target: Target, settings: Settings) -> tuple[Sequence[int], float]:
    """Shape of a latent, and weight of the image context."""
    config = networks.config.versatile
    if target == "image":
        return config.image_latent_shape, settings.mix_image
    return config.text_latent_shape, settings.mix_caption


def _check_sizes(
    start: Tensor | None, contexts: Mapping[str, Tensor], shape: Sequence[int], width: int
) -> None:
    """Refuse features that other networks made."""
    if start is not None and tuple(start.shape[1:]) != tuple(shape):
        raise ValueError(
            f"start latents of shape {tuple(start.shape)}: these networks have {tuple(shape)} "
            "each; predict the features of the same networks"
        )
    for kind, tokens in contexts.items():
        if tokens.ndim != 3 or tokens.shape[2] != width:
            raise ValueError(
                f"{kind} contexts of shape {tuple(tokens.shape)}: these networks have (n, tokens, "
                f"{width}); predict the features of the same networks"
            )


def _flow(networks: Any, target: Target) -> Flow:
    """Take the flow from the networks, which may have to fill it first."""
    if target == "image":
        return partial(image_flow, networks.image_unet)
    return partial(text_flow, networks.text_unet)
