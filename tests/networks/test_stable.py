"""Stable Diffusion's networks against diffusers and transformers, at full size and tiny."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from nbutils.networks.autokl import AutoKL
from nbutils.networks.building import empty_weights
from nbutils.networks.config import StableConfig
from nbutils.networks.sampling import ddim
from nbutils.networks.stable import STABLE_V1_4, StableText, build_stable_unet, stable_flow

TINY = StableConfig(
    latent_channels=4, latent_size=8, channels=(32, 64), layers_per_block=1,
    attention=(True, False), heads=2, context_dim=16,
)  # fmt: skip
TEXT = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
AUTOKL = {
    "sample_size": 16, "latent_channels": 4, "block_out_channels": (16, 16),
    "norm_num_groups": 8, "scaling_factor": 0.2,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def test_full_size_is_the_published_stable_diffusion():
    """Counts of the published checkpoint: U-Net 859,520,964; text tower 123,060,480."""
    with torch.device("meta"):
        unet = build_stable_unet(StableConfig(**STABLE_V1_4["unet"]))
        published = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8
        )
    with empty_weights():
        text, autokl = StableText(STABLE_V1_4["text"]), AutoKL(STABLE_V1_4["autokl"])
    assert count(unet) == 859_520_964
    assert count(text) == 123_060_480
    assert count(autokl) == 83_653_863
    shapes = {key: tensor.shape for key, tensor in published.state_dict().items()}
    assert {key: tensor.shape for key, tensor in unet.state_dict().items()} == shapes
    assert text.text_shape == (77, 768)


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    unet, autokl = build_stable_unet(TINY).eval(), AutoencoderKL(**AUTOKL).eval()
    return unet, autokl, CLIPTextModel(CLIPTextConfig(**TEXT)).eval()


@pytest.mark.parametrize("strength", [0.8, 0.5])
@torch.no_grad()
def test_our_loop_equals_diffusers_img2img(parts, strength):
    """Same start, noise, tokens and grid: latents agree within 1e-4 of their spread."""
    unet, autokl, text = parts
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=autokl, text_encoder=text, tokenizer=None, unet=unet, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            clip_sample=False, set_alpha_to_one=False, steps_offset=1,
        ),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(1)
    start, noise = (torch.randn(2, 4, 8, 8, generator=draw) for _ in range(2))
    tokens = torch.randn(2, 8, 16, generator=draw)
    nothing = torch.randn(1, 8, 16, generator=draw)
    pipeline.prepare_latents = lambda image, t, *_, **__: pipeline.scheduler.add_noise(
        start, noise, t[:1]
    )
    expected = pipeline(
        prompt_embeds=tokens, negative_prompt_embeds=nothing.expand(2, -1, -1),
        image=torch.zeros(2, 3, 16, 16), strength=strength, guidance_scale=5.0,
        num_inference_steps=10, output_type="latent",
    ).images  # fmt: skip
    found = ddim(
        lambda x, t, contexts: stable_flow(unet, x, t, contexts),
        start, {"text": tokens}, {"text": nothing}, {"text": 1.0}, config=TINY, noise=noise,
        steps=10, strength=strength, guidance_scale=5.0, start_convention="same_step",
    )  # fmt: skip
    assert (found - expected).abs().max() < 1e-4 * expected.std()


@torch.no_grad()
def test_condition_is_the_raw_last_hidden_state_with_clips_own_padding(parts):
    _, _, reference = parts
    tower = StableText(TEXT, make_tokenizer())
    tower.text_model.load_state_dict(reference.state_dict())
    ids = torch.tensor([[1, 5, 6, 2, 0, 0, 0, 0]])
    torch.testing.assert_close(tower.token_ids(["cat dog"]), ids)
    expected = reference(input_ids=ids).last_hidden_state
    torch.testing.assert_close(tower.tokens(["cat dog"]), expected)
    both = tower.tokens(["cat dog", "dog"])
    mean = tower.caption_tokens([["cat dog", "dog", ""]])
    torch.testing.assert_close(mean, both.mean(0, keepdim=True))
    torch.testing.assert_close(tower.unconditional(), tower.tokens([""]))
    assert set(tower.state_dict()) == {f"text_model.{key}" for key in reference.state_dict()}


def make_tokenizer():
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 4, "cat": 5, "dog": 6}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_another_context_is_refused(parts):
    x = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="'text' alone"):
        stable_flow(parts[0], x, 1, {"image": (torch.zeros(1, 8, 16), 1.0)})


def test_smaller_images_give_smaller_latents():
    autokl = AutoKL(AUTOKL).eval()
    images = np.random.default_rng(0).integers(0, 255, (2, 20, 20, 3), dtype=np.uint8)
    assert autokl.encode(images).shape == (2, 4, 8, 8)
    assert autokl.encode(images, size=10, method="lanczos").shape == (2, 4, 5, 5)
