"""Margins between encoding models against brute force, and controls that know nothing."""

import numpy as np
import pytest
from scipy import stats

from nbutils.encoding import correlate, explain
from nbutils.encoding.partition import Partition
from nbutils.metrics import margins
from nbutils.metrics.bootstrap import derange


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    responses = rng.standard_normal((60, 25)) * 3 + 1
    good = responses + 3 * rng.standard_normal((60, 25))
    poor = responses + 9 * rng.standard_normal((60, 25))
    return good, poor, responses


def test_margin_is_the_mean_difference_and_its_interval_that_of_resampled_images(data):
    good, poor, responses = data
    found = margins.margin("a", good, poor, responses, n_samples=400, seed=3)
    direct = correlate(good, responses) - correlate(poor, responses)
    assert found.value == pytest.approx(direct.mean(), abs=1e-5)
    rng = np.random.default_rng(3)
    counts = rng.multinomial(60, np.full(60, 1 / 60), size=400)
    means = []
    for count in counts:
        rows = np.repeat(np.arange(60), count)
        pair = [correlate(one[rows], responses[rows]).mean() for one in (good, poor)]
        means.append(pair[0] - pair[1])
    np.testing.assert_allclose(
        (found.low, found.high), np.quantile(means, [0.025, 0.975]), atol=1e-5
    )
    assert found.n_images == 60 and found.chance == 0


def test_region_score_is_the_mean_correlation(data):
    good, _, responses = data
    found = margins.region_score("V1", good, responses, chance=0.0)
    each = [stats.pearsonr(good[:, v], responses[:, v])[0] for v in range(25)]
    assert found.value == pytest.approx(np.mean(each), abs=1e-5)
    assert found.low < found.value < found.high


def test_control_margin_pairs_every_prediction_with_another_image(data):
    good, poor, responses = data
    found = margins.control_margin("a", good, poor, responses, n_samples=50, seed=1)
    rng, direct = np.random.default_rng(1), []
    for _ in range(50):
        order = derange(60, rng)
        pair = [correlate(one, responses[order]).mean() for one in (good, poor)]
        direct.append(pair[0] - pair[1])
    assert found.value == pytest.approx(np.mean(direct), abs=1e-5)
    np.testing.assert_allclose(
        (found.low, found.high), np.quantile(direct, [0.025, 0.975]), atol=1e-5
    )


def test_models_are_compared_in_their_area_and_only_a_real_margin_beats_its_control(data):
    good, poor, responses = data
    areas = {"all": np.ones(25, bool), "few": np.arange(25) < 4}
    found = margins.compare(
        [("good", "poor", "all"), ("poor", "good", "few")], {"good": good, "poor": poor},
        responses, areas,
    )  # fmt: skip
    assert [*found][::2] == ["all: good > poor", "few: poor > good"]
    assert margins.beats(found["all: good > poor"], found["all: good > poor, control"])
    assert not margins.beats(found["few: poor > good"], found["few: poor > good, control"])


def test_unique_score_is_the_difference_of_two_r2_resampled_together(data):
    good, poor, responses = data
    found = margins.unique_score("u", good, poor, responses, n_samples=300, seed=2)
    direct = explain(good, responses) - explain(poor, responses)
    assert found.value == pytest.approx(direct.mean(), rel=1e-5)
    rng, means = np.random.default_rng(2), []
    for count in rng.multinomial(60, np.full(60, 1 / 60), size=300):
        rows = np.repeat(np.arange(60), count)
        gain = explain(good[rows], responses[rows]) - explain(poor[rows], responses[rows])
        means.append(gain.mean())
    np.testing.assert_allclose(
        (found.low, found.high), np.quantile(means, [0.025, 0.975]), rtol=1e-4
    )


def test_unique_scores_of_partitions_come_area_by_area_and_level_by_level(data):
    good, poor, responses = data
    predicted = {"first": poor, "second": responses * 0.5, "together": good}
    part = Partition(*(explain(one, responses) for one in predicted.values()), None, predicted)
    areas = {"a": np.arange(25) < 10, "b": np.arange(25) >= 10}
    found = margins.unique_scores({"low": part, "high": part}, areas, responses)
    assert {name: [*one] for name, one in found.items()} == {
        "a": ["first", "second"], "b": ["first", "second"],
    }  # fmt: skip
    for area, inside in areas.items():
        for space, expected in (("first", part.unique_first), ("second", part.unique_second)):
            values = [one.value for one in found[area][space]]
            np.testing.assert_allclose(values, expected[inside].mean(), rtol=1e-5)


def test_other_shapes_and_empty_regions_are_refused(data):
    good, poor, responses = data
    with pytest.raises(ValueError, match="same images and voxels"):
        margins.margin("a", good[:50], poor, responses)
    with pytest.raises(ValueError, match="no voxels"):
        margins.region_score("a", good[:, :0], responses[:, :0])
