"""Rescaling predictions: the published formula, and the one without test items."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from nbutils.decoding.rescale import describe, describe_predictions, rescale
from nbutils.decoding.ridge import RidgeOperator
from nbutils.decoding.store import Features


def make_data(seed=0):
    rng = np.random.default_rng(seed)
    train, test = rng.normal(size=(90, 30)), rng.normal(size=(25, 30))
    weights = rng.normal(size=(30, 12))
    targets = train @ weights + 8 * rng.normal(size=(90, 12)) + rng.normal(size=12) * 5
    return train.astype(np.float32), targets.reshape(90, 3, 4).astype(np.float32), test


def test_describe_equals_numpy_over_blocks():
    _, targets, _ = make_data()
    found = describe(targets, block=5)
    np.testing.assert_allclose(found.mean, targets.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.std, targets.std(0), rtol=1e-5)
    norms = np.linalg.norm((targets - targets.mean(0)).reshape(90, -1), axis=1)
    assert found.norm == pytest.approx(np.median(norms), rel=1e-5)


def test_describe_uses_only_the_images_asked():
    _, targets, _ = make_data()
    features = Features(targets, np.arange(90) + 100)
    found = describe(features, np.arange(100, 140))
    np.testing.assert_allclose(found.mean, targets[:40].mean(0), rtol=1e-5)


def test_test_stats_gives_test_predictions_the_training_mean_and_spread():
    _, targets, test = make_data()
    predicted = np.random.default_rng(3).normal(size=(25, 3, 4)).astype(np.float32)
    found = rescale(predicted, "test_stats", targets=describe(targets))
    np.testing.assert_allclose(found.mean(0), targets.mean(0), atol=1e-4)
    np.testing.assert_allclose(found.std(0), targets.std(0), rtol=1e-4)


def test_train_cv_uses_leave_one_out_predictions_of_training_images():
    train, targets, test = make_data()
    operator = RidgeOperator(train)
    predictions = describe_predictions(operator, targets, 100.0)
    held_out = cross_val_predict(
        Ridge(alpha=100.0), train, targets.reshape(90, -1), cv=LeaveOneOut()
    ).reshape(90, 3, 4)
    np.testing.assert_allclose(predictions.std, held_out.std(0), rtol=1e-3)
    one = operator.predict(test[:1], targets, 100.0)
    found = rescale(one, "train_cv", targets=describe(targets), predictions=predictions)
    expected = (one - held_out.mean(0)) / held_out.std(0) * targets.std(0) + targets.mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_train_cv_of_one_item_does_not_depend_on_the_others():
    train, targets, test = make_data()
    operator = RidgeOperator(train)
    statistics = {
        "targets": describe(targets),
        "predictions": describe_predictions(operator, targets, 100.0, n_images=50),
    }
    predicted = operator.predict(test, targets, 100.0)
    together = rescale(predicted, "train_cv", **statistics)
    alone = rescale(predicted[4:5], "train_cv", **statistics)
    np.testing.assert_array_equal(together[4:5], alone)


def test_constant_feature_keeps_its_mean():
    _, targets, _ = make_data()
    targets[:, 0, 0] = 2.5
    predicted = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
    predicted[:, 0, 0] = 2.5
    found = rescale(predicted, "test_stats", targets=describe(targets))
    np.testing.assert_allclose(found[:, 0, 0], 2.5)


def test_bad_modes_are_refused():
    _, targets, _ = make_data()
    with pytest.raises(ValueError, match="choose one of none, train_cv, test_stats"):
        rescale(targets, "whiten")
    with pytest.raises(ValueError, match="cannot rescale a single one"):
        rescale(targets[:1], "test_stats", targets=describe(targets))
    with pytest.raises(ValueError, match="leave-one-out predictions"):
        rescale(targets, "train_cv", targets=describe(targets))
