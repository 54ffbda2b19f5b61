"""Train the judge: a classifier that no other network's loss contains."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from nbutils.miniature.scenes import BACKGROUNDS, CATEGORIES, IMAGE_SIZE, LABELS
from nbutils.miniature.train.clip import normalise_pixels
from nbutils.miniature.train.data import TrainingScenes
from nbutils.miniature.train.loop import Schedule, fit
from nbutils.networks.classifier import SceneClassifier


def classifier_config() -> dict:
    """Arguments of SceneClassifier for the drawn scenes."""
    return {
        "n_categories": len(CATEGORIES),
        "n_backgrounds": len(BACKGROUNDS),
        "image_size": IMAGE_SIZE,
    }


def vary(pixels: torch.Tensor, pick: torch.Generator) -> torch.Tensor:
    """Change contrast and add a little noise.

    Nothing is blurred: the judge shall name what is drawn, and not guess what a blur was.
    """
    n = len(pixels)
    contrast = 0.8 + 0.4 * torch.rand(n, 1, 1, 1, generator=pick)
    noise = 0.1 * torch.rand(n, 1, 1, 1, generator=pick)
    return (contrast * pixels + noise * torch.randn(pixels.shape, generator=pick)).clamp(-1, 1)


def train_classifier(
    data: TrainingScenes, folder: Path, steps: int = 800, batch: int = 48, **options
) -> SceneClassifier:
    """Train on which categories are present and which background it is."""
    torch.manual_seed(0)
    net = SceneClassifier(**classifier_config())
    first = LABELS.index(f"background:{BACKGROUNDS[0]}")
    if LABELS[: len(CATEGORIES)] != tuple(f"category:{c}" for c in CATEGORIES):
        raise ValueError("LABELS must begin with the categories, in their order.")

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        pick = torch.Generator().manual_seed(step)
        rows = torch.randint(len(data), (batch,), generator=pick).numpy()
        pixels = vary(normalise_pixels(torch.from_numpy(data.images[rows])), pick)
        labels = torch.from_numpy(data.labels[rows])
        with torch.autocast("cpu", torch.bfloat16):
            out = net(pixels)
        present = labels[:, : len(CATEGORIES)]
        place = labels[:, first : first + len(BACKGROUNDS)].argmax(1)
        category = F.binary_cross_entropy_with_logits(out["category"].float(), present)
        background = F.cross_entropy(out["background"].float(), place)
        return {"loss": category + 0.2 * background, "category": category, "place": background}

    fit("classifier", {"classifier": net}, loss_of, Schedule(steps, 2e-3), folder, **options)
    return net.eval()
