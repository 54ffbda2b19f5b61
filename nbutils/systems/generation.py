"""What Brain-Diffuser and UniBrain share: checked inputs, contexts, both flows in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm.auto import tqdm

from nbutils.decoding.encoders import generators
from nbutils.networks.sampling import ddim, noise_for
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
    networks : what `nbutils.networks.loading.load` returns
    target : "image" or "caption"
    start : (n, ...) clean latents to start from, or None for pure noise
    features : "clip_image" (n, T, d) and "clip_text" (n, T, d) contexts, each optional
    settings : steps, strength, guidance, mixing, noise
    nsd_ids : (n,) images; with the seed they decide the noise
    batch_size : items at a time
    progress : show a progress bar over the items
    callback : ``callback(step, t, x, pred_x0)`` within each batch

    Returns
    -------
    latents : (n, ...) float32, on the CPU
    """
    flow, shape, mix = _flow(networks, target, settings)
    contexts = {CONTEXTS[name]: values for name, values in features.items() if name in CONTEXTS}
    weights = weigh_contexts(features, mix) or {"image": mix, "text": 1 - mix}
    unconditional = networks.clip.unconditional(settings.unconditional_image)
    noise = start_noise(settings, nsd_ids, shape)
    there = {"device": networks.device, "dtype": networks.dtype}
    latents = []
    for rows in batches(len(nsd_ids), batch_size, f"{target}s", progress):
        # Without any context "no condition" is all there is, so guidance has nothing to add.
        given = {kind: values[rows] for kind, values in contexts.items()} or unconditional
        final = ddim(
            flow,
            None if start is None else start[rows].to(**there),
            {kind: tokens.to(**there) for kind, tokens in given.items()},
            {kind: tokens.to(**there) for kind, tokens in unconditional.items()},
            weights,
            config=networks.config.versatile,
            noise=noise[rows].to(**there),
            steps=settings.steps,
            strength=1.0 if start is None else settings.strength,
            guidance_scale=settings.guidance_scale if contexts else 1.0,
            start_convention=settings.img2img_start,
            callback=callback,
        )
        latents.append(final.float().cpu())
    return torch.cat(latents)


def start_noise(settings: Settings, nsd_ids: NDArray[np.int64], shape: Sequence[int]) -> Tensor:
    """Start noise of each image, (n, *shape) float32.

    Of one sequence, as published (an image depends on those before it), or of (seed, nsd_id).
    """
    if settings.noise == "per_image":
        return noise_for(settings.seed, nsd_ids, shape)
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.stack([torch.randn(tuple(shape), generator=generator) for _ in nsd_ids])


def decode_images(
    networks: Any, latents: Tensor, batch_size: int = 16, progress: bool = False
) -> NDArray[np.uint8]:
    """Decode AutoKL latents to (n, H, W, 3) uint8 images in batches."""
    rows = batches(len(latents), batch_size, "decoding", progress)
    return np.concatenate([np.asarray(networks.autokl.decode(latents[r])) for r in rows])


def draws(settings: Settings, choice: str, nsd_ids: NDArray[np.int64], purpose: str):
    """Generators of a draw, one per image, or None where the preset takes the mean or mode."""
    return generators(settings.seed, nsd_ids, purpose) if choice == "sample" else None


def batches(n: int, size: int, name: str, progress: bool) -> Iterator[slice]:
    """Slices of `size` rows that cover n rows, with a progress bar that counts rows."""
    if size < 1:
        raise ValueError(f"batch_size={size}: process at least one item at a time.")
    with tqdm(total=n, desc=name, disable=not progress) as bar:
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            yield rows
            bar.update(rows.stop - rows.start)


def _flow(networks: Any, target: Target, settings: Settings):
    config = networks.config.versatile
    if target == "image":
        unet = networks.image_unet
        return (
            lambda x, t, contexts: image_flow(unet, x, t, contexts),
            config.image_latent_shape,
            settings.mix_image,
        )
    net = networks.text_unet
    return (
        lambda x, t, contexts: text_flow(net, x, t, contexts),
        config.text_latent_shape,
        settings.mix_caption,
    )
