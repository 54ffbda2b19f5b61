"""The workflows are sound, run what anyone can type, and never show measured data."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from nbutils.run import plan

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LINT = runpy.run_path(str(ROOT / "tests" / "actionlint" / "__main__.py"))["lint"]
SOUND = """
name: sound
on: [push]
jobs:
  one:
    runs-on: ubuntu-latest
    steps:
      - run: echo ${{ github.sha }}
"""
BROKEN = {
    "unknown key": ("    runs-on", "    timeout: 3\n    runs-on", ":6:5: unexpected key"),
    "bad expression": ("github.sha }}", "github.sha", "expression"),
    "unknown property": ("github.sha", "github.nothing", ':8:23: property "nothing" is not'),
    "undefined needs": ("    runs-on", "    needs: [two]\n    runs-on", 'needs job "two"'),
    "no steps": ("    steps:\n      - run: echo ${{ github.sha }}\n", "", "steps"),
    "untrusted": ("github.sha", "github.event.issue.title", "potentially untrusted"),
}


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path):
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def lint(*paths):
    done = LINT(paths, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_linter_accepts_our_workflows_and_a_sound_one(tmp_path):
    (tmp_path / "sound.yml").write_text(SOUND)
    assert lint(tmp_path / "sound.yml", *WORKFLOWS) == (0, "")


@pytest.mark.parametrize("fault", BROKEN)
def test_linter_names_the_place_of_a_fault(tmp_path, fault):
    before, after, message = BROKEN[fault]
    assert before in SOUND
    path = tmp_path / "broken.yml"
    path.write_text(SOUND.replace(before, after))
    status, found = lint(path)
    assert status == 1 and message in found
    assert re.match(rf"{re.escape(str(path))}:\d+:\d+: \S", found)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_only_read_and_end_in_time(path):
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    assert all(job["timeout-minutes"] <= 180 for job in workflow["jobs"].values())
    assert "pull_request_target" not in workflow[True]  # YAML 1.1 reads the key `on` as true
    for step in steps(path):
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step.get("uses", f"actions/x@{0:040}"))


def test_our_own_runner_waits_for_a_maintainer():
    workflow = read(ROOT / ".github" / "workflows" / "gpu.yml")
    (job,) = workflow["jobs"].values()
    assert job["runs-on"][0] == "self-hosted" and job["environment"] == "gpu"
    assert set(workflow[True]) == {"schedule", "workflow_dispatch", "pull_request"}
    assert workflow[True]["pull_request"] == {"types": ["labeled"]}
    assert "nvidia-smi" in job["steps"][0]["run"]


def test_pictures_of_measured_data_are_not_uploaded():
    uploads = [
        step
        for step in steps(ROOT / ".github" / "workflows" / "gpu.yml")
        if "upload-artifact" in step.get("uses", "")
    ]
    assert all(step["if"].startswith("always()") for step in uploads)
    for step in uploads:
        if re.search(r"ipynb|png|npy|\*$", step["with"]["path"], re.M):
            assert step["if"] == "always() && steps.has.outputs.measured == 'false'"


def test_workflows_run_commands_that_anyone_can_type():
    runs = [step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step]
    notebooks = [run for run in runs if "nbutils run" in run]
    assert len(notebooks) == 4
    assert all(re.match(r"(\.venv/bin/)?python -m nbutils run ", run) for run in notebooks)


def test_make_has_every_target_that_workflows_call():
    makefile = (ROOT / "Makefile").read_text()
    runs = " ; ".join(step.get("run", "") for path in WORKFLOWS for step in steps(path))
    targets = set(re.findall(r"\bmake ([a-z-]+)", runs))
    assert {"setup", "bench-gpu"} <= targets
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.M)] == []


def test_parameters_of_the_rehearsal_at_full_size_are_those_of_the_notebooks(tmp_path):
    given = yaml.safe_load((ROOT / "notebooks" / "full_size.yml").read_text())
    jobs = plan(world="nsd", parameters={**given, "data": str(tmp_path), "weights": "random"})
    assert len(jobs) == len({job.notebook.name for job in jobs}) >= 8
    assert any("full_size.yml" in path.read_text() for path in WORKFLOWS)
