"""A small classifier that judges reconstructions of the miniature world.

It takes no part in any other network's training, so it is an independent judge of what a
reconstruction shows; its layers serve as the early, middle and late features of the metrics.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nbutils.networks import pictures

STAGES = (32, 64, 128)
GROUPS = 8


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    """Build two 3x3 convolutions; the second halves the resolution."""
    layers: list[nn.Module] = []
    for channels, stride in ((inputs, 1), (outputs, 2)):
        layers += [
            nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False),
            nn.GroupNorm(GROUPS, outputs),
            nn.SiLU(),
        ]
    return nn.Sequential(*layers)


class SceneClassifier(nn.Module):
    """Convolutional classifier of what a scene shows and where it takes place.

    Parameters
    ----------
    n_categories : number of object categories (an image may show several)
    n_backgrounds : number of backgrounds (an image has one)
    image_size : side of the images it sees, pixels; a multiple of 8
    """

    def __init__(self, n_categories: int, n_backgrounds: int, image_size: int) -> None:
        super().__init__()
        if image_size % 8:
            raise ValueError(f"image_size={image_size}: use a multiple of 8 (three halvings).")
        self.image_size = image_size
        self.early, self.middle, self.late = (
            _stage(inputs, outputs)
            for inputs, outputs in zip((3, *STAGES[:-1]), STAGES, strict=True)
        )
        self.category = nn.Linear(STAGES[-1], n_categories)
        self.background = nn.Linear(STAGES[-1], n_backgrounds)

    def preprocess(self, images: NDArray[np.uint8]) -> Tensor:
        """Resize images (PIL bilinear) and map 0..255 to -1..1: (n, 3, image_size, image_size)."""
        pixels = torch.from_numpy(pictures.resize(images, self.image_size, "bilinear"))
        weight = self.category.weight
        return pixels.permute(0, 3, 1, 2).to(weight.device, weight.dtype) / 127.5 - 1

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """Classify preprocessed images.

        Parameters
        ----------
        images : (n, 3, image_size, image_size) in [-1, 1]

        Returns
        -------
        result : dict
            `category` (n, n_categories) and `background` (n, n_backgrounds) logits, and
            `features` [early, middle, late]: two maps (n, c, h, w) and the pooled vector (n, c)
        """
        early = self.early(images)
        middle = self.middle(early)
        late = self.late(middle).mean(dim=(2, 3))
        return {
            "category": self.category(late),
            "background": self.background(late),
            "features": [early, middle, late],
        }

    @torch.no_grad()
    def classify(self, images: NDArray[np.uint8]) -> dict[str, NDArray]:
        """Classify images.

        Parameters
        ----------
        images : (n, H, W, 3) uint8

        Returns
        -------
        result : dict
            `category` (n, n_categories) probability of each category being present (independent
            of each other), `background` (n, n_backgrounds) probabilities that sum to one, and
            `early`, `middle`, `late` features, (n, length) each

        Raises
        ------
        TypeError
            If the images are not uint8.
        """
        result = self(self.preprocess(images))
        features = (f.flatten(1) for f in result["features"])
        named = dict(zip(("early", "middle", "late"), features, strict=True))
        named["category"] = result["category"].sigmoid()
        named["background"] = result["background"].softmax(dim=1)
        return {name: value.float().cpu().numpy() for name, value in named.items()}
