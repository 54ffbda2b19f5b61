"""Rows of any computation: which images they can belong to."""

import numpy as np
import pytest

from nbutils.decoding.rows import write_rows


@pytest.mark.parametrize(("ids", "words"), [([3, 8, 3], "twice"), ([], "empty")])
def test_images_that_rows_cannot_belong_to_are_refused_before_any_work(tmp_path, ids, words):
    calls = []
    with pytest.raises(ValueError, match=words):
        write_rows(tmp_path / "made" / "a.npy", "a", ids, calls.append, {}, progress=False)
    assert calls == [] and not list(tmp_path.iterdir())


def test_a_row_is_what_the_computation_gave_for_its_image(tmp_path):
    ids = np.array([5, 2, 9])
    made = write_rows(
        tmp_path / "a.npy", "a", ids, lambda rows: ids[rows, None] / 2, {}, batch_size=2,
        progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(made.take([9, 5]), [[4.5], [2.5]])
