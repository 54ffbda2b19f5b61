"""Train the miniature AutoKL: a stock AutoencoderKL whose latents start as patch components."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from nbutils.miniature.train.clip import normalise_pixels
from nbutils.miniature.train.data import TrainingScenes
from nbutils.miniature.train.loop import Schedule, fit

PATCH, CHANNELS = 8, 16


def autokl_config() -> dict:
    """Arguments of diffusers' AutoencoderKL: 64x64 pixels to 16 channels of 8x8."""
    return {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [24, 48, 64, 64],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "latent_channels": CHANNELS,
        "sample_size": 64,
        "scaling_factor": 1.0,
    }


class PatchComponents(nn.Module):
    """Linear target of the encoder: leading components of 8x8 patches, partly whitened.

    Linear latents are what a linear ridge can predict from a brain; the networks start
    from them and move away only as far as sharper pictures ask for it.
    """

    def __init__(self, images: np.ndarray) -> None:
        super().__init__()
        pixels = normalise_pixels(torch.from_numpy(np.array(images)))
        patches = F.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, 3 * PATCH**2)
        mean = patches.mean(0)
        _, scale, basis = torch.linalg.svd((patches - mean)[:40_000], full_matrices=False)
        std = scale / min(len(patches), 40_000) ** 0.5
        basis = basis[:CHANNELS] / std[:CHANNELS, None].sqrt()
        basis = basis / ((patches - mean) @ basis.T).std()
        self.register_buffer("weight", basis.reshape(CHANNELS, 3, PATCH, PATCH))
        self.register_buffer("bias", -(basis @ mean))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map (n, 3, 64, 64) pixels in [-1, 1] to (n, 16, 8, 8) components."""
        return F.conv2d(pixels, self.weight, self.bias, stride=PATCH)


def train_autokl(
    data: TrainingScenes, folder: Path, steps: int = 1_200, batch: int = 16, **options
) -> AutoencoderKL:
    """Train encoder and decoder together.

    First the decoder learns on the patch components while the encoder learns to compute
    them; then the decoder sees the encoder's own latents, with noise, so that it also
    paints clean pictures from the slightly wrong latents of a diffusion model.
    """
    torch.manual_seed(0)
    net = AutoencoderKL(**autokl_config()).to(memory_format=torch.channels_last)
    components = PatchComponents(data.images[:2_000])

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        pick = torch.Generator().manual_seed(step)
        rows = torch.randint(len(data), (batch,), generator=pick).numpy()
        pixels = normalise_pixels(torch.from_numpy(data.images[rows]))
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        target = components(pixels)
        own = min(1.0, max(0.0, (step / steps - 0.3) / 0.2))
        with torch.autocast("cpu", torch.bfloat16):
            mean = net.encode(pixels).latent_dist.mean
            spread = 0.1 * torch.rand(batch, 1, 1, 1, generator=pick)
            noise = spread * torch.randn(mean.shape, generator=pick)
            painted = net.decode(own * mean + (1 - own) * target + noise).sample
        fidelity = F.mse_loss(painted.float(), pixels)
        edges = F.l1_loss(painted.float(), pixels)
        linear = F.mse_loss(mean.float(), target)
        weight = 0.2 if own == 0 else 0.02
        return {"loss": fidelity + 0.1 * edges + weight * linear, "mse": fidelity, "linear": linear}

    schedule = Schedule(steps, 2e-3, decay=0.5)
    fit("autokl", {"autokl": net}, loss_of, schedule, folder, ema_decay=0.998, **options)
    return net.eval()


def polish_decoder(
    data: TrainingScenes,
    net: AutoencoderKL,
    folder: Path,
    steps: int = 700,
    batch: int = 16,
    **options,
) -> AutoencoderKL:
    """Train the decoder on, the encoder frozen: the flows' latents stay what they were."""
    net.encoder.requires_grad_(False)
    net.quant_conv.requires_grad_(False)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        pick = torch.Generator().manual_seed(1_000_000 + step)
        rows = torch.randint(len(data), (batch,), generator=pick).numpy()
        pixels = normalise_pixels(torch.from_numpy(data.images[rows]))
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                mean = net.encode(pixels).latent_dist.mean.float()
            spread = 0.15 * mean.std() * torch.rand(batch, 1, 1, 1, generator=pick)
            painted = net.decode(mean + spread * torch.randn(mean.shape, generator=pick)).sample
        fidelity = F.mse_loss(painted.float(), pixels)
        edges = F.l1_loss(painted.float(), pixels)
        return {"loss": fidelity + 0.2 * edges, "mse": fidelity, "edges": edges}

    schedule = Schedule(steps, 1.5e-3, decay=0.6)
    fit("polish", {"autokl": net}, loss_of, schedule, folder, ema_decay=0.998, **options)
    return net.eval()
