"""Identification against numpy's corrcoef and the published formula."""

import numpy as np
import pytest
from scipy.spatial.distance import correlation

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
