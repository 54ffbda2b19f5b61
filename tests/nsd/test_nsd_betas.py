"""Averages and z-scores against plain pandas, and no look at the test images."""

import dataclasses
import shutil
import tracemalloc

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import zscore as scipy_zscore
from sklearn.preprocessing import StandardScaler

from nbutils.nsd import averages as averages_module
from nbutils.nsd.averages import Averages, statistics
from nbutils.nsd.betas import average_repeats, load_responses, noise_free, session_files
from nbutils.nsd.layout import Layout
from nbutils.nsd.masked import write_masked
from nbutils.nsd.rois import mask
from nbutils.nsd.session_files import read_session
from nbutils.nsd.trials import trials


def single_trials(layout: Layout) -> tuple[pd.DataFrame, np.ndarray]:
    """Read all betas of the small world in the plainest way, in percent signal change."""
    inside = nibabel.load(layout.roi(1, "nsdgeneral")).get_fdata() == 1
    blocks = [nibabel.load(layout.betas(1, session)).get_fdata()[inside].T for session in (1, 2)]
    return trials(layout, 1), np.concatenate(blocks) / 300


def averages(table: pd.DataFrame, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average training and test images in order of first appearance."""
    frame = pd.DataFrame(betas).groupby(table["nsd_id"].to_numpy(), sort=False).mean()
    shared = frame.index.isin(table["nsd_id"][table["shared"]])
    return frame[~shared], frame[shared]


@pytest.mark.parametrize("file_format", ["auto", "hdf5", "nii.gz"])
def test_published_zscore_is_that_of_the_training_averages(small, file_format):
    train, test = averages(*single_trials(small))
    got = load_responses(small, 1, file_format=file_format)
    mean, std = train.mean(), train.std(ddof=1)
    np.testing.assert_allclose(got.train, (train - mean) / std, atol=2e-4)
    np.testing.assert_allclose(got.test, (test - mean) / std, atol=2e-4)
    np.testing.assert_array_equal(got.train_id, train.index)
    np.testing.assert_array_equal(got.test_id, test.index)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.std, std, rtol=1e-4)


def test_published_zscore_agrees_with_scikit_learn(small):
    train, test = averages(*single_trials(small))
    scaler = StandardScaler().fit(train)
    # scikit-learn divides by n, published code by n - 1.
    expected = scaler.transform(test) * np.sqrt((len(train) - 1) / len(train))
    np.testing.assert_allclose(load_responses(small, 1).test, expected, atol=2e-4)


def test_session_zscore_uses_each_sessions_training_trials(small):
    table, betas = single_trials(small)
    parts = []
    for session, part in table.groupby("session"):
        block, rows = betas[table["session"] == session], ~part["shared"].to_numpy()
        parts.append((block - block[rows].mean(0)) / block[rows].std(0, ddof=1))
    train, test = averages(table, np.concatenate(parts))
    got = load_responses(small, 1, zscore="session")
    np.testing.assert_allclose(got.train, (train - train.mean()) / train.std(ddof=1), atol=3e-4)
    np.testing.assert_allclose(got.test, (test - train.mean()) / train.std(ddof=1), atol=3e-4)


@pytest.mark.parametrize("zscore", ["published", "session"])
def test_single_test_trials_average_to_the_test_responses(small, zscore):
    got = load_responses(small, 1, zscore=zscore)
    mean, ids = average_repeats(got.test_trials, got.test_trial_id)
    np.testing.assert_array_equal(ids, got.test_id)
    np.testing.assert_allclose(mean, got.test, atol=1e-4)
    assert (got.n_repeats_test == 3).all()
    assert got.n_repeats_train.sum() + got.n_repeats_test.sum() == 1500


@pytest.mark.parametrize("zscore", ["published", "session"])
def test_test_trials_leave_no_trace_in_the_training_statistics(small, tmp_path, zscore):
    layout = copy(small, tmp_path)
    before = load_responses(layout, 1, [1], zscore=zscore)
    shared = trials(layout, 1, [1])["shared"].to_numpy()
    with h5py.File(layout.betas(1, 1, "hdf5"), "r+") as file:
        for place in np.argwhere(nibabel.load(layout.roi(1, "nsdgeneral")).get_fdata() == 1)[:9]:
            column = file["betas"][(slice(None), *place[::-1])]
            file["betas"][(slice(None), *place[::-1])] = np.where(shared, 5000, column)
    after = load_responses(layout, 1, [1], zscore=zscore)
    np.testing.assert_array_equal(before.train, after.train)
    np.testing.assert_array_equal(before.std, after.std)
    assert (before.test[:, :9] != after.test[:, :9]).all()


def copy(layout: Layout, folder) -> Layout:
    """Copy the part of the small world that the responses need."""
    for name in ("nsddata", "nsddata_betas"):
        shutil.copytree(layout.root / name, folder / name)
    return Layout(folder)


def test_a_voxel_that_is_zero_for_a_session_stays_finite(small, tmp_path):
    layout = copy(small, tmp_path)
    place = tuple(np.argwhere(nibabel.load(layout.roi(1, "nsdgeneral")).get_fdata() == 1)[3][::-1])
    with h5py.File(layout.betas(1, 1, "hdf5"), "r+") as file:
        file["betas"][(slice(None), *place)] = 0
    for zscore in ("published", "session"):
        got = load_responses(layout, 1, [1], zscore=zscore)
        assert np.isfinite(got.train).all() and np.isfinite(got.test).all()
        assert not got.train[:, 3].any() and not got.test[:, 3].any()


def test_responses_are_percent_and_not_stored_integers(small):
    """Ridge penalties depend on the unit; NSD's betas lie at a few percent."""
    got = load_responses(small, 1)
    assert 0.2 < np.median(got.std) < 5
    assert 0 < np.median(got.mean) < 5


def test_standardise_applies_the_training_statistics(small):
    got = load_responses(small, 1)
    _, test = averages(*single_trials(small))
    np.testing.assert_allclose(got.standardise(test.to_numpy()), got.test, atol=2e-4)


@pytest.mark.parametrize("zscore", ["published", "session"])
def test_noise_free_responses_sit_where_the_averages_scatter(small, zscore):
    """Regressing averages on the truth gives slope one: same unit, same scale, same images."""
    got = load_responses(small, 1, zscore=zscore)
    truth = got.standardise(noise_free(small, 1, got.test_id))
    centred = truth - truth.mean(0)
    slope = (centred * (got.test - got.test.mean(0))).sum() / (centred**2).sum()
    assert slope == pytest.approx(1, abs=0.06)
    shuffled = got.standardise(noise_free(small, 1, got.test_id[::-1]))
    assert abs(np.corrcoef(shuffled.ravel() - 0, got.test.ravel())[0, 1]) < 0.15


def test_noise_free_is_none_for_a_measured_brain(tmp_path):
    assert noise_free(Layout(tmp_path), 1) is None


def test_noise_free_refuses_images_and_voxels_of_others(small):
    foreign = np.setdiff1d(np.arange(1820), trials(small, 1)["nsd_id"])[:1]
    with pytest.raises(KeyError, match=f"nsd_id {foreign[0]} is not part"):
        noise_free(small, 1, foreign)
    with pytest.raises(KeyError, match="voxel 0 is not part"):
        noise_free(small, 1, voxels=np.array([0]))


def test_a_subset_of_voxels_is_the_same_columns(small):
    every, voxels = load_responses(small, 1), mask(small, 1)
    some = load_responses(small, 1, voxels=voxels[[7, 3, 200]])
    np.testing.assert_array_equal(some.train, every.train[:, [7, 3, 200]])
    assert some.voxels.tolist() == voxels[[7, 3, 200]].tolist()
    assert {field.name for field in dataclasses.fields(some)} >= {"train", "test", "shape"}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"zscore": "none"}, ValueError, "zscore='none': choose one of published, session"),
        ({"file_format": "mat"}, ValueError, "file_format='mat'"),
        ({"sessions": [3]}, FileNotFoundError, "session 3 of subject 1"),
        ({"voxels": np.array([10**6])}, ValueError, "another subject"),
    ],
)
def test_impossible_requests_are_one_sentence(small, arguments, error, words):
    with pytest.raises(error, match=words):
        load_responses(small, 1, **arguments)


