"""AutoKL: the image autoencoder in whose latent space (Z_I) Versatile Diffusion paints.

Sources: Rombach et al. 2022 (latent diffusion), section 3.1, kl-f8; SHI-Labs/Versatile-Diffusion,
`lib/model_zoo/autokl.py`. The layers are those of diffusers' `AutoencoderKL`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from nbutils.networks import pictures
from nbutils.networks.randomness import Generators, draw_normal


class AutoKL(nn.Module):
    """Image autoencoder with a Gaussian posterior.

    Parameters
    ----------
    config : dict
        Keywords of `diffusers.AutoencoderKL`. `sample_size` is the side of the images, pixels;
        `scaling_factor` multiplies latents after encoding (0.18215 in the published model).

    Attributes
    ----------
    batch_size : images that `encode` and `decode` send through the layers at once; None for all

    Notes
    -----
    The state dict is that of `AutoencoderKL`.
    """

    def __init__(self, config: Mapping) -> None:
        super().__init__()
        layers = AutoencoderKL(**config)
        self.batch_size: int | None = None
        self.image_size: int = layers.config.sample_size
        self.scaling_factor: float = layers.config.scaling_factor
        self.encoder, self.decoder = layers.encoder, layers.decoder
        self.quant_conv = layers.quant_conv or nn.Identity()
        self.post_quant_conv = layers.post_quant_conv or nn.Identity()

    def preprocess(
        self, images: NDArray[np.uint8], size: int | None = None, method: str = "bicubic"
    ) -> Tensor:
        """Resize images with PIL and map 0..255 to -1..1.

        Parameters
        ----------
        images : (n, H, W, 3) uint8; floats are refused, see `pictures.check`
        size : side in pixels, `image_size` by default
        method : filter, see `pictures.resize`

        Returns
        -------
        x : (n, 3, size, size) float
        """
        pixels = torch.from_numpy(pictures.resize(images, size or self.image_size, method))
        weight = self.encoder.conv_in.weight
        return pixels.permute(0, 3, 1, 2).to(weight.device, weight.dtype) / 127.5 - 1

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode preprocessed images to the Gaussian posterior; differentiable, not scaled.

        Parameters
        ----------
        x : (n, 3, H, W) in [-1, 1]

        Returns
        -------
        mean, logvar : (n, c, h, w) each; logvar is kept within [-30, 20]
        """
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    @torch.no_grad()
    def encode(
        self,
        images: NDArray[np.uint8],
        generator: Generators = None,
        *,
        size: int | None = None,
        method: str = "bicubic",
    ) -> Tensor:
        """Encode images to scaled latents Z_I.

        Parameters
        ----------
        images : (n, H, W, 3) uint8
        generator : None takes the posterior's mean. With a generator (one, or one per image) the
            latent is drawn, as the published systems do.
        size, method : as in `preprocess`

        Returns
        -------
        latents : (n, c, h, w), multiplied by `scaling_factor`

        Raises
        ------
        TypeError
            If the images are not uint8.
        """
        parts = [self.posterior(part) for part in self._cut(self.preprocess(images, size, method))]
        mean, logvar = (torch.cat(halves) for halves in zip(*parts, strict=True))
        if generator is not None:
            mean = mean + torch.exp(0.5 * logvar) * draw_normal(mean.shape, generator).to(mean)
        return mean * self.scaling_factor

    def decode_float(self, latents: Tensor) -> Tensor:
        """Decode scaled latents without rounding; differentiable.

        Parameters
        ----------
        latents : (n, c, h, w), as `encode` returns them

        Returns
        -------
        images : (n, 3, H, W) about [-1, 1], not clipped
        """
        latents = latents.to(self.decoder.conv_in.weight)
        return self.decoder(self.post_quant_conv(latents / self.scaling_factor))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Decode scaled latents to images.

        Parameters
        ----------
        latents : (n, c, h, w), as `encode` returns them

        Returns
        -------
        images : (n, H, W, 3) uint8, rounded to the nearest level (the original code truncates)
        """
        parts = [self.decode_float(part).float() for part in self._cut(latents)]
        images = (torch.cat(parts) + 1) * 127.5
        images = images.round().clamp(0, 255).to(torch.uint8)
        return images.permute(0, 2, 3, 1).cpu().numpy()

    def _cut(self, items: Tensor) -> tuple[Tensor, ...]:
        return items.split(self.batch_size or len(items))
