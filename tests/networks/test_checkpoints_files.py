"""From files in every layout that publishers use to loaded networks, along the real path."""

import os
from types import SimpleNamespace

import pytest
import torch
from golden_parts import autokl_config, optimus_config, read_golden
from safetensors import safe_open
from safetensors.torch import save_file
from test_checkpoints import Payload, renamed
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from nbutils.networks.checkpoints import convert_directory
from nbutils.networks.config import NetworksConfig, StableConfig
from nbutils.networks.loading import load
from nbutils.networks.stable import build_stable_unet
from nbutils.networks.weights.converted import converted

STABLE_UNET = {
    "latent_channels": 4, "latent_size": 8, "channels": [32, 64], "layers_per_block": 1,
    "attention": [True, False], "heads": 4, "context_dim": 32,
}  # fmt: skip
STABLE_TEXT = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 4, "max_position_embeddings": 16, "bos_token_id": 97,
    "eos_token_id": 98, "pad_token_id": 98,
}  # fmt: skip
CONTROL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 28, "patch_size": 14, "projection_dim": 24,
}  # fmt: skip


@pytest.fixture(scope="module")
def config(vd_config):
    clip = read_golden("clip_tiny").json
    return NetworksConfig(
        clip={k: clip[k] for k in ("text_config", "vision_config", "projection_dim")},
        autokl=autokl_config(),
        optimus=optimus_config(),
        vdvae=read_golden("vdvae_tiny").json["H"],
        versatile=vd_config,
        stable={"unet": STABLE_UNET, "text": STABLE_TEXT, "autokl": autokl_config()},
        control=CONTROL,
    )


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    """Stable Diffusion as a folder of diffusers, with the names of 2022, in half precision."""
    torch.manual_seed(0)
    states = {
        "unet": build_stable_unet(StableConfig(**STABLE_UNET)).state_dict(),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**STABLE_TEXT)).state_dict(),
        "vae": old_names(read_golden("autokl_tiny").state),
    }
    if not next(iter(states["text_encoder"])).startswith("text_model."):
        text = states["text_encoder"].items()
        states["text_encoder"] = {f"text_model.{key}": value for key, value in text}
    states["text_encoder"]["text_model.embeddings.position_ids"] = torch.arange(16)
    folder = tmp_path_factory.mktemp("stable-diffusion-v1-4")
    states = {name: {k: halve(v) for k, v in state.items()} for name, state in states.items()}
    for name, state in states.items():
        (folder / name).mkdir()
        file = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        save_file(state, folder / name / f"{file}.safetensors")
    return SimpleNamespace(folder=folder, states=states)


def halve(value):
    return value.half().contiguous() if value.is_floating_point() else value


def old_names(original):
    """AutoKL's golden weights under the names that diffusers gave them in 2022."""
    from nbutils.networks.checkpoints_parts import rename_autokl

    words = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    levels, state = len(autokl_config()["block_out_channels"]), {}
    for key, value in original.items():
        key = rename_autokl(key, levels)
        for new, old in words.items():
            key = key.replace(f".attentions.0.{new}", f".attentions.0.{old}")
        matrix = ".attentions.0." in key and value.ndim == 4
        state[key] = value[:, :, 0, 0] if matrix else value
    return state


