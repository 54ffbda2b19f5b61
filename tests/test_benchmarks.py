"""The benchmarks run at tiny sizes and their variants agree; nothing here looks at a clock."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent / "benchmarks"
MODULES = [path.stem for path in FOLDER.glob("*.py") if path.stem != "__main__"]


@pytest.fixture
def stage(monkeypatch):
    """Import a module of the benchmarks, which are scripts, and forget all of them afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def run_all(module, folder):
    """Results of all variants on the tiny inputs."""
    module.prepare(folder, "tiny")
    return {name: load(folder)() for name, load in module.VARIANTS.items()}


def test_ridge_variants_predict_the_same(stage, tmp_path):
    results = run_all(stage("ridge"), tmp_path)
    assert results.pop("gemm") is None
    for found in results.values():
        np.testing.assert_allclose(found, results["sklearn_token"], atol=1e-4)


def test_exact_leave_one_out_of_ours_chooses_as_scikit_learn(stage, tmp_path):
    results = run_all(stage("alphas"), tmp_path)
    assert results["gcv"].shape == results["himalaya"].shape == results["sklearn"].shape
    np.testing.assert_allclose(results["loo"], results["sklearn"], rtol=1e-3)


def test_every_way_of_loading_reads_the_same_betas(stage, tmp_path):
    results = run_all(stage("loading"), tmp_path)
    assert results.pop("inflate") is None  # it keeps nothing
    assert results["get_fdata"].shape == (5, 20) and results["get_fdata"].any()
    for found in results.values():
        np.testing.assert_array_equal(found, results["get_fdata"])


def test_identification_and_similarity_equal_the_libraries(stage, tmp_path):
    results = run_all(stage("identification"), tmp_path)
    np.testing.assert_allclose(results["ours"], results["corrcoef"], rtol=0, atol=1e-9)
    results = run_all(stage("similarity"), tmp_path)
    for reading in ("2d", "columns"):
        np.testing.assert_allclose(
            results[f"ours_{reading}"], results[f"skimage_{reading}"], rtol=0, atol=1e-6
        )


def test_sampling_runs(stage, tmp_path):
    assert set(run_all(stage("sampler"), tmp_path)) == {"loop", "calls"}


def test_full_size_ridge_predicts_from_memory_maps_and_goes_on_where_it_was(stage, tmp_path):
    full = stage("full")
    size = full.SIZES["tiny"]
    full.make_ridge(tmp_path, size)
    written = (tmp_path / "C_I.npy").stat().st_mtime_ns
    full.make_ridge(tmp_path, size)
    assert (tmp_path / "C_I.npy").stat().st_mtime_ns == written
    found, reference = (full.VARIANTS[name](tmp_path)() for name in ("operator", "sklearn"))
    np.testing.assert_allclose(found, reference, atol=1e-4)
    assert len(list(tmp_path.glob("predicted_*.npy"))) == len(full.FEATURES)


def test_full_size_refuses_what_the_disk_cannot_hold(stage, tmp_path):
    full = stage("full")
    with pytest.raises(OSError, match="GB are free|are free; choose another"):
        full.make_ridge(tmp_path, full.SIZES["usual"] | {"n": 10**9})
    assert not list(tmp_path.glob("*.npy"))


def test_workers_measure_time_and_memory(stage, tmp_path):
    identification, timing = stage("identification"), stage("timing")
    identification.prepare(tmp_path, "tiny")
    timings = timing.interleave("identification", tmp_path, {"ours": 2})
    assert len(timings["ours"].cpu) == 2 and timings["ours"].peak[0] > 10
    assert timings["ours"].value().shape == (20,)
    with pytest.raises(RuntimeError, match="identification nothing ended"):
        timing.interleave("identification", tmp_path, {"nothing": 1})


def test_command_prints_a_table_and_refuses_unknown_stages():
    command = [sys.executable, str(FOLDER / "__main__.py"), "--size", "tiny", "--only"]
    done = subprocess.run([*command, "identification"], capture_output=True, text=True, check=True)
    assert "| **ours**, `identify` |" in done.stdout and "load average" in done.stdout
    done = subprocess.run([*command, "speed"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--only speed: choose from ridge" in done.stderr


def test_sizes_are_plain_numbers(stage):
    for name in ("ridge", "alphas", "loading", "identification", "similarity", "sampler", "full"):
        assert set(json.loads(json.dumps(stage(name).SIZES))) == {"usual", "tiny"}
