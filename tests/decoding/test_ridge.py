"""The ridge operator against scikit-learn and himalaya, in both shapes and both precisions."""

import numpy as np
import pytest
import torch
from himalaya.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from nbutils.decoding.gram import Gram
from nbutils.decoding.ridge import RidgeOperator
from nbutils.decoding.solvers import NumpySolver, TorchSolver
from nbutils.decoding.store import Features


def make_problem(n_images, n_voxels, target_shape=(7, 5), seed=0):
    rng = np.random.default_rng(seed)
    # A power-law spectrum, like responses: neither white nor of low rank.
    mix = rng.normal(size=(n_voxels, n_voxels)) / np.sqrt(np.arange(1, n_voxels + 1))[:, None]
    responses = rng.normal(size=(n_images + 20, n_voxels)) @ mix + rng.normal(size=n_voxels)
    weights = rng.normal(size=(n_voxels, int(np.prod(target_shape))))
    targets = responses @ weights / n_voxels**0.5 + 3 * rng.normal(size=weights.shape[1])
    targets += rng.normal(size=targets.shape)
    responses = responses.astype(np.float32)
    targets = targets.reshape(-1, *target_shape).astype(np.float32)
    return responses[:n_images], targets[:n_images], responses[n_images:]


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("shape", [(120, 300), (300, 120)], ids=["more voxels", "more images"])
@pytest.mark.parametrize("alpha", [10.0, 1000.0])
def test_predictions_equal_sklearn_ridge(shape, alpha):
    train, targets, test = make_problem(*shape)
    reference = Ridge(alpha=alpha).fit(
        train.astype(np.float64), targets.reshape(len(targets), -1).astype(np.float64)
    )
    expected = reference.predict(test.astype(np.float64)).reshape(-1, 7, 5)
    found = RidgeOperator(train).predict(test, targets, alpha, block=8)
    assert found.dtype == np.float32
    assert found.shape == (20, 7, 5)
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("shape", [(120, 300), (300, 120)], ids=["more voxels", "more images"])
def test_predictions_without_intercept_equal_sklearn_ridge(shape):
    train, targets, test = make_problem(*shape)
    flat = targets.reshape(len(targets), -1).astype(np.float64)
    reference = Ridge(alpha=100.0, fit_intercept=False).fit(train.astype(np.float64), flat)
    operator = RidgeOperator(train, intercept=False)
    found = operator.predict(test, flat, 100.0, block=8)
    assert relative(found, reference.predict(test.astype(np.float64))) < 1e-5
    assert relative(operator.weights(flat, 100.0)[0], reference.coef_.T) < 1e-4
    left_out = operator.apply(operator.leave_one_out(100.0), flat)
    assert relative(left_out, cross_val_predict(reference, train, flat, cv=LeaveOneOut())) < 1e-4


def test_predictions_equal_himalaya_kernel_ridge_on_centred_data():
    train, targets, test = make_problem(150, 200)
    flat = targets.reshape(150, -1)
    model = KernelRidge(alpha=300.0, kernel="linear")
    model.fit(train - train.mean(0), flat - flat.mean(0))
    expected = model.predict(test - train.mean(0)) + flat.mean(0)
    found = RidgeOperator(train).predict(test, flat, 300.0)
    assert relative(found, expected) < 1e-4


def test_tiny_penalty_falls_back_to_double_precision():
    train, targets, test = make_problem(80, 200)
    reference = Ridge(alpha=1e-6).fit(train.astype(np.float64), targets.reshape(80, -1))
    expected = reference.predict(test.astype(np.float64)).reshape(-1, 7, 5)
    operator = RidgeOperator(train)
    assert relative(operator.predict(test, targets, 1e-6), expected) < 1e-3


def test_collinear_voxels_without_penalty_are_refused():
    train, targets, test = make_problem(80, 30)
    train = np.hstack([train, train])
    with pytest.raises(ValueError, match="choose a larger alpha"):
        RidgeOperator(train).predict(np.hstack([test, test]), targets, 0.0)


