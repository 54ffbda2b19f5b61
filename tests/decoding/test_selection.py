"""Choosing the ridge penalty, against scikit-learn."""

import numpy as np
import pytest
from himalaya.ridge import RidgeCV as HimalayaRidgeCV
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold

from nbutils.decoding.ridge import RidgeOperator
from nbutils.decoding.selection import choose_alpha, choose_alphas
from nbutils.decoding.store import Features

ALPHAS = np.array([0.5, 5.0, 50.0, 500.0, 5000.0])


@pytest.fixture(params=[(60, 100), (100, 40)], ids=["more voxels", "more images"])
def problem(request):
    n_images, n_voxels = request.param
    rng = np.random.default_rng(4)
    responses = rng.normal(size=(n_images, n_voxels)) + 0.5
    targets = responses @ rng.normal(size=(n_voxels, 6)) * 0.3 + rng.normal(size=(n_images, 6)) * 3
    return responses, targets + 10


def test_leave_one_out_errors_equal_sklearn_ridgecv(problem):
    responses, targets = problem
    reference = RidgeCV(alphas=ALPHAS, store_cv_results=True).fit(responses, targets)
    choice = choose_alpha(responses, targets, ALPHAS, "loo")
    expected = reference.cv_results_.mean(axis=(0, 1))
    np.testing.assert_allclose(choice.errors, expected, rtol=5e-5)
    assert choice.alpha == reference.alpha_


def test_kfold_errors_equal_sklearn_grid_search(problem):
    responses, targets = problem
    search = GridSearchCV(
        Ridge(), {"alpha": ALPHAS}, cv=KFold(4), scoring="neg_mean_squared_error"
    ).fit(responses, targets)
    choice = choose_alpha(responses, targets, ALPHAS, "kfold", folds=4)
    np.testing.assert_allclose(choice.errors, -search.cv_results_["mean_test_score"], rtol=1e-4)
    assert choice.alpha == search.best_params_["alpha"]


def test_folds_grouped_by_image_equal_sklearn_group_kfold(problem):
    responses, targets = problem
    groups = np.random.default_rng(0).integers(0, 20, len(responses))
    search = GridSearchCV(
        Ridge(), {"alpha": ALPHAS}, cv=GroupKFold(5), scoring="neg_mean_squared_error"
    ).fit(responses, targets, groups=groups)
    sizes = [len(test) for _, test in GroupKFold(5).split(responses, groups=groups)]
    # scikit-learn averages over folds, we over trials: the same where folds are equally large.
    splits = [search.cv_results_[f"split{i}_test_score"] for i in range(5)]
    expected = -np.average(splits, axis=0, weights=sizes)
    choice = choose_alpha(responses, targets, ALPHAS, "kfold", groups=groups)
    np.testing.assert_allclose(choice.errors, expected, rtol=1e-4)


def test_choice_without_intercept_equals_himalayas_ridge_cv():
    rng = np.random.default_rng(1)
    responses = rng.normal(size=(100, 30))
    targets = responses @ rng.normal(size=(30, 8)) + 3 * rng.normal(size=(100, 8)) + 2
    model = HimalayaRidgeCV(alphas=ALPHAS, cv=5).fit(responses, targets)
    choice = choose_alpha(
        responses, targets, ALPHAS, "kfold", folds=5, per="target", intercept=False
    )
    np.testing.assert_allclose(choice.alpha, model.best_alphas_)
    found = RidgeOperator(responses, intercept=False).predict(responses[:9], targets, choice.alpha)
    np.testing.assert_allclose(found, model.predict(responses[:9]), rtol=1e-4, atol=1e-4)


def test_repeats_in_two_folds_make_the_choice_optimistic():
    """Twins across folds: without groups, the error of the held-out twin is too small."""
    rng = np.random.default_rng(2)
    responses = np.repeat(rng.normal(size=(40, 60)), 3, axis=0) + 0.1 * rng.normal(size=(120, 60))
    targets, images = np.repeat(rng.normal(size=(40, 5)), 3, axis=0), np.repeat(np.arange(40), 3)
    order = np.arange(120).reshape(40, 3).T.reshape(-1)
    rows = responses[order], targets[order]
    straddling = choose_alpha(*rows, ALPHAS, "kfold")
    apart = choose_alpha(*rows, ALPHAS, "kfold", groups=images[order])
    assert straddling.errors.min() < 0.2 * apart.errors.min()
    assert straddling.alpha < apart.alpha


