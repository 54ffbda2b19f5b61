"""Controls keep the images apart and the regions together."""

import json
import os
import shutil

import nibabel
import numpy as np
import pytest

from nbutils import Study
from nbutils.decoding.features import Features
from nbutils.metrics import controls
from nbutils.miniature.write import make
from nbutils.nsd.betas import Responses, load_responses
from nbutils.nsd.layout import Layout
from nbutils.systems.settings_takagi import TakagiSettings
from nbutils.systems.takagi_decoding import find_voxels

SHAPE = (5, 4, 3)
ATLASES = {
    "prf-visualrois": ["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"],
    "floc-faces": ["OFA", "FFA-1"],
    "floc-bodies": ["EBA"],
    "floc-places": ["PPA"],
    "floc-words": ["VWFA-1"],
}


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """Two subjects with different random regions."""
    layout = Layout(tmp_path_factory.mktemp("nsd"))
    rng = np.random.default_rng(0)
    for subject in (1, 2):
        volumes = {layout.volume(subject, "brainmask"): np.ones(SHAPE)}
        for atlas, labels in ATLASES.items():
            volumes[layout.roi(subject, atlas)] = rng.integers(-1, len(labels) + 1, SHAPE)
            table = layout.labels(subject, atlas)
            table.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{i} {name}" for i, name in enumerate(["Unknown", *labels])]
            table.write_text("\n".join(lines))
        for path, values in volumes.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), path)
    return layout


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    sizes = {"n_shared": 20, "n_private": 180, "voxel_scale": 0.1, "progress": False}
    return make(tmp_path_factory.mktemp("simulated"), (1, 2), **sizes)


def make_responses(subject, voxels, ids, values=None):
    rng = np.random.default_rng(subject)
    test = rng.normal(size=(len(ids), len(voxels))).astype(np.float32) if values is None else values
    empty = np.zeros((0, len(voxels)), np.float32)
    none = np.zeros(0, np.int64)
    return Responses(
        subject=subject, train=empty, test=test, train_id=none, test_id=np.asarray(ids),
        n_repeats_train=none, n_repeats_test=none, voxels=voxels, shape=SHAPE,
        mean=np.full(len(voxels), 2, np.float32), std=np.full(len(voxels), 4, np.float32),
        test_trials=empty, test_trial_id=none,
    )  # fmt: skip


def test_shuffled_responses_belong_to_other_images():
    responses = np.arange(20).reshape(10, 2)
    shuffled, order = controls.shuffle_responses(responses, seed=3)
    np.testing.assert_array_equal(shuffled, responses[order])
    assert (order != np.arange(10)).all()
    assert sorted(order) == list(range(10))


def test_matched_voxels_lie_in_the_same_region_and_spread_over_it():
    own = np.array([1, 1, 1, 1, 2, 0, 3])
    other = np.array([2, 1, 0, 1, 2, 0])
    match = controls.match_voxels(own, other)
    np.testing.assert_array_equal(match[:4], [1, 1, 3, 3])
    np.testing.assert_array_equal(other[match[:6]], own[:6])
    assert 0 <= match[6] < 6  # the other brain lacks region 3


def test_other_subjects_responses_come_from_the_same_image_and_region(brains):
    codes = controls.code_regions(brains, 2, np.arange(60))
    ids = np.array([9, 2, 5])
    # A response that tells which image and which region it belongs to.
    values = (100 * ids[:, None] + codes[None]).astype(np.float32)
    other = make_responses(2, np.arange(60), ids, values)
    own = make_responses(1, np.arange(10, 50), [5, 9])
    found = controls.swap_subject(own, other, brains)
    own_codes = controls.code_regions(brains, 1, own.voxels)
    shared = np.isin(own_codes, codes)
    assert shared.sum() > 20
    np.testing.assert_array_equal(found[:, shared], [[500], [900]] + own_codes[shared])


def test_borrowed_responses_are_those_of_a_subject_who_is_there_and_saw_the_images(simulated):
    own, other = load_responses(simulated, 1), load_responses(simulated, 2)
    found = controls.borrow_responses(simulated, 1, own.voxels, own.test_id, [1, 4, 2])
    np.testing.assert_array_equal(found, controls.swap_subject(own, other, simulated))
    assert controls.borrow_responses(simulated, 1, own.voxels, own.test_id, [1, 4]) is None
    assert controls.borrow_responses(simulated, 1, own.voxels, own.train_id[:2], [2]) is None


def read_labels(layout, subject, atlas, voxels):
    return np.asarray(nibabel.load(layout.roi(subject, atlas)).dataobj).ravel()[voxels]


