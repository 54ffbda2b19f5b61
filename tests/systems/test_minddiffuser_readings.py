"""What is read in the control layers: chosen on training images, decoded, and calibrated."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from nbutils.decoding.ridge import RidgeOperator
from nbutils.decoding.store import Features
from nbutils.decoding.voxels import SelectedVoxels
from nbutils.networks.control import EMBEDDING
from nbutils.systems.minddiffuser_control import Target, hold_out
from nbutils.systems.minddiffuser_readings import Components, Entries, choose_entries
from nbutils.systems.settings_minddiffuser import MindDiffuserSettings

CPU = torch.device("cpu")


def settings(**changes):
    return MindDiffuserSettings.careful(**changes)


@pytest.fixture(scope="module")
def world():
    """Responses of 90 images; half of the control numbers follow them, half are noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 30)).astype(np.float32)
    ids = 500 + np.arange(90)
    control = (x @ rng.normal(size=(30, 160)) / 5 + 0.2 * rng.normal(size=(90, 160))).reshape(
        90, 2, 5, 16
    )
    unseen = rng.random(control.shape[1:]) < 0.5
    control[:, unseen] = rng.normal(size=(90, int(unseen.sum())))
    return x, ids, Features(control.astype(np.float32), ids), unseen


@pytest.fixture(scope="module")
def brain():
    """3,000 images: five hidden causes with less and less signal in the voxels, one with none."""
    rng = np.random.default_rng(1)
    causes = rng.normal(size=(3000, 6)) * np.array([6.0, 5, 4, 3, 2.5, 2])
    seen = causes * np.array([1, 0.6, 0.4, 0.3, 0.25, 0])
    x = seen @ rng.normal(size=(6, 40)) + 6 * rng.normal(size=(3000, 40))
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)
    layers = [causes @ np.linalg.qr(rng.normal(size=(24, 6)))[0].T for _ in range(2)]
    control = np.stack(layers, axis=1).reshape(3000, 2, 4, 6) + 0.01 * rng.normal(
        size=(3000, 2, 4, 6)
    )
    ids = 1 + np.arange(3000)
    return x, ids, Features(control.astype(np.float32), ids)


@pytest.fixture(scope="module")
def components(brain):
    x, ids, control = brain
    operator = RidgeOperator(x[:2000], ids[:2000])
    return Components.fit(operator, control, 200.0, settings())


def test_chosen_numbers_are_those_that_the_brain_predicts(world):
    x, ids, control, unseen = world
    operator = RidgeOperator(x, ids)
    layer, token = (
        choose_entries(operator, control, 1.0, settings(kept_per=per)) for per in ("layer", "token")
    )
    np.testing.assert_array_equal(layer.sum(axis=(1, 2)), [20, 20])
    np.testing.assert_array_equal(token.sum(axis=2), np.full((2, 5), 4))
    assert not (layer & unseen).any() and not (token & unseen).any()


def test_choice_is_that_of_refitting_without_each_image(world):
    x, ids, control, _ = world
    few = Features(control.array[:12, :, :2], ids[:12])
    operator = RidgeOperator(x[:12], ids[:12])
    found = choose_entries(operator, few, 3.0, settings(kept_per="layer"))
    y, left_out = few.array.reshape(12, -1), np.empty((12, 64))
    for i in range(12):
        rest = np.delete(np.arange(12), i)
        left_out[i] = Ridge(alpha=3.0).fit(x[rest], y[rest]).predict(x[[i]])[0]
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(y.T, left_out.T, strict=True)])
    best = np.argsort(-r.reshape(2, -1), axis=1)[:, :8]
    for layer in range(2):
        np.testing.assert_array_equal(np.flatnonzero(found[layer]), np.sort(best[layer]))


def test_chosen_numbers_are_decoded_from_their_own_voxels(world):
    x, ids, control, unseen = world
    reading = Entries(~unseen, SelectedVoxels(x[:80], ids[:80]), control, settings())
    found = reading.decode(x[80:83])
    assert found.shape == (3, sum(reading.sizes)) and reading.out_of == [80, 80]
    truth = reading.reader(CPU)(torch.from_numpy(control.array))
    column = reading.sizes[0] + 3  # the fourth number of the upper layer
    y = truth[:80, column].numpy()
    r = [abs(np.corrcoef(voxel, y)[0, 1]) for voxel in x[:80].T]
    voxels = np.argsort(r)[::-1][: settings().count_voxels("control", 80)]
    expected = Ridge(alpha=0.15).fit(x[:80, voxels], y).predict(x[80:83, voxels])
    np.testing.assert_allclose(found[:, column], expected, atol=1e-4)


