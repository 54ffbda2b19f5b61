"""Synthetic responses: which voxels, which combinations, which scale."""

import nibabel
import numpy as np
import pytest

from nbutils import synthetic
from nbutils.decoding.rescale import describe
from nbutils.decoding.ridge import RidgeOperator
from nbutils.nsd.layout import Layout

TABLES = {
    "prf-visualrois": ["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"],
    "prf-eccrois": ["ecc0pt5", "ecc1", "ecc2", "ecc4", "ecc4+"],
    "floc-faces": ["OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"],
    "floc-words": ["OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"],
    "floc-places": ["OPA", "PPA", "RSC"],
    "floc-bodies": ["EBA", "FBA-1", "FBA-2", "mTL-bodies"],
}
SHAPE = (6, 5, 4)


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    """A subject in NSD's layout with random labels, -1 outside cortex as in the real files."""
    root = tmp_path_factory.mktemp("nsd")
    layout = Layout(root)
    rng = np.random.default_rng(0)
    volumes = {}

    def write(path, values):
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), path)

    write(layout.volume(1, "brainmask"), np.ones(SHAPE))
    for atlas, labels in TABLES.items():
        volumes[atlas] = rng.integers(-1, len(labels) + 1, SHAPE)
        if atlas == "floc-places":
            volumes[atlas][volumes[atlas] > 0] = 0  # this subject has no place region
        write(layout.roi(1, atlas), volumes[atlas])
        table = layout.labels(1, atlas)
        table.parent.mkdir(parents=True, exist_ok=True)
        lines = ["0 Unknown"] + [f"{i + 1} {label}\t" for i, label in enumerate(labels)]
        table.write_text("\n".join(lines))
    volumes["nsdgeneral"] = rng.integers(-1, 2, SHAPE)
    write(layout.roi(1, "nsdgeneral"), volumes["nsdgeneral"])
    return layout, volumes


def test_pattern_is_one_inside_the_region_and_zero_elsewhere(brain):
    layout, volumes = brain
    mask = volumes["nsdgeneral"].ravel() > 0
    found = synthetic.patterns(layout, 1, ["faces", "V2", "ecc1"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], volumes["floc-faces"].ravel()[mask] > 0)
    np.testing.assert_array_equal(
        found[1], np.isin(volumes["prf-visualrois"].ravel()[mask], [3, 4])
    )
    np.testing.assert_array_equal(found[2], volumes["prf-eccrois"].ravel()[mask] == 2)


def test_voxels_of_another_mask_are_cut_in_the_same_order(brain):
    layout, volumes = brain
    voxels = np.array([3, 50, 17, 99])
    found = synthetic.patterns(layout, 1, ["words"], voxels)
    np.testing.assert_array_equal(found[0], volumes["floc-words"].ravel()[voxels] > 0)


def test_early_areas_come_from_the_retinotopic_atlas_not_from_the_face_atlas(brain):
    layout, volumes = brain
    assert len(synthetic.BRAIN_DIFFUSER_ROIS) == 13
    v4 = synthetic.patterns(layout, 1, ["hV4"])[0]
    mask = volumes["nsdgeneral"].ravel() > 0
    np.testing.assert_array_equal(v4, volumes["prf-visualrois"].ravel()[mask] == 7)
    assert v4.any()  # the published code's V4 is empty


def test_unknown_and_absent_regions_are_refused(brain):
    layout, _ = brain
    with pytest.raises(ValueError, match="roi='V9': choose from V1, V2"):
        synthetic.patterns(layout, 1, ["V9"])
    with pytest.raises(ValueError, match="subject 1 has no such voxel"):
        synthetic.patterns(layout, 1, ["places"])
    with pytest.raises(ValueError, match="no region"):
        synthetic.patterns(layout, 1, [])


def test_union_and_weighted_combination():
    two = np.array([[1, 1, 0, 0], [0, 1, 1, 0]], np.float32)
    np.testing.assert_array_equal(synthetic.combine_union(two), [[1, 1, 1, 0]])
    np.testing.assert_array_equal(synthetic.combine_weighted(two, [1, -0.5]), [[1, 0.5, -0.5, 0]])
    with pytest.raises(ValueError, match="one for each"):
        synthetic.combine_weighted(two, [1])


