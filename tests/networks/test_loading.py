"""From published files to loaded networks: conversion, writing and loading in one go."""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from golden_parts import autokl_config, optimus_config, read_golden
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from nbutils.devices import find_precision
from nbutils.networks.building import empty_weights
from nbutils.networks.checkpoints import FULL_NETWORKS, convert_directory, write_state
from nbutils.networks.config import NetworksConfig
from nbutils.networks.loading import build, load, release_all
from nbutils.networks.versatile import image_flow, mixers, text_flow

CLIP_SECTIONS = ("text_config", "vision_config", "projection_dim")
PARTS = ("clip", "autokl", "optimus", "vdvae")


def tiny_config(versatile):
    """Gather our configurations of the golden networks."""
    clip = {k: read_golden("clip_tiny").json[k] for k in CLIP_SECTIONS}
    return NetworksConfig(
        clip=clip,
        autokl=autokl_config(),
        optimus=optimus_config(),
        vdvae=read_golden("vdvae_tiny").json["H"],
        versatile=versatile,
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory, vd_state, vd_config):
    """Files as their publishers give them, at golden size."""
    folder, sources = tmp_path_factory.mktemp("published"), {}
    for name in PARTS:
        sources[name] = folder / f"{name}.pth"
        torch.save(read_golden(f"{name}_tiny").state, sources[name])
    sources["versatile"] = folder / "vd.pth"
    torch.save(vd_state, sources["versatile"])
    words = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "sheep": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.save(str(folder / "tokenizer.json"))
    sources |= {f"tokenizers/{k}": folder / "tokenizer.json" for k in ("clip", "bert", "gpt2")}
    return SimpleNamespace(sources=sources, config=tiny_config(vd_config))


@pytest.fixture(scope="module")
def directory(tmp_path_factory, published):
    """The networks directory made of them, in half precision (their values fit exactly)."""
    target = tmp_path_factory.mktemp("networks") / "tiny"
    return convert_directory(published.sources, target, published.config, torch.float16)


def assert_flows_equal_golden(networks, io, which):
    contexts = {k: (io[f"in/ctx_{k}"], w) for k, w in (("image", 0.6), ("text", 0.4))}
    name = "eps_dual_0.6img_0.4txt"
    with torch.no_grad():
        if "image" in which:
            out = image_flow(networks.image_unet, io["in/x"], io["in/t"], contexts)
            torch.testing.assert_close(out, io[f"out/image_flow.{name}"], atol=1e-5, rtol=0)
        if "text" in which:
            out = text_flow(networks.text_unet, io["in/z"], io["in/t"], contexts)
            torch.testing.assert_close(out, io[f"out/text_flow.{name}"], atol=1e-5, rtol=0)


def test_converted_flows_equal_original(directory, vd):
    assert_flows_equal_golden(load(directory), vd.io, ("image", "text"))


def test_converted_vdvae_keeps_its_precision(directory):
    networks = load(directory, dtype=torch.float16)
    original = read_golden("vdvae_tiny").state
    for key, value in networks.vdvae.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, original[key])


@torch.no_grad()
def test_converted_optimus_equals_original(directory):
    golden = read_golden("optimus_tiny")
    mu, _ = load(directory).optimus.encode_ids(golden.inputs["bert_ids"])
    torch.testing.assert_close(mu, golden.outputs["enc_mu"], atol=1e-5, rtol=0)


def test_nothing_is_read_before_it_is_asked_for(tmp_path, published):
    published.config.to_json(tmp_path / "networks.json")
    networks = load(tmp_path)
    assert networks.config == published.config
    with pytest.raises(FileNotFoundError, match="vdvae.safetensors is missing"):
        _ = networks.vdvae
    with pytest.raises(FileNotFoundError, match="image_flow.safetensors is missing"):
        _ = networks.text_unet
    with pytest.raises(ValueError, match="does not have that network"):
        _ = networks.classifier


def test_directory_without_configuration_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"networks\.json is missing|is missing"):
        load(tmp_path)


