"""DDIM sampling with classifier-free guidance: one loop for images and captions.

Schedule and grid are Versatile Diffusion's; the step itself is diffusers' `DDIMScheduler`.
Source: Song et al. 2021 (DDIM), equation 12 with eta 0; Ho & Salimans 2022 (guidance);
Versatile Diffusion's `ddim.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from nbutils.networks.config import StableConfig, VersatileConfig

TRAIN_STEPS = 1000
START_CONVENTIONS = ("published", "same_step")

Flow = Callable[[Tensor, Tensor, dict], Tensor]
"""flow(x, t, {kind: (tokens, weight)}) -> noise or v, of x's shape."""


def build_scheduler(config: VersatileConfig | StableConfig) -> DDIMScheduler:
    """Build the noise schedule of a flow; use it for training too (`add_noise`, `get_velocity`).

    betas = linspace(sqrt(beta_start), sqrt(beta_end), 1000)**2, which Versatile Diffusion calls
    "linear" and Stable Diffusion "scaled_linear". The last step goes to abar[0], not to 1.
    """
    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=config.prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
    )


def timestep_grid(steps: int) -> list[int]:
    """Return Versatile Diffusion's DDIM timesteps, 1, 1 + 1000 // steps, ..., smallest first.

    When `steps` does not divide 1000 the grid is longer than `steps` (7 gives 8 timesteps). A last
    entry of 1000, where the published code stops with an IndexError, is left out.

    Raises
    ------
    ValueError : steps outside 1..1000
    """
    if not 1 <= steps <= TRAIN_STEPS:
        raise ValueError(f"steps={steps}: choose 1 to {TRAIN_STEPS} denoising steps")
    grid = range(1, TRAIN_STEPS + 1, TRAIN_STEPS // steps)
    return [t for t in grid if t < TRAIN_STEPS]


def plan_steps(
    steps: int, strength: float = 1.0, start_convention: str = "published"
) -> tuple[int | None, list[int]]:
    """Say at which timestep noise is added and which timesteps are then denoised.

    Parameters
    ----------
    steps : denoising steps of a full run
    strength : fraction of them that is run, 0 < strength <= 1; 1 starts from pure noise
    start_convention : where a start latent gets its noise. "published": one grid step above the
        first denoised one (741 before 721 at 50 steps and strength 0.75), as Versatile Diffusion,
        Brain-Diffuser and UniBrain do. "same_step": at the first denoised one, as diffusers does.

    Returns
    -------
    noise_at : timestep of the added noise, None when starting from pure noise
    timesteps : the denoised timesteps, largest first

    Raises
    ------
    ValueError : impossible strength, no step left, or unknown convention
    """
    if start_convention not in START_CONVENTIONS:
        raise ValueError(
            f"start_convention={start_convention!r}: choose one of {START_CONVENTIONS}"
        )
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength}: choose a fraction above 0 and at most 1")
    grid = timestep_grid(steps)
    if strength == 1:
        return None, grid[::-1]
    count = int(strength * steps)
    if count < 1:
        raise ValueError(
            f"strength={strength} of {steps} steps leaves no denoising step: "
            f"use strength >= {1 / steps:.3g} or more steps"
        )
    count = min(count, len(grid) - 1)
    noise_at = grid[count] if start_convention == "published" else grid[count - 1]
    return noise_at, grid[:count][::-1]


def add_noise(
    latents: Tensor, noise: Tensor, timestep: int, config: VersatileConfig | StableConfig
) -> Tensor:
    """Return sqrt(abar_t) latents + sqrt(1 - abar_t) noise, the forward process at `timestep`."""
    t = torch.full((len(latents),), timestep, device=latents.device)
    return build_scheduler(config).add_noise(latents, noise, t)