def make_predictions(n_rois=5):
    rng = np.random.default_rng(2)
    responses = rng.normal(size=(60, 90)).astype(np.float32)
    responses = (responses - responses.mean(0)) / responses.std(0)
    targets = (responses @ rng.normal(size=(90, 24)) + 4).reshape(60, 6, 4).astype(np.float32)
    regions = (rng.random((n_rois, 90)) < 0.2).astype(np.float32)
    operator = RidgeOperator(responses)
    weights, _ = operator.weights(targets.reshape(60, -1), 100.0)
    return operator.predict(regions, targets, 100.0), describe(targets), regions @ weights


def test_features_of_a_region_have_the_training_norm_and_the_direction_of_its_weights():
    predicted, training, directions = make_predictions()
    found = synthetic.scale_to_training_norm(predicted, training, amplitude=0.5)
    away = (found - training.mean).reshape(5, -1)
    np.testing.assert_allclose(np.linalg.norm(away, axis=1), 0.5 * training.norm, rtol=1e-4)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(away / (0.5 * training.norm), unit, atol=1e-4)


def test_a_region_does_not_depend_on_the_list_unless_published():
    predicted, training, _ = make_predictions()
    names = ("clip_image", "clip_text", "autokl", "optimus", "vdvae")
    statistics = dict.fromkeys(names, training)
    together = synthetic.normalise(dict.fromkeys(names, predicted), statistics)
    fewer = synthetic.normalise(dict.fromkeys(names, predicted[1:3]), statistics)
    alone = synthetic.normalise(dict.fromkeys(names, predicted[2:3]), statistics)
    for name in names:
        np.testing.assert_array_equal(together[name][1:3], fewer[name])
        np.testing.assert_array_equal(together[name][2:3], alone[name])
    published = [
        synthetic.normalise({"vdvae": predicted[rows]}, statistics, "published")["vdvae"][:1]
        for rows in (slice(0, 5), slice(0, 3))
    ]
    assert not np.allclose(*published)


def test_published_scaling_is_the_published_formula():
    predicted, training, directions = make_predictions()
    bias, std = training.mean.ravel(), training.std.ravel()
    for name, norm in [("clip_text", 9), ("clip_image", 15)]:
        p = directions / (np.linalg.norm(directions, axis=1, keepdims=True) + 1e-8)
        expected = norm * p + bias
        found = synthetic.scale_as_published(name, predicted, training)
        np.testing.assert_allclose(found.reshape(5, -1), expected, rtol=1e-3, atol=1e-3)
    p = directions / (np.linalg.norm(directions, axis=1, keepdims=True) + 1e-8)
    p = 50 * p + bias
    p = (p - p.mean(0)) / p.std(0)
    p = p * std + bias
    expected = 80 * p / np.linalg.norm(p, axis=1, keepdims=True)
    found = synthetic.scale_as_published("vdvae", predicted, training).reshape(5, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


def test_impossible_scalings_are_refused():
    predicted, training, _ = make_predictions()
    with pytest.raises(ValueError, match="cannot scale a single one"):
        synthetic.scale_as_published("vdvae", predicted[:1], training)
    with pytest.raises(ValueError, match="not for autokl"):
        synthetic.scale_as_published("autokl", predicted, training)
    with pytest.raises(ValueError, match="choose training_norm or published"):
        synthetic.normalise({}, {}, "unit")


def test_every_region_meets_every_noise_once():
    features = {"autokl": np.arange(6.0).reshape(3, 2)}
    repeated, noises = synthetic.repeat_for_noises(features, 2)
    assert noises.tolist() == [0, 1, 0, 1, 0, 1]
    np.testing.assert_array_equal(repeated["autokl"].reshape(3, 2, 2)[:, 1], features["autokl"])


def test_push_is_in_units_of_a_typical_training_image():
    values = np.random.default_rng(0).normal(3, 2, (50, 4, 5)).astype(np.float32)
    training = {"autokl": describe(values)}
    predicted = {"autokl": np.stack([training["autokl"].mean, *values])}
    push = synthetic.measure_push(predicted, training)["autokl"]
    assert push[0] == 0
    assert np.median(push[1:]) == pytest.approx(1, rel=1e-5)
    half = synthetic.normalise(predicted, training, amplitude=0.5)
    push = synthetic.measure_push(half, training)["autokl"]
    np.testing.assert_allclose(push[1:], 0.5, rtol=1e-4)