def test_borrowed_streams_keep_region_and_area_and_the_scale_of_averages(simulated):
    """Each column is one of the other's voxels, of the same stream and visual area."""
    settings = TakagiSettings.careful()
    other = load_responses(simulated, 2)
    ids = other.test_id[:7][::-1]
    borrowed = controls.borrow_streams(simulated, 1, ids, [1, 4, 2], settings)
    mine = find_voxels(simulated, 1, settings)
    for found, number in zip(borrowed, (1, 5), strict=True):  # early, ventral
        here = mine[read_labels(simulated, 1, "streams", mine) == number]
        assert found.shape == (7, len(here)) and len(here) > 20
        areas = {s: read_labels(simulated, s, "prf-visualrois", v)
                 for s, v in ((1, here), (2, other.voxels))}  # fmt: skip
        streams = read_labels(simulated, 2, "streams", other.voxels)
        # Two ways to the same averages: session by session, and from all single trials.
        distance = np.abs(found.T[:, None] - other.test[6::-1].T[None]).max(axis=2)
        origin = distance.argmin(axis=1)
        assert distance.min(axis=1).max() < 1e-3
        assert (streams[origin] == number).all()
        # V1v and V1d count as one area.
        np.testing.assert_array_equal((areas[2][origin] + 1) // 2, (areas[1] + 1) // 2)


def test_borrowed_streams_follow_the_preset_and_need_a_second_brain(simulated):
    ids = load_responses(simulated, 2).test_id
    careful, published = (
        controls.borrow_streams(simulated, 1, ids, [2], TakagiSettings.preset(name))
        for name in ("careful", "published")
    )
    assert published[0].std() < 0.9 * careful[0].std()
    assert controls.borrow_streams(simulated, 1, ids, [1, 4], TakagiSettings()) is None


@pytest.mark.parametrize("atlas", ["nsdgeneral", "streams", "floc-faces"])
def test_a_brain_whose_atlas_was_not_fetched_cannot_stand_in(simulated, tmp_path, atlas):
    root = shutil.copytree(simulated.root, tmp_path / "nsd", copy_function=os.link)
    layout = Layout(root)
    layout.roi(2, atlas).unlink()
    mine, ids = np.arange(10), load_responses(simulated, 2).test_id
    assert controls.borrow_streams(layout, 1, ids, [2], TakagiSettings.careful()) is None
    found = controls.borrow_responses(layout, 1, mine, ids, [2])
    assert (found is None) == (atlas != "streams")


def test_regions_are_read_from_the_atlases_in_their_order(brains):
    codes = controls.code_regions(brains, 1, np.arange(60))
    visual = np.asarray(nibabel.load(brains.roi(1, "prf-visualrois")).dataobj).ravel()
    faces = np.asarray(nibabel.load(brains.roi(1, "floc-faces")).dataobj).ravel()
    np.testing.assert_array_equal(codes == 1, np.isin(visual, [1, 2]))
    np.testing.assert_array_equal(codes == 4, visual == 7)
    np.testing.assert_array_equal(codes == 5, (faces > 0) & ~(visual > 0))


def test_noise_free_responses_are_scaled_like_the_others(brains):
    voxels, ids = np.arange(10, 50), np.array([5, 9])
    own = make_responses(1, voxels, ids)
    assert controls.remove_noise(brains, own) is None
    folder = brains.truth(1)
    folder.mkdir(parents=True)
    truth = np.random.default_rng(0).normal(size=(3, 60)).astype(np.float32)
    np.save(folder / "noise_free.npy", truth)
    np.save(folder / "nsd_id.npy", np.array([2, 5, 9]))
    np.save(folder / "voxels.npy", np.arange(60))
    expected = (truth[1:, 10:50] - 2) / 4
    np.testing.assert_allclose(controls.remove_noise(brains, own), expected, rtol=1e-6)


def test_truth_features_come_in_the_order_asked():
    stored = Features(np.arange(6, dtype=np.float16).reshape(3, 2), np.array([4, 1, 8]))
    found = controls.take_truth({"autokl": stored}, [8, 4])
    np.testing.assert_array_equal(found["autokl"], [[4, 5], [0, 1]])
    assert found["autokl"].dtype == np.float32


def test_predictions_of_every_possible_condition_follow_the_images_asked(tmp_path):
    study = Study(device="cpu", data=str(tmp_path), results=str(tmp_path))
    ids = np.array([4, 6, 8])
    for number, end in enumerate(controls.CONDITIONS.values()):
        values = np.add.outer(ids, np.zeros(2)) + 100 * number
        if end == "_noise_free":  # a measured brain
            values = values[:0]
        study.save("predictions", f"autokl{end}.npy", values, nsd_id=ids[: len(values)])
    array = study.path("features", "autokl.npy")
    study.save("features", "autokl.npy", np.eye(4), nsd_id=[2, 4, 6, 8])
    sidecar = array.with_name("autokl.features.json")
    sidecar.write_text(json.dumps({"nsd_id": [2, 4, 6, 8]}))
    found = controls.load_predictions(study, [8, 4], ["autokl"])
    assert "noise-free responses" not in found
    assert {k: v["autokl"][:, 0].tolist() for k, v in found.items()} == {
        "own responses": [8, 4],
        "shuffled responses": [208, 204],
        "another subject": [308, 304],
        "ground-truth features": [0, 0],
    }
    np.testing.assert_array_equal(found["ground-truth features"]["autokl"], np.eye(4)[[3, 1]])


def test_rows_of_text_are_taken_by_image_too(tmp_path):
    study = Study(device="cpu", data=str(tmp_path), results=str(tmp_path))
    study.save("captions", "some.json", ["a dog", "a cat"], nsd_id=[7, 3])
    assert controls.take_rows(study, "captions", "some.json", [3, 7, 3]) == [
        "a cat", "a dog", "a cat"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="nsd_id 5 is the first"):
        controls.take_rows(study, "captions", "some.json", [3, 5])


def test_impossible_controls_are_refused(brains):
    own = make_responses(1, np.arange(10), [5, 9])
    with pytest.raises(ValueError, match="subject 1 on both sides"):
        controls.swap_subject(own, own, brains)
    with pytest.raises(ValueError, match="nsd_id 9 is the first"):
        controls.swap_subject(own, make_responses(2, np.arange(10), [5, 7]), brains)
