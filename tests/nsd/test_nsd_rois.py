"""Label volumes: -1 is outside, 0 is unlabelled, and tables end in tabs."""

import nibabel
import numpy as np
import pytest

from nbutils.nsd.layout import Layout
from nbutils.nsd.rois import ROI_SETS, atlases, eccentricity, label_table, mask, roi, union
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
    with pytest.raises(
        ValueError, match="no label 'V5' in prf-visualrois: choose from V1v, V1d, hV4"
    ):
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


def add(layout: Layout, path, values: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


@pytest.fixture
def atlas(brain) -> Layout:
    """An atlas as HCP_MMP1: 180 labels, the same numbers in both hemispheres."""
    labels = np.random.default_rng(3).integers(0, 181, SHAPE).astype(np.int16)
    labels[0, 0, 0], labels[3, 0, 0] = 18, 18
    left = np.indices(SHAPE)[0] < 2
    add(brain, brain.roi(1, "HCP_MMP1"), labels)
    # What the other half holds in such files is not known: here 0 in one and -1 in the other.
    add(brain, brain.roi(1, "HCP_MMP1", "lh"), np.where(left, labels, 0).astype(np.int16))
    add(brain, brain.roi(1, "HCP_MMP1", "rh"), np.where(left, -1, labels).astype(np.int16))
    names = "".join(f"{k} area{k}\t \n" for k in range(1, 181) if k != 18)
    brain.labels(1, "HCP_MMP1").write_text("0 Unknown\n18 FFC\t\n" + names)
    return brain


def test_hemispheres_share_numbers_and_are_told_apart_by_their_files(atlas):
    everything = np.arange(60)
    volume = nibabel.load(atlas.roi(1, "HCP_MMP1")).get_fdata().ravel()
    both = roi(atlas, 1, "HCP_MMP1", "FFC", voxels=everything)
    sides = [
        roi(atlas, 1, "HCP_MMP1", "FFC", voxels=everything, hemisphere=one) for one in ("lh", "rh")
    ]
    np.testing.assert_array_equal(both, volume == 18)
    assert sides[0].any() and sides[1].any() and not (sides[0] & sides[1]).any()
    np.testing.assert_array_equal(sides[0] | sides[1], both)
    np.testing.assert_array_equal(
        roi(atlas, 1, "HCP_MMP1", voxels=everything, hemisphere="lh"),
        (volume > 0) & (np.indices(SHAPE)[0].ravel() < 2),
    )


def test_a_long_table_answers_with_what_is_spelt_alike(atlas):
    with pytest.raises(
        ValueError, match="no label 'FFG' in HCP_MMP1: choose from 180.*FFC"
    ) as told:
        roi(atlas, 1, "HCP_MMP1", "FFG")
    assert len(str(told.value)) < 200


def test_unions_of_names_and_of_atlases_count_overlaps_once(atlas):
    everything = np.arange(60)
    visual = nibabel.load(atlas.roi(1, "prf-visualrois")).get_fdata().ravel()
    parcels = nibabel.load(atlas.roi(1, "HCP_MMP1")).get_fdata().ravel()
    two = roi(atlas, 1, "prf-visualrois", "V1v", "V1d", voxels=everything)
    np.testing.assert_array_equal(two, np.isin(visual, [1, 2]))
    got = union(atlas, 1, "V1", ("HCP_MMP1", ("FFC", "area7")), voxels=everything)
    np.testing.assert_array_equal(got, np.isin(visual, [1, 2]) | np.isin(parcels, [18, 7]))
    whole = union(atlas, 1, ("HCP_MMP1", ()), "V1", voxels=everything)
    np.testing.assert_array_equal(whole, (parcels > 0) | (visual > 0))
    left = union(atlas, 1, "V1", ("HCP_MMP1", "FFC"), voxels=everything, hemisphere="lh")
    assert not left[np.indices(SHAPE)[0].ravel() >= 2].any() and left.any()


def test_a_union_of_nothing_or_of_unknown_regions_is_refused(atlas):
    with pytest.raises(ValueError, match="no region was named: choose from V1, V2"):
        union(atlas, 1)
    with pytest.raises(ValueError, match="region='cars': choose from V1, V2"):
        union(atlas, 1, "V1", "cars")


def test_eccentricity_is_a_half_open_ring_in_degrees_without_nan(brain):
    degrees = np.random.default_rng(4).choice([0, 0.5, 2, 4, 1000, np.nan], SHAPE)
    add(brain, brain.volume(1, "prf_eccentricity"), degrees.astype(np.float32))
    inside = degrees.ravel()[mask(brain, 1)]
    np.testing.assert_array_equal(eccentricity(brain, 1, 0.5, 4), (inside == 0.5) | (inside == 2))
    everything = eccentricity(brain, 1, 0, np.inf, voxels=np.arange(60))
    np.testing.assert_array_equal(everything, ~np.isnan(degrees.ravel()))


@pytest.mark.parametrize(("low", "high"), [(2, 2), (3, 1), (-1, 2), (np.nan, 2)])
def test_an_empty_ring_is_refused(brain, low, high):
    with pytest.raises(ValueError, match="0 <= low < high"):
        eccentricity(brain, 1, low, high)


def test_a_missing_receptive_field_map_is_named(brain):
    with pytest.raises(FileNotFoundError, match="prf_eccentricity.nii.gz"):
        eccentricity(brain, 1, 0, 1)


def test_bands_of_the_atlas_are_rings_of_the_map(small):
    names, edges = ("ecc0pt5", "ecc1", "ecc2", "ecc4", "ecc4+"), (0, 0.5, 1, 2, 4, np.inf)
    visual = roi(small, 1, "prf-visualrois")
    for name, low, high in zip(names, edges, edges[1:], strict=False):
        band = roi(small, 1, "prf-eccrois", name)
        np.testing.assert_array_equal(band, visual & eccentricity(small, 1, low, high))
    assert roi(small, 1, "prf-eccrois", "ecc4").any()


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
