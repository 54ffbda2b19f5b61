"""The scene classifier learns planted truth and describes photographs."""

import numpy as np
import pytest
import torch
from golden_parts import photographs

from nbutils.networks.classifier import SceneClassifier


def planted(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a red (category 0) or blue (category 1) square on a dark or bright background."""
    rng = np.random.default_rng(seed)
    category, background = rng.integers(0, 2, n), rng.integers(0, 2, n)
    images = np.where(background[:, None, None, None], 180, 60).repeat(32, 1).repeat(32, 2)
    images = images.repeat(3, 3) + rng.integers(0, 30, (n, 32, 32, 3))
    for image, kind in zip(images, category, strict=True):
        y, x = rng.integers(2, 16, 2)
        image[y : y + 12, x : x + 12] = (0, 0, 255) if kind else (255, 0, 0)
    return images.astype(np.uint8), category, background


def test_classifier_learns_planted_categories_and_backgrounds():
    torch.manual_seed(0)
    net = SceneClassifier(2, 2, 16)
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    images, category, background = planted(256, seed=0)
    pixels = net.preprocess(images)
    present = torch.eye(2)[torch.from_numpy(category)]
    for step in range(24):
        rows = torch.randperm(256, generator=torch.Generator().manual_seed(step))[:64]
        result = net(pixels[rows])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            result["category"], present[rows]
        )
        loss = loss + torch.nn.functional.cross_entropy(
            result["background"], torch.from_numpy(background)[rows]
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    images, category, background = planted(200, seed=1)
    found = net.eval().classify(images)
    assert (found["category"].argmax(1) == category).mean() > 0.9
    assert (found["background"].argmax(1) == background).mean() > 0.9


def test_photographs_are_classified_repeatably():
    torch.manual_seed(0)
    net = SceneClassifier(5, 3, 64).eval()
    images = np.stack([p[:300, :300] for p in photographs()])
    first, second = net.classify(images), net.classify(images)
    shapes = {name: value.shape for name, value in first.items()}
    assert shapes == {
        "early": (3, 32 * 32 * 32),
        "middle": (3, 64 * 16 * 16),
        "late": (3, 128),
        "category": (3, 5),
        "background": (3, 3),
    }
    for name, value in first.items():
        assert np.isfinite(value).all() and np.array_equal(value, second[name])
    np.testing.assert_allclose(first["background"].sum(1), 1, atol=1e-6)
    assert ((first["category"] > 0) & (first["category"] < 1)).all()


def test_wrong_requests_are_explained():
    with pytest.raises(ValueError, match="multiple of 8"):
        SceneClassifier(2, 2, 30)
    with pytest.raises(TypeError, match="pass uint8"):
        SceneClassifier(2, 2, 32).classify(np.zeros((1, 32, 32, 3)))
