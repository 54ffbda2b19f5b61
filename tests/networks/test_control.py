"""The control network reads what transformers' CLIP computes, and gradients reach the pixels."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from nbutils.networks.control import (
    EMBEDDING,
    IMAGENET_MEAN,
    IMAGENET_STD,
    VIT_B_32,
    ControlEncoder,
)
from nbutils.world import WORLDS

TINY = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 16, "projection_dim": 10,
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return ControlEncoder(TINY).eval()


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_lower_layers_are_what_the_mlps_of_transformers_tower_put_out(encoder, pixels):
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**TINY)).eval()
    tower.load_state_dict(encoder.state_dict())
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    seen = tower(pixel_values=(pixels - mean) / std, output_hidden_states=True)
    found = encoder.layers(pixels)
    assert list(found) == ["Linear-2", "Linear-4", EMBEDDING]  # half of the four blocks
    for k, name in enumerate(encoder.names):
        block = tower.vision_model.encoder.layers[k]
        before, after = seen.hidden_states[k], seen.hidden_states[k + 1]
        stream = before + block.self_attn(block.layer_norm1(before))[0]
        # What the MLP adds to the residual stream; rounding of the sum and the difference.
        torch.testing.assert_close(found[name], after - stream, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[EMBEDDING], seen.image_embeds, atol=1e-6, rtol=1e-5)


def test_published_sizes_are_the_papers():
    with torch.device("meta"):
        encoder = ControlEncoder(VIT_B_32)
    assert encoder.layer_shape == (6, 50, 768)  # 38,400 numbers a layer
    assert encoder.names[0] == "Linear-2" and encoder.names[-1] == "Linear-12"
    assert encoder.visual_projection.out_features == 512
    # OpenAI's count of the weights of `model.visual` for ViT-B/32.
    assert sum(p.numel() for p in encoder.parameters()) == 87_849_216


def test_number_of_blocks_comes_from_the_configuration():
    assert ControlEncoder({**TINY, "blocks": 3}).names == ("Linear-2", "Linear-4", "Linear-6")
    with pytest.raises(ValueError, match="blocks=5: the control network has 4, from 1"):
        ControlEncoder({**TINY, "blocks": 5})


def test_gradient_from_each_layer_reaches_the_pixels_as_finite_differences_say(pixels):
    torch.manual_seed(2)
    encoder = ControlEncoder({**TINY, "blocks": 4}).eval().double()
    small = pixels[:1, :, :24, :24].double().requires_grad_()  # resized to 32 on the way
    direction = torch.randn(small.shape, dtype=torch.float64, generator=torch.manual_seed(3))

    def score(x):
        return torch.stack([v.square().mean() for v in encoder.layers(x).values()])

    for k in range(5):
        (gradient,) = torch.autograd.grad(score(small)[k], small)
        with torch.no_grad():
            step = 1e-5 * direction
            expected = (score(small + step)[k] - score(small - step)[k]) / 2e-5
        found = (gradient * direction).sum()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_stored_images_are_scaled_to_the_range_that_painted_ones_have(encoder):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    lower, embedding = encoder.describe(images)
    found = encoder.layers(torch.from_numpy(images / np.float32(255)).permute(0, 3, 1, 2))
    assert lower.shape == (2, 2, 5, 24)
    torch.testing.assert_close(lower[:, 1], found["Linear-4"])
    torch.testing.assert_close(embedding, found[EMBEDDING])
    with pytest.raises(TypeError, match="pass uint8"):
        encoder.describe(images / 255)


def test_shipped_control_network_is_the_shipped_clips_image_tower():
    folder = WORLDS["miniature"].networks
    control, clip = (load_file(folder / f"{name}.safetensors") for name in ("control", "clip"))
    tower = {key for key in clip if key.startswith(("vision_model.", "visual_projection."))}
    assert set(control) == tower
    for key in tower:
        torch.testing.assert_close(control[key], clip[key], rtol=0, atol=0)
