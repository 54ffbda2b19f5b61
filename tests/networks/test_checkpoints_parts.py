"""Key maps of CLIP, AutoKL, Optimus and VDVAE against the published names and shapes."""

import pytest
import torch
from golden_parts import autokl_config, optimus_config, read_golden, read_manifest
from transformers import CLIPConfig, CLIPModel

from nbutils.networks import checkpoints_parts as parts
from nbutils.networks.control import VIT_B_32
from nbutils.networks.stable import STABLE_V1_4


def published(name: str) -> dict[str, torch.Tensor]:
    """Tensors with the names and shapes of a published file, without any memory."""
    shapes = read_manifest(name).items()
    return {key: torch.empty(shape, device="meta") for key, shape in shapes}


def count(state: dict[str, torch.Tensor]) -> int:
    return sum(value.numel() for value in state.values())


def test_autokl_names_equal_the_published_map_and_shapes():
    ours = parts.map_autokl(published("autokl_original_kl-f8"), parts.KL_F8)
    assert {key: list(value.shape) for key, value in ours.items()} == read_manifest(
        "autokl_diffusers_vae"
    )
    names = read_manifest("autokl_map_kl-f8_to_diffusers")
    assert len(names) == 248
    assert all(parts.rename_autokl(theirs, 4) == key for theirs, key in names.items())


def test_published_optimus_fills_every_weight():
    state = published("optimus_original_optimus-vae")
    del state["decoder.lm_head.weight"]  # tied; without memory it cannot be compared
    ours = parts.map_optimus(state, parts.OPTIMUS_VD)
    # encoder 109,489,920 and decoder 132,109,824 parameters, counted in the original code
    assert count(ours) == 109_489_920 + 132_109_824


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_vdvae_fills_every_weight(prefix):
    state = published("vdvae_imagenet64_original")
    ours = parts.map_vdvae({prefix + k: v for k, v in state.items()}, parts.VDVAE_IMAGENET64)
    assert set(ours) == set(state) and count(ours) == 125_005_860


def test_published_clip_fills_every_weight_and_drops_temperature_and_positions():
    state = published("clip_vit_l14_transformers5")
    state["text_model.embeddings.position_ids"] = torch.arange(77)
    ours = parts.map_clip(state, parts.CLIP_VIT_L14)
    assert count(ours) == 123_650_304 + 303_966_208
    assert set(state) - set(ours) == {"logit_scale", "text_model.embeddings.position_ids"}


def test_published_stable_diffusion_fills_every_weight():
    # SD 1.4 has the names of diffusers' edition of the image U-Net, which is of the same size.
    unet = parts.map_stable_unet(published("vd_diffusers_image_unet"), STABLE_V1_4["unet"])
    assert count(unet) == 859_520_964
    tower = {k: v for k, v in published("clip_vit_l14_transformers5").items() if "text_model" in k}
    tower["text_model.embeddings.position_ids"] = torch.arange(77)
    text = parts.map_stable_text(tower, STABLE_V1_4["text"])
    assert count(text) == 123_060_480  # CLIP ViT-L/14's text tower without projection
    old = {key_of_2022(k): v for k, v in published("autokl_diffusers_vae").items()}
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in old
    vae = parts.map_autokl(old, STABLE_V1_4["autokl"])
    assert {key: list(v.shape) for key, v in vae.items()} == read_manifest("autokl_diffusers_vae")


def key_of_2022(key):
    for new, old in {"q": "query", "k": "key", "v": "value", "out.0": "proj_attn"}.items():
        key = key.replace(f".to_{new}.", f".{old}.")
    return key


def test_image_tower_of_clip_vit_b32_becomes_the_control_network():
    with torch.device("meta"):  # transformers' defaults are this very CLIP
        state = CLIPModel(CLIPConfig(projection_dim=512)).state_dict()
    assert count(state) - 1 == 151_277_312  # as published, without the temperature
    state |= {"vision_model.embeddings.position_ids": torch.arange(50)}
    ours = parts.map_control(state, VIT_B_32)
    assert count(ours) == 87_849_216
    assert not [key for key in ours if key.startswith("text")]


def test_a_tensor_that_comes_twice_is_refused():
    state = dict(read_golden("autokl_tiny").state)
    key = "encoder.mid.attn_1.q.weight"
    state["encoder.mid_block.attentions.0.query.weight"] = state[key]
    with pytest.raises(ValueError, match="twice"):
        parts.map_autokl(state, autokl_config())


def test_training_parts_and_mask_buffers_are_left_out():
    state = read_golden("autokl_tiny").state | {"loss.logvar": torch.zeros(())}
    assert "loss.logvar" not in parts.map_autokl(state, autokl_config())
    masks = {f"decoder.transformer.h.{i}.attn.bias": torch.ones(1, 1, 40, 40) for i in range(3)}
    ours = parts.map_optimus(read_golden("optimus_tiny").state | masks, optimus_config())
    assert "gpt2.h.0.attn.c_attn.bias" in ours and "gpt2.h.0.attn.bias" not in ours


def test_untied_output_layer_is_refused():
    state = dict(read_golden("optimus_tiny").state)
    state["decoder.lm_head.weight"] = state["decoder.lm_head.weight"] + 1
    with pytest.raises(ValueError, match="shares the two"):
        parts.map_optimus(state, optimus_config())


def test_missing_extra_and_wrongly_sized_tensors_are_refused():
    state = read_golden("autokl_tiny").state
    short = {k: v for k, v in state.items() if k != "quant_conv.bias"}
    with pytest.raises(ValueError, match="1 keys missing.*quant_conv.bias"):
        parts.map_autokl(short, autokl_config())
    with pytest.raises(ValueError, match="1 not known.*surplus"):
        parts.map_autokl(state | {"surplus": torch.zeros(1)}, autokl_config())
    wrong = state | {"quant_conv.bias": torch.zeros(9)}
    with pytest.raises(ValueError, match="network of another size"):
        parts.map_autokl(wrong, autokl_config())
