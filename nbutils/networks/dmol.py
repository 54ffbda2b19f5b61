"""Mixture of discretised logistics: how a VDVAE turns its last features into pixels.

Every pixel has K mixture components. A component holds, for each colour, a mean and a log scale,
and three coefficients that let green depend on red, and blue on red and green. The 10 K numbers
of a pixel are ordered: K mixture logits, then for each colour K means, K log scales, K
coefficients.

Source: Salimans et al. 2017 (PixelCNN++), section 2; openai/vdvae, `vae_helpers.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_LOG_SCALE = -7.0
HALF_STEP = 1 / 255  # half the distance of two grey levels when 0..255 is mapped to -1..1
EDGE = 1e-5  # uniform numbers stay this far from 0 and 1, so that their logarithm is finite


def unpack(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split the numbers of every pixel into mixture logits, means, log scales, coefficients.

    Parameters
    ----------
    logits : (n, H, W, 10 K)

    Returns
    -------
    mixture : (n, H, W, K)
    means, log_scales, coefficients : (n, H, W, 3, K)
    """
    if logits.shape[-1] % 10:
        raise ValueError(f"{logits.shape[-1]} numbers per pixel: expected a multiple of 10.")
    k = logits.shape[-1] // 10
    colours = logits[..., k:].unflatten(-1, (3, 3 * k))
    means, log_scales, coefficients = colours.split(k, dim=-1)
    log_scales = log_scales.clamp(min=SMALLEST_LOG_SCALE)
    return logits[..., :k], means, log_scales, torch.tanh(coefficients)


def negative_log_likelihood(logits: Tensor, target: Tensor) -> Tensor:
    """Return the negative log likelihood of images, in nats per pixel and colour.

    Parameters
    ----------
    logits : (n, H, W, 10 K)
    target : (n, H, W, 3) in [-1, 1], on the 256 grey levels

    Returns
    -------
    nll : (n,)
    """
    mixture, means, log_scales, coefficients = unpack(logits)
    x = target.unsqueeze(-1)
    green = means[..., 1, :] + coefficients[..., 0, :] * x[..., 0, :]
    blue = means[..., 2, :] + coefficients[..., 1, :] * x[..., 0, :]
    blue = blue + coefficients[..., 2, :] * x[..., 1, :]
    centred = x - torch.stack([means[..., 0, :], green, blue], dim=-2)
    components = _log_probability(x, centred, log_scales).sum(dim=-2)
    log_likelihood = torch.logsumexp(components + F.log_softmax(mixture, dim=-1), dim=-1)
    return -log_likelihood.sum(dim=(1, 2)) / target[0].numel()


def _log_probability(x: Tensor, centred: Tensor, log_scales: Tensor) -> Tensor:
    """Return the log probability of the grey level around x; the end levels take the tails."""
    inverse = torch.exp(-log_scales)
    upper, lower = inverse * (centred + HALF_STEP), inverse * (centred - HALF_STEP)
    inside = torch.sigmoid(upper) - torch.sigmoid(lower)
    middle = inverse * centred
    # where the probability underflows: density at the middle times the width of a level
    density = middle - log_scales - 2 * F.softplus(middle) + math.log(2 * HALF_STEP)
    inner = torch.where(inside > 1e-5, torch.log(inside.clamp(min=1e-12)), density)
    inner = torch.where(x > 0.999, -F.softplus(lower), inner)
    return torch.where(x < -0.999, upper - F.softplus(upper), inner)


def _chain(colours: Tensor, coefficients: Tensor) -> Tensor:
    """Let green depend on red, and blue on both; every colour is kept within [-1, 1]."""
    red = colours[..., 0, :].clamp(-1, 1)
    green = (colours[..., 1, :] + coefficients[..., 0, :] * red).clamp(-1, 1)
    blue = colours[..., 2, :] + coefficients[..., 1, :] * red + coefficients[..., 2, :] * green
    return torch.stack([red, green, blue.clamp(-1, 1)], dim=-2)


def sample(logits: Tensor, u_mixture: Tensor, u_logistic: Tensor) -> Tensor:
    """Draw images by inverting the distribution functions.

    Parameters
    ----------
    logits : (n, H, W, 10 K)
    u_mixture : (n, H, W, K) uniform numbers that choose the component (Gumbel trick)
    u_logistic : (n, H, W, 3) uniform numbers that choose the colours

    Returns
    -------
    images : (n, H, W, 3) in [-1, 1]
    """
    mixture, means, log_scales, coefficients = unpack(logits)
    u_mixture, u = (v.to(logits).clamp(EDGE, 1 - EDGE) for v in (u_mixture, u_logistic))
    chosen = (mixture - torch.log(-torch.log(u_mixture))).argmax(dim=-1)
    chosen = chosen[..., None, None].expand(*means.shape[:-1], 1)
    means, log_scales, coefficients = (
        v.gather(-1, chosen) for v in (means, log_scales, coefficients)
    )
    logistic = (torch.log(u) - torch.log1p(-u)).unsqueeze(-1)
    return _chain(means + torch.exp(log_scales) * logistic, coefficients).squeeze(-1)


def mean(logits: Tensor) -> Tensor:
    """Return the expected image: the component means, weighted by the mixture.

    Parameters
    ----------
    logits : (n, H, W, 10 K)

    Returns
    -------
    images : (n, H, W, 3) in [-1, 1]
    """
    mixture, means, _, coefficients = unpack(logits)
    weights = torch.softmax(mixture, dim=-1).unsqueeze(-2)
    return (_chain(means, coefficients) * weights).sum(dim=-1)


def to_uint8(images: Tensor) -> Tensor:
    """Map images from [-1, 1] to 0..255, truncated as in the original code."""
    return ((images + 1) * 127.5).clamp(0, 255).to(torch.uint8)
