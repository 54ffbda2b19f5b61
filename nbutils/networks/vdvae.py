"""VDVAE: a very deep variational autoencoder with one latent map per decoder block.

The first latent maps (1x1, 4x4, 8x8, ...) hold the layout of an image; Brain-Diffuser predicts
them from brain activity and decodes the low-level image.

Sources: Child 2021 (VDVAE), section 3; openai/vdvae, `vae.py`; ozcelikfu/brain-diffuser,
`vdvae_extract_features.py` for the flat layout and the input scale. The parameter names are
those of the original code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nbutils.networks import dmol, pictures
from nbutils.networks.randomness import Generators, draw_normal, draw_uniform
from nbutils.networks.vdvae_blocks import Decoder, Encoder

SHIFT, SCALE = -115.92961967, 1 / 69.37404  # ImageNet-64: (uint8 + shift) * scale


class VDVAE(nn.Module):
    """Very deep variational autoencoder for images.

    Parameters
    ----------
    H : dict
        Hyper-parameters under their original names: `image_size`, `image_channels`, `enc_blocks`,
        `dec_blocks`, `zdim`, `width`, `bottleneck_multiple`, `no_bias_above`, `num_mixtures`;
        optional `shift` and `scale` of the input (default: ImageNet-64's).
    """

    def __init__(self, H: Mapping) -> None:
        super().__init__()
        if H.get("custom_width_str"):
            raise ValueError(
                f"custom_width_str={H['custom_width_str']!r}: one width for all resolutions is "
                "supported, as in the ImageNet-64 model; leave it empty."
            )
        self.H = dict(H)
        self.encoder, self.decoder = Encoder(H), Decoder(H)

    @property
    def layer_shapes(self) -> list[tuple[int, int, int]]:
        """Shape (zdim, r, r) of every latent map, in decoding order."""
        return [(b.zdim, b.resolution, b.resolution) for b in self.decoder.dec_blocks]

    def count_features(self, n_layers: int) -> int:
        """Return the length of the first `n_layers` latent maps, flattened."""
        if not 1 <= n_layers <= len(self.layer_shapes):
            raise ValueError(
                f"n_layers={n_layers}: this VDVAE has 1 to {len(self.layer_shapes)} latent maps; "
                "set vdvae_layers to so many, or choose other networks."
            )
        return sum(int(np.prod(shape)) for shape in self.layer_shapes[:n_layers])

    def split(self, flat: Tensor) -> list[Tensor]:
        """Cut flat latents into maps; the inverse of `flatten`.

        Parameters
        ----------
        flat : (n, D), D the length of the first 1, 2, ... maps

        Returns
        -------
        maps : list of (n, zdim, r, r)

        Raises
        ------
        ValueError
            If D is not the length of whole maps.
        """
        sizes = [int(np.prod(shape)) for shape in self.layer_shapes]
        ends = np.cumsum(sizes).tolist()
        if flat.ndim != 2 or flat.shape[1] not in ends:
            raise ValueError(
                f"Latents of shape {tuple(flat.shape)} do not hold whole maps: expected (n, D) "
                f"with D one of {ends}."
            )
        n_layers = ends.index(flat.shape[1]) + 1
        parts = flat.split(sizes[:n_layers], dim=1)
        return [p.unflatten(1, s) for p, s in zip(parts, self.layer_shapes, strict=False)]

    def preprocess(self, images: NDArray[np.uint8]) -> Tensor:
        """Resize (PIL bilinear) and scale images as the network expects them.

        Parameters
        ----------
        images : (n, H, W, 3) uint8

        Returns
        -------
        x : (n, 3, image_size, image_size) float
        """
        pixels = pictures.resize(images, self.H["image_size"], "bilinear")
        weight = self.decoder.gain
        x = torch.from_numpy(pixels).to(weight.device).to(weight.dtype)
        x = (x + self.H.get("shift", SHIFT)) * self.H.get("scale", SCALE)
        return x.permute(0, 3, 1, 2)

    @torch.no_grad()
    def encode(self, images: NDArray[np.uint8]) -> dict[int, Tensor]:
        """Run the encoder.

        Parameters
        ----------
        images : (n, H, W, 3) uint8

        Returns
        -------
        activations : `{resolution: (n, width, resolution, resolution)}`
        """
        return self.encoder(self.preprocess(images))

    @torch.no_grad()
    def latents(
        self,
        images: NDArray[np.uint8],
        n_layers: int,
        sample: bool = False,
        generator: Generators = None,
    ) -> Tensor:
        """Return the latents of images (the `vdvae` feature).

        Parameters
        ----------
        images : (n, H, W, 3) uint8
        n_layers : number of latent maps; the blocks after them are not run
        sample : False takes the posterior means. True draws, as Brain-Diffuser does.
        generator : for drawing; one, or one per image

        Returns
        -------
        flat : (n, D) float, each map flattened in C, H, W order, maps concatenated

        Raises
        ------
        ValueError
            If `n_layers` is out of range, or `sample` comes without a generator.
        """
        self.count_features(n_layers)
        if sample and generator is None:
            raise ValueError("sample=True draws at random: pass a seeded torch.Generator.")
        noise = (lambda shape: draw_normal(shape, generator)) if sample else None
        activations = self.encode(images)
        _, layers = self.decoder.descend(len(images), activations, noise=noise, n_layers=n_layers)
        return flatten([layer.z for layer in layers])

    @torch.no_grad()
    def decode(self, flat: Tensor, generator: Generators = None) -> NDArray[np.uint8]:
        """Decode latents to images; the maps that are not given come from the prior.

        Parameters
        ----------
        flat : (n, D) latents of the first maps, see `latents`
        generator : None takes the mean of the prior and of the pixels. With a generator (one,
            or one per image) both are drawn at temperature 1, as Brain-Diffuser does.

        Returns
        -------
        images : (n, image_size, image_size, 3) uint8
        """
        given = self.split(flat.to(self.decoder.gain))
        noise = None if generator is None else (lambda shape: draw_normal(shape, generator))
        features, _ = self.decoder(len(flat), given=given, noise=noise)
        logits = self.decoder.out_net(features)
        if generator is None:
            return dmol.to_uint8(dmol.mean(logits)).cpu().numpy()
        shape = logits.shape[:3]
        u_mixture = draw_uniform((*shape, self.H["num_mixtures"]), generator)
        images = dmol.sample(logits, u_mixture, draw_uniform((*shape, 3), generator))
        return dmol.to_uint8(images).cpu().numpy()

    def elbo(
        self, images: NDArray[np.uint8], generator: Generators = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the negative evidence lower bound, to be minimised.

        Parameters
        ----------
        images : (n, H, W, 3) uint8
        generator : for the posterior samples; None uses torch's global generator

        Returns
        -------
        loss, distortion, rate : (n,) each, nats per pixel and colour; loss = distortion + rate
        """
        pixels = pictures.resize(images, self.H["image_size"], "bilinear")
        x = self.preprocess(pixels)
        noise = lambda shape: draw_normal(shape, generator)  # noqa: E731
        features, layers = self.decoder(len(x), self.encoder(x), noise=noise)
        target = torch.from_numpy(pixels).to(features.device).float() / 127.5 - 1
        distortion = dmol.negative_log_likelihood(self.decoder.out_net(features), target)
        rate = sum(layer.kl.sum(dim=(1, 2, 3)) for layer in layers) / target[0].numel()
        return distortion + rate, distortion, rate


def flatten(maps: Sequence[Tensor]) -> Tensor:
    """Flatten latent maps (n, zdim, r, r) in C, H, W order and put them side by side: (n, D)."""
    return torch.cat([z.flatten(1) for z in maps], dim=1)
