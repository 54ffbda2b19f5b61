"""All notebooks run end to end, by the runner that readers use, on the shipped networks."""

import nbformat
import pytest

from nbutils import manifest
from nbutils.artifacts import read_sidecar
from nbutils.run import find_hidden_errors, plan, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run everything once with few images; the miniature brains are made on first use, and kept."""
    results = str(tmp_path_factory.mktemp("tutorial"))
    jobs = plan(parameters={"results": results, "device": "cpu", **manifest.quick()})
    lines = []
    return jobs, run(jobs, say=lines.append), lines


def test_every_notebook_runs_and_leaves_what_it_promises(finished):
    jobs, outcomes, _ = finished
    assert [outcome.job.notebook for outcome in outcomes] == list(manifest.notebooks())
    assert not any(outcome.skipped for outcome in outcomes)
    for job in jobs:
        assert find_hidden_errors(nbformat.read(job.executed, as_version=4)) == []
        for artifact in job.notebook.outputs:
            record = read_sidecar(job.study.path(*artifact.split("/")))
            assert record["artifact"] == artifact


def test_notebooks_read_what_they_say(finished):
    jobs, _, _ = finished
    for job in jobs:
        read = set()
        for artifact in job.notebook.outputs:
            read |= set(read_sidecar(job.study.path(*artifact.split("/")))["inputs"])
        assert read - set(job.notebook.outputs) == set(job.notebook.inputs), job.notebook.name


def test_figures_reach_the_cells_and_not_only_widgets(finished):
    jobs, _, _ = finished
    for job in jobs:
        cells = nbformat.read(job.executed, as_version=4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in outputs)


def test_run_ends_by_saying_where_the_results_lie(finished):
    jobs, _, lines = finished
    folder = jobs[0].study.path("")
    for what, artifact in manifest.highlights().items():
        assert f"{what}: {folder / artifact}" in lines
        assert (folder / artifact).is_file()


def test_second_run_does_nothing(finished):
    jobs, _, _ = finished
    assert all(outcome.skipped for outcome in run(jobs, say=[].append))
