"""The command line of the published weights."""

import dataclasses
import hashlib
import io
import json

import pytest
import torch

from nbutils import weights_commands
from nbutils.__main__ import build_parser, main
from nbutils.networks import checkpoints
from nbutils.networks.weights import fetching, folder, registry


def checkpoint(value):
    buffer = io.BytesIO()
    torch.save({"a": torch.full((50,), float(value))}, buffer)
    return buffer.getvalue()


CONTENTS = {
    "kl-f8": checkpoint(1),
    "vdvae": checkpoint(2),
    "clip-tokenizer": json.dumps({"version": "1.0"}).encode(),
}


@pytest.fixture
def few(monkeypatch):
    """A registry of three small files."""
    weights = tuple(
        dataclasses.replace(
            registry.find(name), size=len(content), exact=True,
            sha256=None if name == "vdvae" else hashlib.sha256(content).hexdigest(),
        )
        for name, content in CONTENTS.items()
    )  # fmt: skip
    for module in (registry, folder):
        monkeypatch.setattr(module, "WEIGHTS", weights)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return {one.name: one for one in weights}


@pytest.fixture
def fetched(monkeypatch):
    """Stand in for the network: record what would be fetched."""
    calls = []
    monkeypatch.setattr(fetching, "fetch", lambda *given, **options: calls.append((given, options)))
    return calls


def fill(few, folder_, *names):
    for name in names or few:
        path = folder_ / few[name].place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENTS[name])


def terminal(text):
    stream = io.StringIO(text)
    stream.isatty = lambda: True
    return stream


