"""Surfaces in NSD's layout: FreeSurfer meshes and transforms that count voxels from 1."""

import nibabel
import numpy as np
import pytest

from nbutils.nsd import surfaces
from nbutils.nsd.layout import Layout

SHAPE = (5, 6, 7)


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path)
    mask = layout.volume(1, "brainmask")
    mask.parent.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.int16), np.eye(4)), mask)
    return layout


def test_every_vertex_gets_the_mean_over_depths_of_its_nearest_voxels(layout, write_surface):
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    positions = np.full((3, 12, 3), surfaces.NOWHERE, np.float32)
    positions[0, :6] = (1, 1, 1)  # the first voxel, counted from 1
    positions[0, 2] = (2.4, 3, 1)  # nearest is (1, 2, 0), counted from 0
    positions[1, 2] = (3, 3, 2)
    positions[:, 5] = (1, 1, 40)  # beyond the volume
    corners, faces = write_surface(layout, positions)
    sheet = surfaces.read_surface(layout, 1, "lh")
    np.testing.assert_allclose(sheet.coordinates, corners, atol=1e-4)
    np.testing.assert_array_equal(sheet.faces, faces)
    found = surfaces.sample(layout, 1, sheet, values.ravel(), np.arange(values.size))
    expected = np.full(12, np.nan)
    expected[:5] = values[0, 0, 0]
    expected[2] = (values[1, 2, 0] + values[2, 2, 1]) / 2
    np.testing.assert_array_equal(found, expected)


def test_voxels_without_a_value_count_as_none(layout, write_surface):
    write_surface(layout, np.ones((3, 4, 3)))
    sheet = surfaces.read_surface(layout, 1, "lh")
    assert np.isnan(surfaces.sample(layout, 1, sheet, [2.0], np.array([7]))).all()
    assert (surfaces.sample(layout, 1, sheet, [2.0], np.array([0])) == 2).all()


def test_missing_files_are_named_by_their_keys(layout, write_surface):
    assert len(surfaces.missing_files(layout, 1)) == 10
    write_surface(layout, np.ones((3, 4, 3)))
    left = surfaces.missing_files(layout, 1)
    assert "nsddata/freesurfer/subj01/surf/rh.inflated" in left
    assert "nsddata/ppdata/subj01/transforms/rh.func1pt8-to-layerB2.mgz" in left
    assert len(left) == 5
    missing = "surface file nsddata/freesurfer/subj01/surf/rh.inflated is not"
    with pytest.raises(FileNotFoundError, match=f"{missing}.*--surfaces.*--sessions"):
        surfaces.read_surface(layout, 1, "rh")
    with pytest.raises(FileNotFoundError, match="surf/lh.pial is not .*inflated mesh only"):
        surfaces.read_surface(layout, 1, "lh", mesh="pial")


def test_files_of_different_surfaces_are_refused(layout, write_surface):
    write_surface(layout, np.ones((3, 4, 3)))
    path = surfaces.surface_files(layout, 1)["lh"][1]
    nibabel.freesurfer.write_morph_data(path, np.zeros(9, np.float32))
    with pytest.raises(ValueError, match="4 vertices, its curvature 9"):
        surfaces.read_surface(layout, 1, "lh")
