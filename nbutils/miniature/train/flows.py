"""Train the image flow and the text flow together, on contexts made uncertain.

What decides success: the generator never sees a brain, but during training its contexts
are shrunk towards the mean, mixed with other scenes and noised, as a ridge regression
would do to them. So it learns to paint a clean scene from an uncertain context.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import DDIMScheduler
from torch import nn

from nbutils.miniature.train.loop import Schedule, fit
from nbutils.networks.config import VersatileConfig
from nbutils.networks.versatile import build_flows, image_flow, set_attention, text_flow

REACH = 8.0  # contexts have about unit norm in 64 numbers; folded into the weights at export


def flow_config() -> VersatileConfig:
    """Sizes of the miniature flows: two levels, mixers at 4x4 and in the middle."""
    return VersatileConfig(
        latent_channels=16,
        latent_size=8,
        channels=(96, 128),
        layers_per_block=1,
        attention=(False, True),
        heads=4,
        context_dim=64,
        norm_groups=32,
        text_latent_dim=64,
        text_second_dim=2,
        prediction_type="v_prediction",
    )


@dataclass
class FlowData:
    """What the flows are trained on, computed once by the other networks.

    Attributes
    ----------
    latents : (n, 16, 8, 8) float16, unit variance
    image : (n, 17, 64) float16 image contexts
    text : (n, 5, 16, 64) float16 text contexts, one per caption
    sentences : (n, 5, 64) float16 Optimus latents, unit variance
    empty : {"image": (17, 64), "text": (16, 64)} unconditional contexts
    """

    latents: np.ndarray
    image: np.ndarray
    text: np.ndarray
    sentences: np.ndarray
    empty: dict[str, torch.Tensor]

    def __post_init__(self) -> None:
        """Statistics that the corruption of contexts needs."""
        some = slice(0, 4_000)
        tokens = {"image": self.image[some], "text": self.text[some].mean(1)}
        tokens = {kind: torch.from_numpy(np.float32(t)) for kind, t in tokens.items()}
        self.mean = {kind: t.mean(0) for kind, t in tokens.items()}
        self.std = {kind: t.std(0) for kind, t in tokens.items()}


def corrupt(
    tokens: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, pick: torch.Generator
) -> torch.Tensor:
    """Make contexts uncertain: shrink to the mean, mix in other scenes, add noise.

    Parameters
    ----------
    tokens : (n, T, d) contexts; the rows of other samples serve as the other scenes
    mean, std : (T, d) over scenes
    pick : generator of all random numbers

    Returns
    -------
    (n, T, d); one row in five is left as it was
    """
    n = len(tokens)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=pick)

    share = uniform(0.3, 1.0)
    other = tokens[torch.randperm(n, generator=pick)] - tokens[torch.randperm(n, generator=pick)]
    mixed = mean + share * (tokens - mean) + (share * (1 - share)).sqrt() * uniform(0, 1.2) * other
    noise = uniform(0, 0.6) * std * torch.randn(tokens.shape, generator=pick)
    return torch.where(uniform(0, 1) < 0.2, tokens, mixed + noise)


def image_weight(pick: torch.Generator) -> float:
    """Draw the mixing weight of the image context: often 1, sometimes 0, mostly between."""
    draw, between = torch.rand(2, generator=pick).tolist()
    return 1.0 if draw < 0.25 else 0.0 if draw < 0.4 else 0.2 + 0.75 * between


def contexts_of(
    data: FlowData, rows: np.ndarray, pick: torch.Generator, mean_text: bool
) -> dict[str, tuple[torch.Tensor, float | torch.Tensor]]:
    """Contexts of some scenes, made uncertain, one in ten replaced by the empty ones.

    The text context is the mean over the five captions (what a brain is asked for) or the
    one of a single caption.
    """
    which = torch.randint(5, (len(rows),), generator=pick).numpy()
    text = data.text[rows].mean(1, dtype=np.float32) if mean_text else data.text[rows, which]
    weight = image_weight(pick)
    drop = torch.rand(len(rows), 1, 1, generator=pick) < 0.1
    given = {}
    for kind, array, share in (("image", data.image[rows], weight), ("text", text, 1 - weight)):
        if share == 0:
            continue
        tokens = torch.from_numpy(np.float32(array))
        tokens = corrupt(tokens, data.mean[kind], data.std[kind], pick)
        tokens = REACH * torch.where(drop, data.empty[kind], tokens)
        # A tensor, because a compiled network would take each new float for a new program.
        given[kind] = (tokens, 1.0 if share == 1 else torch.tensor(share))
    return given


class FlowLoss:
    """Error of the predicted v at random noise levels, for both flows at once."""

    def __init__(
        self, data: FlowData, image_batch: int, text_batch: int, rank: int, compiled: bool
    ) -> None:
        torch.manual_seed(0)
        self.config = flow_config()
        self.data, self.batches, self.rank = data, (image_batch, text_batch), rank
        self.image_unet, self.text_unet = build_flows(self.config)
        set_attention(self.image_unet, "plain")
        self._quiet_start()
        # A quarter faster on a CPU, after minutes of compiling.
        self.paint = torch.compile(image_flow, dynamic=False) if compiled else image_flow
        scheduler = DDIMScheduler(
            beta_start=self.config.beta_start,
            beta_end=self.config.beta_end,
            beta_schedule="scaled_linear",
        )
        self.kept = scheduler.alphas_cumprod

    def _quiet_start(self) -> None:
        """Start residual branches and outputs at zero: the network begins as a plain sum."""
        unet, text = self.image_unet, self.text_unet
        quiet = [m.conv2 for m in unet.modules() if hasattr(m, "conv2")]
        quiet += [m.proj_out for m in unet.modules() if hasattr(m, "proj_out")]
        quiet += [m.linear2 for m in text.modules() if hasattr(m, "linear2")]
        for layer in (*quiet, unet.conv_out, text.linear_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        """Losses of one step; the random numbers follow from step and rank alone."""
        pick = torch.Generator().manual_seed(1_000 * step + self.rank)
        image = self._error(self.paint, self.image_unet, self.data.latents, 0, pick)
        text = self._error(text_flow, self.text_unet, self.data.sentences, 1, pick)
        return {"loss": image + 0.5 * text, "image": image, "text": text}

    def _error(self, flow, net, latents: np.ndarray, kind: int, pick: torch.Generator):
        rows = torch.randint(len(latents), (self.batches[kind],), generator=pick).numpy()
        if kind == 0:
            clean = torch.from_numpy(np.float32(latents[rows]))
        else:
            which = torch.randint(5, (len(rows),), generator=pick).numpy()
            clean = torch.from_numpy(np.float32(latents[rows, which]))
        mean_text = bool(torch.rand(1, generator=pick) < 0.6)
        contexts = contexts_of(self.data, rows, pick, mean_text)
        t = torch.randint(1_000, (len(rows),), generator=pick)
        signal = self.kept[t].view(-1, *[1] * (clean.ndim - 1))
        noise = torch.randn(clean.shape, generator=pick)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * clean
        with torch.autocast("cpu", torch.bfloat16):
            predicted = flow(net, noisy, t, contexts)
        # Low noise is easy and frequent on this schedule: it gets less weight, not none.
        weight = (10 * (1 - signal)).clamp(max=1.0)
        return (weight * (predicted.float() - velocity).square()).mean()


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average the gradients over all processes, in one message."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.flatten() for g in grads]).bfloat16()
    dist.all_reduce(flat)
    flat = flat.float() / dist.get_world_size()
    for parameter, part in zip(parameters, flat.split([g.numel() for g in grads]), strict=True):
        parameter.grad = part.view_as(parameter)


def train_flows(
    data: FlowData,
    folder: Path,
    steps: int = 7_200,
    image_batch: int = 64,
    text_batch: int = 32,
    rank: int = 0,
    processes: int = 1,
    rate: float = 1.5e-3,
    decay: float = 0.35,
    compiled: bool = False,
    **options,
) -> FlowLoss:
    """Train both flows; with several processes each takes its own batch of every step."""
    loss = FlowLoss(data, image_batch, text_batch, rank, compiled)
    modules = {"image": loss.image_unet, "text": loss.text_unet}
    if processes > 1:
        options["reduce_gradients"] = average_gradients
    schedule = Schedule(steps, rate, decay=decay)
    fit("flows", modules, loss, schedule, folder, rank=rank, **options)
    return loss
