"""The key maps against the published lists of keys, and the safety of reading and writing."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from golden_parts import read_manifest
from safetensors.torch import load_file

from nbutils.networks import checkpoints
from nbutils.networks.checkpoints import convert_directory, read_state, write_state
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


def test_image_flow_has_the_names_of_diffusers():
    published = read_manifest("map_vd_v1-0_to_deprecated_and_diffusers")
    for ours, theirs in flow_key_map(FULL)["image_flow"].items():
        # The text mixers are named in diffusers' text U-Net, whose blocks are numbered alike.
        _, _, name = published[theirs][1].partition("/")
        assert ours.replace(".image.", ".").replace(".text.", ".") == name


def test_deprecated_layout_of_a_tiny_network_gives_the_same_tensors(vd_state, vd_config):
    new, old = flow_key_map(vd_config, "v1-0"), flow_key_map(vd_config, "deprecated")
    renamed = {old[file][key]: vd_state[new[file][key]] for file in new for key in new[file]}
    assert detect_layout(renamed) == "deprecated"
    ours, again = map_versatile(vd_state, vd_config), map_versatile(renamed, vd_config)
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
    assert set(LAYOUT_PREFIX) == set(MANIFESTS)


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
    with pytest.raises(ValueError, match="stored code is never run"):
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


def test_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = write_state({"a": torch.ones(1)}, tmp_path / "c.safetensors")

    def stop_halfway(tensors, target):
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
        convert_directory({"stable": tmp_path / "vd.pth"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