@torch.no_grad()
def ddim(
    flow: Flow,
    start: Tensor | None,
    contexts: Mapping[str, Tensor],
    unconditional: Mapping[str, Tensor] | None,
    weights: Mapping[str, float],
    *,
    config: VersatileConfig | StableConfig,
    noise: Tensor,
    steps: int = 50,
    strength: float = 1.0,
    guidance_scale: float = 7.5,
    start_convention: str = "published",
    split_guidance: bool = False,
    callback: Callable[[int, int, Tensor, Tensor], None] | None = None,
    progress: bool = False,
) -> Tensor:
    """Generate latents by deterministic DDIM (eta 0) with classifier-free guidance.

    Parameters
    ----------
    flow : flow(x, t, {kind: (tokens, weight)}) -> what `config.prediction_type` names
    start : clean latents (n, ...) of a first guess, or None to start from noise alone
    contexts : {kind: (n or 1, T, d)} tokens of the condition
    unconditional : {kind: (n or 1, T, d)} tokens of "no condition"; may be None at guidance 1
    weights : {kind: weight} of the mixture; a kind of weight 0 is not computed
    config : schedule and prediction type
    noise : (n, ...) standard normal, see `noise_for`; sets batch size, device and
        precision (keep float32 with half-precision networks)
    steps, strength, start_convention : see `plan_steps`; at strength 1 `start` has no influence
    guidance_scale : eps = eps_u + guidance_scale (eps_c - eps_u); 1 runs the condition alone
    split_guidance : run the two halves of guidance one after the other instead of as a batch of
        twice the size: the same numbers up to rounding with half the activations
    callback : callback(step, t, x, pred_x0) after every step, with x after the step
    progress : show a progress bar

    Returns
    -------
    (n, ...) latents, in the units of `start`

    Raises
    ------
    ValueError : `start` and `strength` contradict each other, or contexts are missing
    """
    noise_at, timesteps = plan_steps(steps, strength, start_convention)
    if start is None and noise_at is not None:
        raise ValueError(f"strength={strength} needs start latents; without them use strength=1")
    x = noise if noise_at is None else add_noise(start.to(noise), noise, noise_at, config)
    mixture = guided_contexts(contexts, unconditional, weights, guidance_scale, noise)
    if split_guidance and guidance_scale != 1:
        flow = split_batch(flow)
    bar = tqdm(timesteps, disable=not progress, desc="denoising")
    path = denoise(flow, x, bar, mixture, guidance_scale, config=config, steps=steps)
    for i, (t, x, clean) in enumerate(path):
        if callback is not None:
            callback(i, t, x, clean)
    return x


