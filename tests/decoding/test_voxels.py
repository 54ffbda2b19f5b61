"""Ridge on each target's own voxels equals what fastl2lir computes, target by target."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from nbutils.decoding.store import Features
from nbutils.decoding.voxels import SelectedVoxels, scale_voxels


@pytest.fixture(scope="module")
def data():
    """Sixty images, forty voxels, targets of shape (3, 7); z-scored as the published code does."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(80, 40)) @ (np.eye(40) + 0.3 * rng.normal(size=(40, 40)))
    y = x[:, :21] @ rng.normal(size=(21, 21)) + 4 * rng.normal(size=(80, 21))
    x[:, 7] = 0  # a voxel that never varies
    spread = x[:60].std(axis=0)
    x = (x - x[:60].mean(axis=0)) / np.where(spread > 0, spread, 1)
    y = (y - y[:60].mean(axis=0)) / y[:60].std(axis=0)
    return x[:60], y[:60].reshape(60, 3, 7), x[60:]


def fit_like_fastl2lir(x, y, new, alpha, count):
    """The documented algorithm of fastl2lir, one target at a time: choose, add ones, solve."""
    varies = x.var(axis=0) > 1e-8
    r = np.zeros(x.shape[1])
    r[varies] = [abs(np.corrcoef(column, y)[0, 1]) for column in x[:, varies].T]
    chosen = np.argsort(r)[::-1][:count]
    design = np.hstack([x[:, chosen], np.ones((len(x), 1))])
    system = design.T @ design + alpha * np.eye(count + 1)
    weights = np.linalg.solve(system, design.T @ y)
    return new[:, chosen] @ weights[:-1] + weights[-1], chosen


@pytest.mark.parametrize("count", [1, 12, 39])
def test_predictions_are_those_of_fastl2lirs_algorithm(data, count):
    x, y, new = data
    found = SelectedVoxels(x).predict(new, y, count, alpha=0.15)
    assert found.shape == (20, 3, 7)
    flat = y.reshape(60, -1)
    expected = [fit_like_fastl2lir(x, column, new, 0.15, count)[0] for column in flat.T]
    # Responses are kept in single precision on the way in; the systems are solved in double.
    np.testing.assert_allclose(found.reshape(20, -1), np.transpose(expected), atol=1e-5)


def test_chosen_voxels_are_the_most_correlated_ones(data):
    x, y, new = data
    flat = y.reshape(60, -1)
    found = SelectedVoxels(x).choose(flat, 12)
    for target, voxels in enumerate(found):
        expected = fit_like_fastl2lir(x, flat[:, target], new, 0.15, 12)[1]
        np.testing.assert_array_equal(voxels, expected)
    assert 7 not in found


@pytest.mark.parametrize("images", [60, 15])  # more and fewer than half as many as voxels
def test_each_target_is_scikit_learns_ridge_on_its_voxels_whatever_the_mean(data, images):
    x, y, new = data
    shifted, targets = x[:images] + 3, 5 + 2 * y.reshape(60, -1)[:images]
    ridge = SelectedVoxels(shifted)
    found = ridge.predict(new + 3, targets, 9, alpha=2.0)
    for target, voxels in enumerate(ridge.choose(targets, 9)):
        model = Ridge(alpha=2.0).fit(shifted[:, voxels], targets[:, target])
        expected = model.predict(new[:, voxels] + 3)
        np.testing.assert_allclose(found[:, target], expected, atol=2e-5)


def test_all_voxels_are_plain_ridge(data):
    x, y, new = data
    found = SelectedVoxels(x).predict(new, y, 10_000, alpha=1.5)
    expected = Ridge(alpha=1.5).fit(x, y.reshape(60, -1)).predict(new)
    np.testing.assert_allclose(found.reshape(20, -1), expected, atol=1e-5)


def test_nearly_dependent_voxels_are_solved_in_double_precision(data):
    x, y, new = data
    rng = np.random.default_rng(1)
    twins = (x + 1e-4 * rng.normal(size=x.shape)).astype(np.float32)
    doubled, both = np.hstack([x, twins]), np.hstack([new, new])
    found = SelectedVoxels(doubled).predict(both, y[:, 0], 60, alpha=1e-6)
    expected = [fit_like_fastl2lir(doubled.astype(np.float32).astype(float), one, both, 1e-6, 60)[0]
                for one in y[:, 0].T]  # fmt: skip
    # Condition number about 1e10: weights are large, so predictions lose digits on both sides.
    np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-3, atol=1e-3)


def test_no_penalty_on_dependent_voxels_is_refused(data):
    x, y, new = data
    doubled = np.hstack([x, x])
    with pytest.raises(ValueError, match="choose a larger alpha or fewer voxels"):
        SelectedVoxels(doubled).predict(np.hstack([new, new]), y, 70, alpha=0)


def test_stored_features_are_found_by_image(data):
    x, y, new = data
    order = np.random.default_rng(0).permutation(60)
    stored = Features(y[order].astype(np.float32), 1000 + order)
    ridge = SelectedVoxels(x, nsd_id=1000 + np.arange(60))
    np.testing.assert_allclose(ridge.predict(new, stored, 12), ridge.predict(new, y, 12), atol=1e-5)


def test_wrong_shapes_are_refused_in_a_sentence(data):
    x, y, new = data
    ridge = SelectedVoxels(x)
    with pytest.raises(ValueError, match="at least one voxel"):
        ridge.predict(new, y, 0)
    with pytest.raises(ValueError, match="59 rows for 60 training responses"):
        ridge.predict(new, y[:59], 5)
    with pytest.raises(ValueError, match="40 voxels"):
        ridge.predict(new[:, :39], y, 5)
    with pytest.raises(ValueError, match="nsd_id of its rows"):
        ridge.predict(new, Features(y.astype(np.float32), np.arange(60)), 5)
    with pytest.raises(ValueError, match="one image number per row"):
        SelectedVoxels(x, nsd_id=np.arange(59))


def test_number_of_voxels_is_the_published_one_at_full_size_and_shrinks_with_the_images():
    assert scale_voxels(4000, 8859) == scale_voxels(4000, 8000) == 4000
    assert scale_voxels(4000, 3600) == 1800
    assert scale_voxels(125, 10) == 1