def test_a_gap_in_the_sessions_is_not_skipped_silently(small, tmp_path):
    layout = copy(small, tmp_path)
    for suffix in ("nii.gz", "hdf5"):
        layout.betas(1, 1, suffix).unlink()
    with pytest.raises(FileNotFoundError, match="session 1 of subject 1"):
        load_responses(layout, 1)
    assert list(session_files(layout, 1, [2])) == [2]


def test_auto_takes_nifti_where_hdf5_is_incomplete(small, tmp_path):
    layout = copy(small, tmp_path)
    layout.betas(1, 2, "hdf5").unlink()
    assert {path.suffix for path in session_files(layout, 1).values()} == {".gz"}


def test_a_session_of_another_experiment_is_refused(small, tmp_path):
    layout = copy(small, tmp_path)
    path = layout.betas(1, 1)
    image = nibabel.load(path)
    short = nibabel.Nifti1Image(np.asanyarray(image.dataobj)[..., :700], image.affine)
    nibabel.save(short, tmp_path / "short.nii.gz")
    shutil.move(tmp_path / "short.nii.gz", path)
    with pytest.raises(ValueError, match="700 betas but 750 trials"):
        load_responses(layout, 1, file_format="nii.gz")


@settings(max_examples=50, deadline=None)
@given(nsd_id=st.lists(st.integers(0, 6), min_size=1, max_size=30), seed=st.integers(0, 9))
def test_average_repeats_equals_pandas_in_order_of_first_appearance(nsd_id, seed):
    betas = np.random.default_rng(seed).standard_normal((len(nsd_id), 3))
    expected = pd.DataFrame(betas).groupby(np.array(nsd_id), sort=False).mean()
    responses, ids = average_repeats(betas, np.array(nsd_id))
    assert ids.tolist() == expected.index.tolist()
    np.testing.assert_allclose(responses, expected.to_numpy(), rtol=1e-5, atol=1e-6)