def denoise(
    flow: Flow,
    x: Tensor,
    timesteps: Iterable[int],
    mixture: dict,
    guidance_scale: float,
    *,
    config: VersatileConfig | StableConfig,
    steps: int,
    recompute: bool = False,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Run DDIM steps one after the other; gradients flow through them where they are switched on.

    Parameters
    ----------
    flow, guidance_scale, config : as in `ddim`
    x : (n, ...) noisy latents
    timesteps : to denoise, largest first, of the grid of `steps`
    mixture : what `guided_contexts` returns
    steps : denoising steps of a full run; they decide how far a step goes
    recompute : keep only the latents between steps for the backward pass and run the network again
        there (gradient checkpointing): memory of one step instead of all, for a third more time

    Yields
    ------
    t : the timestep
    x : (n, ...) latents after the step
    clean : (n, ...) the network's guess of the clean latents
    """
    scheduler = build_scheduler(config)
    # The scheduler only uses this to find the previous timestep, t - 1000 // steps.
    scheduler.num_inference_steps = steps
    for t in timesteps:
        if recompute:
            output = checkpoint(_predict, flow, x, t, mixture, guidance_scale, use_reentrant=False)
        else:
            output = _predict(flow, x, t, mixture, guidance_scale)
        step = scheduler.step(output, t, x, eta=0.0)
        x = step.prev_sample
        yield t, x, step.pred_original_sample


def split_batch(flow: Flow) -> Flow:
    """Make a flow that runs its batch in two halves, one after the other."""

    def run(x: Tensor, t: Tensor, mixture: dict) -> Tensor:
        halves = [
            {kind: (tokens.chunk(2)[half], weight) for kind, (tokens, weight) in mixture.items()}
            for half in (0, 1)
        ]
        return torch.cat([flow(*part) for part in zip(x.chunk(2), t.chunk(2), halves, strict=True)])

    return run


def _predict(flow: Flow, x: Tensor, t: int, mixture: dict, guidance_scale: float) -> Tensor:
    """Run the flow once; with guidance on a batch of twice the size, unconditional half first."""
    if guidance_scale == 1:
        return flow(x, torch.full((len(x),), t, device=x.device), mixture)
    double = torch.cat([x, x])
    output = flow(double, torch.full((len(double),), t, device=x.device), mixture)
    unconditional, conditional = output.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


def guided_contexts(
    contexts: Mapping[str, Tensor],
    unconditional: Mapping[str, Tensor] | None,
    weights: Mapping[str, float],
    guidance_scale: float,
    like: Tensor,
) -> dict[str, tuple[Tensor, float]]:
    """Pair tokens with weights and, for guidance, put the unconditional tokens in front.

    Parameters
    ----------
    contexts, unconditional, weights, guidance_scale : as in `ddim`
    like : latents whose batch size, device and precision the tokens get

    Returns
    -------
    mixture : {kind: ((2n or n, T, d) tokens, weight)}, as `denoise` takes it

    Raises
    ------
    ValueError : tokens of a weighted kind are missing or misshapen, or nothing has a weight
    """
    sources = [contexts] if guidance_scale == 1 else [unconditional or {}, contexts]
    used = {kind: weight for kind, weight in weights.items() if weight != 0}
    for kind in used:
        if any(kind not in source for source in sources):
            raise ValueError(
                f"weight of {kind!r} is {used[kind]} but its tokens are missing: give them in "
                "contexts and, unless guidance_scale is 1, in unconditional"
            )
    if not used:
        raise ValueError(f"weights={dict(weights)}: at least one must differ from 0")
    return {
        kind: (torch.cat([_expand(s[kind], like) for s in sources]), weight)
        for kind, weight in used.items()
    }


def _expand(tokens: Tensor, like: Tensor) -> Tensor:
    """Bring tokens (n or 1, T, d) to the batch size, device and dtype of `like`."""
    if tokens.ndim != 3 or len(tokens) not in (1, len(like)):
        raise ValueError(
            f"context tokens have shape {tuple(tokens.shape)}: "
            f"expected ({len(like)} or 1, tokens, width)"
        )
    return tokens.to(like).expand(len(like), -1, -1)


def noise_for(seed: int, ids: Iterable[int], shape: Sequence[int]) -> Tensor:
    """Draw the start noise of each image from (seed, id), whatever the batch it comes in.

    Parameters
    ----------
    seed : of the study, not negative
    ids : n nsd_ids (or other labels), not negative
    shape : of one latent, e.g. (4, 64, 64)

    Returns
    -------
    (n, *shape) float32, standard normal, on the CPU
    """
    ids = [int(i) for i in ids]
    if seed < 0 or min(ids, default=0) < 0:
        raise ValueError(f"seed={seed}, smallest id={min(ids, default=0)}: neither may be negative")
    return (
        torch.stack([_draw(seed, i, tuple(shape)) for i in ids]) if ids else torch.empty(0, *shape)
    )


def _draw(seed: int, label: int, shape: tuple[int, ...]) -> Tensor:
    """Draw one latent's noise with its own generator."""
    # SeedSequence mixes the pair, so (0, 1) and (1, 0) are unrelated streams.
    mixed = int(np.random.SeedSequence([seed, label]).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(shape, generator=torch.Generator().manual_seed(mixed))
