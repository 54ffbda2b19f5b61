"""The key maps against the published lists of keys, and the safety of reading and writing."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from golden_parts import read_manifest
from safetensors.torch import load_file

from nbutils.networks import checkpoints
from nbutils.networks.checkpoints import convert_directory, write_state
from nbutils.networks.checkpoints_reading import read_state
from nbutils.networks.checkpoints_versatile import (
    LAYOUT_PREFIX,
    detect_layout,
    flow_key_map,
    flow_shapes,
    map_versatile,
)
from nbutils.networks.config import FULL

MANIFESTS = {
    "v1-0": "vd_four_flow_v1-0_original_diffuser_only",
    "deprecated": "vd_four_flow_v1-0_deprecated_original_diffuser_only",
}


FOLDERS = {
    "image_unet": "vd_diffusers_image_unet",
    "text_unet": "vd_diffusers_text_unet_flat",
}


def on_meta(manifest):
    return {key: torch.empty(shape, device="meta") for key, shape in manifest.items()}


@pytest.mark.parametrize("layout", MANIFESTS)
def test_full_size_checkpoint_fills_both_flows_exactly(layout):
    state = on_meta(read_manifest(MANIFESTS[layout]))
    other = {"vae.image.x": torch.empty(1), "betas": torch.empty(1)}
    tensors = map_versatile(state | other, FULL)
    assert {k: {n: v.shape for n, v in t.items()} for k, t in tensors.items()} == flow_shapes(FULL)
    count = {name: sum(v.numel() for v in part.values()) for name, part in tensors.items()}
    assert count == {"image_flow": 1_126_760_324, "text_data": 1_439_558_528}


def test_layouts_correspond_as_published():
    published = read_manifest("map_vd_v1-0_to_deprecated_and_diffusers")
    new, old = flow_key_map(FULL, "v1-0"), flow_key_map(FULL, "deprecated")
    pairs = {new[file][key]: old[file][key] for file in new for key in new[file]}
    assert pairs == {key: deprecated for key, (deprecated, _) in published.items()}


def test_names_in_diffusers_folders_correspond_as_published():
    published = read_manifest("map_vd_v1-0_to_deprecated_and_diffusers")
    new, folders = flow_key_map(FULL, "v1-0"), flow_key_map(FULL, "diffusers")
    pairs = {new[file][key]: folders[file][key] for file in new for key in new[file]}
    assert pairs == {key: place for key, (_, place) in published.items()}


def test_full_size_folders_of_diffusers_fill_both_flows_exactly():
    state = {
        f"{folder}/{key}": value
        for folder, name in FOLDERS.items()
        for key, value in on_meta(read_manifest(name)).items()
    }
    tensors = map_versatile(state, FULL)
    assert {k: {n: v.shape for n, v in t.items()} for k, t in tensors.items()} == flow_shapes(FULL)
    del state["text_unet/time_embedding.linear_1.bias"]
    with pytest.raises(ValueError, match="1 keys missing.*text_unet/time_embedding.linear_1.bias"):
        map_versatile(state, FULL)


def test_folders_of_two_models_are_not_mixed(vd_state, vd_config):
    state = in_folders(vd_state, vd_config)
    key = "text_unet/time_embedding.linear_1.bias"
    with pytest.raises(ValueError, match="do not belong to the same model"):
        map_versatile(state | {key: state[key] + 1}, vd_config)


@pytest.mark.parametrize("layout", ["v1-0", "deprecated", "diffusers"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_layout_of_a_tiny_network_gives_the_same_tensors(vd_state, vd_config, layout, prefix):
    state = vd_state if layout == "v1-0" else renamed(vd_state, vd_config, layout)
    assert detect_layout(state) == layout
    ours = map_versatile(vd_state, vd_config)
    again = map_versatile({prefix + key: value for key, value in state.items()}, vd_config)
    for file in ours:
        assert ours[file].keys() == again[file].keys()
        assert all(torch.equal(ours[file][key], again[file][key]) for key in ours[file])


def test_checkpoint_of_another_size_is_refused(vd_state, vd_config):
    key = "diffuser.image.data_blocks.1.0.in_layers.2.weight"
    with pytest.raises(ValueError, match="1 keys missing"):
        map_versatile({k: v for k, v in vd_state.items() if k != key}, vd_config)
    with pytest.raises(ValueError, match="1 not known"):
        map_versatile(vd_state | {"diffuser.image.more": torch.zeros(1)}, vd_config)
    with pytest.raises(ValueError, match="another size"):
        map_versatile(vd_state | {key: torch.zeros(32, 32, 1, 1)}, vd_config)
    with pytest.raises(ValueError, match="not a Versatile Diffusion"):
        map_versatile({"unet.x": torch.zeros(1)}, vd_config)
    assert set(LAYOUT_PREFIX) == {*MANIFESTS, "diffusers"}


def test_an_error_counts_all_keys_and_names_ten(vd_state, vd_config):
    few = {key: value for key, value in vd_state.items() if "context_blocks" not in key}
    lost = sorted(set(vd_state) - set(few))
    with pytest.raises(ValueError) as error:
        map_versatile(few, vd_config)
    assert f"{len(lost)} keys missing" in str(error.value) and len(lost) > 10
    named = [key for key in lost if repr(key) in str(error.value)]
    assert named == lost[:10]


def test_all_tensors_of_another_shape_are_counted(vd_state, vd_config):
    keys = [key for key in vd_state if key.endswith(".out_layers.3.bias")]
    wrong = vd_state | {key: torch.zeros(7) for key in keys}
    with pytest.raises(
        ValueError, match=rf"{len(keys)} tensors have another shape.*\(7,\) instead"
    ):
        map_versatile(wrong, vd_config)


def renamed(state, config, layout):
    """The tensors of the v1-0 layout under the names of another one."""
    new, other = flow_key_map(config, "v1-0"), flow_key_map(config, layout)
    found = {other[file][key]: state[new[file][key]] for file in new for key in new[file]}
    if layout == "diffusers":  # the text U-Net has the time embedding a second time
        mark = "image_unet/time_embedding."
        copies = {key.replace("image", "text", 1): key for key in found if key.startswith(mark)}
        found |= {copy: found[key].clone() for copy, key in copies.items()}
    return found


def in_folders(state, config):
    return renamed(state, config, "diffusers")


class Payload:
    """What a hostile checkpoint would hold: unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, new_format):
    state = {"w": torch.zeros(1), "x": Payload(tmp_path / "ran")}
    torch.save(state, tmp_path / "evil.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(ValueError, match=r"mkdir would have to be.*stored code is never run"):
        read_state(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_plain_pickle_is_refused(tmp_path):
    (tmp_path / "evil.bin").write_bytes(pickle.dumps({"x": Payload(tmp_path / "ran")}, protocol=2))
    with pytest.raises(ValueError, match="stored code is never run"):
        read_state(tmp_path / "evil.bin")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_both_formats_of_torch_are_read(tmp_path, new_format, wrapped):
    state = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}
    whole = {"state_dict": state, "epoch": 7} if wrapped else state
    torch.save(whole, tmp_path / "c.pth", _use_new_zipfile_serialization=new_format)
    found = read_state(tmp_path / "c.pth")
    assert found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


@pytest.mark.parametrize("name", ["c.pth", "c.safetensors"])
def test_truncated_file_is_refused(tmp_path, name):
    path = tmp_path / name
    state = {"a": torch.zeros(1000)}
    write_state(state, path) if name.endswith("safetensors") else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="damaged"):
        read_state(path)
    with pytest.raises(FileNotFoundError, match="download it first"):
        read_state(tmp_path / "absent.pth")


def test_written_dtype_is_the_one_asked(tmp_path):
    state = {"a": torch.ones(3), "n": torch.tensor([1, 2])}
    found = load_file(write_state(state, tmp_path / "new" / "c.safetensors", torch.float16))
    assert (found["a"].dtype, found["n"].dtype) == (torch.float16, torch.int64)


def test_written_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "other").touch()
    path = write_state({"a": torch.ones(3)}, tmp_path / "c.safetensors")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = write_state({"a": torch.ones(1)}, tmp_path / "c.safetensors")

    def stop_halfway(tensors, target, metadata):
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "save_file", stop_halfway)
    with pytest.raises(OSError, match="disk full"):
        write_state({"a": torch.zeros(1)}, path)
    assert load_file(path)["a"].item() == 1 and os.listdir(tmp_path) == ["c.safetensors"]


def test_nothing_is_converted_when_a_source_is_missing(tmp_path, vd_state):
    torch.save(vd_state, tmp_path / "vd.pth")
    sources = {"versatile": tmp_path / "vd.pth", "optimus": tmp_path / "absent.pth"}
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        convert_directory(sources, tmp_path / "out")
    with pytest.raises(ValueError, match="are not known"):
        convert_directory({"stable_clip": tmp_path / "vd.pth"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