def test_average_repeats_wants_one_image_per_trial():
    with pytest.raises(ValueError, match="one image per trial"):
        average_repeats(np.zeros((4, 2)), np.zeros(3, int))


def test_constant_columns_follow_scipy_elsewhere(small):
    """A cross-check of ddof and axis with another library's z-score."""
    train, _ = averages(*single_trials(small))
    np.testing.assert_allclose(
        load_responses(small, 1).train, scipy_zscore(train.to_numpy(), axis=0, ddof=1), atol=2e-4
    )


def mask_sessions(layout: Layout, sessions: list[int], voxels: np.ndarray) -> None:
    """Write masked copies of sessions, as a download does."""
    shape = nibabel.load(layout.volume(1, "brainmask")).shape
    for session in sessions:
        betas = read_session(layout.betas(1, session), voxels, shape)
        write_masked(layout, 1, session, betas, voxels, shape)


@pytest.fixture
def own(small, tmp_path) -> Layout:
    """A copy of the small world that a test may change."""
    return copy(small, tmp_path)


@pytest.mark.parametrize("zscore", ["published", "session"])
def test_a_folder_gives_the_same_values_as_memory_maps(small, tmp_path, zscore, monkeypatch):
    kept = load_responses(small, 1, zscore=zscore)
    # Blocks of a few rows, as at full size.
    monkeypatch.setattr(averages_module, "_BLOCK", 3000)
    for _ in range(2):  # the second time over the first one's files
        mapped = load_responses(small, 1, zscore=zscore, folder=tmp_path / "responses")
    files = sorted(path.name for path in (tmp_path / "responses").iterdir())
    assert files == ["test.npy", "test_trials.npy", "train.npy"]
    for field in dataclasses.fields(kept):
        one, two = getattr(kept, field.name), getattr(mapped, field.name)
        if field.name in ("mean", "std"):  # float64 sums by other blocks, rounded
            np.testing.assert_allclose(one, two, rtol=1e-6)
        elif f"{field.name}.npy" in files:
            assert isinstance(two, np.memmap) and not two.flags.writeable
            assert one.dtype == two.dtype == np.float32
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(one, two)


def test_a_folder_and_memory_agree_to_the_bit_with_the_same_blocks(small, tmp_path):
    kept, mapped = load_responses(small, 1), load_responses(small, 1, folder=tmp_path)
    for name in ("train", "test", "test_trials", "mean", "std"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(mapped, name))


def test_a_write_that_fails_leaves_the_responses_of_before(small, tmp_path, monkeypatch):
    before = np.array(load_responses(small, 1, [1], folder=tmp_path).train)

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        load_responses(small, 1, [1, 2], folder=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "train.npy"), before)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("zscore", ["published", "session"])
def test_masked_sessions_give_what_the_whole_ones_give(own, zscore):
    whole, voxels = load_responses(own, 1, zscore=zscore), mask(own, 1)
    mask_sessions(own, [1, 2], voxels)
    assert {path.suffix for path in session_files(own, 1).values()} == {".npy"}
    for suffix in ("nii.gz", "hdf5"):
        for session in (1, 2):
            own.betas(1, session, suffix).unlink()
    shuffled = np.random.default_rng(0).permutation(len(voxels))[:50]
    masked = load_responses(own, 1, voxels=voxels[shuffled], zscore=zscore)
    np.testing.assert_array_equal(masked.train, whole.train[:, shuffled])
    np.testing.assert_array_equal(masked.test_trials, whole.test_trials[:, shuffled])


def test_a_mask_wider_than_what_was_fetched_is_refused(own):
    mask_sessions(own, [1, 2], mask(own, 1)[5:])
    with pytest.raises(ValueError, match=r"betas_session01.npy holds .* without 5 of .*--atlases"):
        load_responses(own, 1)
    assert load_responses(own, 1, file_format="hdf5").train.shape[1] == len(mask(own, 1))


def test_auto_takes_the_fastest_format_that_holds_all_sessions(own):
    mask_sessions(own, [2], mask(own, 1))
    for sessions, suffix in (([2], ".npy"), ([1, 2], ".hdf5"), ([1], ".hdf5")):
        assert {path.suffix for path in session_files(own, 1, sessions).values()} == {suffix}


