"""Identification against numpy's corrcoef and the published formula."""

import numpy as np
import pytest
from scipy.spatial.distance import correlation

from nbutils.metrics import identification
from nbutils.metrics.identification import correlate, correlation_distance, identify


def make_features(n=30, d=57, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, d)) * 3 + 20
    return truth.astype(dtype), (truth + 12 * rng.normal(size=(n, d))).astype(dtype)


def test_correlations_equal_numpy_in_blocks():
    truth, found = make_features()
    expected = np.corrcoef(truth, found)[:30, 30:]
    np.testing.assert_allclose(correlate(truth, found, block=10), expected, atol=1e-9)


def test_half_precision_maps_are_correlated_in_double_precision():
    truth, found = make_features(dtype=np.float16)
    expected = np.corrcoef(truth.astype(float), found.astype(float))[:30, 30:]
    maps = correlate(truth.reshape(30, 3, 19), found.reshape(30, 3, 19), block=7)
    np.testing.assert_allclose(maps, expected, atol=1e-9)


def test_identification_equals_the_published_code():
    truth, found = make_features()
    # pairwise_corr_all of brain-diffuser's evaluate_reconstruction.py
    r = np.corrcoef(truth, found)[: len(truth), len(truth) :]
    congruents = np.diag(r)
    success = np.sum(r < congruents, axis=0)
    expected = np.mean(success) / (len(truth) - 1)
    values = identify(truth, found)
    assert 0.5 < expected < 1
    assert values.mean() == pytest.approx(expected, abs=1e-12)


def identify_by_corrcoef(truth, found):
    """Score by the published formula in double precision."""
    n = len(truth)
    r = np.corrcoef(np.float64(truth), np.float64(found))[:n, n:]
    return (r < np.diag(r)).sum(axis=0) / (n - 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("noise", [0.5, 10, 1000])  # from every comparison won to chance
def test_scores_equal_corrcoef_from_perfect_to_chance(noise, dtype):
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(150, 1100)) + 5
    found = (truth + noise * rng.normal(size=truth.shape)).astype(dtype)
    truth = truth.astype(dtype)
    np.testing.assert_allclose(
        identify(truth, found), identify_by_corrcoef(truth, found), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("spread", [1e-4, 1e-6, 1e-7])  # of 22,350 comparisons: some to all
def test_comparisons_closer_than_single_precision_are_made_in_double(spread):
    rng = np.random.default_rng(2)
    base = rng.normal(size=600)
    truth = base + spread * rng.normal(size=(150, 600))
    found = base + rng.normal(size=(150, 600))
    scores = identify(truth, found)
    assert 0.4 < scores.mean() < 0.6
    np.testing.assert_allclose(scores, identify_by_corrcoef(truth, found), rtol=0, atol=1e-9)


def test_a_few_close_comparisons_are_repeated_alone(monkeypatch):
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(150, 600))
    truth[1] = truth[0] + 1e-9 * rng.normal(size=600)
    found = truth + 3 * rng.normal(size=(150, 600))
    expected = identify_by_corrcoef(truth, found)
    monkeypatch.setattr(identification, "correlate", None)  # not all of them
    np.testing.assert_allclose(identify(truth, found), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e5, 1e30])
def test_scores_do_not_depend_on_the_features_size(size):
    truth, found = make_features(dtype=np.float64)
    expected = identify_by_corrcoef(truth, found)
    np.testing.assert_allclose(identify(size * truth, found / size), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_a_large_common_offset_costs_no_digits(offset):
    truth, found = (x.astype(np.float64) + offset for x in make_features())
    expected = identify_by_corrcoef(truth, found)
    np.testing.assert_allclose(identify(truth, found), expected, rtol=0, atol=1e-9)


def test_wide_features_are_read_in_blocks(monkeypatch):
    truth, found = make_features(n=20, d=1000)
    expected = identify(truth, found)
    monkeypatch.setattr(identification, "_BLOCK", 64)
    monkeypatch.setattr(identification, "_TILE", 3)
    monkeypatch.setattr(identification, "_GATHERED", 1)
    np.testing.assert_array_equal(identify(truth, found), expected)


def test_equal_images_tie_and_lose_however_their_features_are_scaled():
    truth, found = make_features(40, 300)
    truth[1] = truth[0]
    truth[3] = 2 * truth[2]  # the same correlations but for rounding
    scores = identify(truth, found)
    others = np.delete(truth, [1, 3], axis=0), np.delete(found, [1, 3], axis=0)
    reference = identify_by_corrcoef(*others) * 37
    for i, j in ((0, 0), (2, 1)):
        wins = scores[i] * 39
        assert wins <= reference[j] + 1 + 1e-9  # the other pair's copy may be won, the own never


@pytest.mark.parametrize("value", [0.1, np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_constant_or_not_finite_correlate_with_nothing(value, dtype):
    truth, found = make_features(dtype=dtype)
    expected = np.corrcoef(np.delete(truth, 4, 0), np.delete(found, 7, 0))[:29, 29:]
    truth[4], found[7] = value, value
    with np.errstate(invalid="ignore"):
        correlation = correlate(truth, found)
    assert not correlation[4].any() and not correlation[:, 7].any()
    others = np.delete(np.delete(correlation, 4, 0), 7, 1)
    np.testing.assert_allclose(others, expected, atol=1e-9)
    wins = correlation < np.diag(correlation)
    np.testing.assert_array_equal(identify(truth, found), wins.sum(axis=0) / 29)


def test_other_distractors_swap_the_roles():
    truth, found = make_features()
    swapped = identify(truth, found, "reconstructions")
    np.testing.assert_array_equal(swapped, identify(found, truth, "ground_truth"))
    assert (swapped != identify(truth, found)).any()


def test_perfect_and_uninformative_features():
    truth, _ = make_features()
    assert identify(truth, truth).min() == 1
    rng = np.random.default_rng(5)
    rates = [identify(truth, rng.normal(size=truth.shape)).mean() for _ in range(40)]
    assert np.mean(rates) == pytest.approx(0.5, abs=0.03)


def test_ties_are_lost_as_in_the_published_code():
    truth, _ = make_features(4)
    same = np.repeat(truth[:1], 4, axis=0)  # one reconstruction for all images
    assert identify(truth, same, "reconstructions").max() == 0


def test_correlation_distance_equals_scipy():
    truth, found = make_features()
    expected = [
        correlation(a.astype(float), b.astype(float)) for a, b in zip(truth, found, strict=True)
    ]
    np.testing.assert_allclose(correlation_distance(truth, found), expected, atol=1e-9)


def test_bad_pairs_are_refused():
    truth, found = make_features()
    with pytest.raises(ValueError, match="choose ground_truth or reconstructions"):
        identify(truth, found, "both")
    with pytest.raises(ValueError, match="30 images and 29 reconstructions"):
        identify(truth, found[:-1])
    with pytest.raises(ValueError, match="57 and 56 features"):
        correlate(truth, found[:, 1:])
