"""What several test modules share."""

import os

import matplotlib
import pytest

from nbutils.study import Study

matplotlib.use("Agg")
# The machines that run tests have few cores, and spinning thread pools slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def study(tmp_path):
    """A study of the miniature world whose results go to a folder of the test's own."""
    return Study(device="cpu", results=tmp_path / "results", data=tmp_path / "data")
