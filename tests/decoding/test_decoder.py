"""The decoder of one subject puts ridge, feature store and rescaling together."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from nbutils.decoding.decoder import Decoder
from nbutils.decoding.rescale import describe
from nbutils.decoding.ridge import RidgeOperator
from nbutils.decoding.store import Features

ALPHAS = {"autokl": 20.0, "clip_text": 200.0}


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(0)
    train_id, test_id = rng.permutation(500)[:60].astype(int), np.arange(500, 512)
    responses = rng.normal(size=(72, 80)).astype(np.float32)
    ids = np.concatenate([train_id, test_id])
    order = rng.permutation(72)  # the store holds training and test images in its own order
    features = {}
    for name, shape in {"autokl": (2, 3), "clip_text": (4, 5)}.items():
        values = (responses @ rng.normal(size=(80, np.prod(shape))) + 3).reshape(72, *shape)
        features[name] = Features(values[order].astype(np.float16), ids[order])
    return RidgeOperator(responses[:60], train_id), features, responses[60:], responses[:60]


def test_each_feature_is_predicted_with_its_own_penalty_from_training_images(parts):
    operator, features, test, train = parts
    predicted = Decoder(operator, features, ALPHAS).decode(test)
    for name, values in predicted.items():
        targets = features[name].take(operator.nsd_id).reshape(60, -1)
        expected = Ridge(alpha=ALPHAS[name]).fit(train, targets).predict(test)
        np.testing.assert_allclose(values.reshape(12, -1), expected, rtol=1e-3, atol=1e-3)


def test_statistics_leave_test_images_out(parts):
    operator, features, _, _ = parts
    found = Decoder(operator, features, ALPHAS).describe_training("autokl")
    expected = describe(features["autokl"].take(operator.nsd_id))
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5)


def test_rescaling_can_be_switched_for_a_call(parts):
    operator, features, test, _ = parts
    decoder = Decoder(operator, features, ALPHAS, mode="test_stats")
    spread = decoder.decode(test, ["autokl"])["autokl"].std(0)
    np.testing.assert_allclose(spread, decoder.describe_training("autokl").std, rtol=1e-3)
    plain = decoder.decode(test[:1], ["autokl"], mode="none")["autokl"]
    np.testing.assert_allclose(plain, decoder.decode(test, mode="none")["autokl"][:1], rtol=1e-4)
    one = Decoder(operator, features, ALPHAS, mode="train_cv").decode(test[:1])
    assert one["clip_text"].shape == (1, 4, 5)


def test_parts_that_do_not_fit_are_refused(parts):
    operator, features, test, train = parts
    with pytest.raises(ValueError, match="clip_text has no alpha"):
        Decoder(operator, features, {"autokl": 1.0})
    with pytest.raises(ValueError, match="images have no features here"):
        Decoder(RidgeOperator(train, np.arange(60) + 9000), features, ALPHAS)
    with pytest.raises(ValueError, match="this decoder has autokl, clip_text"):
        Decoder(operator, features, ALPHAS).decode(test, ["vdvae"])
    with pytest.raises(ValueError, match="no nsd_id"):
        Decoder(RidgeOperator(train), features, ALPHAS)


@pytest.mark.parametrize("mode", ["none", "train_cv", "test_stats"])
def test_predictions_in_a_folder_equal_those_in_memory(parts, tmp_path, mode):
    operator, features, test, _ = parts
    decoder = Decoder(operator, features, ALPHAS, mode)
    kept, stored = decoder.decode(test), decoder.decode(test, folder=tmp_path)
    assert list(stored) == list(kept) == list(features)
    for name, values in kept.items():
        np.testing.assert_allclose(stored[name], values, rtol=1e-5, atol=1e-5)
        assert isinstance(stored[name], np.memmap)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["autokl.npy", "clip_text.npy"]


def test_each_penalty_is_factored_once(parts, monkeypatch):
    operator, features, test, _ = parts
    features = {f"{name}{k}": stored for k in range(3) for name, stored in features.items()}
    alphas = {name: 20.0 if name.startswith("autokl") else 200.0 for name in features}
    factored, gram = [], operator._solver.gram
    monkeypatch.setattr(gram, "alpha", None)
    factor = gram._factor
    monkeypatch.setattr(gram, "_factor", lambda alpha: factored.append(alpha) or factor(alpha))
    Decoder(operator, features, alphas, "train_cv").decode(test)
    assert factored == [20.0, 200.0]


def test_penalty_of_each_value_is_used(parts):
    operator, features, test, train = parts
    alphas = ALPHAS | {"autokl": np.array([[1.0, 10, 100], [1000, 10, 1]])}
    found = Decoder(operator, features, alphas, "train_cv").decode(test, ["autokl"], mode="none")
    targets = features["autokl"].take(operator.nsd_id).reshape(60, -1)
    expected = Ridge(alpha=alphas["autokl"].ravel()).fit(train, targets).predict(test)
    np.testing.assert_allclose(found["autokl"].reshape(12, -1), expected, rtol=1e-3, atol=1e-3)
    scaled = Decoder(operator, features, alphas, "train_cv").decode(test[:1], ["autokl"])
    assert np.isfinite(scaled["autokl"]).all()
