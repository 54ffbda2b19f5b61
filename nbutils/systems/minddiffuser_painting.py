"""Painting from z and c with the gradient switched on: what both stages of MindDiffuser do.

Source: ReedOnePeck/MindDiffuser, `Image reconstruction/Reconstruction.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nbutils.networks.sampling import Flow, add_noise, denoise, guided_contexts, plan_steps
from nbutils.systems.settings_minddiffuser import MindDiffuserSettings


@dataclass(frozen=True)
class Painter:
    """The frozen networks that stage 2 runs through, and back through.

    Parameters
    ----------
    flow : noise prediction under a text context
    config : its noise schedule
    decode : (n, c, h, w) latents -> (n, 3, H, W) pixels about [-1, 1], differentiable
    look : pixels in [0, 1] -> layers by name, `ControlEncoder.layers`
    nothing : (1, T, d) text tokens of the empty caption
    device : where all this lives
    """

    flow: Flow
    config: Any
    decode: Callable[[Tensor], Tensor]
    look: Callable[[Tensor], dict[str, Tensor]]
    nothing: Tensor
    device: torch.device


def paint(
    painter: Painter,
    latents: Tensor,
    tokens: Tensor,
    noise: Tensor,
    settings: MindDiffuserSettings,
) -> Tensor:
    """Paint images from z and c; differentiable in both.

    Parameters
    ----------
    painter : the networks
    latents : (n, c, h, w) start latents z
    tokens : (n, T, d) text tokens c
    noise : (n, c, h, w)
    settings : steps, strength, guidance, step convention, recomputation

    Returns
    -------
    pixels : (n, 3, H, W) in [0, 1]

    Raises
    ------
    ValueError
        If no denoising step is left.
    """
    final = run_steps(
        painter.flow, painter.config, painter.nothing, latents, tokens, noise, settings
    )
    return ((painter.decode(final).to(latents) + 1) / 2).clamp(0, 1)


def run_steps(
    flow: Flow,
    config: Any,
    nothing: Tensor,
    latents: Tensor,
    tokens: Tensor,
    noise: Tensor,
    settings: MindDiffuserSettings,
) -> Tensor:
    """Add noise to z and denoise it under c; differentiable in both.

    Parameters
    ----------
    flow, config, nothing : see `Painter`
    latents, tokens, noise, settings : see `paint`

    Returns
    -------
    latents : (n, c, h, w)

    Raises
    ------
    ValueError
        If no denoising step is left.
    """
    noise_at, timesteps = plan_steps(settings.steps, settings.strength, settings.img2img_start)
    timesteps = timesteps[settings.skipped_steps :]
    if not timesteps:
        raise ValueError(
            f"skipped_steps={settings.skipped_steps} leaves no denoising step; use more steps."
        )
    x = noise if noise_at is None else add_noise(latents, noise, noise_at, config)
    mixture = guided_contexts(
        {"text": tokens}, {"text": nothing}, {"text": 1.0}, settings.guidance_scale, x
    )
    path = denoise(
        flow, x, timesteps, mixture, settings.guidance_scale,
        config=config, steps=settings.steps,
        recompute=settings.recompute and torch.is_grad_enabled(),
    )  # fmt: skip
    for _, after, _ in path:
        x = after
    return x