def write(state, path, kind):
    """Write a checkpoint as publishers do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    return path


@pytest.mark.parametrize("layout", ["v1-0", "deprecated", "diffusers"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize(("prefix", "half"), [("", False), ("module.", True)])
def test_every_layout_and_format_loads_to_the_same_flows(
    tmp_path, vd_state, vd_config, vd, config, layout, kind, prefix, half
):
    state = vd_state if layout == "v1-0" else renamed(vd_state, vd_config, layout)
    state = {key: halve(value) if half else value for key, value in state.items()}
    suffix = ".safetensors" if kind == "safetensors" else ".bin"
    source = tmp_path / "versatile-diffusion"
    if layout == "diffusers":
        for folder in ("image_unet", "text_unet"):
            own = {k: v for k, v in state.items() if k.startswith(folder)}
            own = {k.removeprefix(f"{folder}/"): v for k, v in own.items()}
            write(own, source / folder / f"diffusion_pytorch_model{suffix}", kind)
    else:
        named = {prefix + key: value for key, value in state.items()}
        source = write(named, tmp_path / f"vd{suffix}", kind)
    directory = convert_directory({"versatile": source}, tmp_path / "out", config)
    networks = load(directory)
    expected = {"image_unet": vd.unet, "text_unet": vd.text}
    for name, net in expected.items():
        found = getattr(networks, name).state_dict()
        own = {key: value for key, value in net.state_dict().items() if key in found}
        assert own.keys() == found.keys()
        assert all(torch.equal(found[key].float(), value) for key, value in own.items())


def test_folder_of_stable_diffusion_becomes_three_networks(tmp_path, stable, config):
    directory = convert_directory({"stable": stable.folder}, tmp_path, config)
    networks = load(directory, dtype=torch.float16)
    unet = networks.stable_unet.state_dict()
    assert all(torch.equal(unet[k], v) for k, v in stable.states["unet"].items())
    vae = networks.stable_autokl.state_dict()
    key = "encoder.mid_block.attentions.0.to_out.0.weight"
    old = stable.states["vae"]["encoder.mid_block.attentions.0.proj_attn.weight"]
    assert torch.equal(vae[key], old) and len(vae) == len(stable.states["vae"])


def test_stable_text_drops_positions_and_loads(tmp_path, stable, config):
    source = stable.folder / "text_encoder"
    directory = convert_directory({"stable_text": source}, tmp_path, config)
    words = Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    convert_directory({"tokenizers/clip": tmp_path / "tokenizer.json"}, tmp_path, config)
    text = load(directory, dtype=torch.float16).stable_text.state_dict()
    theirs = dict(stable.states["text_encoder"])
    del theirs["text_model.embeddings.position_ids"]
    assert len(text) == len(theirs)
    assert all(torch.equal(text[key], value) for key, value in theirs.items())


def test_image_tower_of_a_whole_clip_becomes_the_control_network(tmp_path, config):
    torch.manual_seed(0)
    sizes = {"projection_dim": 24, "vision_config": CONTROL, "text_config": STABLE_TEXT}
    whole = CLIPModel(CLIPConfig(**sizes)).state_dict()
    whole["vision_model.embeddings.position_ids"] = torch.arange(5)
    source = write(whole, tmp_path / "pytorch_model.bin", "legacy")
    directory = convert_directory({"control": source}, tmp_path / "out", config)
    found = load(directory).control.state_dict()
    assert all(torch.equal(found[key], whole[key]) for key in found) and "text" not in str(found)


def test_vae_folder_of_versatile_diffusion_is_taken_as_autokl(tmp_path, stable, config):
    (tmp_path / "vd").mkdir()
    (stable.folder / "vae").rename(tmp_path / "vd" / "vae")
    try:
        directory = convert_directory({"autokl": tmp_path / "vd"}, tmp_path / "out", config)
    finally:
        (tmp_path / "vd" / "vae").rename(stable.folder / "vae")
    golden = read_golden("autokl_tiny").state["quant_conv.bias"]
    assert torch.equal(load(directory).autokl.quant_conv.bias, golden)


def test_a_folder_without_weights_names_what_it_looked_for(tmp_path, config):
    (tmp_path / "vae").mkdir()
    with pytest.raises(FileNotFoundError, match="vae has none of diffusion_pytorch_model.safe"):
        convert_directory({"stable_autokl": tmp_path}, tmp_path / "out", config)


def test_a_malicious_file_leaves_no_network_behind(tmp_path, vd_state, config):
    torch.save(vd_state | {"x": Payload(tmp_path / "ran")}, tmp_path / "vd.pth")
    with pytest.raises(ValueError, match="stored code is never run"):
        convert_directory({"versatile": tmp_path / "vd.pth"}, tmp_path / "out", config)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_networks_come_one_after_the_other_and_absent_ones_are_said(tmp_path, vd_state, config):
    torch.save(vd_state, tmp_path / "vd.pth")
    out = convert_directory({"versatile": tmp_path / "vd.pth"}, tmp_path / "out", config)
    assert load(out).config == config
    with pytest.raises(FileNotFoundError, match="autokl.safetensors is missing"):
        _ = load(out).autokl
    torch.save(read_golden("autokl_tiny").state, tmp_path / "kl.pth")
    convert_directory({"autokl": tmp_path / "kl.pth"}, out, config)
    assert load(out).autokl is not None
    assert converted(out) == {"versatile": "vd.pth", "autokl": "kl.pth"}
    with safe_open(out / "image_flow.safetensors", framework="pt") as file:
        assert file.metadata()["source"] == "vd.pth"


def test_networks_of_two_sizes_are_not_mixed(tmp_path, config):
    config.to_json(tmp_path / "networks.json")
    torch.save(read_golden("autokl_tiny").state, tmp_path / "kl.pth")
    with pytest.raises(ValueError, match="networks of other sizes .*clip.*another folder"):
        convert_directory({"autokl": tmp_path / "kl.pth"}, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["kl.pth", "networks.json"]


def test_a_damaged_tokenizer_is_refused(tmp_path, config):
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(ValueError, match="tokenizer.json is damaged"):
        convert_directory({"tokenizers/bert": tmp_path}, tmp_path / "out", config)