def test_each_network_is_loaded_once_and_frozen(directory):
    networks = load(directory)
    for name in (*PARTS, "image_unet", "text_unet"):
        net = getattr(networks, name)
        assert getattr(networks, name) is net and not net.training
        assert not any(p.requires_grad for p in net.parameters())


def test_dtype_is_the_one_asked(directory):
    networks = load(directory, dtype=torch.bfloat16)
    for name in ("clip", "autokl", "optimus", "image_unet", "text_unet"):
        assert {p.dtype for p in getattr(networks, name).parameters()} == {torch.bfloat16}


def test_text_flow_alone_leaves_the_image_data_layers_on_disk(directory, vd):
    networks = load(directory)
    assert_flows_equal_golden(networks, vd.io, ("text",))
    unet = networks._residents.find("image_unet")
    stay = [p.device.type for n, p in unet.named_parameters() if "resnets" in n]
    assert set(stay) == {"meta"}


def test_both_flows_share_their_mixers_in_either_order(directory, vd):
    networks = load(directory)
    text = networks.text_unet
    assert_flows_equal_golden(networks, vd.io, ("image", "text"))
    for ours, theirs in zip(text._shared[0], mixers(networks.image_unet), strict=True):
        assert ours is theirs


def devices_of(net):
    return {tensor.device.type for tensor in net.state_dict().values()}


def test_release_of_one_flow_leaves_the_other_working(directory, vd):
    networks = load(directory)
    unet = networks.image_unet
    assert networks.text_unet is not None
    networks.release("image_unet")
    assert unet.conv_in.weight.device.type == "meta"
    assert_flows_equal_golden(networks, vd.io, ("text",))
    assert_flows_equal_golden(networks, vd.io, ("image",))
    networks.release("text_unet")
    assert_flows_equal_golden(networks, vd.io, ("image", "text"))
    networks.release()
    assert "loaded=[]" in repr(networks)
    assert devices_of(unet) == {"meta"}
    with pytest.raises(ValueError, match="choose one of"):
        networks.release("unet")


def test_file_of_another_network_is_refused(tmp_path, directory):
    for path in Path(directory).glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "vdvae.safetensors").write_bytes((directory / "autokl.safetensors").read_bytes())
    with pytest.raises(ValueError, match="keys missing"):
        _ = load(tmp_path).vdvae


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda state: state.pop("decoder.conv_in.bias"),
            r"1 keys missing \['decoder.conv_in.bias'",
        ),
        (lambda state: state.update(more=torch.zeros(1)), r"1 not known \['more'\]"),
        (
            lambda state: state.update({"quant_conv.bias": torch.zeros(3)}),
            r"1 tensors of another shape, quant_conv.bias \(3,\) instead of \(8,\)",
        ),
    ],
)
def test_missing_extra_and_misshapen_tensors_are_listed(tmp_path, directory, spoil, sentence):
    (tmp_path / "networks.json").write_bytes((directory / "networks.json").read_bytes())
    state = load_file(directory / "autokl.safetensors")
    spoil(state)
    write_state(state, tmp_path / "autokl.safetensors")
    with pytest.raises(ValueError, match=sentence):
        _ = load(tmp_path).autokl


def test_positions_that_are_in_no_file_are_there_and_nothing_is_left_empty(directory):
    networks = load(directory)
    clip, optimus = networks.clip, networks.optimus
    expected = torch.arange(clip.text_shape[0])[None]
    assert torch.equal(clip.text_model.embeddings.position_ids, expected)
    assert not optimus.bert.embeddings.token_type_ids.any()
    for name in (*PARTS, "image_unet", "text_unet"):
        net = getattr(networks, name)
        tensors = [*net.parameters(), *net.buffers()]
        assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_a_network_is_the_same_object_for_life_and_comes_back_equal(directory):
    networks = load(directory)
    net = networks.autokl
    before = {key: value.clone() for key, value in net.state_dict().items()}
    networks.release("autokl")
    assert devices_of(net) == {"meta"}
    assert networks.autokl is net
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


