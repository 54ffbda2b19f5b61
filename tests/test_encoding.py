"""Encoding models against scikit-learn, himalaya and planted truths."""

import numpy as np
import pytest
from himalaya.kernel_ridge import WeightedKernelRidge
from himalaya.scoring import correlation_score, r2_score, r2_score_split
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from nbutils import encoding
from nbutils.decoding.store import Features
from nbutils.encoding.models import refit
from nbutils.metrics.margins import beats, control_margin, margin


def make_features(rng, n, k, dtype=np.float32):
    return Features((rng.standard_normal((n, k)) * 3 + 5).astype(dtype), np.arange(n) * 7)


def split(features, n_train):
    return features.nsd_id[:n_train], features.nsd_id[n_train:]


def test_space_is_standardised_with_training_images_only():
    features = make_features(np.random.default_rng(0), 90, 12)
    space = encoding.standardise(features, *split(features, 60), block=5)
    scaler = StandardScaler().fit(features.array[:60])
    expected = scaler.transform(features.array) / np.sqrt(12)
    np.testing.assert_allclose(space.train, expected[:60], atol=1e-5)
    np.testing.assert_allclose(space.test, expected[60:], atol=1e-5)
    assert np.square(space.train).sum(axis=1).mean() == pytest.approx(1, rel=1e-5)


def test_squares_are_those_of_the_standardised_numbers():
    features = make_features(np.random.default_rng(1), 90, 8)
    space = encoding.standardise(features, *split(features, 60), squares=True)
    z = StandardScaler().fit(features.array[:60]).transform(features.array)
    squared = StandardScaler().fit(z[:60] ** 2).transform(z**2)
    expected = np.hstack([z, squared]) / 4
    np.testing.assert_allclose(space.test, expected[60:], atol=1e-5)


def test_a_number_that_never_changes_adds_nothing():
    features = make_features(np.random.default_rng(2), 50, 4)
    features.array[:40, 2] = 1234.5
    features.array[40:, 2] = -9
    space = encoding.standardise(features, *split(features, 40))
    assert not space.train[:, 2].any() and not space.test[:, 2].any()


@pytest.mark.parametrize("alpha", [0.01, 1.0, 100.0])
def test_coordinates_of_a_wide_space_predict_as_all_its_numbers_do(alpha):
    rng = np.random.default_rng(3)
    features = make_features(rng, 80, 700, np.float16)
    responses = rng.standard_normal((60, 5)).astype(np.float32) + 2
    space = encoding.standardise(features, *split(features, 60), block=128)
    assert space.train.shape[1] <= 60
    found = refit(space, responses, np.full(5, alpha)).predicted
    scaler = StandardScaler().fit(features.array[:60].astype(np.float64))
    wide = scaler.transform(features.array.astype(np.float64)) / np.sqrt(700)
    expected = Ridge(alpha=alpha).fit(wide[:60], responses).predict(wide[60:])
    # Single precision, and a kernel whose smallest eigenvalues are left out.
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_test_images_must_be_held_out():
    features = make_features(np.random.default_rng(4), 20, 3)
    with pytest.raises(ValueError, match="training and test"):
        encoding.standardise(features, features.nsd_id[:15], features.nsd_id[10:])


def test_every_voxel_gets_the_penalty_of_the_smallest_gcv_error():
    rng = np.random.default_rng(5)
    features = make_features(rng, 200, 30)
    space = encoding.standardise(features, *split(features, 150))
    strength = np.array([5.0, 1.0, 0.0])
    responses = space.train @ rng.standard_normal((30, 3)) * strength * 3
    responses = (responses + rng.standard_normal((150, 3))).astype(np.float32)
    found = encoding.fit(space, responses)
    errors = []
    for alpha in encoding.ALPHAS:
        x = space.train.astype(np.float64)
        hat = x @ np.linalg.solve(x.T @ x + alpha * np.eye(30), x.T) + 1 / 150
        left = responses - hat @ responses
        errors.append((left**2).mean(axis=0) / (1 - np.trace(hat) / 150) ** 2)
    np.testing.assert_array_equal(found.alpha, encoding.ALPHAS[np.argmin(errors, axis=0)])
    assert found.alpha[0] < found.alpha[1] < found.alpha[2]


