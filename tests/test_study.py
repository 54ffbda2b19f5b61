"""Parameters are refused in one sentence; artifacts are read only when whole and one's own."""

import json
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest

from nbutils import Study, synthetic
from nbutils.artifacts import ArtifactError, hash_file, replacing, sidecar_path, write
from nbutils.miniature import write as write_world
from nbutils.miniature.scenes import CATEGORIES
from nbutils.parameters import ParameterError
from nbutils.world import PUBLISHED_SIZE, WORLDS, find_world


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"subject": 9}, "subject=9: the miniature world has subjects 1 to 4"),
        ({"subject": 9, "world": "nsd"}, "subject=9: NSD has subjects 1 to 8"),
        ({"subject": 0}, "subject=0: must be at least 1"),
        ({"subject": "five"}, "subject='five': must be a whole number"),
        ({"subject": True}, "subject=True: must be a whole number"),
        ({"subjct": 1}, "subjct: no such parameter; did you mean subject?"),
        ({"world": "moon"}, "world='moon': there are 'miniature' and 'nsd'"),
        ({"world": 3}, "world=3: must be a name"),
        ({"device": "gpu"}, "device='gpu': say 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"),
        ({"device": "cuda:99"}, "device='cuda:99': "),
        ({"precision": "half"}, "precision='half': must be 'auto', 'float32', 'float16' or 'bf"),
        ({"memory": "6GB"}, "memory='6GB': must be 'auto', '4GB', '8GB', '15GB' or 'more'"),
        ({"weights": "none"}, "weights='none': must be 'stored' or 'random'"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"seed": 0.5}, "seed=0.5: must be a whole number"),
        ({"sessions": 17}, "sessions=17: subject 1 of the miniature world has 16"),
        ({"sessions": 31, "subject": 4, "world": "nsd"}, "sessions=31: subject 4 of NSD has 30"),
        ({"steps": 0}, "steps=0: must be at least 1"),
        ({"strength": 0.0}, "strength=0.0: must be more than 0"),
        ({"strength": 1.5}, "strength=1.5: must be at most 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan: must be a finite number"),
        ({"mix_image": "0.6"}, "mix_image='0.6': must be a number"),
        ({"preset": "best"}, "preset='best': must be 'published' or 'careful'"),
        ({"rois": "V1"}, "rois='V1': must be a list"),
        ({"rois": ["V9"]}, "rois='V9': the miniature world has V1, V2, V3, hV4, faces"),
        ({"rois": ["food"], "world": "nsd"}, "rois='food': NSD has V1"),
        ({"data": 3}, "data=3: must be a path"),
        ({"repeats": 4}, "repeats=4: must be at most 3"),
        ({"snr": 2.0, "world": "nsd"}, "snr=2.0: NSD is recorded; only a simulated brain"),
    ],
)
def test_wrong_parameter_is_refused_in_one_sentence(wrong, sentence):
    with pytest.raises(ParameterError) as caught:
        Study(**{"device": "cpu", **wrong})
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_every_wrong_parameter_is_named_at_once():
    with pytest.raises(ParameterError, match=r"steps=0: .*; strength=2.0: .*"):
        Study(device="cpu", steps=0, strength=2.0)


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ParameterError) as caught:
        Study(device="cuda:7")
    assert str(caught.value) == (
        "device='cuda:7': the GPUs here are numbered 0 to 1; say 'cuda:0' or 'auto'"
    )


def test_precision_is_settled_by_the_device():
    assert Study(device="cpu").precision == "float32"
    assert Study(device="cpu", precision="bfloat16").precision == "bfloat16"
    assert "precision" not in Study(device="cpu").model_fields_set


def test_parameters_cannot_change_after_the_check(study):
    with pytest.raises(ValueError, match="frozen"):
        study.subject = 2


def test_defaults_come_from_the_world(monkeypatch, tmp_path):
    monkeypatch.setenv("NBUTILS_DATA", str(tmp_path))
    nsd, miniature = Study(world="nsd", device="cpu"), Study(device="cpu")
    assert (nsd.guidance_scale, miniature.guidance_scale) == (7.5, 4.0)
    assert nsd.data == tmp_path / "nsd" and miniature.data == tmp_path / "miniature"
    assert Study(device="cpu", guidance_scale=2.0).guidance_scale == 2.0


def test_session_counts_are_those_of_nsd():
    nsd = find_world("nsd")
    assert [nsd.sessions_of(subject) for subject in nsd.subjects] == [
        40,
        40,
        32,
        30,
        40,
        32,
        40,
        30,
    ]


def test_category_words_follow_the_classifiers_order_and_no_word_names_two_categories():
    words = find_world("miniature").category_words()
    assert tuple(words) == CATEGORIES
    said = [word for group in words.values() for word in group]
    assert len(said) == len(set(said))
    assert find_world("nsd").category_words() == {}


