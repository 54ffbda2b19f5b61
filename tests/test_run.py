"""The runner checks before it starts, fails on hidden errors, and continues where it stopped."""

import json
from dataclasses import replace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nbutils.__main__ import main, read_setting
from nbutils.manifest import Notebook
from nbutils.parameters import ParameterError
from nbutils.run import RunError, execute, is_done, plan, report, run

PARAMETERS = """\
world: str = "miniature"  # simulated brains, or nsd
subject: int = 1  # 1-based
device: str = "cpu"
results: str | None = None  # folder
seed: int = 0
steps: int | None = 5  # denoising steps
"""
SETUP = """\
from nbutils import Study
study = Study(world=world, subject=subject, device=device, results=results, seed=seed, steps=steps)
"""
SAVE = 'study.save("toys", "toy.json", {"seed": seed, "steps": steps})'
HIDDEN = """\
from ipywidgets import Output
box = Output()
with box:
    raise KeyError("behind the curtain")
box
"""


@pytest.fixture
def toy(tmp_path):
    """Return a function that writes a notebook of the given cells and its manifest entry."""

    def build(*cells, outputs=("toys/toy.json",), inputs=()):
        first = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        document = new_notebook(
            cells=[new_markdown_cell("# A toy"), first, *map(new_code_cell, (SETUP, *cells))],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(document, tmp_path / "90_run_toy.ipynb")
        entry = Notebook("90_run_toy", "Does it run?", inputs, outputs, 1.0, 1.0, place=tmp_path)
        return entry

    return build


def jobs(entry, tmp_path, **parameters):
    return plan([entry], parameters={"results": str(tmp_path / "results"), **parameters})


def test_notebook_runs_resumes_and_runs_again_when_something_changed(toy, tmp_path):
    entry = toy(SAVE)
    [job] = jobs(entry, tmp_path, seed=3)
    assert not is_done(job)
    assert not execute(job, progress=False).skipped
    made = json.loads(job.study.path("toys", "toy.json").read_text())
    assert made == {"seed": 3, "steps": 5}
    injected = nbformat.read(job.executed, as_version=4).metadata.papermill.parameters
    assert injected["seed"] == 3
    assert execute(job, progress=False).skipped
    assert {path.name for path in job.executed.parent.iterdir()} == {
        "90_run_toy.ipynb",
        "90_run_toy.run.json",
    }

    [other] = jobs(entry, tmp_path, seed=4)
    assert not is_done(other), "another seed is another run"
    toy(SAVE + "  # a comment")
    assert not is_done(job), "the notebook's code changed"
    toy(SAVE)
    assert is_done(job)
    job.study.path("toys", "toy.json").write_text("{}")
    assert not is_done(job), "an output was tampered with"


def test_changed_input_makes_the_run_stale(toy, tmp_path):
    entry = toy(SAVE, inputs=("toys/input.json",))
    [job] = jobs(entry, tmp_path)
    job.study.save("toys", "input.json", [1])
    execute(job, progress=False)
    assert is_done(job)
    job.study.save("toys", "input.json", [2])
    assert not is_done(job)


def test_error_hidden_in_a_widget_fails_the_run(toy, tmp_path):
    [job] = jobs(toy(SAVE, HIDDEN), tmp_path)
    with pytest.raises(RunError, match="hides in a widget: KeyError: 'behind the curtain'"):
        execute(job, progress=False)
    assert job.failed.is_file() and not job.executed.exists()
    assert not is_done(job)


def test_failing_cell_is_reported_and_its_notebook_kept(toy, tmp_path):
    [job] = jobs(toy("raise ValueError('too bad')"), tmp_path)
    with pytest.raises(RunError, match=r"cell 4 stopped with ValueError: too bad \(see .*failed"):
        execute(job, progress=False)
    assert "too bad" in job.failed.read_text()
    assert not job.executed.exists()


def test_promised_output_that_is_not_made_fails_the_run(toy, tmp_path):
    [job] = jobs(toy("1 + 1"), tmp_path)
    with pytest.raises(RunError, match="without making toys/toy.json"):
        execute(job, progress=False)


def test_report_says_where_things_lie(toy, tmp_path):
    [job] = jobs(toy(SAVE), tmp_path)
    study = job.study
    study.save("scores", "scores.json", [])
    table = study.path("scores", "scores.csv")
    table.write_text("metric,value\n")
    lines = []
    run([job], say=lines.append)
    assert any("90_run_toy, subject 1:" in line for line in lines)
    assert any(line == f"executed notebooks: {job.executed.parent}" for line in lines)
    assert any(line == f"score table: {table}" for line in lines)
    assert lines[-2:] == report([job])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"stepz": 3}, "stepz: not a parameter of 90; known: device, results"),
        ({"steps": "many"}, r"steps='many': 90_run_toy takes int \| None"),
        ({"steps": 2.5}, r"steps=2.5: 90_run_toy takes int"),
        ({"seed": None}, "seed=None: 90_run_toy takes int"),
        ({"steps": 0}, "steps=0: must be at least 1"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
    ],
)
def test_wrong_parameter_is_refused_before_anything_starts(toy, tmp_path, given, sentence):
    with pytest.raises(ParameterError, match=sentence):
        jobs(toy(SAVE), tmp_path, **given)
    assert not (tmp_path / "results").exists()


