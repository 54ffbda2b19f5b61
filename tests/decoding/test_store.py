"""Stored features: rows found by nsd_id, and files that do not fit."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.decoding.store import Features, open_features, sidecar


def write(path, array, nsd_ids):
    np.save(path, array)
    sidecar(path).write_text(json.dumps({"nsd_id": list(nsd_ids)}))
    return path


def test_features_are_mapped_not_read(tmp_path):
    values = np.arange(6, dtype=np.float16).reshape(3, 2)
    features = open_features(write(tmp_path / "autokl.npy", values, [4, 1, 8]))
    assert isinstance(features.array, np.memmap) and not features.array.flags.writeable
    taken = features.take([8, 4])
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, values[[2, 0]])


def test_missing_cut_and_mismatched_files_are_named(tmp_path):
    path = tmp_path / "vdvae.npy"
    with pytest.raises(FileNotFoundError, match="extract the features first"):
        open_features(path)
    write(path, np.zeros((3, 2)), [4, 1])
    with pytest.raises(ValueError, match="do not belong together"):
        open_features(path)
    write(path, np.zeros((3, 2)), [4, 1, 8])
    whole = path.read_bytes()
    for size in (len(whole) - 1, 100, 3, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="vdvae.npy is damaged"):
            open_features(path)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rows_find_any_images_in_any_order(data):
    ids = data.draw(st.lists(st.integers(0, 72_999), min_size=1, max_size=30, unique=True))
    asked = data.draw(st.lists(st.sampled_from(ids), max_size=40))
    features = Features(np.arange(len(ids))[:, None], np.array(ids))
    rows = features.rows(np.array(asked, dtype=int))
    assert [ids[row] for row in rows] == asked


def test_unknown_images_and_repeated_rows_are_refused():
    features = Features(np.zeros((3, 2)), np.array([5, 1, 9]))
    with pytest.raises(ValueError, match="nsd_id 4 is the first"):
        features.rows([1, 4, 12])
    with pytest.raises(ValueError, match="twice"):
        Features(np.zeros((2, 2)), np.array([5, 5]))


def test_reading_features_does_not_import_torch():
    code = "import nbutils.decoding.store, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