def test_alphas_are_brain_diffusers_and_scale_with_the_kernels_trace():
    published = find_world("nsd").alphas
    assert published["vdvae"] == 5e4 and published["clip_text"] == 1e5
    assert published["clip_image"] == 6e4
    assert PUBLISHED_SIZE == 8859 * 15724
    small = find_world("miniature").alphas
    ratios = {small[name] / published[name] for name in published}
    assert np.allclose(list(ratios), 3600 * 4000 / (8859 * 15724))


def test_the_worlds_regions_are_those_that_can_be_stimulated():
    assert set(find_world("miniature").rois) == set(synthetic.ROIS)
    assert set(find_world("nsd").rois) == set(synthetic.BRAIN_DIFFUSER_ROIS)


def test_first_sessions_are_numbered_from_one():
    assert Study(device="cpu", sessions=3).session_numbers == [1, 2, 3]
    assert Study(device="cpu").session_numbers is None


@pytest.mark.parametrize(
    ("subject", "sessions", "first", "last", "n"),
    [
        (1, "classic", 1, 37, 37),
        (3, "classic", 1, 29, 29),
        (4, "classic", 1, 27, 27),
        (6, "full", 1, 32, 32),
        (1, "5-20", 5, 20, 16),
        (1, "1,3,7-9", 1, 9, 5),
        (1, "4", 4, 4, 1),
        (8, 2, 1, 2, 2),
    ],
)
def test_sessions_are_chosen_by_number_range_or_name(subject, sessions, first, last, n):
    numbers = Study(world="nsd", device="cpu", subject=subject, sessions=sessions).session_numbers
    assert (numbers[0], numbers[-1], len(numbers)) == (first, last, n)


def test_classic_sessions_are_those_of_the_papers_before_the_full_release():
    nsd = find_world("nsd")
    counts = [len(nsd.session_numbers(subject, "classic")) for subject in nsd.subjects]
    assert counts == [37, 37, 29, 27, 37, 29, 37, 27]


@pytest.mark.parametrize("sessions", ["", "all", "3-", "5-2", "1,1", "0", "1-33", "-2"])
def test_impossible_sessions_are_refused_with_what_is_possible(sessions):
    with pytest.raises(ParameterError, match=r"sessions='.*(ranges such as|has 32)"):
        Study(world="nsd", device="cpu", subject=3, sessions=sessions)


def test_data_are_fetched_only_by_who_accepted_the_terms(tmp_path, monkeypatch):
    asked = []
    download = types.ModuleType("download")
    download.fetch = lambda *given, **wishes: asked.append((given, wishes))
    monkeypatch.setitem(sys.modules, "nbutils.nsd.download", download)
    chosen = {"world": "nsd", "device": "cpu", "subject": 2, "sessions": 3, "data": tmp_path}
    (tmp_path / "nsddata").mkdir()
    Study(**chosen).prepare()
    assert asked == []
    Study(**chosen, accept_terms=True).prepare()
    assert asked == [((tmp_path, 2, [1, 2, 3]), {"accept_terms": True})]


def test_another_subject_is_made_if_simulated_and_never_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(write_world, "make", lambda root, **wishes: None)
    assert Study(device="cpu", data=tmp_path).prepare_other(2)
    recorded = Study(world="nsd", device="cpu", data=tmp_path, accept_terms=True)
    assert not recorded.prepare_other(2)
    folder = tmp_path / "nsddata_betas/ppdata/subj02/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    folder.mkdir(parents=True)
    (folder / "betas_session01.nii.gz").touch()
    assert recorded.prepare_other(2)


def test_a_world_without_its_data_says_where_to_get_them(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no NSD data here; `python -m nbutils nsd fetch --subject 1`"
    ):
        Study(world="nsd", device="cpu", data=tmp_path / "none").prepare()
    assert not (tmp_path / "none").exists()


