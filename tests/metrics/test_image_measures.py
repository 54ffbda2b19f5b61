"""Image measures on real photographs, against numpy and scikit-image."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage import data
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity
from skimage.transform import resize

from nbutils.metrics import images as measures
from nbutils.networks.classifier import SceneClassifier


@pytest.fixture(scope="module")
def photographs():
    """Four real photographs at 64 pixels, and noisy copies."""
    photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    truth = np.stack(
        [
            np.round(255 * resize(photo, (64, 64), anti_aliasing=True)).astype(np.uint8)
            for photo in photos
        ]
    )
    noise = np.random.default_rng(0).normal(0, 40, truth.shape)
    return np.clip(truth + noise, 0, 255).astype(np.uint8), truth


def test_pixcorr_equals_numpy(photographs):
    found, truth = photographs
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(found, truth, strict=True)]
    np.testing.assert_allclose(measures.pixcorr(found, truth), expected, atol=1e-9)
    np.testing.assert_allclose(measures.pixcorr(255 - truth, truth), -1)
    assert (measures.pixcorr(np.full_like(truth, 9), truth) == 0).all()


def test_small_reconstructions_are_resized_to_the_presented_images(photographs):
    _, truth = photographs
    assert measures.pixcorr(truth[:, ::2, ::2], truth).min() > 0.8


def test_ssim_is_scikit_images_in_two_dimensions(photographs):
    found, truth = photographs
    expected = [
        structural_similarity(
            rgb2gray(a),
            rgb2gray(b),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
        )
        for a, b in zip(found, truth, strict=True)
    ]
    np.testing.assert_allclose(measures.ssim(found, truth), expected, atol=1e-12)
    np.testing.assert_allclose(measures.ssim(truth, truth), 1)


def test_legacy_ssim_is_the_mean_of_one_dimensional_columns(photographs):
    found, truth = photographs
    grey = rgb2gray(found[0]), rgb2gray(truth[0])
    columns = [
        structural_similarity(
            grey[0][:, k],
            grey[1][:, k],
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
        )
        for k in range(64)
    ]
    legacy = measures.ssim(found[:1], truth[:1], "legacy_columns")
    assert legacy[0] == pytest.approx(np.mean(columns), abs=1e-9)
    assert abs(legacy[0] - measures.ssim(found[:1], truth[:1])[0]) > 0.005


def test_legacy_ssim_is_scikit_images_with_columns_as_channels(photographs):
    found, truth = photographs
    expected = [
        structural_similarity(
            rgb2gray(a),
            rgb2gray(b),
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
        )
        for a, b in zip(found[:3], truth[:3], strict=True)
    ]
    legacy = measures.ssim(found[:3], truth[:3], "legacy_columns")
    np.testing.assert_allclose(legacy, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", ["2d", "legacy_columns"])
def test_images_smaller_than_the_window_are_refused(variant):
    small = np.zeros((1, 10, 10, 3), np.uint8)
    with pytest.raises(ValueError, match="win"):
        measures.ssim(small, small, variant)


def test_hits_on_planted_answers():
    probabilities = np.array([[0.1, 0.8, 0.3], [0.9, 0.2, 0.95], [0.6, 0.1, 0.2]])
    names = [["dog", "bus"], ["tree"], ["bus", "table"]]
    present = measures.mark_present(names, ["tree", "dog", "bus"])
    np.testing.assert_array_equal(measures.category_hit(probabilities, present), [1, 0, 0])
    np.testing.assert_array_equal(measures.background_hit(probabilities, [1, 0, 0]), [1, 0, 1])


@pytest.fixture(scope="module")
def judge(photographs):
    torch.manual_seed(0)
    classifier = SceneClassifier(5, 3, 64).eval()
    return measures.ImageJudge(photographs[1], classifier=classifier)


def test_the_presented_images_themselves_are_perfect(judge, photographs):
    values = judge.measure(photographs[1])
    for name, value in values.items():
        perfect = 0 if name in measures.LOWER_IS_BETTER else 1
        if name != "category hit":  # an untrained classifier may find nothing likely
            np.testing.assert_allclose(value, perfect, atol=1e-6, err_msg=name)


def test_chance_pairs_every_result_with_another_image(judge, photographs):
    found, truth = photographs
    values, chance = judge.measure(found), judge.measure_chance(found)
    assert set(values) == set(chance)
    assert {name for name, value in chance.items() if (value == 0.5).all()} == {
        name for name in values if "two-way" in name
    }
    pairs = [[np.corrcoef(a.ravel(), b.ravel())[0, 1] for b in truth] for a in found]
    off = [np.delete(row, i) for i, row in enumerate(pairs)]
    assert all(r.min() <= c <= r.max() for r, c in zip(off, chance["PixCorr"], strict=True))
    assert values["PixCorr"].min() > chance["PixCorr"].max()


def test_labels_given_take_the_place_of_the_classifiers_own(photographs):
    torch.manual_seed(0)
    classifier = SceneClassifier(5, 3, 64).eval()
    nothing = measures.ImageJudge(
        photographs[1], classifier=classifier, present=np.zeros((4, 5)), background=np.full(4, 9)
    ).measure(photographs[1])
    assert nothing["category hit"].max() == nothing["background hit"].max() == 0


def test_float_images_and_wrong_numbers_are_refused(photographs):
    found, truth = photographs
    with pytest.raises(TypeError, match="uint8"):
        measures.pixcorr(found / 255, truth)
    with pytest.raises(ValueError, match="3 reconstructions for 4 images"):
        measures.ssim(found[:3], truth)
    with pytest.raises(ValueError, match="choose 2d or legacy_columns"):
        measures.ssim(found, truth, "3d")
    with pytest.raises(ValueError, match="one column per category"):
        measures.category_hit(np.zeros((2, 3)), np.zeros((2, 4)))


def test_rows_of_different_images_are_refused():
    measures.check_same_images([5, 7], [5, 7])
    with pytest.raises(ValueError, match="row 1 is nsd_id 7 on one side and 8"):
        measures.check_same_images([5, 7], [5, 8])
    with pytest.raises(ValueError, match="2 and 3 nsd_ids"):
        measures.check_same_images([5, 7], [5, 7, 8])


class TwoDirections:
    """A CLIP whose first direction means red and whose second means blue."""

    def image_embedding(self, images):
        return torch.from_numpy(images[:, 0, 0, [0, 2]].astype(np.float32) / 255)

    def text_embedding(self, captions):
        return torch.tensor([[float("red" in c), float("blue" in c)] for c in captions])


def test_clip_reads_images_by_softmax_of_a_hundred_cosines():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[0, ..., 0] = images[1, ..., 2] = 255
    images[0, ..., 2] = 247
    found = measures.read_with_clip(TwoDirections(), images, ["red", "blue"])
    share = 1 / (1 + np.exp(-100 * (255 - 247) / 255))
    np.testing.assert_allclose(found[0], [share, 1 - share], rtol=1e-5)
    assert found[1].argmax() == 1


def test_the_classifier_reads_where_there_is_one(photographs):
    torch.manual_seed(0)
    classifier = SceneClassifier(2, 3, 64).eval()
    with_one = SimpleNamespace(config=SimpleNamespace(classifier={"x": 1}), classifier=classifier)
    expected = classifier.classify(photographs[1])["category"]
    found = measures.read(with_one, photographs[1], ["red", "blue"])
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="1 labels for a classifier of 2"):
        measures.read(with_one, photographs[1], ["red"])
    without = SimpleNamespace(config=SimpleNamespace(classifier={}), clip=TwoDirections())
    found = measures.read(without, photographs[1], ["red", "blue"])
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
