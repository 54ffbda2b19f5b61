"""Variants against the published evaluation code, written out here with random networks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import correlation
from skimage import data
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity
from skimage.transform import resize
from torchvision import transforms
from torchvision.models.feature_extraction import create_feature_extractor

from nbutils.metrics.identification import identify, identify_samples
from nbutils.metrics.readers import Readers, TorchvisionReader, build_metric_network
from nbutils.metrics.variant_judge import STAND_INS, VariantJudge, cosine
from nbutils.metrics.variants import VARIANTS, find_variant, table
from nbutils.networks.loading import load
from nbutils.world import WORLDS

IMAGENET = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


@pytest.fixture(scope="module")
def images():
    """Four photographs at 80 pixels, and noisy copies at 64, two samples of each."""
    photos = (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    truth = np.stack([np.round(255 * resize(x, (80, 80))).astype(np.uint8) for x in photos])
    small = np.stack([np.round(255 * resize(x, (64, 64))).astype(np.uint8) for x in photos])
    noise = np.random.default_rng(0).normal(0, 60, (4, 2, 64, 64, 3))
    return truth, np.clip(small[:, None] + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def small_world():
    return load(WORLDS["miniature"].networks)


@pytest.fixture(scope="module")
def published(small_world):
    """Readers of a directory without classifier, their weights random."""
    config = SimpleNamespace(classifier={}, clip=small_world.config.clip)
    readers = Readers(SimpleNamespace(config=config, clip=small_world.clip, device="cpu"))
    torch.manual_seed(0)
    for name in ("alexnet", "inception", "efficientnet_v1", "efficientnet_v2", "swav"):
        readers._made[name] = TorchvisionReader(build_metric_network(name))
    return readers


def look(net, layer, batch):
    extractor = create_feature_extractor(net, [layer], suppress_diff_warning=True)
    with torch.no_grad():
        return extractor(batch)[layer].flatten(1).double().numpy()  # random weights: tiny


def count_columns(truth, found):
    """Brain-Diffuser's and MindEye's two-way identification."""
    n = len(truth)
    r = np.corrcoef(truth, found)[:n, n:]
    return (r < np.diag(r)).sum(axis=0) / (n - 1)


def test_brain_diffusers_measures_are_those_of_its_code(published, images):
    truth, found = images[0], images[1][:, 0]
    values = VariantJudge(truth, find_variant("brain_diffuser"), published).measure(found)
    assert list(values) == [
        *("PixCorr", "SSIM", "AlexNet(2)", "AlexNet(5)"),
        *("Inception", "CLIP", "EffNet-B", "SwAV"),
    ]

    def prepare(stack):
        resized = [transforms.functional.resize(Image.fromarray(x), (224, 224)) for x in stack]
        return torch.stack([IMAGENET(transforms.functional.to_tensor(x)) for x in resized])

    def both(name, layer):
        net = published[name].net
        return look(net, layer, prepare(truth)), look(net, layer, prepare(found))

    for measure, name, layer in (
        ("AlexNet(2)", "alexnet", "features.4"),
        ("AlexNet(5)", "alexnet", "features.11"),
        ("Inception", "inception", "avgpool"),
    ):
        np.testing.assert_allclose(values[measure], count_columns(*both(name, layer)), atol=1e-9)
    for measure, name in (("EffNet-B", "efficientnet_v1"), ("SwAV", "swav")):
        expected = [correlation(a, b) for a, b in zip(*both(name, "avgpool"), strict=True)]
        np.testing.assert_allclose(values[measure], expected, rtol=0, atol=1e-5)
    large = [np.array(Image.fromarray(x).resize((80, 80))) / 255 for x in found]
    for k, picture in enumerate(large):
        r = np.corrcoef(truth[k].ravel() / 255, picture.ravel())[0, 1]
        assert values["PixCorr"][k] == pytest.approx(r, abs=1e-9)
        grey = rgb2gray(picture), rgb2gray(truth[k])
        columns = structural_similarity(*grey, data_range=1.0, channel_axis=-1, **WINDOW)
        assert values["SSIM"][k] == pytest.approx(columns, abs=1e-9)


def test_mindeyes_measures_are_those_of_its_code(published, images):
    truth, found = images[0], images[1][:, 0]
    values = VariantJudge(truth, find_variant("mindeye2"), published).measure(found)
    first = transforms.Resize((256, 256), antialias=False)
    stacks = [first(torch.from_numpy(x).permute(0, 3, 1, 2) / 255) for x in (truth, found)]

    def both(name, layer, size):
        shrink = transforms.Resize(size, antialias=False)
        return [look(published[name].net, layer, IMAGENET(shrink(x))) for x in stacks]

    features = both("alexnet", "features.4", 256)
    np.testing.assert_allclose(values["AlexNet(2)"], count_columns(*features), atol=1e-9)
    features = both("inception", "avgpool", 342)
    np.testing.assert_allclose(values["Inception"], count_columns(*features), atol=1e-9)
    features = both("efficientnet_v2", "avgpool", 255)
    expected = [correlation(a, b) for a, b in zip(*features, strict=True)]
    np.testing.assert_allclose(values["EffNet-B"], expected, rtol=0, atol=1e-5)
    large = [transforms.Resize(425, antialias=False)(x) for x in stacks]
    for k in range(len(truth)):
        ours, theirs = (x[k].numpy() for x in large[::-1])
        r = np.corrcoef(theirs.ravel(), ours.ravel())[0, 1]
        assert values["PixCorr"][k] == pytest.approx(r, abs=1e-3)  # ours is 8-bit
        grey = [rgb2gray(x.transpose(1, 2, 0)) for x in (ours, theirs)]
        expected = structural_similarity(*grey, data_range=1.0, **WINDOW)
        assert values["SSIM"][k] == pytest.approx(expected, abs=1e-3)


def test_takagi_averages_correlations_of_samples_and_chooses_among_reconstructions(
    published, images
):
    truth, found = images
    values = VariantJudge(truth, find_variant("takagi"), published).measure(found)
    assert "PixCorr" not in values and {"AlexNet(7)", "CLIP(6)", "CLIP(12)"} < set(values)

    def prepare(stack):
        resized = transforms.Compose([transforms.Resize(299), transforms.CenterCrop(299)])
        pictures = (resized(Image.fromarray(x)) for x in stack)
        return torch.stack([IMAGENET(transforms.functional.to_tensor(x)) for x in pictures])

    net = published["alexnet"].net
    own = look(net, "features.12", prepare(truth))
    samples = [look(net, "features.12", prepare(found[:, s])) for s in (0, 1)]
    for row, rate in enumerate(values["AlexNet(5)"]):
        mean = [
            np.mean([np.corrcoef(own[row], sample[col])[0, 1] for sample in samples])
            for col in range(len(truth))
        ]
        wins = [mean[row] > mean[col] for col in range(len(truth)) if col != row]
        assert rate == pytest.approx(np.mean(wins))


@pytest.mark.parametrize("distractors", ["ground_truth", "reconstructions"])
def test_identification_from_samples_equals_a_loop(distractors):
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(12, 30))
    found = truth[:, None] + 3 * rng.normal(size=(12, 4, 30))
    rates = identify_samples(truth, found, distractors)
    for k in range(12):
        wins = []
        for other in set(range(12)) - {k}:
            pair = (k, other) if distractors == "reconstructions" else (other, k)
            right = np.mean([np.corrcoef(truth[k], x)[0, 1] for x in found[k]])
            wrong = np.mean([np.corrcoef(truth[pair[0]], x)[0, 1] for x in found[pair[1]]])
            wins.append(right > wrong)
        assert rates[k] == pytest.approx(np.mean(wins))
    one = identify_samples(truth, found[:, :1], distractors)
    np.testing.assert_array_equal(one, identify(truth, found[:, 0], distractors))


def test_stand_ins_say_that_they_stand_in(small_world, images):
    truth, found = images[0], images[1][:, 0]
    judge = VariantJudge(truth, find_variant("brain_diffuser"), Readers(small_world))
    assert judge.names["AlexNet(2)"] == "classifier early (stand-in for AlexNet(2))"
    assert judge.names["CLIP"] == "own CLIP, embedding (stand-in for CLIP)"
    assert judge.lower_is_better == (
        "classifier late distance (stand-in for EffNet-B)",
        "classifier middle distance (stand-in for SwAV)",
    )
    values, perfect = judge.measure(found), judge.measure(truth)
    assert list(values) == list(judge.names.values())
    early = small_world.classifier.classify
    expected = identify(early(truth)["early"], early(found)["early"])
    np.testing.assert_array_equal(values[judge.names["AlexNet(2)"]], expected)
    for name, value in perfect.items():
        best = 0 if name in judge.lower_is_better else 1
        np.testing.assert_allclose(value, best, atol=1e-6, err_msg=name)


def test_chance_is_one_half_for_identification_and_measured_otherwise(small_world, images):
    truth, found = images[0], images[1][:, 0]
    judge = VariantJudge(truth, find_variant("brain_diffuser"), Readers(small_world))
    values, chance = judge.measure(found), judge.measure_chance(found, repeats=3)
    assert list(chance) == list(values)
    assert (chance[judge.names["Inception"]] == 0.5).all()
    assert chance["PixCorr"].mean() < values["PixCorr"].mean()
    distance = judge.names["EffNet-B"]
    assert chance[distance].mean() > values[distance].mean()
    takagi = VariantJudge(truth, find_variant("takagi"), Readers(small_world))
    assert all((level == 0.5).all() for level in takagi.measure_chance(found).values())


def test_cosine_of_minddiffuser_is_clips(small_world, images):
    truth, found = images[0], images[1][:, 0]
    judge = VariantJudge(truth, find_variant("minddiffuser"), Readers(small_world))
    embed = small_world.clip.image_embedding
    expected = torch.cosine_similarity(embed(truth), embed(found)).numpy()
    values = judge.measure(found)[judge.names["CLIP cosine"]]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(cosine([[3, 4], [0, 0]], [[4, 3], [1, 1]]), [24 / 25, 0])


def test_the_table_says_what_differs():
    rows = table()
    assert list(rows) == ["brain_diffuser", "takagi", "minddiffuser", "mindeye1", "mindeye2"]
    assert rows.loc["SSIM", ["brain_diffuser", "mindeye1"]].tolist() == [
        "by columns",
        "two-dimensional",
    ]
    assert rows.loc["AlexNet", ["brain_diffuser", "takagi", "mindeye2"]].tolist() == [
        "after ReLU, 224 px",
        "after pooling, 299 px",
        "after ReLU, 256 px",
    ]
    assert rows.loc["EfficientNet", ["brain_diffuser", "mindeye1"]].tolist() == [
        "weights V1, 224 px",
        "weights V2, 255 px",
    ]
    assert rows.loc["distractors", "takagi"] == "other reconstructions"
    assert rows.loc["test images", "mindeye2"] == "1000 (40 sessions)"
    known = {measure.name for variant in VARIANTS.values() for measure in variant.measures}
    assert known == set(STAND_INS), "every published measure has a stand-in"


def test_unknown_variants_and_other_numbers_of_images_are_refused(small_world, images):
    with pytest.raises(ValueError, match="choose from brain_diffuser, takagi"):
        find_variant("unibrain")
    judge = VariantJudge(images[0], find_variant("minddiffuser"), Readers(small_world))
    with pytest.raises(ValueError, match="3 reconstructions for 4 images"):
        judge.measure(images[1][:3, 0])
