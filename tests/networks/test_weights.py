"""The registry of published weights, and what a folder of originals is said to have."""

import dataclasses
import hashlib
import io
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from nbutils.manifest import notebooks
from nbutils.metrics.readers import METRIC_NETWORKS, build_metric_network
from nbutils.networks.checkpoints import SOURCES, TOKENIZERS
from nbutils.networks.weights import folder as folders
from nbutils.networks.weights.converted import converted
from nbutils.networks.weights.faults import find_fault
from nbutils.networks.weights.folder import choose_sources, default_folder, examine, look
from nbutils.networks.weights.registry import SYSTEMS, WEIGHTS, choose, find
from nbutils.transfer.ledger import Ledger

README = Path(__file__).parents[2] / "data" / "README.md"


def checkpoint(**tensors):
    buffer = io.BytesIO()
    torch.save(tensors or {"a": torch.arange(200.0)}, buffer)
    return buffer.getvalue()


def small(name, content, **changes):
    """A file of the registry, shrunk to a given content."""
    sha256 = hashlib.sha256(content).hexdigest()
    given = {"size": len(content), "sha256": sha256, "exact": True} | changes
    return dataclasses.replace(find(name), **given)


def put(weight, folder, content):
    path = folder / weight.place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_registry_says_everything_of_every_file():
    for one in WEIGHTS:
        assert one.what and one.licence and one.systems and set(one.systems) <= set(SYSTEMS)
        assert one.network in (*SOURCES, "") and one.size > 0
        assert one.sha256 is None or re.fullmatch("[0-9a-f]{64}|[0-9a-f]{8}", one.sha256)
        assert not one.on_hub or re.fullmatch("[0-9a-f]{40}", one.revision)
        assert one.instead_of is None or find(one.instead_of).network == one.network
    for facts in ("name", "place"):
        assert len({getattr(one, facts) for one in WEIGHTS}) == len(WEIGHTS)
    known = {notebook.name[:2] for notebook in notebooks()}
    assert {number for one in WEIGHTS for number in one.notebooks} <= known


def test_every_network_has_one_file_that_is_fetched_unless_another_is_named():
    usual = [one.network for one in WEIGHTS if one.instead_of is None and one.network]
    assert sorted(usual) == sorted(SOURCES)
    for system in set(SYSTEMS) - {"metrics"}:
        assert "tokenizers/clip" in {one.network for one in choose(system=system)}


# Parameters as counted in the original code (see the key maps' tests), bytes for each.
PARAMETERS = {
    "vd-fp16-deprecated": (3_319_188_971, 2),
    "vd-fp16": (2_566_318_852, 2),
    "vd-deprecated": (3_319_188_971, 4),
    "vd": (2_566_318_852, 4),
    "vd-image-unet": (859_520_964, 4),
    "vd-text-unet": (1_708_848_448, 4),
    "kl-f8": (83_653_863, 4),
    "vd-vae": (83_653_863, 4),
    "optimus": (109_489_920 + 132_109_824 + 12 * 1024 * 1024, 4),  # with GPT-2's twelve masks
    "vdvae": (125_005_860, 4),
    "clip": (427_616_513, 4),
    "sd-unet": (859_520_964, 4),
    "sd-text": (123_060_480, 4),
    "sd-vae": (83_653_863, 4),
    "clip-b32": (151_277_313, 4),
}


def test_published_sizes_are_those_of_the_parameters():
    converted = (one for one in WEIGHTS if one.network not in ("", *TOKENIZERS))
    assert set(PARAMETERS) == {one.name for one in converted}
    for name, (count, width) in PARAMETERS.items():
        assert find(name).size == pytest.approx(count * width, rel=5e-3), name


def test_every_metric_network_can_be_fetched_under_the_name_it_is_read_by():
    listed = {one.file: one for one in choose(system="metrics")}
    assert {spec.file for spec in METRIC_NETWORKS.values()} <= set(listed)
    for name, spec in METRIC_NETWORKS.items():
        if spec.has_classes:  # SwAV's file also holds its projection head
            state = build_metric_network(name).state_dict()
            count = sum(tensor.numel() for tensor in state.values())
            assert listed[spec.file].size == pytest.approx(4 * count, rel=0.02), name
            assert f"-{listed[spec.file].sha256}.pth" in spec.file


def test_the_beginning_of_a_hash_is_enough_to_know_a_file(tmp_path):
    content = checkpoint()
    whole = hashlib.sha256(content).hexdigest()
    weight = small("alexnet", content, sha256=whole[:8])
    put(weight, tmp_path, content)
    assert examine(weight, tmp_path, Ledger(tmp_path)).state == "checked"
    wrong = dataclasses.replace(weight, sha256="0" * 8)
    assert examine(wrong, tmp_path, Ledger(tmp_path)).state == "foreign"


def test_renamed_files_are_said_to_be():
    assert "is vd-four-flow-v1-0-fp16.pth" in find("vd-fp16-deprecated").renamed
    assert "vd-official.pth" in find("vd-deprecated").renamed


def test_the_data_page_lists_every_file():
    text = README.read_text(encoding="utf-8")
    for one in WEIGHTS:
        assert f"| `{one.name}` |" in text, one.name
        assert one.path in text