def test_a_file_for_all_notebooks_serves_one_and_still_finds_misspelt_names(toy, tmp_path):
    given = {"results": str(tmp_path), "steps": 3, "n_seeds": 1}  # n_seeds is 07's and 08's
    with pytest.raises(ParameterError, match="n_seeds: not a parameter of 90"):
        plan([toy(SAVE)], parameters=given)
    [job] = plan([toy(SAVE)], parameters=given, shared=["steps", "n_seeds"])
    assert job.parameters["steps"] == 3 and "n_seeds" not in job.parameters
    with pytest.raises(ParameterError, match="stepz: not a parameter of 90"):
        plan([toy(SAVE)], parameters={"stepz": 3}, shared=["stepz"])


def test_a_parameters_file_of_the_command_line_may_serve_all_notebooks(tmp_path, capsys):
    file = tmp_path / "all.yml"
    file.write_text("n_seeds: 1\niterations: many\n", encoding="utf-8")
    assert main(["run", "09", "--parameters", str(file), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "iterations='many': 09_control_structure takes int" in said and "n_seeds" not in said


def test_wrong_subject_and_world_are_refused_before_anything_starts(toy):
    with pytest.raises(ParameterError, match="subject=5: the miniature world has subjects 1 to 4"):
        plan([toy(SAVE)], subjects=[1, 5])
    with pytest.raises(ParameterError, match="world='mars'"):
        plan([toy(SAVE)], world="mars")


def test_every_subject_gets_every_notebook(toy):
    entry = toy(SAVE)
    planned = plan([entry, replace(entry)], subjects=[1, 2])
    assert [job.study.subject for job in planned] == [1, 1, 2, 2]


def test_untyped_line_in_a_parameters_cell_is_refused(toy, tmp_path):
    entry = toy(SAVE)
    document = nbformat.read(entry.path, as_version=4)
    document.cells[1].source = "subject = 1"
    nbformat.write(document, entry.path)
    with pytest.raises(ValueError, match="`subject = 1` in the parameters cell"):
        plan([entry])


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("steps=20", ("steps", 20)),
        ("strength=1e-1", ("strength", 0.1)),
        ("interactive=false", ("interactive", False)),
        ("rois=[V1, hV4]", ("rois", ["V1", "hV4"])),
        ("n-images=null", ("n_images", None)),
        ("results=a=b", ("results", "a=b")),
    ],
)
def test_settings_of_the_command_line_are_yaml(text, pair):
    assert read_setting(text) == pair


def test_command_line_ends_in_one_sentence_and_a_status(capsys):
    assert main(["run", "99"]) == 1
    assert capsys.readouterr().err.startswith("nbutils: notebook '99': there are 00, 01")
    with pytest.raises(SystemExit):
        main(["run", "--set", "steps"])
    assert "write key=value" in capsys.readouterr().err
    assert main(["info"]) == 0
    assert "03_fit_ridge" in capsys.readouterr().out


def test_convert_refuses_unknown_and_absent_sources(tmp_path, capsys):
    out = tmp_path / "networks"
    assert main(["weights", "convert", f"unet={tmp_path}/x.pth", "--out", str(out)]) == 1
    assert "unet" in capsys.readouterr().err
    assert main(["weights", "convert", f"vdvae={tmp_path}/x.th", "--out", str(out)]) == 1
    assert "x.th" in capsys.readouterr().err
    assert not out.exists()