@pytest.mark.parametrize("shape", [(60, 90), (90, 40)])
def test_weights_of_a_block_equal_sklearn_coefficients(shape):
    train, targets, _ = make_problem(*shape)
    block = targets.reshape(len(targets), -1)[:, :6]
    reference = Ridge(alpha=50.0).fit(train.astype(np.float64), block)
    weights, intercept = RidgeOperator(train).weights(block, 50.0)
    assert relative(weights, reference.coef_.T) < 1e-5
    assert relative(intercept, reference.intercept_) < 1e-5


@pytest.mark.parametrize("shape", [(40, 60), (60, 25)])
def test_leave_one_out_equals_refitting_without_each_image(shape):
    train, targets, _ = make_problem(*shape)
    flat = targets.reshape(len(targets), -1)
    expected = cross_val_predict(Ridge(alpha=40.0), train.astype(float), flat, cv=LeaveOneOut())
    operator = RidgeOperator(train)
    rows = np.array([3, 0, 17])
    left_out = operator.leave_one_out(40.0, rows)
    assert (left_out[np.arange(3), rows] == 0).all()
    assert relative(operator.apply(left_out, flat), expected[rows]) < 1e-4


def test_synthetic_pattern_is_one_more_row_and_needs_no_weights():
    train, targets, _ = make_problem(80, 120)
    pattern = (np.arange(120) < 30).astype(np.float32)[None]
    weights, intercept = RidgeOperator(train).weights(targets.reshape(80, -1), 20.0)
    expected = pattern @ weights + intercept
    found = RidgeOperator(train).predict(pattern, targets, 20.0).reshape(1, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_features_are_aligned_by_nsd_id_not_by_position():
    train, targets, test = make_problem(50, 70)
    nsd_id = np.random.default_rng(1).permutation(1000)[:50]
    order = np.argsort(nsd_id)
    features = Features(targets[order].astype(np.float16), nsd_id[order])
    found = RidgeOperator(train, nsd_id).predict(test, features, 30.0)
    expected = RidgeOperator(train).predict(test, targets.astype(np.float16), 30.0)
    np.testing.assert_array_equal(found, expected)


def test_memory_map_and_block_size_do_not_change_predictions(tmp_path):
    train, targets, test = make_problem(50, 70)
    np.save(tmp_path / "targets.npy", targets.astype(np.float16))
    mapped = np.load(tmp_path / "targets.npy", mmap_mode="r")
    operator = RidgeOperator(train)
    whole = operator.predict(test, targets.astype(np.float16), 30.0)
    np.testing.assert_allclose(operator.predict(test, mapped, 30.0, block=3), whole, atol=1e-5)


def test_training_targets_are_left_as_they_were():
    train, targets, test = make_problem(50, 70)
    before = targets.copy()
    operator = RidgeOperator(train)
    operator.predict(test, targets, 30.0)
    operator.weights(targets.reshape(50, -1), 30.0)
    np.testing.assert_array_equal(targets, before)


def test_bad_input_is_refused_with_a_reason():
    train, targets, test = make_problem(50, 70)
    operator = RidgeOperator(train)
    with pytest.raises(ValueError, match="same mask"):
        operator.predict(test[:, :-1], targets, 1.0)
    with pytest.raises(ValueError, match="49 rows for 50 training responses"):
        operator.predict(test, targets[:-1], 1.0)
    with pytest.raises(ValueError, match="finite number >= 0"):
        operator.predict(test, targets, -1.0)
    with pytest.raises(ValueError, match="one image number per row"):
        RidgeOperator(train, np.arange(49))
    train[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        RidgeOperator(train)


def test_each_target_can_have_its_own_penalty():
    train, targets, test = make_problem(60, 90)
    alphas = np.random.default_rng(2).choice([3.0, 30.0, 300.0], size=(7, 5))
    operator = RidgeOperator(train)
    found = operator.predict(test, targets, alphas, block=4)
    reference = Ridge(alpha=alphas.ravel()).fit(train.astype(float), targets.reshape(60, -1))
    expected = reference.predict(test.astype(float)).reshape(-1, 7, 5)
    assert relative(found, expected) < 1e-5
    with pytest.raises(ValueError, match="34 penalties for 35 targets"):
        operator.predict(test, targets, alphas.ravel()[:-1])


@pytest.mark.parametrize("shape", [(60, 90), (90, 40)])
def test_penalties_in_any_order_give_what_a_fresh_operator_gives(shape):
    train, targets, test = make_problem(*shape)
    operator = RidgeOperator(train)
    for alpha in (1e-6, 300.0, 5.0, 1e-5, 300.0, 1e4):
        found = operator.predict(test, targets, alpha)
        fresh = RidgeOperator(train).predict(test, targets, alpha)
        np.testing.assert_array_equal(found, fresh)


def test_factor_and_matrix_share_one_array_larger_than_a_block():
    x = np.random.default_rng(0).normal(size=(1300, 1400)).astype(np.float32)
    gram = Gram(x)
    for alpha in (2000.0, 500.0):
        assert gram.factor(alpha)
        lower = np.tril(gram.matrix)
        expected = (x @ x.T).astype(float) + alpha * np.eye(1300)
        assert relative(lower @ lower.T, expected) < 1e-6


@pytest.mark.parametrize("shape", [(80, 200), (120, 60)])
def test_unreliable_single_precision_factor_is_replaced_by_a_double_one(shape):
    train, _, _ = make_problem(*shape)
    solver = NumpySolver(train - train.mean(0))
    assert solver.system(1e-4).matrix.dtype == np.float64
    assert solver.system(1e4).matrix.dtype == np.float32


def test_predictions_written_to_a_file_equal_those_in_memory(tmp_path):
    train, targets, test = make_problem(50, 70)
    operator = RidgeOperator(train)
    found = operator.predict(test, targets, 30.0, block=4, out=tmp_path / "deep" / "p.npy")
    assert isinstance(found, np.memmap) and not found.flags.writeable
    np.testing.assert_array_equal(found, operator.predict(test, targets, 30.0, block=4))
    np.testing.assert_array_equal(np.load(tmp_path / "deep" / "p.npy"), found)


@pytest.mark.parametrize("shape", [(80, 120), (120, 80)])
@pytest.mark.parametrize("alpha", [50.0, 1e-4])
def test_torch_gives_what_numpy_gives(shape, alpha):
    train, targets, test = make_problem(*shape)
    centred, values = train - train.mean(0), targets.reshape(len(targets), -1)
    values = values - values.mean(0)
    ours, theirs = NumpySolver(centred), TorchSolver(centred, "cpu")
    new = (test - train.mean(0)).astype(np.float32)
    assert relative(theirs.weigh(new, alpha), ours.weigh(new, alpha)) < 1e-5
    assert relative(theirs.weights(values, alpha), ours.weights(values, alpha)) < 1e-5
    operator = ours.weigh(new, alpha)
    assert relative(theirs.multiply(theirs.place(operator), values), operator @ values) < 1e-6


def test_torch_halves_blocks_that_do_not_fit_its_memory(monkeypatch):
    train, targets, test = make_problem(40, 60)
    solver, flat = TorchSolver(train - train.mean(0), "cpu"), targets.reshape(40, -1)
    operator = solver.weigh((test - train.mean(0)).astype(np.float32), 10.0)
    up = solver._up

    def small(values):
        if values.shape[1] > 10:
            raise torch.cuda.OutOfMemoryError
        return up(values)

    placed = solver.place(operator)
    monkeypatch.setattr(solver, "_up", small)
    assert relative(solver.multiply(placed, flat), operator @ flat) < 1e-6


def test_apples_device_means_the_cpu():
    """It has no double precision, which an ill-conditioned system needs."""
    train, targets, test = make_problem(40, 60)
    features, ids = Features(targets, np.arange(40)), np.arange(40)
    on_cpu = RidgeOperator(train, ids, "cpu").predict(test, features, 10.0)
    found = RidgeOperator(train, ids, "mps").predict(test, features, 10.0)
    np.testing.assert_array_equal(found, on_cpu)


def test_unknown_device_is_refused():
    with pytest.raises(ValueError, match="cpu or cuda"):
        RidgeOperator(np.eye(3), device="abacus")
