"""The two halves of a VDVAE: residual blocks bottom-up, latent maps top-down.

Sources: Child 2021 (VDVAE), section 3; openai/vdvae, `vae.py`. The parameter names are those of
the original code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Noise = Callable[[Sequence[int]], Tensor] | None


def parse_blocks(text: str) -> list[tuple[int, int | None]]:
    """Read a block string such as "1x2,4m1,4x3" or "64x11,64d2".

    Parameters
    ----------
    text : "RxN" = N blocks at resolution R; "RmS" = a block at R that starts from the
        up-sampled state of resolution S; "RdF" = a block at R followed by pooling with factor F

    Returns
    -------
    blocks : list of (resolution, S or F or None)
    """
    blocks: list[tuple[int, int | None]] = []
    for part in text.split(","):
        if "x" in part:
            resolution, count = part.split("x")
            blocks += [(int(resolution), None)] * int(count)
        elif "m" in part or "d" in part:
            resolution, other = part.replace("m", "d").split("d")
            blocks.append((int(resolution), int(other)))
        else:
            blocks.append((int(part), None))
    return blocks


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """Four convolutions (1x1, k x k, k x k, 1x1), each after a GELU; optional residual, pooling."""

    def __init__(self, inputs, middle, outputs, resolution, residual=False, pool=None) -> None:
        super().__init__()
        kernel = 3 if resolution > 2 else 1
        self.residual, self.pool = residual, pool
        self.c1 = _convolution(inputs, middle, 1)
        self.c2 = _convolution(middle, middle, kernel)
        self.c3 = _convolution(middle, middle, kernel)
        self.c4 = _convolution(middle, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, r, r) to (n, outputs, r, r), or smaller when pooled."""
        y = x
        for layer in (self.c1, self.c2, self.c3, self.c4):
            y = layer(F.gelu(y))
        y = x + y if self.residual else y
        return y if self.pool is None else F.avg_pool2d(y, self.pool)