def test_list_says_what_is_here_who_needs_it_and_the_licence(few, tmp_path, capsys):
    fill(few, tmp_path, "kl-f8")
    assert main(["weights", "list", "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "kl-f8" and " there " in lines[0] and "MIT" in lines[0]
    assert "brain_diffuser, unibrain" in lines[0] and " missing " in lines[1]


def test_list_of_one_says_everything(tmp_path, capsys):
    assert main(["weights", "list", "vd-fp16-deprecated", "--folder", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    one = registry.find("vd-fp16-deprecated")
    for fact in (one.what, one.licence, one.path, one.revision, one.sha256, one.renamed):
        assert fact in said
    assert "6,664,692,139 bytes" in said and "missing" in said


def test_an_unknown_name_is_one_sentence(tmp_path, capsys):
    for command in (["list", "kl-f7"], ["fetch", "kl-f7"]):
        assert main(["weights", *command, "--folder", str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "'kl-f7' are not known: did you mean 'kl-f8'?" in said


@pytest.mark.parametrize(("answer", "agrees"), [("y\n", True), ("\n", False), ("no\n", False)])
def test_a_person_is_asked_before_gigabytes(fetched, tmp_path, monkeypatch, capsys, answer, agrees):
    monkeypatch.setattr("sys.stdin", terminal(answer))
    status = main(["weights", "fetch", "clip", "--folder", str(tmp_path)])
    assert (status == 0, len(fetched)) == (agrees, int(agrees))
    said = capsys.readouterr()
    assert "1.71 GB" in said.out and "MIT (of openai/CLIP" in said.out
    assert agrees or "nothing was fetched" in said.err


def test_without_a_terminal_gigabytes_need_the_flag(fetched, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    command = ["weights", "fetch", "--for", "unibrain", "--folder", str(tmp_path)]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "9.73 GB would be fetched" in said and "--yes" in said
    assert main([*command, "--yes"]) == 0
    [((weights, where), options)] = fetched
    assert {one.network for one in weights} == {
        *("versatile", "autokl", "optimus", "clip"),
        *("tokenizers/clip", "tokenizers/bert", "tokenizers/gpt2"),
    }
    assert where == tmp_path and options["hosts"].endpoint is None


def test_megabytes_are_not_asked_for(fetched, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    line = f"weights fetch kl-f8 --endpoint http://x --folder {tmp_path}"
    assert main(line.split()) == 0
    assert fetched[0][1]["hosts"].endpoint == "http://x"


def test_a_dry_run_only_says_how_much(fetched, tmp_path, capsys):
    line = f"weights fetch --for takagi --dry-run --folder {tmp_path}"
    assert main(line.split()) == 0
    assert "4 files to fetch: 4.27 GB" in capsys.readouterr().out and not fetched


def test_another_file_of_the_same_network_is_not_fetched_beside_it(
    few, fetched, tmp_path, monkeypatch, capsys
):
    other = dataclasses.replace(few["kl-f8"], name="vd-vae", path="vae/a.pth", instead_of="kl-f8")
    weights = (*few.values(), other)
    for module in (registry, folder):
        monkeypatch.setattr(module, "WEIGHTS", weights)
    path = tmp_path / other.place
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENTS["kl-f8"])
    assert main(["weights", "fetch", "--folder", str(tmp_path)]) == 0
    assert "kl-f8 is not needed: " in capsys.readouterr().out
    assert [one.name for one in fetched[0][0][0]] == ["vdvae", "clip-tokenizer"]
    assert main(["weights", "fetch", "kl-f8", "--folder", str(tmp_path)]) == 0
    assert [one.name for one in fetched[1][0][0]] == ["kl-f8"]


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_offline_lists_what_is_missing_by_name_and_size(
    few, fetched, tmp_path, monkeypatch, capsys, by
):
    if by == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fill(few, tmp_path, "kl-f8")
    command = ["weights", "fetch", "--for", "brain_diffuser", "--folder", str(tmp_path)]
    assert main(command + ["--offline"] * (by == "flag")) == 1
    said = capsys.readouterr()
    assert f"missing: vdvae ({len(CONTENTS['vdvae']) / 1000:.3g} kB)" in said.out
    assert "kl-f8" not in said.out and "2 files" in said.err and not fetched


def test_offline_a_complete_folder_is_checked(few, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NBUTILS_WEIGHTS", str(tmp_path))
    fill(few, tmp_path)
    assert main(["weights", "fetch", "--offline"]) == 0
    said = capsys.readouterr().out
    assert said.count("which lies there already") == 3 and "3 files are in" in said


def test_check_hashes_and_says_what_is_converted(few, tmp_path, capsys):
    fill(few, tmp_path / "w")
    command = ["weights", "check", "--folder", str(tmp_path / "w"), "--out", str(tmp_path / "n")]
    out = tmp_path / "n" / "tokenizers" / "clip"
    out.mkdir(parents=True)
    (out / "tokenizer.json").write_text("{}")
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "kl-f8: checked" in said and "vdvae: checked, no SHA-256 is published" in said
    assert "tokenizers/clip is converted" in said and "3 originals" in said
    path = tmp_path / "w" / few["kl-f8"].place
    path.write_bytes(CONTENTS["kl-f8"][:-1] + b"?")
    (tmp_path / "w" / few["vdvae"].place).write_bytes(CONTENTS["vdvae"][:-9])
    assert main(command) == 1
    said = capsys.readouterr()
    assert "kl-f8: foreign, SHA-256" in said.out and "vdvae: truncated" in said.out
    assert "2 files" in said.err


def test_convert_takes_what_is_there_and_not_yet_converted(few, tmp_path, monkeypatch, capsys):
    calls = []

    def convert_directory(sources, directory, dtype, say):
        calls.append((sources, directory, dtype))

    monkeypatch.setattr(checkpoints, "convert_directory", convert_directory)
    fill(few, tmp_path / "w")
    (tmp_path / "w" / few["vdvae"].place).write_bytes(CONTENTS["vdvae"][:-9])
    out = tmp_path / "n"
    out.mkdir()
    (out / "tokenizers/clip").mkdir(parents=True)
    (out / "tokenizers/clip/tokenizer.json").write_text("{}")
    command = ["weights", "convert", "--folder", str(tmp_path / "w"), "--out", str(out)]
    assert main([*command, "--half"]) == 0
    assert calls == [({"autokl": tmp_path / "w" / few["kl-f8"].place}, out, torch.float16)]
    said = capsys.readouterr().out
    assert "passed over:" in said and "truncated" in said and "converted autokl" in said
    assert main([*command, "autokl=/x/kl-f8.pth"]) == 0
    assert calls[1] == ({"autokl": "/x/kl-f8.pth"}, out, None)


def test_convert_hashes_first_and_passes_over_another_content(few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "convert_directory", None)
    fill(few, tmp_path, "kl-f8")
    (tmp_path / few["kl-f8"].place).write_bytes(CONTENTS["kl-f8"][:-1] + b"?")
    assert main(["weights", "convert", "--folder", str(tmp_path), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "kl-f8.pth is foreign (SHA-256" in said and "converted nothing new" in said


def test_convert_without_anything_says_what_to_do(tmp_path, capsys):
    assert main(["weights", "convert", "--folder", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "`python -m nbutils weights fetch` brings them" in capsys.readouterr().err
    assert main(["weights", "convert", "autokl"]) == 1
    assert "write NAME=FILE" in capsys.readouterr().err
    assert main(["weights", "convert", "vae=x.pth", "--out", str(tmp_path)]) == 1
    assert "['vae'] are not known: choose from" in capsys.readouterr().err


def test_a_malicious_original_ends_in_one_sentence(tmp_path, capsys):
    class Code:
        def __reduce__(self):
            return (tmp_path / "ran").mkdir, ()

    torch.save({"a": torch.zeros(1), "x": Code()}, tmp_path / "kl-f8.pth")
    command = ["weights", "convert", f"autokl={tmp_path / 'kl-f8.pth'}", "--out", str(tmp_path)]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "stored code is never run" in said
    assert not (tmp_path / "ran").exists()


def test_the_parser_loads_nothing_heavy():
    assert build_parser().parse_args(["weights", "list"]).weights == "list"
    assert not set(vars(weights_commands)) & {"numpy", "obstore", "torch", "safetensors"}


def test_wordnet_is_not_fetched_before_its_licence_is_accepted(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    assert main(["weights", "fetch", "wordnet"]) == 1
    assert "WordNet was not fetched: read https://wordnet" in capsys.readouterr().err
    assert main(["weights", "fetch", "wordnet", "--dry-run"]) == 0
    assert "missing: wordnet (11 MB)" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_networks_of_the_measures_are_read_as_they_are(tmp_path, capsys):
    (tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(checkpoint(0))
    command = ["weights", "convert", "--folder", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "has no published weights" in capsys.readouterr().err
