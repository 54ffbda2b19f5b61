"""A small world in NSD's layout, made once for all tests of the reader."""

import nibabel
import numpy as np
import pytest

from nbutils.miniature.write import make
from nbutils.nsd import surfaces
from nbutils.nsd.layout import Layout

SMALL = {"n_shared": 60, "n_private": 440, "voxel_scale": 0.1, "progress": False, "workers": 1}


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Layout:
    """Subject 1 with 2 sessions of 750 trials and about 400 voxels."""
    return make(tmp_path_factory.mktemp("small") / "world", **SMALL)


@pytest.fixture(scope="session")
def write_surface():
    """Write a small mesh with one position per vertex and depth, as NSD's files hold them."""

    def write(layout, positions, side="lh"):
        n = positions.shape[1]
        for path in surfaces.surface_files(layout, 1)[side]:
            path.parent.mkdir(parents=True, exist_ok=True)
        mesh, curvature, *depths = surfaces.surface_files(layout, 1)[side]
        angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
        corners = np.column_stack([np.cos(angles), np.sin(angles), np.arange(n) / n]) * 50
        faces = np.column_stack([np.arange(n), (np.arange(n) + 1) % n, (np.arange(n) + 2) % n])
        nibabel.freesurfer.write_geometry(mesh, corners, faces)
        nibabel.freesurfer.write_morph_data(curvature, np.sin(angles).astype(np.float32))
        for path, one in zip(depths, positions, strict=True):
            volume = one.reshape(n, 1, 1, 3).astype(np.float32)
            nibabel.save(nibabel.MGHImage(volume, np.eye(4)), path)
        return corners, faces

    return write
