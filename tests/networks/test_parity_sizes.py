"""The full-size networks, built without memory, have the published parameters and names."""

from math import prod

import pytest
import torch
from golden_parts import read_manifest
from torch import nn

from nbutils.networks import checkpoints_parts as parts
from nbutils.networks.checkpoints_versatile import map_versatile
from nbutils.networks.config import FULL
from nbutils.networks.versatile import build_flows

# Counted in the original code; one context means that the other kind's transformers are left out.
PUBLISHED = {
    "time embedding": 2_050_560,
    "image data": 590_231_044,
    "image context": 267_239_360,
    "text context": 267_239_360,
    "text data": 1_439_558_528,
    "image flow": 1_126_760_324,
    "image flow, one context": 859_520_964,
    "text flow": 1_976_087_808,
    "text flow, one context": 1_708_848_448,
    "both flows": 2_566_318_852,
    "CLIP text": 123_650_304,
    "CLIP image": 303_966_208,
    "AutoKL": 83_653_863,
    "Optimus BERT": 109_489_920,
    "Optimus GPT-2": 132_109_824,
    "all without VDVAE": 3_319_188_971,
    "VDVAE": 125_005_860,
}


@pytest.fixture(scope="module")
def full() -> dict[str, nn.Module]:
    """All networks at their published size, on a device without memory."""
    with torch.device("meta"):
        image, text = build_flows(FULL)
        return {
            "image_flow": image,
            "text_data": text,
            "clip": parts.ClipEncoder(parts.CLIP_VIT_L14),
            "autokl": parts.AutoKL(parts.KL_F8),
            "optimus": parts.Optimus(parts.OPTIMUS_VD),
            "vdvae": parts.VDVAE(parts.VDVAE_IMAGENET64),
        }


@pytest.fixture(scope="module")
def counts(full) -> dict[str, int]:
    """Parameters of everything that the published table lists."""

    def count(name, *marks):
        named = full[name].named_parameters()
        return sum(p.numel() for key, p in named if not marks or any(m in key for m in marks))

    image, data, time = (
        count("image_flow"),
        count("text_data"),
        count("image_flow", "time_embedding"),
    )
    contexts = {kind: count("image_flow", f".{kind}.") for kind in ("image", "text")}
    text = data + time + sum(contexts.values())
    bert = count("optimus", "bert", "encode_latent")
    rest = sum(count(name) for name in ("clip", "autokl", "optimus"))
    return {
        "time embedding": time,
        "image data": image - time - sum(contexts.values()),
        "image context": contexts["image"],
        "text context": contexts["text"],
        "text data": data,
        "image flow": image,
        "image flow, one context": image - contexts["text"],
        "text flow": text,
        "text flow, one context": text - contexts["image"],
        "both flows": image + data,
        "CLIP text": count("clip", "text_model", "text_projection"),
        "CLIP image": count("clip", "vision_model", "visual_projection"),
        "AutoKL": count("autokl"),
        "Optimus BERT": bert,
        "Optimus GPT-2": count("optimus") - bert,
        "all without VDVAE": image + data + rest,
        "VDVAE": count("vdvae"),
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_number_of_parameters_is_the_published_one(counts, name):
    assert counts[name] == PUBLISHED[name]


def shapes(module: nn.Module, prefix: str = "") -> dict[str, list[int]]:
    return {prefix + key: list(value.shape) for key, value in module.state_dict().items()}


def test_clip_is_the_two_models_of_transformers(full):
    manifests = [f"transformers5_clip_{k}_with_projection" for k in ("text", "vision")]
    theirs = {k: v for name in manifests for k, v in read_manifest(name).items()}
    assert shapes(full["clip"]) == theirs


def test_optimus_encoder_is_bert_base_cased(full):
    assert shapes(full["optimus"].bert) == read_manifest("transformers5_bert_base_cased")


def test_optimus_decoder_is_gpt2_with_three_more_tokens_and_a_tied_output_layer(full):
    theirs = read_manifest("transformers5_gpt2_50260")
    assert theirs.pop("lm_head.weight") == theirs["transformer.wte.weight"] == [50_260, 768]
    assert shapes(full["optimus"].gpt2, "transformer.") == theirs


def test_image_flow_is_the_dual_unet_of_diffusers(full):
    theirs = read_manifest("vd_diffusers_image_unet_dual")
    kinds = {".attentions.{}.image.": ".attentions.{}.transformers.0."}
    kinds |= {".attentions.{}.text.": ".attentions.{}.transformers.1."}
    ours = {}
    for key, shape in shapes(full["image_flow"]).items():
        for mark, name in kinds.items():
            for i in range(3):
                key = key.replace(mark.format(i), name.format(i))
        ours[key] = shape
    assert ours == theirs


def test_published_module_holds_every_network_but_vdvae(full):
    module = {
        key: torch.empty(shape, device="meta")
        for key, shape in read_manifest("vd_four_flow_v1-0_original_full_module").items()
    }

    def below(prefix):
        return {k.removeprefix(prefix): v for k, v in module.items() if k.startswith(prefix)}

    flows = map_versatile(module, FULL)
    optimus = below("vae.text.")
    del optimus["decoder.lm_head.weight"]  # tied; without memory it cannot be compared
    found = {
        **flows,
        "autokl": parts.map_autokl(below("vae.image."), parts.KL_F8),
        "optimus": parts.map_optimus(optimus, parts.OPTIMUS_VD),
        "clip": parts.map_clip(below("ctx.image.model."), parts.CLIP_VIT_L14),
    }
    for name, tensors in found.items():
        assert {k: list(v.shape) for k, v in tensors.items()} == shapes(full[name]), name
    assert below("ctx.image.").keys() == below("ctx.text.").keys()  # the two copies of CLIP


def test_manifests_hold_the_published_numbers_too():
    def count(name):
        return sum(prod(shape) for shape in read_manifest(name).values())

    assert count("vd_diffusers_image_unet_dual") == PUBLISHED["image flow"]
    assert count("vd_four_flow_v1-0_original_diffuser_only") == PUBLISHED["both flows"]
    assert count("transformers5_clip_text_with_projection") == PUBLISHED["CLIP text"]
    assert count("transformers5_clip_vision_with_projection") == PUBLISHED["CLIP image"]
    assert count("autokl_original_kl-f8") == PUBLISHED["AutoKL"]
    assert count("vdvae_imagenet64_original") == PUBLISHED["VDVAE"]
