"""Label volumes: -1 is outside, 0 is unlabelled, and tables end in tabs."""

import nibabel
import numpy as np
import pytest

from nbutils.nsd.layout import Layout
from nbutils.nsd.rois import ROI_SETS, atlases, label_table, mask, roi
from nbutils.nsd.volumes import fortran_indices, grid, read_volume, to_image, to_volume

SHAPE = (4, 5, 3)
TABLE = "0 Unknown\t    \n1 V1v\t    \n2 V1d\t    \n7 hV4\t \t\n\n"


@pytest.fixture
def brain(tmp_path) -> Layout:
    """One subject of which nibabel wrote every volume."""
    layout = Layout(tmp_path)
    labels = np.random.default_rng(0).choice([-1, 0, 1, 2], SHAPE)
    masked = np.where(labels == -1, -1, (labels >= 1) | (np.indices(SHAPE).sum(0) % 3 == 0))
    left = np.where(np.indices(SHAPE)[0] < 2, labels, -1)
    volumes = {
        layout.volume(1, "brainmask"): np.ones(SHAPE),
        layout.roi(1, "nsdgeneral"): masked,
        layout.roi(1, "prf-visualrois"): labels,
        layout.roi(1, "prf-visualrois", "lh"): left,
    }
    layout.roi(1, "x").parent.mkdir(parents=True)
    for path, values in volumes.items():
        nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), path)
    layout.labels(1, "prf-visualrois").parent.mkdir(parents=True)
    layout.labels(1, "prf-visualrois").write_text(TABLE)
    return layout


def test_mask_excludes_minus_one_outside_cortex(brain):
    volume = nibabel.load(brain.roi(1, "nsdgeneral")).get_fdata()
    assert mask(brain, 1).tolist() == np.flatnonzero(volume.ravel() == 1).tolist()
    assert len(mask(brain, 1)) < np.count_nonzero(volume)


def test_voxels_are_in_c_order_of_nonzero(brain):
    volume = nibabel.load(brain.roi(1, "nsdgeneral")).get_fdata()
    expected = np.ravel_multi_index(np.nonzero(volume == 1), SHAPE)
    np.testing.assert_array_equal(mask(brain, 1), expected)


def test_fortran_indices_find_the_same_voxels_in_bytes_with_x_fastest():
    values = np.random.default_rng(1).random(SHAPE)
    voxels = np.random.default_rng(2).permutation(values.size)[:20]
    np.testing.assert_array_equal(
        values.ravel(order="F")[fortran_indices(voxels, SHAPE)], values.ravel()[voxels]
    )


def test_label_table_survives_trailing_tabs(brain):
    assert label_table(brain, 1, "prf-visualrois") == {"V1v": 1, "V1d": 2, "hV4": 7}


def test_roi_is_given_over_the_voxels_of_the_mask(brain):
    labels = nibabel.load(brain.roi(1, "prf-visualrois")).get_fdata().ravel()[mask(brain, 1)]
    np.testing.assert_array_equal(roi(brain, 1, "prf-visualrois", "V1d"), labels == 2)
    np.testing.assert_array_equal(roi(brain, 1, "prf-visualrois", "V1"), labels > 0)
    np.testing.assert_array_equal(roi(brain, 1, "prf-visualrois"), labels > 0)


def test_hemisphere_files_are_halves(brain):
    left = roi(brain, 1, "prf-visualrois", "V1v", hemisphere="lh")
    assert 0 < left.sum() < roi(brain, 1, "prf-visualrois", "V1v").sum()


def test_a_region_that_a_subject_lacks_is_empty_and_no_error(brain):
    assert not roi(brain, 1, "prf-visualrois", "hV4").any()


def test_unknown_regions_and_atlases_name_the_known_ones(brain):
    with pytest.raises(ValueError, match="no label 'V5' in prf-visualrois: it has V1v, V1d, hV4"):
        roi(brain, 1, "prf-visualrois", "V5")
    with pytest.raises(FileNotFoundError, match="atlas 'floc-cars'.*nsdgeneral, prf-visualrois"):
        roi(brain, 1, "floc-cars")
    with pytest.raises(FileNotFoundError, match="label table of atlas 'nsdgeneral'"):
        label_table(brain, 1, "nsdgeneral")


def test_a_volume_of_another_grid_is_refused(brain):
    other = nibabel.Nifti1Image(np.zeros((3, 5, 4), np.int16), np.eye(4))
    nibabel.save(other, brain.roi(1, "nsdgeneral"))
    with pytest.raises(ValueError, match=r"shape \(3, 5, 4\), not \(4, 5, 3\)"):
        mask(brain, 1)


def test_a_cut_off_volume_is_refused(brain):
    path = brain.roi(1, "nsdgeneral")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="half downloaded"):
        read_volume(path)


def test_a_boolean_mask_is_not_a_list_of_voxels(brain):
    with pytest.raises(TypeError, match="flat C-order indices"):
        roi(brain, 1, "prf-visualrois", voxels=np.ones(60, bool))
    with pytest.raises(ValueError, match="another subject"):
        roi(brain, 1, "prf-visualrois", voxels=np.array([60]))


def test_values_go_back_to_their_voxels(brain):
    voxels = mask(brain, 1)
    image = to_image(brain, 1, np.arange(len(voxels)), voxels)
    assert image.shape == SHAPE
    np.testing.assert_array_equal(image.get_fdata().ravel()[voxels], np.arange(len(voxels)))
    assert np.isnan(image.get_fdata()).sum() == 60 - len(voxels)
    with pytest.raises(ValueError, match="one number per voxel"):
        to_volume(np.zeros(3), voxels, SHAPE)


def test_common_regions_exist_in_the_small_world(small):
    for atlas, names in ROI_SETS.values():
        assert roi(small, 1, atlas, *names).any()
    assert "floc-food" in atlases(small, 1)
    assert grid(small, 1)[0] == nibabel.load(small.volume(1, "mean")).shape


def test_numbering_of_the_small_world_is_the_manuals(small):
    visual = label_table(small, 1, "prf-visualrois")
    assert visual == {"V1v": 1, "V1d": 2, "V2v": 3, "V2d": 4, "V3v": 5, "V3d": 6, "hV4": 7}
    assert label_table(small, 1, "floc-places") == {"OPA": 1, "PPA": 2, "RSC": 3}
    assert list(label_table(small, 1, "streams"))[:3] == ["early", "midventral", "midlateral"]
    raw = read_volume(small.roi(1, "prf-visualrois"))
    assert raw.min() == -1 and (raw == 0).any()
