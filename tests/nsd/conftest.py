"""A small world in NSD's layout, made once for all tests of the reader."""

import pytest

from nbutils.miniature.write import make
from nbutils.nsd.layout import Layout

SMALL = {"n_shared": 60, "n_private": 440, "voxel_scale": 0.1, "progress": False, "workers": 1}


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Layout:
    """Subject 1 with 2 sessions of 750 trials and about 400 voxels."""
    return make(tmp_path_factory.mktemp("small") / "world", **SMALL)
