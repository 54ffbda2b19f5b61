"""Noise ceilings: NSD's published numbers, and a planted signal-to-noise ratio found again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import zscore

from nbutils.nsd.noise import (
    estimate_ncsnr,
    noise_ceiling,
    read_ncsnr,
    repeat_reliability,
    zscore_sessions,
)
from nbutils.nsd.rois import mask


@pytest.mark.parametrize(
    ("ncsnr", "single", "triple"),
    [
        (0.361, 11.5, 28.1),
        (0.324, 9.5, 24.0),
        (0.296, 8.1, 20.8),
        (0.415, 14.7, 34.1),
        (0.343, 10.5, 26.1),
        (0.281, 7.3, 19.1),
        (0.226, 4.9, 13.3),
    ],
)
def test_ceilings_of_the_eight_subjects(ncsnr, single, triple):
    assert noise_ceiling(ncsnr, 1)[()] == pytest.approx(single, abs=0.08)
    assert noise_ceiling(ncsnr, 3)[()] == pytest.approx(triple, abs=0.08)


def test_mixed_repeats_of_the_982_test_images():
    """Subject 1 after 37 sessions: 839 images shown three times, 110 twice, 33 once."""
    repeats = np.repeat([3, 2, 1], [839, 110, 33])
    assert noise_ceiling(0.361, repeats)[()] == pytest.approx(25.8, abs=0.1)


def test_ceiling_keeps_nan_and_zero():
    np.testing.assert_array_equal(noise_ceiling(np.array([np.nan, 0.0]), 3), [np.nan, 0.0])
    with pytest.raises(ValueError, match="at least 1"):
        noise_ceiling(0.3, [3, 0])


def test_estimate_finds_the_planted_ratio_in_spite_of_session_offsets():
    rng = np.random.default_rng(0)
    planted = np.array([0.0, 0.2, 0.4, 0.8, 1.6])
    nsd_id = rng.permutation(np.repeat(np.arange(1500), 3))
    session = np.arange(4500) // 750
    signal = rng.standard_normal((1500, 5)) * planted
    betas = signal[nsd_id] + rng.standard_normal((4500, 5)) + 3 * session[:, None]
    found = estimate_ncsnr(betas, nsd_id, session)
    # Variances, because near zero a small error of the variance is a large one of its root.
    np.testing.assert_allclose(found**2, planted**2, atol=0.06, rtol=0.06)


def test_estimate_equals_the_formula_written_out():
    rng = np.random.default_rng(1)
    nsd_id = rng.permutation(np.repeat(np.arange(40), 3))
    session = np.repeat([1, 2], 60)
    betas = rng.standard_normal((120, 3)) + rng.standard_normal((40, 3))[nsd_id]
    scores = np.concatenate([zscore(betas[:60], ddof=1), zscore(betas[60:], ddof=1)])
    noise = np.mean([scores[nsd_id == i].var(0, ddof=1) for i in range(40)], axis=0)
    expected = np.sqrt(np.maximum(1 - noise, 0)) / np.sqrt(noise)
    np.testing.assert_allclose(estimate_ncsnr(betas, nsd_id, session), expected, rtol=1e-4)


def test_without_repeats_there_is_no_estimate():
    betas = np.random.default_rng(2).standard_normal((10, 2))
    assert np.isnan(estimate_ncsnr(betas, np.arange(10), np.zeros(10))).all()


def test_constant_voxels_score_zero():
    assert not zscore_sessions(np.full((6, 2), 7.0), np.zeros(6)).any()
    assert estimate_ncsnr(np.full((6, 1), 7.0), np.arange(6) // 2, np.zeros(6)).tolist() == [0]


def test_reliability_is_the_share_of_signal_in_one_trial():
    """r = s2 / (s2 + n2), the noise ceiling of one trial; 20,000 images leave .007 of scatter."""
    rng = np.random.default_rng(3)
    planted = np.array([0.0, 0.2, 0.361, 1.0, 3.0])
    nsd_id = rng.permutation(np.repeat(np.arange(20_000), 2))
    signal = rng.standard_normal((20_000, 5)) * planted
    betas = signal[nsd_id] + rng.standard_normal((40_000, 5)) + 5
    expected = noise_ceiling(planted, 1) / 100
    np.testing.assert_allclose(repeat_reliability(betas, nsd_id), expected, atol=0.03)


@settings(max_examples=50, deadline=None)
@given(nsd_id=st.lists(st.integers(0, 9), min_size=1, max_size=40), seed=st.integers(0, 9))
def test_reliability_takes_the_first_two_showings_of_every_image(nsd_id, seed):
    betas = np.random.default_rng(seed).standard_normal((len(nsd_id), 3))
    shows = {one: [row for row, seen in enumerate(nsd_id) if seen == one] for one in set(nsd_id)}
    pairs = [rows[:2] for rows in shows.values() if len(rows) > 1]
    got = repeat_reliability(betas, np.array(nsd_id))
    assert got.shape == (3,) and got.dtype == np.float32
    if len(pairs) < 2:
        assert np.isnan(got).all()
        return
    one, two = (betas[[pair[k] for pair in pairs]] for k in (0, 1))
    expected = [np.corrcoef(one[:, v], two[:, v])[0, 1] for v in range(3)]
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_reliability_goes_by_blocks_of_voxels_and_leaves_constant_ones_open():
    betas = np.random.default_rng(5).standard_normal((40, 4500)).astype(np.float32)
    betas[:, 7] = 3
    nsd_id = np.tile(np.arange(20), 2)
    expected = [np.corrcoef(*betas.reshape(2, 20, -1)[..., v])[0, 1] for v in (0, 2000, 4499)]
    got = repeat_reliability(betas, nsd_id)
    np.testing.assert_allclose(got[[0, 2000, 4499]], expected, atol=1e-5)
    assert np.flatnonzero(np.isnan(got)).tolist() == [7]


def test_ncsnr_is_nan_outside_the_brain_only(small):
    assert np.isnan(read_ncsnr(small, 1, np.array([0]))).all()
    inside = read_ncsnr(small, 1, mask(small, 1))
    assert np.isfinite(inside).all() and (inside >= 0).all()