def test_banded_ridge_is_himalayas():
    rng = np.random.default_rng(6)
    bands = [
        encoding.standardise(one, *split(one, 60))
        for one in (make_features(rng, 80, 15), make_features(rng, 80, 200))
    ]
    responses = rng.standard_normal((60, 4)).astype(np.float32)
    alpha, share = 0.7, 0.3
    joint = encoding.join(bands, (share, 1 - share))
    found = refit(joint, responses, np.full(4, alpha)).predicted
    deltas = np.log(np.repeat([[share], [1 - share]], 4, axis=1))
    model = WeightedKernelRidge(alpha=alpha, deltas=deltas, kernels="precomputed")
    mean = responses.mean(axis=0)
    model.fit(np.stack([one.train @ one.train.T for one in bands]), responses - mean)
    expected = model.predict(np.stack([one.test @ one.train.T for one in bands])) + mean
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_scores_are_those_of_himalaya_and_scipy():
    rng = np.random.default_rng(7)
    responses = rng.standard_normal((50, 6))
    predicted = 0.5 * responses + rng.standard_normal((50, 6))
    r = encoding.correlate(predicted, responses)
    np.testing.assert_allclose(r, correlation_score(responses, predicted), atol=1e-6)
    assert r[2] == pytest.approx(stats.pearsonr(predicted[:, 2], responses[:, 2])[0])
    np.testing.assert_allclose(
        encoding.explain(predicted, responses), r2_score(responses, predicted), atol=1e-6
    )
    flat = np.full((50, 1), 0.1)
    assert np.isnan(encoding.correlate(flat, responses[:, :1])).all()
    assert np.isnan(encoding.explain(responses[:, :1], flat)).all()


