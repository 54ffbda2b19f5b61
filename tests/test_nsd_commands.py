"""The command line of the real data."""

import io

import pytest

from nbutils import nsd_commands
from nbutils.__main__ import build_parser, main
from nbutils.nsd import download
from nbutils.nsd.download import TERMS, Checked, Estimate, Fetched, accepted


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Stand in for the network: record what would be fetched."""
    made = []

    def fetch(root, subject, sessions, **options):
        made.append((root, subject, sessions, options))
        options.get("say", print)("a sentence")
        return Fetched(root, 1, ("nsddata/lost.nii.gz",))

    def estimate(root, subject, sessions, **options):
        return Estimate(3, 10**9, 10**6, 10**12, True)

    monkeypatch.setattr(download, "fetch", fetch)
    monkeypatch.setattr(download, "estimate", estimate)
    return made


def test_terms_are_shown(capsys):
    assert main(["nsd", "terms"]) == 0
    assert TERMS in capsys.readouterr().out


def test_fetch_without_a_terminal_and_without_the_flag_is_refused(
    calls, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sys.stdin", io.StringIO("I agree\n"))
    assert main(["nsd", "fetch", "--data", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not calls and not accepted(tmp_path)


@pytest.mark.parametrize(("answer", "agrees"), [("I agree\n", True), ("yes\n", False)])
def test_a_person_types_the_words(calls, tmp_path, monkeypatch, capsys, answer, agrees):
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    status = main(["nsd", "fetch", "--data", str(tmp_path), "--sessions", "1"])
    assert (status == 0, accepted(tmp_path), len(calls)) == (agrees, agrees, int(agrees))
    assert TERMS in capsys.readouterr().out


def test_options_arrive(calls, tmp_path, capsys):
    line = "nsd fetch --subject 1 2 --sessions 1-3 --images coco --atlases nsdgeneral --keep-raw"
    line += f" --workers 2 --accept-terms --replace --endpoint http://x --data {tmp_path}"
    assert main(line.split()) == 0
    assert [(call[0], call[1], call[2]) for call in calls] == [
        (tmp_path, 1, [1, 2, 3]),
        (tmp_path, 2, [1, 2, 3]),
    ]
    options = calls[0][3]
    assert options["images"] == "coco" and options["atlases"] == ["nsdgeneral"]
    assert options["keep_raw"] and options["replace"] and options["workers"] == 2
    assert options["surfaces"] is None
    assert options["servers"].endpoint == "http://x"
    assert options["servers"].coco == "http://images.cocodataset.org"
    assert options["servers"].annotations_sha1 == download.servers.COCO_SHA1
    assert "nsddata/lost.nii.gz" in capsys.readouterr().out


@pytest.mark.parametrize(("flag", "wanted"), [("--surfaces", True), ("--no-surfaces", False)])
def test_surfaces_are_named_or_left_out(calls, tmp_path, flag, wanted):
    assert main(f"nsd fetch --sessions 1 {flag} --accept-terms --data {tmp_path}".split()) == 0
    assert calls[0][3]["surfaces"] is wanted


@pytest.mark.parametrize(("spec", "last"), [("full", 32), ("classic", 29), ("5-20", 20)])
def test_sessions_by_name(calls, tmp_path, spec, last):
    line = f"nsd fetch --subject 3 --sessions {spec} --accept-terms --data {tmp_path}"
    assert main(line.split()) == 0
    assert calls[0][2][-1] == last


def test_sessions_that_a_subject_does_not_have_are_refused_before_the_terms(
    calls, tmp_path, capsys
):
    line = f"nsd fetch --subject 4 --sessions 1-40 --accept-terms --data {tmp_path}"
    assert main(line.split()) == 1
    assert "subject 4 of NSD has 30" in capsys.readouterr().err
    assert not calls and not accepted(tmp_path)


def test_there_is_no_ninth_subject(calls, tmp_path, capsys):
    assert main(f"nsd fetch --subject 9 --accept-terms --data {tmp_path}".split()) == 1
    assert "subjects 1 to 8" in capsys.readouterr().err


def test_a_dry_run_only_says_how_much(calls, tmp_path, capsys):
    line = f"nsd fetch --sessions 1 --accept-terms --dry-run --data {tmp_path}"
    assert main(line.split()) == 0
    assert "3 files to fetch: 1 GB over the network" in capsys.readouterr().out
    assert not calls


def test_check_fails_when_something_is_lost(monkeypatch, tmp_path, capsys):
    found = Checked(5, 100, ("a.npy",), ("b.nii.gz",))
    monkeypatch.setattr(download, "check", lambda root, subject: found)
    assert main(["nsd", "check", "--data", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "missing: a.npy" in said.out and "damaged: b.nii.gz" in said.out
    assert "2 files" in said.err


def test_check_of_nothing_says_what_to_do(tmp_path, capsys):
    assert main(["nsd", "check", "--data", str(tmp_path)]) == 1
    assert "no finished fetch of subject 1" in capsys.readouterr().err


def test_synthesize_passes_its_options_on(monkeypatch, tmp_path, capsys):
    from nbutils.miniature import standin
    from nbutils.nsd.layout import Layout

    given = {}

    def synthesize(root, like, sessions, **options):
        given.update(root=root, like=like, sessions=sessions, **options)
        return Layout(root)

    monkeypatch.setattr(standin, "synthesize", synthesize)
    line = f"nsd synthesize --like subj02 --sessions 3 --hdf5 --seed 4 --data {tmp_path}"
    assert main(line.split()) == 0
    assert given == {
        "root": tmp_path, "like": "subj02", "sessions": 3, "formats": ("nii.gz", "hdf5"), "seed": 4,
    }  # fmt: skip


def test_the_parser_loads_nothing_heavy():
    assert build_parser().parse_args(["nsd", "terms"]).nsd == "terms"
    names = set(vars(nsd_commands))
    assert not names & {"numpy", "obstore", "torch", "h5py"}