def test_a_named_format_takes_the_sessions_that_are_in_it(own):
    mask_sessions(own, [1], mask(own, 1))
    assert list(session_files(own, 1, file_format="masked")) == [1]
    assert list(session_files(own, 1, file_format="nii.gz")) == [1, 2]
    with pytest.raises(FileNotFoundError, match=r"session 2 of subject 1 \(masked\)"):
        session_files(own, 1, [1, 2], file_format="masked")


def test_sessions_spread_over_formats_are_named(own):
    mask_sessions(own, [1], mask(own, 1))
    own.betas(1, 1, "hdf5").unlink()
    own.betas(1, 1, "nii.gz").unlink()
    with pytest.raises(
        ValueError, match=r"sessions 1-2 .* in no one format \(masked: 1; hdf5: 2; nii.gz: 2\)"
    ):
        load_responses(own, 1)
    assert load_responses(own, 1, [2]).train_id.size


def test_a_damaged_session_is_named(own):
    path = own.betas(1, 2)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="betas_session02.nii.gz is damaged at trial"):
        load_responses(own, 1, file_format="nii.gz")


def lose(layout: Layout, session: int, column: int) -> None:
    """Set one voxel to zero in all trials of a session, as NSD marks one out of view."""
    place = tuple(np.argwhere(nibabel.load(layout.roi(1, "nsdgeneral")).get_fdata() == 1)[column])
    with h5py.File(layout.betas(1, session, "hdf5"), "r+") as file:
        file["betas"][(slice(None), *place[::-1])] = 0


def test_a_voxel_lost_in_one_session_enters_published_averages_as_zeros(own):
    table, betas = single_trials(own)
    lose(own, 1, 3)
    betas[(table["session"] == 1).to_numpy(), 3] = 0
    train, test = averages(table, betas)
    got = load_responses(own, 1)
    np.testing.assert_allclose(got.test, (test - train.mean()) / train.std(ddof=1), atol=2e-4)


def test_session_zscores_leave_a_lost_voxel_at_zero_in_that_session_only(own):
    before = load_responses(own, 1, zscore="session")
    lose(own, 1, 3)
    after = load_responses(own, 1, zscore="session")
    lost = (trials(own, 1).query("shared")["session"] == 1).to_numpy()
    # Zero within the session, then the mean over training images is taken off.
    assert np.unique(after.test_trials[lost, 3]).size == 1
    assert abs(after.test_trials[lost, 3][0]) < 0.1
    assert np.corrcoef(after.test_trials[~lost, 3], before.test_trials[~lost, 3])[0, 1] > 0.9999
    np.testing.assert_array_equal(after.test_trials[:, 4], before.test_trials[:, 4])


@settings(max_examples=60, deadline=None)
@given(
    value=st.integers(-32768, 32767),
    n=st.integers(2, 400),
    divisor=st.sampled_from([300, 600, 900]),
)
def test_a_constant_voxel_has_no_spread_whatever_its_value(value, n, divisor):
    """Rounding leaves a spread of 1e-17, and dividing by it would blow the voxel up."""
    _, std = statistics(np.full((n, 2), value, np.float32), np.full(n, divisor))
    assert std.tolist() == [1, 1]


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 60), seed=st.integers(0, 99), block=st.integers(1, 200))
def test_blockwise_statistics_equal_numpys(n, seed, block):
    rng = np.random.default_rng(seed)
    values, divisor = rng.integers(-9999, 9999, (n, 5)), rng.integers(1, 900, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(averages_module, "_BLOCK", block)
        mean, std = statistics(values, divisor)
    expected = values / divisor[:, None]
    np.testing.assert_allclose(mean, expected.mean(0), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(std, expected.std(0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("zscore", ["published", "session"])
def test_preparing_holds_little_more_than_the_sums(tmp_path, zscore):
    """At full size the sums take 0.63 GB, and whatever grew with them would break 1.5 GB."""
    n_images, n_voxels, sessions = 2000, 4000, range(1, 9)
    shown = np.random.default_rng(0).permutation(np.repeat(np.arange(n_images), 3))
    table = pd.DataFrame(
        {"session": np.repeat(sessions, 750), "nsd_id": shown, "shared": shown < n_images // 10}
    )
    block = np.random.default_rng(1).integers(-999, 999, (750, n_voxels), dtype=np.int16)
    tracemalloc.start()
    try:
        sums = Averages(table, n_voxels, zscore)
        for session in sessions:
            sums.add(session, block)
        sums.finish(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    trials_kept = sums.trials.nbytes
    assert peak < sums.sums.nbytes + trials_kept + 3 * 8 * 2**20 + 4 * block.nbytes
