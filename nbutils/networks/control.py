"""MindDiffuser's control network: what the lower half of a CLIP image tower sees in a picture.

Its lower layers say where edges and patches lie; stage 2 of MindDiffuser pulls an image towards
the values that were decoded for them. Everything here is differentiable from the pixels on.

The published code hooks modules that it calls "Linear-2", "Linear-4", ... "Linear-12". It numbers
the linear layers in the order in which they run, and each block of OpenAI's tower runs two (those
of its MLP), so "Linear-2k" is what the MLP of block k adds to the stream: 50 x 768 numbers of
ViT-B/32. The six names are the lower six of twelve blocks. "VisionTransformer-1" is the output of
the tower, its projected embedding.

Source: Lu et al. 2023 (MindDiffuser), section 3.3; ReedOnePeck/MindDiffuser,
`packages/feature_extraction.py` and `Image reconstruction/Reconstruction.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from nbutils.networks import pictures

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EMBEDDING = "VisionTransformer-1"
OWN = ("blocks", "image_mean", "image_std")
"""Keys of the configuration that are not transformers'."""

VIT_B_32 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "projection_dim": 512,
}
"""The published control network, the image tower of OpenAI's CLIP ViT-B/32."""


class ControlEncoder(nn.Module):
    """The image tower of a CLIP, read at its lower blocks and at its end.

    Parameters
    ----------
    config : dict
        Keywords of `transformers.CLIPVisionConfig`; optional `blocks`, how many blocks are read
        from below (default: half of them, as published), `image_mean` and `image_std` (three
        numbers each; default ImageNet's, which MindDiffuser uses in the place of CLIP's own).

    Raises
    ------
    ValueError
        If more blocks are to be read than there are.

    Notes
    -----
    The state dict has CLIPModel's keys: `vision_model.*`, `visual_projection.weight`.
    """

    def __init__(self, config: Mapping) -> None:
        super().__init__()
        tower = {key: value for key, value in config.items() if key not in OWN}
        net = CLIPVisionModelWithProjection(CLIPVisionConfig(**tower))
        self.vision_model, self.visual_projection = net.vision_model, net.visual_projection
        self.image_size: int = net.config.image_size
        depth = net.config.num_hidden_layers
        self.blocks: int = config.get("blocks", max(1, depth // 2))
        if not 1 <= self.blocks <= depth:
            raise ValueError(f"blocks={self.blocks}: the control network has {depth}, from 1")
        self.image_mean = tuple(config.get("image_mean", IMAGENET_MEAN))
        self.image_std = tuple(config.get("image_std", IMAGENET_STD))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers that are read below, by the published code's count."""
        return tuple(f"Linear-{2 * (block + 1)}" for block in range(self.blocks))

    @property
    def layer_shape(self) -> tuple[int, int, int]:
        """Shape (layers, tokens, width) of the lower layers of one image; (6, 50, 768)."""
        tokens, width = self.vision_model.embeddings.position_embedding.weight.shape
        return self.blocks, tokens, width

    def layers(self, pixels: Tensor) -> dict[str, Tensor]:
        """Read the layers of pictures; differentiable.

        Parameters
        ----------
        pixels : (n, 3, H, W) in [0, 1]; resized to the tower's size (bicubic, not antialiased,
            as published)

        Returns
        -------
        layers : "Linear-2", "Linear-4", ... (n, T, d) each, and "VisionTransformer-1" (n, p)
        """
        with self._record() as found:
            hidden = self.vision_model(pixel_values=self._standardise(pixels)).pooler_output
        return dict(zip(self.names, found, strict=True)) | {
            EMBEDDING: self.visual_projection(hidden)
        }

    @torch.no_grad()
    def describe(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Read the layers of stored images.

        Parameters
        ----------
        images : (n, H, W, 3) uint8

        Returns
        -------
        lower : (n, layers, T, d)
        embedding : (n, p)

        Raises
        ------
        TypeError
            If the images are not uint8.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(pictures.check(images)))
        found = self.layers(pixels.permute(0, 3, 1, 2) / 255)
        return torch.stack([found[name] for name in self.names], dim=1), found[EMBEDDING]

    def _standardise(self, pixels: Tensor) -> Tensor:
        weight = self.visual_projection.weight
        pixels = pixels.to(weight.device, weight.dtype)
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            pixels = nn.functional.interpolate(pixels, size, mode="bicubic", align_corners=False)
        mean, std = (
            pixels.new_tensor(values)[:, None, None] for values in (self.image_mean, self.image_std)
        )
        return (pixels - mean) / std

    @contextmanager
    def _record(self) -> Iterator[list[Tensor]]:
        """Collect what the MLPs of the lower blocks put out, in order."""
        found: list[Tensor] = []
        read = self.vision_model.encoder.layers[: self.blocks]
        hooks = [
            block.mlp.fc2.register_forward_hook(lambda _, __, output: found.append(output))
            for block in read
        ]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()