def plant(rng, n, unique_first, unique_second, shared):
    """Two spaces that share a part, and voxels whose variance comes from known parts."""
    common, one, two = (rng.standard_normal((n, 5)) for _ in range(3))
    parts = [part @ rng.standard_normal((5, 40)) / np.sqrt(5) for part in (one, two, common)]
    # Exactly unit variance, so that the planted shares are those of these very voxels.
    parts = [part / part.std(axis=0) for part in parts]
    shares = (unique_first, unique_second, shared)
    noise = np.sqrt(1 - sum(shares)) * rng.standard_normal((n, 40))
    responses = sum(np.sqrt(s) * p for s, p in zip(shares, parts, strict=True)) + noise
    ids = np.arange(n)
    spaces = [
        encoding.standardise(Features(np.hstack([common, own]), ids), ids[: n // 2], ids[n // 2 :])
        for own in (one, two)
    ]
    return spaces, responses[: n // 2].astype(np.float32), responses[n // 2 :].astype(np.float32)


def test_planted_unique_and_shared_variances_are_found():
    spaces, train, test = plant(np.random.default_rng(8), 6000, 0.2, 0.1, 0.3)
    found = encoding.partition(*spaces, train, test)
    means = [x.mean() for x in (found.unique_first, found.unique_second, found.shared)]
    # 3,000 test images: the standard error of a voxel's R² is about 0.015, of their mean less.
    np.testing.assert_allclose(means, [0.2, 0.1, 0.3], atol=0.02)
    whole = found.unique_first + found.unique_second + found.shared
    np.testing.assert_allclose(whole, found.together, atol=1e-12)


def test_a_useless_band_has_no_unique_variance():
    rng = np.random.default_rng(9)
    spaces, train, test = plant(rng, 1200, 0.4, 0.0, 0.0)
    found = encoding.partition(*spaces, train, test)
    assert found.unique_first.mean() == pytest.approx(0.4, abs=0.05)
    assert abs(found.unique_second.mean()) < 0.01
    assert np.median(found.share) >= 0.9
    with pytest.raises(ValueError, match="0 and 1"):
        encoding.partition(*spaces, train, test, shares=(0.2, 1.0))


def test_unique_variances_of_independent_bands_are_himalayas_split():
    """Without a shared part, himalaya's product measure and nested models must agree."""
    spaces, train, test = plant(np.random.default_rng(10), 3000, 0.3, 0.2, 0.0)
    found = encoding.partition(*spaces, train, test)
    deltas = np.log(np.full((2, 40), 0.5))
    model = WeightedKernelRidge(alpha=1.0, deltas=deltas, kernels="precomputed")
    model.fit(np.stack([s.train @ s.train.T for s in spaces]), train - train.mean(axis=0))
    kernels = np.stack([s.test @ s.train.T for s in spaces])
    split_r2 = r2_score_split(test - test.mean(axis=0), model.predict(kernels, split=True))
    np.testing.assert_allclose(found.unique_first.mean(), split_r2[0].mean(), atol=0.02)
    np.testing.assert_allclose(found.unique_second.mean(), split_r2[1].mean(), atol=0.02)


def test_p_values_are_scipys_and_hold_for_gaussian_vectors_of_the_papers_length():
    rng = np.random.default_rng(11)
    one, two = rng.standard_normal((2, 30))
    expected = stats.pearsonr(one, two, alternative="greater")
    assert encoding.null_p(expected.statistic, 30) == pytest.approx(expected.pvalue, rel=1e-9)
    r = encoding.correlate(rng.standard_normal((982, 4000)), rng.standard_normal((982, 4000)))
    p = encoding.null_p(r, 982)
    # Standard error of a share of 0.05 among 4,000: 0.0034.
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.011)
    assert not encoding.significant(r, 982).any() or encoding.significant(r, 982).mean() < 0.001
    with pytest.raises(ValueError, match="at least 3"):
        encoding.null_p(0.5, 2)


def test_false_discoveries_are_held_as_in_benjamini_and_hochbergs_own_example():
    """Fifteen p values of their 1995 paper, section 3.1, of which four pass at 0.05."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    t = stats.t.isf(np.minimum(p, 1 - 1e-9), 98)
    r = np.append(t / np.sqrt(98 + t**2), np.nan)
    passed = encoding.significant(r, 100)
    assert passed.tolist() == [True] * 4 + [False] * 12
    assert encoding.smallest_significant(r, 100) == pytest.approx(r[3])
    assert np.isnan(encoding.smallest_significant(np.zeros(5), 100))


def test_best_model_of_a_voxel_has_to_be_above_chance():
    r = [[0.9, 0.1, 0.2, np.nan], [0.5, 0.8, 0.1, np.nan]]
    assert encoding.choose_best(r, 100).tolist() == [0, 1, 0, -1]
    assert encoding.choose_best(r, 30).tolist() == [0, 1, -1, -1]


def check_areas(z, c, responses, early, higher, n_train):
    """Hold the planted areas: early better from z, higher better from c, beyond the control."""
    ids = np.arange(len(z))
    features = {"z": Features(z, ids), "c": Features(c, ids)}
    train, test = ids[:n_train], ids[n_train:]
    models = {
        name: encoding.fit(
            encoding.standardise(one, train, test, squares=name == "z"), responses[:n_train]
        ).predicted
        for name, one in features.items()
    }
    held_out = responses[n_train:]
    for better, worse, area in (("z", "c", early), ("c", "z", higher)):
        given = models[better][:, area], models[worse][:, area], held_out[:, area]
        assert beats(margin("", *given), control_margin("", *given)), (better, margin("", *given))
    shuffled = encoding.correlate(models["c"], np.roll(held_out, 1, axis=0))
    assert abs(np.nanmean(shuffled)) < 0.15


def test_planted_areas_are_recovered_and_shuffled_images_give_nothing():
    """Early voxels answer to contrast energy of z, higher ones to c; the two are correlated."""
    rng = np.random.default_rng(12)
    z = rng.standard_normal((700, 40)).astype(np.float32)
    c = (z[:, :10] + rng.standard_normal((700, 10))).astype(np.float32)
    energy = np.abs(z) @ rng.gamma(0.2, size=(40, 30))
    meaning = c @ rng.standard_normal((10, 30))
    responses = np.hstack([energy / energy.std(), meaning / meaning.std()])
    responses = (responses + rng.standard_normal(responses.shape)).astype(np.float32)
    check_areas(z, c, responses, np.arange(30), np.arange(30, 60), 500)


def test_areas_of_the_miniature_brain_are_recovered_from_its_networks():
    """Noise-free responses of a small simulated brain to 280 scenes; the shipped networks."""
    from nbutils.miniature import captions, scenes
    from nbutils.miniature.cortex import Cortex
    from nbutils.networks.loading import load
    from nbutils.world import find_world

    numbers = range(5_000_000, 5_000_280)
    images, seen = scenes.draw_many(numbers), [scenes.scene(k) for k in numbers]
    brain, networks = Cortex(1, scale=0.06), load(find_world("miniature").networks)
    responses = brain.raw(images, seen)
    responses = (responses - responses[:200].mean(axis=0)) / responses[:200].std(axis=0)
    words = [captions.captions(one) for one in seen]
    z = np.concatenate([np.asarray(networks.autokl.encode(images[k : k + 40]))
                        for k in range(0, 280, 40)])  # fmt: skip
    c = np.asarray(networks.clip.caption_tokens(words))
    check_areas(z, c, responses, brain.early_voxels, brain.late_voxels, 200)