class Encoder(nn.Module):
    """Bottom-up path: the last activation of every resolution."""

    def __init__(self, H: Mapping) -> None:
        super().__init__()
        width = H["width"]
        middle = int(width * H["bottleneck_multiple"])
        self.in_conv = _convolution(H["image_channels"], width, 3)
        blocks = parse_blocks(H["enc_blocks"])
        self.enc_blocks = nn.ModuleList(
            Block(width, middle, width, r, residual=True, pool=pool) for r, pool in blocks
        )
        for block in self.enc_blocks:
            block.c4.weight.data *= len(blocks) ** -0.5

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Map (n, 3, r, r) to `{resolution: (n, width, resolution, resolution)}`."""
        x = self.in_conv(x)
        activations = {x.shape[2]: x}
        for block in self.enc_blocks:
            x = block(x)
            activations[x.shape[2]] = x
        return activations


@dataclass
class Layer:
    """What one decoder block drew: z (n, zdim, r, r), and from the posterior its mean,
    log standard deviation and KL divergence from the prior (nats, same shape).
    """

    z: Tensor
    mean: Tensor | None = None
    log_sigma: Tensor | None = None
    kl: Tensor | None = None


def gaussian_kl(qm: Tensor, qs: Tensor, pm: Tensor, ps: Tensor) -> Tensor:
    """Return KL(q || p) of Gaussians from means and log standard deviations, elementwise."""
    # exponents are subtracted before exp: squares of single exponentials overflow in training
    return -0.5 + ps - qs + 0.5 * (torch.exp(2 * (qs - ps)) + ((qm - pm) * torch.exp(-ps)) ** 2)


class DecoderBlock(nn.Module):
    """One top-down block: draws its latent map and adds it to the state of its resolution."""

    def __init__(self, H: Mapping, resolution: int, mixin: int | None, n_blocks: int) -> None:
        super().__init__()
        width, zdim = H["width"], H["zdim"]
        middle = int(width * H["bottleneck_multiple"])
        self.resolution, self.mixin, self.zdim, self.width = resolution, mixin, zdim, width
        self.enc = Block(2 * width, middle, 2 * zdim, resolution)
        self.prior = Block(width, middle, 2 * zdim + width, resolution)
        self.z_proj = _convolution(zdim, width, 1)
        self.resnet = Block(width, middle, width, resolution, residual=True)
        nn.init.zeros_(self.prior.c4.weight)
        self.z_proj.weight.data *= n_blocks**-0.5
        self.resnet.c4.weight.data *= n_blocks**-0.5

    def start(self, states: Mapping[int, Tensor], n: int) -> Tensor:
        """Return the state before this block: its resolution's, plus the up-sampled mixin."""
        r = self.resolution
        if r in states:
            x = states[r]
        else:
            x = self.z_proj.weight.new_zeros(n, self.width, r, r)
        if self.mixin is not None:
            x = x + F.interpolate(states[self.mixin], scale_factor=r // self.mixin)
        return x

    def forward(self, x: Tensor, activation: Tensor | None, z: Tensor | None, noise: Noise):
        """Draw the latent map and return (state after the block, Layer).

        Parameters
        ----------
        x : (n, width, r, r)
        activation : the encoder's; None draws from the prior
        z : (n, zdim, r, r) to use instead of drawing
        noise : function of a shape giving standard normal numbers; None takes the mean
        """
        pm, ps, extra = self.prior(x).split([self.zdim, self.zdim, self.width], dim=1)
        if z is not None:
            layer = Layer(z)
        elif activation is None:
            layer = Layer(_draw(pm, ps, noise))
        else:
            qm, qs = self.enc(torch.cat([x, activation], dim=1)).float().chunk(2, dim=1)
            kl = gaussian_kl(qm, qs, pm.float(), ps.float())
            layer = Layer(_draw(qm, qs, noise), qm, qs, kl)
        x = x + extra
        return self.resnet(x + self.z_proj(layer.z.to(x.dtype))), layer


def _draw(mean: Tensor, log_sigma: Tensor, noise: Noise) -> Tensor:
    if noise is None:
        return mean
    return mean + torch.exp(log_sigma) * noise(mean.shape).to(mean)


class PixelHead(nn.Module):
    """The last convolution: features to the numbers of the logistic mixture."""

    def __init__(self, H: Mapping) -> None:
        super().__init__()
        self.out_conv = _convolution(H["width"], 10 * H["num_mixtures"], 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, width, r, r) to (n, r, r, 10 K) float32."""
        # float32 also under bf16 training: the mixture's scales reach exp(-7)
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.out_conv.weight.dtype)
            return self.out_conv(features).permute(0, 2, 3, 1).float()


class Decoder(nn.Module):
    """Top-down path, from the posterior, from given latent maps, or from the prior."""

    def __init__(self, H: Mapping) -> None:
        super().__init__()
        blocks = parse_blocks(H["dec_blocks"])
        width, self.image_size = H["width"], H["image_size"]
        self.dec_blocks = nn.ModuleList(DecoderBlock(H, r, m, len(blocks)) for r, m in blocks)
        sizes = sorted({r for r, _ in blocks if r <= H["no_bias_above"]})
        self.bias_xs = nn.ParameterList(nn.Parameter(torch.zeros(1, width, r, r)) for r in sizes)
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.out_net = PixelHead(H)

    def forward(
        self,
        n: int,
        activations: Mapping[int, Tensor] | None = None,
        given: Sequence[Tensor] = (),
        noise: Noise = None,
    ) -> tuple[Tensor, list[Layer]]:
        """Run all blocks.

        Parameters
        ----------
        n : number of images
        activations : of the encoder; None draws from the prior
        given : latent maps of the first blocks, used instead of drawing
        noise : see `DecoderBlock.forward`

        Returns
        -------
        features : (n, width, image_size, image_size)
        layers : one `Layer` per block
        """
        states, layers = self.descend(n, activations, given, noise)
        return states[self.image_size] * self.gain + self.bias, layers

    def descend(
        self,
        n: int,
        activations: Mapping[int, Tensor] | None = None,
        given: Sequence[Tensor] = (),
        noise: Noise = None,
        n_layers: int | None = None,
    ) -> tuple[dict[int, Tensor], list[Layer]]:
        """Run the first `n_layers` blocks and no other; parameters as for `forward`.

        Returns
        -------
        states : `{resolution: (n, width, resolution, resolution)}` reached so far
        layers : one `Layer` per block that was run
        """
        states = {b.shape[2]: b.expand(n, -1, -1, -1) for b in self.bias_xs}
        layers: list[Layer] = []
        for i, block in enumerate(self.dec_blocks[:n_layers]):
            activation = None if activations is None else activations[block.resolution]
            z = given[i] if i < len(given) else None
            x = block.start(states, n)
            states[block.resolution], layer = block(x, activation, z, noise)
            layers.append(layer)
        return states, layers