def test_preparing_makes_the_subject_with_the_chosen_noise(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(write_world, "make", lambda root, **wishes: asked.append((root, wishes)))
    study = Study(device="cpu", subject=3, snr=0.5, repeats=1, data=tmp_path)
    assert study.prepare() == tmp_path
    assert asked == [(tmp_path, {"subjects": (3,), "snr": 0.5, "repeats": 1})]


def test_random_draws_depend_on_seed_and_purpose_only():
    first, again = Study(device="cpu").rng("noise"), Study(device="cpu", subject=2).rng("noise")
    other, seeded = Study(device="cpu").rng("scenes"), Study(device="cpu", seed=1).rng("noise")
    draws = [generator.integers(2**62) for generator in (first, again, other, seeded)]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


@pytest.mark.parametrize(
    ("name", "value", "same"),
    [
        ("a.npy", np.arange(6, dtype=np.float32).reshape(2, 3), np.array_equal),
        ("a.png", np.arange(48, dtype=np.uint8).reshape(4, 4, 3), np.array_equal),
        ("a.csv", pd.DataFrame({"x": [1, 2], "y": ["é", "b"]}), pd.DataFrame.equals),
        ("a.json", {"words": ["naïve"], "n": 3}, lambda a, b: a == b),
    ],
)
def test_artifact_comes_back_as_saved(study, name, value, same):
    path = study.save("things", name, value)
    assert path == study.results / "miniature" / "subj01" / "things" / name
    assert same(study.load("things", name), value)


def test_same_artifact_has_the_same_bytes(study):
    value = {"b": [1.5, 2], "a": np.float32(3)}
    hashes = {hash_file(study.save("things", "a.json", value)) for _ in range(2)}
    assert len(hashes) == 1


def test_sidecar_says_what_made_the_file(study):
    study.save("first", "x.npy", np.zeros(3))
    study.load("first", "x.npy")
    path = study.save("second", "y.npy", np.ones((2, 3)), nsd_id=[7, 5], why="a note")
    record = json.loads(sidecar_path(path).read_text())
    assert record["inputs"] == {"first/x.npy": hash_file(study.path("first", "x.npy"))}
    assert record["parameters"]["steps"] == 50 and record["seed"] == 0
    assert record["versions"]["numpy"] == np.__version__
    assert record["seconds"] >= 0 and 0.01 < record["peak_memory_gb"] < 100
    assert record["why"] == "a note"
    assert study.ids("second", "y.npy").tolist() == [7, 5]


def test_nsd_ids_must_match_the_rows(study):
    with pytest.raises(ValueError, match="2 rows but 3 nsd_ids"):
        study.save("things", "a.npy", np.zeros((2, 3)), nsd_id=[1, 2, 3])
    assert not study.path("things").exists()


def test_missing_input_names_the_notebook_that_makes_it(study):
    with pytest.raises(
        ArtifactError,
        match=r"03_fit_ridge makes it \(`python -m nbutils run 03 --out \S+",
    ):
        study.require("predictions", "clip_image.npy")


def test_missing_input_of_another_subject_gives_the_whole_command(tmp_path):
    study = Study(device="cpu", subject=2, results=tmp_path)
    with pytest.raises(ArtifactError, match=r"run 03 --world miniature --subject 2"):
        study.load("predictions", "clip_image.npy")


def test_half_written_artifact_is_refused(study):
    path = study.save("things", "a.npy", np.arange(1000))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="half-written"):
        study.load("things", "a.npy")


def test_changed_artifact_is_refused(study):
    path = study.save("things", "a.npy", np.arange(1000))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="changed since it was made"):
        study.load("things", "a.npy")


def test_foreign_artifact_is_refused(study):
    path = study.path("things", "a.npy")
    path.parent.mkdir(parents=True)
    np.save(path, np.zeros(3))
    with pytest.raises(ArtifactError, match="not made here"):
        study.load("things", "a.npy")
    sidecar_path(path).write_text("{")
    with pytest.raises(ArtifactError, match="not a sidecar"):
        study.load("things", "a.npy")


def test_artifact_of_another_subject_is_refused(study, tmp_path):
    theirs = Study(device="cpu", subject=2, results=study.results)
    source = theirs.save("things", "a.npy", np.zeros(3))
    target = study.path("things", "a.npy")
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes())
    sidecar_path(target).write_text(sidecar_path(source).read_text())
    with pytest.raises(ArtifactError, match="world miniature, subject 2"):
        study.load("things", "a.npy")


def test_artifact_made_with_other_upstream_parameters_is_refused(study):
    where = {"device": "cpu", "results": study.results}
    Study(**where, alphas="gcv").save("predictions", "clip_image.npy", np.zeros(3))
    with pytest.raises(ArtifactError, match=r"alphas='gcv'.*alphas='published'; run 03_fit_ridge"):
        Study(**where, alphas="published").load("predictions", "clip_image.npy")
    # A notebook that does not set the parameter takes what is there.
    assert len(Study(**where).load("predictions", "clip_image.npy")) == 3


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write(path, {"old": 1})
    with pytest.raises(TypeError, match="holds numbers, text"):
        write(path, {"new": object()})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("a.png", np.zeros((4, 4, 3)), "a picture is uint8"),
        ("a.npy", np.array([{}], dtype=object), "Python objects"),
    ],
)
def test_value_that_does_not_fit_the_format_is_refused(study, name, value, sentence):
    with pytest.raises(TypeError, match=sentence):
        study.save("things", name, value)
    assert not study.path("things", name).exists()


def test_unknown_suffix_is_refused(study):
    with pytest.raises(ValueError, match=r"a.pkl: artifacts end in .npy, .png, .csv, .json"):
        study.save("things", "a.pkl", [1])


def test_large_files_hash_differently_when_cut_or_altered_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("nbutils.artifacts.WHOLE", 2**20)
    path = tmp_path / "large.bin"
    content = bytearray(np.random.default_rng(0).bytes(5 * 2**20))
    hashes = set()
    for altered in (content, content[:-1], content[:-1] + b"\x00" * 2):
        path.write_bytes(altered)
        hashes.add(hash_file(path))
    assert len(hashes) == 3


def test_checking_parameters_does_not_import_torch():
    code = (
        "import sys; from nbutils import Study; Study(device='cpu'); print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_worlds_are_listed_under_their_own_names():
    assert all(name == world.name for name, world in WORLDS.items())
    assert all(len(world.subjects) == len(world.sessions) for world in WORLDS.values())
