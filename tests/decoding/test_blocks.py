"""Column blocks: the same values as indexing, whatever the order, and files that are whole."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.decoding.blocks import column_blocks, release, take_columns, write_npy
from nbutils.decoding.ridge import RidgeOperator


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 700), st.integers(1, 9), st.integers(1, 12), st.randoms(use_true_random=False)
)
def test_blocks_hold_the_values_that_indexing_gives(n_rows, n_columns, block, random):
    array = np.arange(n_rows * n_columns, dtype=np.float64).reshape(n_rows, n_columns)
    rows = np.array([random.randrange(n_rows) for _ in range(random.randrange(1, 900))])
    found = np.hstack([values.copy() for _, values in column_blocks(array, rows, block=block)])
    np.testing.assert_array_equal(found, array[rows].astype(np.float32))


def test_blocks_of_a_half_precision_map_equal_the_array(tmp_path):
    array = np.random.default_rng(0).normal(size=(1300, 5, 7)).astype(np.float16)
    np.save(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    rows = np.random.default_rng(1).permutation(1300)[:1100]
    for columns, values in column_blocks(mapped, rows, block=8):
        expected = array.reshape(1300, -1)[rows, columns].astype(np.float32)
        np.testing.assert_array_equal(values, expected)
    picked = np.array([3, 17, 34])
    np.testing.assert_array_equal(
        take_columns(mapped, rows, picked), array.reshape(1300, -1)[rows][:, picked]
    )


def test_changing_a_block_leaves_the_array_alone():
    array = np.ones((10, 6), np.float32)
    for _, values in column_blocks(array, block=2):
        values -= 1
    assert (array == 1).all()


def test_private_map_keeps_its_changes_when_pages_are_released(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2000, 8), np.float32))
    private = np.load(tmp_path / "a.npy", mmap_mode="c")
    private[:] = 5
    release(private, 0, 2000)
    assert (np.asarray(private) == 5).all()


def test_released_writable_map_reaches_the_file(tmp_path):
    with write_npy(tmp_path / "a.npy", (2000, 8)) as array:
        array[:] = 5
        release(array, 0, 2000)
    assert (np.load(tmp_path / "a.npy") == 5).all()


def test_interrupted_predictions_leave_no_file_and_keep_the_earlier_one(tmp_path):
    class Cut(Exception):
        pass

    rng = np.random.default_rng(0)
    train, targets = rng.normal(size=(20, 30)), rng.normal(size=(20, 9))
    operator, out = RidgeOperator(train), tmp_path / "p.npy"
    operator.predict(train[:3], targets, 5.0, out=out)
    before = out.read_bytes()
    multiply, calls = operator._solver.multiply, []

    def fail(*args):
        calls.append(args)
        if len(calls) == 3:
            raise Cut
        return multiply(*args)

    operator._solver.multiply = fail
    with pytest.raises(Cut):
        operator.predict(train[:3], targets + 1, 5.0, out=out, block=2)
    assert [path.name for path in tmp_path.iterdir()] == ["p.npy"]
    assert out.read_bytes() == before


_PREDICT = """
import sys, resource, numpy as np
from nbutils.decoding.ridge import RidgeOperator
assert "torch" not in sys.modules
rng = np.random.default_rng(0)
x = rng.normal(size=(600, 700)).astype(np.float32)
operator = RidgeOperator(x)
operator.predict(x[:50], np.zeros((600, 8192), np.float16), 1e3, block=1024)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
targets = np.load(sys.argv[1], mmap_mode="r")
operator.predict(x[:50], targets, 1e3, block=1024, out=sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_streaming_a_file_takes_a_small_part_of_its_size_in_memory(tmp_path):
    shape = (600, 120_000)
    mapped = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float16, shape)
    mapped[:] = 1
    mapped.flush()
    command = [sys.executable, "-c", _PREDICT, tmp_path / "y.npy", tmp_path / "out.npy"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in
    grown = int(done.stdout) * unit
    assert grown < 0.35 * (tmp_path / "y.npy").stat().st_size