def test_gcv_equals_its_definition_with_the_hat_matrix(problem):
    responses, targets = problem
    n = len(responses)
    design = np.hstack([np.ones((n, 1)), responses])
    penalty = np.eye(design.shape[1])
    penalty[0, 0] = 0
    expected = []
    for alpha in ALPHAS:
        hat = design @ np.linalg.solve(design.T @ design + alpha * penalty, design.T)
        residual = targets - hat @ targets
        expected.append((residual**2).mean() / (1 - np.trace(hat) / n) ** 2)
    choice = choose_alpha(responses, targets, ALPHAS, "gcv")
    np.testing.assert_allclose(choice.errors, expected, rtol=5e-5)


@pytest.mark.parametrize("method", ["loo", "gcv", "kfold"])
def test_several_features_get_the_choice_each_would_get_alone(problem, method):
    responses, targets = problem
    both = {"first": targets[:, :2], "rest": targets[:, 2:]}
    together = choose_alphas(responses, both, ALPHAS, method)
    for name, values in both.items():
        alone = choose_alpha(responses, values, ALPHAS, method)
        assert together[name].alpha == alone.alpha
        np.testing.assert_array_equal(together[name].errors, alone.errors)


def test_features_rows_are_found_by_nsd_id(problem):
    responses, targets = problem
    nsd_id = np.arange(len(responses)) * 7
    features = Features(targets[::-1].astype(np.float32), nsd_id[::-1])
    found = choose_alpha(responses, features, ALPHAS, nsd_id=nsd_id)
    expected = choose_alpha(responses, targets.astype(np.float32), ALPHAS)
    np.testing.assert_allclose(found.errors, expected.errors)


def test_bad_choices_are_refused(problem):
    responses, targets = problem
    with pytest.raises(ValueError, match="choose one of loo, gcv, kfold"):
        choose_alpha(responses, targets, ALPHAS, "guess")
    with pytest.raises(ValueError, match="at least one candidate"):
        choose_alpha(responses, targets, [])
    with pytest.raises(ValueError, match="same images"):
        choose_alpha(responses, targets[:-1], ALPHAS)
    with pytest.raises(ValueError, match="go with kfold only"):
        choose_alpha(responses, targets, ALPHAS, "gcv", intercept=False)


def test_choice_for_each_target_equals_sklearn(problem):
    responses, targets = problem
    reference = RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(responses, targets)
    choice = choose_alpha(responses, targets.reshape(-1, 2, 3), ALPHAS, "loo", per="target")
    np.testing.assert_array_equal(choice.alpha, reference.alpha_.reshape(2, 3))
    assert choice.at_edge == np.isin(choice.alpha, [ALPHAS[0], ALPHAS[-1]]).mean()


def test_gcv_chooses_what_exact_leave_one_out_chooses_for_nearly_all_targets():
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, 1201) ** -0.5
    responses = rng.normal(size=(800, 1200)) * spectrum + 0.3 * rng.normal(size=(800, 1200))
    signal = responses @ rng.normal(size=(1200, 500))
    targets = signal / signal.std() + rng.uniform(1, 4, 500) * rng.normal(size=(800, 500))
    alphas = np.logspace(0, 5, 10)
    exact = RidgeCV(alphas=alphas, alpha_per_target=True).fit(responses, targets).alpha_
    found = choose_alpha(responses, targets, alphas, "gcv", per="target").alpha
    # 0.968 here, with GCV in double precision as well; it grows with the number of images.
    assert (found == exact).mean() > 0.96
    ours = choose_alpha(responses, targets, alphas, "loo", per="target").alpha
    assert (ours == exact).mean() > 0.998  # ties in single precision


@pytest.mark.parametrize("method", ["loo", "gcv", "kfold"])
def test_choices_per_target_average_to_the_choice_per_feature(problem, method):
    responses, targets = problem
    each = choose_alpha(responses, targets, ALPHAS, method, per="target")
    shared = choose_alpha(responses, targets, ALPHAS, method, n_targets=None)
    np.testing.assert_allclose(each.errors, shared.errors, rtol=1e-6)
    assert each.alpha.shape == (6,)


def test_tiny_penalties_are_compared_in_double_precision(problem):
    responses, targets = problem
    alphas = np.array([1e-3, 1e-2, 1.0])
    reference = RidgeCV(alphas=alphas, store_cv_results=True).fit(responses, targets)
    choice = choose_alpha(responses, targets, alphas, "loo")
    expected = reference.cv_results_.mean(axis=(0, 1))
    # The targets are single precision, and 1e-3 leaves a residual of 1e-4 of them.
    np.testing.assert_allclose(choice.errors, expected, rtol=1e-3)


def test_choice_at_the_end_of_the_grid_is_reported(problem):
    responses, targets = problem
    assert choose_alpha(responses, targets, [1e7, 1e8]).at_edge == 1
    assert choose_alpha(responses, targets, [5.0]).at_edge == 0