def test_weights_first_asked_for_in_inference_mode_can_be_used_with_gradients(directory):
    networks = load(directory)
    with torch.inference_mode():
        shape = networks.clip.vision_model.config.image_size
        _ = networks.clip
    pixels = torch.zeros(1, 3, shape, shape, requires_grad=True)
    networks.clip.project_pixels(pixels).sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_what_is_borrowed_is_filled_again_at_every_use(directory):
    networks = load(directory)
    judge = networks.borrow("clip")
    expected = judge.unconditional("black")["image"]
    networks.release()
    assert torch.equal(judge.unconditional("black")["image"], expected)
    with pytest.raises(ValueError, match="choose one of"):
        networks.borrow("clap")


def test_opening_networks_again_frees_the_gpu_of_those_opened_before(directory):
    first, elsewhere = load(directory), load(directory)
    nets = first.clip, elsewhere.clip
    first.device = torch.device("cuda")  # as if; what counts is where it says it is
    release_all(torch.device("cuda"))
    assert [devices_of(net) for net in nets] == [{"meta"}, {"cpu"}]
    release_all(torch.device("cpu"))
    assert devices_of(elsewhere.clip) == {"cpu"}


def test_attention_is_fused_everywhere_in_the_published_u_net():
    with empty_weights():
        unet = build("image_unet", FULL_NETWORKS)
    attention = [module for module in unet.modules() if isinstance(module, Attention)]
    assert len(attention) == 64  # 16 mixers x 2 contexts x self and cross
    assert {type(module.processor) for module in attention} == {AttnProcessor2_0}


def test_compiled_flows_are_still_the_networks_they_were(directory, vd, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    networks = load(directory, compiled=True)
    _ = networks.clip
    assert_flows_equal_golden(networks, vd.io, ("image", "text"))
    assert compiled == [networks.image_unet, networks.text_unet]


def test_unconditional_contexts_are_computed_once_and_kept_in_float32(directory, monkeypatch):
    networks = load(directory, dtype="bfloat16")
    first = networks.unconditional("black")
    networks.release()
    assert networks.unconditional("black") is first
    assert "loaded=[]" in repr(networks)
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}


def test_precision_follows_the_device_unless_it_is_named(directory):
    assert load(directory).dtype == torch.float32
    assert load(directory, dtype="float16").dtype == torch.float16
    assert find_precision("auto", "cuda:0") == "float16"
    with pytest.raises(ValueError, match="precision='float8': say 'auto', 'float32'"):
        load(directory, dtype="float8")
    with pytest.raises(ValueError, match="weights='some': choose 'stored' or 'random'"):
        load(directory, weights="some")


def test_bfloat16_is_refused_on_a_gpu_that_only_emulates_it(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: asked.append(True) or False
    )
    with pytest.raises(ValueError, match="the GPU cuda:0 does not compute in it; say 'float16'"):
        find_precision("bfloat16", "cuda:0")
    assert find_precision("float16", "cuda:0") == "float16" and asked == [True]


def test_configuration_survives_json(tmp_path, published):
    path = published.config.to_json(tmp_path / "networks.json")
    assert NetworksConfig.from_json(path) == published.config
    sections = json.loads(path.read_text())
    path.write_text(json.dumps(sections | {"sound": {}}))
    with pytest.raises(ValueError, match="sound"):
        NetworksConfig.from_json(path)
    path.write_text(json.dumps({k: v for k, v in sections.items() if k != "clip"}))
    with pytest.raises(ValueError, match="clip"):
        NetworksConfig.from_json(path)


def test_classifier_is_built_from_its_section(published):
    section = {"n_categories": 5, "n_backgrounds": 3, "image_size": 16}
    config = NetworksConfig(**(vars(published.config) | {"classifier": section}))
    result = build("classifier", config).eval()(torch.zeros(2, 3, 16, 16))
    assert result["category"].shape == (2, 5) and result["background"].shape == (2, 3)
