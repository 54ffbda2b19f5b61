"""Scores: intervals against scipy, chance by other images, tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap

from nbutils.metrics.bootstrap import (
    collect,
    derange,
    difference,
    differences,
    interval,
    mismatch,
    score,
    table,
)


def test_interval_agrees_with_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).gamma(2, size=80)
    reference = scipy_bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    found = interval(values, n_samples=5000)
    np.testing.assert_allclose(found, [reference.low, reference.high], atol=0.03)


def test_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low, high = interval(rng.normal(size=40), n_samples=400, seed=seed)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_score_stands_beside_chance_and_ceiling():
    found = score("PixCorr", [0.2, 0.4], chance=[0.0, 0.1], ceiling=0.9)
    assert (found.value, found.chance, found.ceiling, found.n_images) == pytest.approx(
        (0.3, 0.05, 0.9, 2)
    )
    assert str(found).startswith("PixCorr 0.300 [")
    assert "chance 0.050, ceiling 0.900" in str(found)


def test_difference_is_paired():
    a = np.random.default_rng(0).normal(size=60)
    found = difference("PixCorr", a + 0.1, a)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


@given(st.integers(2, 60), st.integers(0, 1000))
def test_nothing_keeps_its_place(n, seed):
    order = derange(n, np.random.default_rng(seed))
    assert sorted(order) == list(range(n))
    assert (order != np.arange(n)).all()


def test_mismatch_uses_the_truth_of_other_images_only():
    truth = np.arange(6)
    values = mismatch(lambda order: (truth[order] == truth).astype(float), 6)
    np.testing.assert_array_equal(values, np.zeros(6))


def test_table_has_a_row_per_measure():
    frame = table({"a": [1, 0], "b": [0.5, 0.7]}, chance={"a": 0.5}, ceiling={"b": [1, 1]})
    assert list(frame.index) == ["a", "b"]
    assert frame.loc["a", "chance"] == 0.5
    assert frame.loc["b", "ceiling"] == 1.0
    assert np.isnan(frame.loc["b", "chance"])


def test_scores_of_several_conditions_stand_in_one_long_table():
    own, other = {"a": [1.0, 0.0], "b": [0.5, 0.7]}, {"a": [0.0, 0.0], "b": [0.5, 0.6]}
    gap = differences(own, other)
    np.testing.assert_allclose(gap["value"], [0.5, 0.05])
    assert (gap["chance"] == 0).all()
    scores = collect({("S", "own"): table(own, {"a": 0.5})}, {("S", "own minus other"): gap})
    assert len(scores) == 4
    one = scores.set_index(["system", "condition", "metric"]).loc[("S", "own", "a")]
    assert (one["value"], one["chance"], one["n"]) == (0.5, 0.5, 2)
    assert np.isnan(one["ceiling"])
    with pytest.raises(ValueError, match="S, own, a comes twice"):
        collect({("S", "own"): table(own)}, {("S", "own"): table(other)})


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="one value per image"):
        score("x", [])
    with pytest.raises(ValueError, match="at least two"):
        derange(1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="pair the same images"):
        difference("x", [1, 2], [1])