def test_what_is_read_in_pictures_is_what_was_chosen(world):
    _, _, control, unseen = world
    reading = Entries(~unseen, None, None, settings())
    found = reading.reader(CPU)(torch.from_numpy(control.array[:3]))
    np.testing.assert_array_equal(found, control.array[:3][:, ~unseen])


def test_components_are_those_of_the_training_images_that_the_brain_knows(brain, components):
    x, ids, control = brain
    rows = np.linspace(0, 1999, 1000).astype(int)
    for layer, (base, r) in enumerate(zip(components.bases, components.r, strict=True)):
        values = control.array[rows, layer].reshape(1000, -1)
        pca = PCA(6).fit(values)
        cosines = np.abs(pca.components_ @ (base / np.linalg.norm(base, axis=0)))
        np.testing.assert_allclose(cosines[: len(r), : len(r)], np.eye(len(r)), atol=1e-3)
        assert len(r) < 6 and (r >= 0.3).all()  # the last cause is not in the voxels
        np.testing.assert_allclose(components.mean[layer], values.mean(axis=0), atol=1e-5)


def test_their_correlations_are_those_of_refitting_without_each_image(brain):
    x, ids, control = brain
    few = slice(0, 60)
    found = Components.fit(RidgeOperator(x[few], ids[few]), control, 20.0, settings(least_r=0.01))
    values = control.array[few, 0].reshape(60, -1).astype(float)
    scores = PCA(svd_solver="full").fit_transform(values)
    told = np.empty_like(scores)
    for i in range(60):
        rest = np.delete(np.arange(60), i)
        told[i] = Ridge(alpha=20.0).fit(x[rest], scores[rest]).predict(x[[i]])[0]
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores.T, told.T, strict=True)]
    expected = [one for one in r if one >= 0.01]
    np.testing.assert_allclose(found.r[0], expected, atol=1e-3)


def test_a_reading_of_responses_minus_that_of_the_picture_is_noise_of_variance_one(
    brain, components
):
    x, _, control = brain
    told = components.decode(x[2000:])
    seen = components.reader(CPU)(torch.from_numpy(control.array[2000:])).numpy()
    apart = told - seen
    np.testing.assert_allclose(apart.var(axis=0), 1, atol=0.2)  # 1,000 new images
    np.testing.assert_allclose(apart.mean(axis=0), 0, atol=0.2)
    slopes = [np.polyfit(a, b, 1)[0] for a, b in zip(seen.T, told.T, strict=True)]
    np.testing.assert_allclose(slopes, 1, atol=0.15)  # shrinkage is taken back


def test_responses_are_read_by_ridge_on_the_scores(brain, components):
    x, _, _ = brain
    model = Ridge(alpha=200.0).fit(x[:2000], components.scores)
    np.testing.assert_allclose(
        components.decode(x[2000:2010]), model.predict(x[2000:2010]), atol=1e-3
    )


def test_a_brain_that_knows_nothing_is_told_of_and_still_gives_finite_losses(brain):
    _, ids, control = brain
    noise = np.random.default_rng(2).normal(size=(300, 40)).astype(np.float32)
    with pytest.warns(UserWarning, match="reaches least_r=0.3") as told:
        found = Components.fit(RidgeOperator(noise, ids[:300]), control, 300.0, settings())
    assert [str(one.message)[:29] for one in told] == [
        "no component of control layer"
    ] * 2 and found.sizes == [2, 2]
    layers = torch.from_numpy(control.array[:3])
    seen = {"Linear-2": layers[:, 0], "Linear-4": layers[:, 1], EMBEDDING: torch.ones(3, 4)}
    aims = torch.from_numpy(found.decode(noise[:3]))
    target = Target.of(found, aims, torch.ones(3, 4), settings(), CPU)
    for values in target.compare(seen):
        assert values.isfinite().all() and (values > 0).all()


def test_a_layer_that_never_varies_is_refused(brain):
    x, ids, control = brain
    same = control.array[:300].copy()
    same[:, 1] = 0.5
    with pytest.raises(ValueError, match="control layer 2 is the same for all images"):
        Components.fit(
            RidgeOperator(x[:300], ids[:300]), Features(same, ids[:300]), 9.0, settings()
        )


@pytest.mark.parametrize("sizes", [[1, 2], [2, 2], [3] * 6, [40, 5]])
def test_of_every_layer_something_is_held_out_and_something_is_not(sizes):
    for seed in range(20):
        parts = hold_out(sizes, 0.2, seed).split(sizes)
        counts = [int(part.sum()) for part in parts]
        assert counts == [min(max(1, round(0.2 * size)), size - 1) for size in sizes]
    assert not hold_out(sizes, 0.0, 0).any()