def test_an_unknown_name_is_refused_with_the_near_one():
    with pytest.raises(ValueError, match="'kl-f9' are not known: did you mean 'kl-f8'"):
        choose(["kl-f9"])
    with pytest.raises(ValueError, match="system 'uni': choose one of brain_diffuser"):
        choose(system="uni")


def test_names_are_added_to_what_a_system_needs():
    names = [one.name for one in choose(["vd"], "takagi")]
    assert names == ["vd", "clip-tokenizer", "sd-unet", "sd-text", "sd-vae"]
    assert [one.name for one in choose(["vd"])] == ["vd"]


def test_the_folder_can_be_set(monkeypatch, tmp_path):
    monkeypatch.setenv("NBUTILS_WEIGHTS", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("NBUTILS_WEIGHTS")
    assert default_folder().parts[-2:] == ("data", "weights")


def test_states_of_a_file(tmp_path):
    content = checkpoint()
    weight = small("kl-f8", content)
    [found] = look([weight], tmp_path)
    assert found.state == "missing" and not found.usable
    path = put(weight, tmp_path, content)
    assert look([weight], tmp_path)[0].state == "there"
    assert examine(weight, tmp_path, Ledger(tmp_path)).state == "checked"
    assert look([weight], tmp_path)[0].state == "checked"
    path.write_bytes(content[:-100])
    [found] = look([weight], tmp_path)
    assert (
        found.state == "truncated" and f"{len(content) - 100:,} of {len(content):,}" in found.note
    )
    path.write_bytes(content + b"more")
    assert look([weight], tmp_path)[0].state == "foreign"


def test_a_file_without_a_published_hash_is_held_to_the_first_one_seen(tmp_path):
    first, second = checkpoint(a=torch.zeros(9)), checkpoint(a=torch.ones(9))
    weight = small("vdvae", first, sha256=None, exact=False)
    path = put(weight, tmp_path, first)
    found = examine(weight, tmp_path, Ledger(tmp_path))
    assert found.state == "checked" and "recorded" in found.note
    path.write_bytes(second)
    found = examine(weight, tmp_path, Ledger(tmp_path))
    assert found.state == "foreign" and "as recorded at the first fetch" in found.note


def test_a_flipped_byte_is_found_though_size_and_time_fit(tmp_path):
    content = checkpoint()
    weight = small("kl-f8", content)
    put(weight, tmp_path, content[:500] + bytes([content[500] ^ 1]) + content[501:])
    assert "not " + weight.sha256[:12] in examine(weight, tmp_path, Ledger(tmp_path)).note


def test_content_published_under_another_name_is_named(tmp_path, monkeypatch):
    content = checkpoint()
    old, new = small("vd-fp16-deprecated", content), small("vd-fp16", content, sha256="0" * 64)
    monkeypatch.setattr(folders, "WEIGHTS", (old, new))
    put(new, tmp_path, content)
    assert (
        "vd-fp16-deprecated, published under another"
        in examine(new, tmp_path, Ledger(tmp_path)).note
    )


def test_files_lie_as_in_their_repository_or_directly_in_the_folder(tmp_path):
    content = checkpoint()
    weight = small("kl-f8", content)
    (tmp_path / "kl-f8.pth").write_bytes(content)
    assert look([weight], tmp_path)[0].path == tmp_path / "kl-f8.pth"
    # Several files have this name, so it says nothing.
    clip = small("clip", content)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert look([clip], tmp_path)[0].state == "missing"


def test_what_is_no_checkpoint_is_told_by_its_beginning_and_end(tmp_path):
    whole = save({"a": torch.zeros(50)})
    cases = {
        "a.pth": (b"<!DOCTYPE html>", "web page"),
        "b.pth": (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs"),
        "c.pth": (b"", "empty"),
        "d.pth": (checkpoint()[:-30], "truncated"),
        "e.pth": (b"RIFF....", "begins with"),
        "f.safetensors": (whole[:-8], r"truncated: .* of"),
        "g.safetensors": (whole + b"x", "where its header says"),
        "h.safetensors": (b"PK", "truncated or no safetensors"),
        "i.json": (b'{"a": 1', "truncated or no JSON"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        assert re.search(words, find_fault(tmp_path / name)), name
    for name, content in {"k.pth": checkpoint(), "l.safetensors": whole, "m.json": b"{}"}.items():
        (tmp_path / name).write_bytes(content)
        assert find_fault(tmp_path / name) is None


def test_the_preferred_file_of_a_network_is_taken(tmp_path):
    content, words = checkpoint(), b"{}"
    names = ("vd-fp16-deprecated", "vd", "vd-image-unet", "vd-text-unet", "kl-f8", "vd-vae")
    few = [small(name, content) for name in names] + [small("clip-tokenizer", words)]
    for weight in few[1:]:
        put(weight, tmp_path, words if weight.name == "clip-tokenizer" else content)
    assert choose_sources(look(few, tmp_path)) == {
        "versatile": tmp_path / few[1].place,
        "autokl": tmp_path / few[4].place,
        "tokenizers/clip": tmp_path / few[6].place,
    }
    (tmp_path / few[1].place).unlink()
    assert choose_sources(look(few, tmp_path))["versatile"] == tmp_path / "versatile-diffusion"
    (tmp_path / few[3].place).unlink()
    assert "versatile" not in choose_sources(look(few, tmp_path))
    assert converted(tmp_path) == {}
