"""Train the miniature VDVAE on the evidence lower bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nbutils.miniature.train.data import TrainingScenes
from nbutils.miniature.train.loop import Schedule, fit
from nbutils.networks.vdvae import VDVAE


def vdvae_config() -> dict:
    """Hyper-parameters H under their original names: 14 latent maps from 1x1 to 64x64."""
    return {
        "image_size": 64,
        "image_channels": 3,
        "enc_blocks": "64d2,32x1,32d2,16x2,16d2,8x2,8d2,4x2,4d4,1x1",
        "dec_blocks": "1x1,4m1,4x2,8m4,8x3,16m8,16x3,32m16,64m32",
        "zdim": 8,
        "width": 32,
        "custom_width_str": "",
        "bottleneck_multiple": 0.5,
        "no_bias_above": 64,
        "num_mixtures": 2,
        "shift": -142.0,
        "scale": 1 / 75.0,
    }


def train_vdvae(
    data: TrainingScenes, folder: Path, steps: int = 1_500, batch: int = 8, **options
) -> VDVAE:
    """Train the VDVAE; the rate term is brought in over the first third of the steps."""
    torch.manual_seed(0)
    net = VDVAE(vdvae_config())

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        pick = torch.Generator().manual_seed(step)
        rows = torch.randint(len(data), (batch,), generator=pick).numpy()
        with torch.autocast("cpu", torch.bfloat16):
            _, distortion, rate = net.elbo(np.array(data.images[rows]), pick)
        share = min(1.0, 0.1 + 3 * step / steps)
        distortion, rate = distortion.mean(), rate.mean()
        return {"loss": distortion + share * rate, "distortion": distortion, "rate": rate}

    schedule = Schedule(steps, 2e-3, decay=0.5)
    fit("vdvae", {"vdvae": net}, loss_of, schedule, folder, ema_decay=0.995, **options)
    return net.eval()
