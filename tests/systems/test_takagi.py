"""Takagi & Nishimoto's system: what is decoded from which trials, and what is painted from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from himalaya.ridge import RidgeCV
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nbutils.decoding.encoders import encoder
from nbutils.decoding.gram import Gram
from nbutils.decoding.store import Features
from nbutils.figures import mean_scatter
from nbutils.networks.checkpoints import write_state
from nbutils.networks.loading import build, load
from nbutils.nsd.single_trials import SingleTrials
from nbutils.study import Study
from nbutils.systems import takagi
from nbutils.systems.settings_takagi import TakagiSettings
from nbutils.systems.takagi_decoding import fit, standardise

IDS = np.array([31, 4, 15])
FAST = {"steps": 5, "samples": 3}
STABLE = {
    "unet": {
        "latent_channels": 4, "latent_size": 8, "channels": (8, 16), "layers_per_block": 1,
        "attention": (False, True), "heads": 2, "context_dim": 12, "norm_groups": 4,
    },
    "text": {
        "vocab_size": 22, "hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 8, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
    },
    "autokl": {
        "sample_size": 16, "latent_channels": 4, "block_out_channels": (8, 8),
        "layers_per_block": 1, "norm_num_groups": 4, "scaling_factor": 0.5,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def painters(networks, tmp_path_factory):
    """A networks directory with a tiny Stable Diffusion."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stable")
    config = replace(networks.config, stable=STABLE)
    config.to_json(folder / "networks.json")
    for name in ("stable_unet", "stable_text", "stable_autokl"):
        write_state(build(name, config).state_dict(), folder / f"{name}.safetensors")
    networks.tokenizer("clip").save_pretrained(folder / "tokenizers" / "clip")
    return load(folder)


@pytest.fixture
def predicted():
    rng = np.random.default_rng(0)
    shapes = {"stable_latent": (4, 5, 5), "stable_text": (8, 12)}
    return {name: rng.normal(size=(3, *shape)) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def trials():
    """Three noisy trials of 80 images, 20 of them test images, seen by 25 voxels."""
    rng = np.random.default_rng(1)
    signal, noise = rng.normal(size=(80, 25)), rng.normal(size=(240, 25))
    nsd_id = np.repeat(np.arange(80) * 3, 3)
    order = rng.permutation(240)
    betas = 300 * (signal[nsd_id // 3] + 0.7 * noise + rng.normal(size=25))
    shared = nsd_id >= 3 * 60
    voxels = np.arange(25)
    return SingleTrials(betas[order].astype(np.int16), nsd_id[order], shared[order], voxels)


@pytest.fixture(scope="module")
def features(trials):
    rng = np.random.default_rng(2)
    values = rng.normal(size=(80, 2, 3)) + 5
    return Features(values.astype(np.float32), np.arange(80) * 3)


def average(values, images):
    found = np.array([values[images == image].mean(0) for image in dict.fromkeys(images)])
    return found, np.array(list(dict.fromkeys(images)))


def test_published_decoding_equals_the_public_code(trials, features):
    """`make_pipeline(StandardScaler(), RidgeCV(alphas))` of himalaya on single trials."""
    settings = TakagiSettings.published()
    train, test = ~trials.shared, trials.shared
    betas, images = trials.betas / 300, trials.nsd_id
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=settings.alphas))
    model.fit(betas[train], features.take(images[train]).reshape(train.sum(), -1))
    averages, test_id = average(betas[test], images[test])
    expected = model.predict(averages).reshape(-1, 2, 3)
    responses = standardise(trials, np.ones(25, bool), settings)
    fitted = fit(responses, features, settings)
    np.testing.assert_array_equal(responses.test_id, test_id)
    # Our standard deviation divides by n - 1; penalties up to 1 do not notice.
    np.testing.assert_allclose(fitted.predict(responses.test), expected, atol=0.01)
    assert fitted.choice.alpha.shape == (2, 3)


@pytest.mark.parametrize("intercept", [True, False])
def test_own_and_other_responses_go_through_one_map(trials, features, intercept, monkeypatch):
    settings = TakagiSettings.careful(ridge_intercept=intercept)
    responses = standardise(trials, np.ones(25, bool), settings)
    fitted = fit(responses, features, settings)
    factored = []
    factor = Gram._factor
    monkeypatch.setattr(Gram, "_factor", lambda *given: factored.append(1) or factor(*given))
    others = np.random.default_rng(3).normal(size=(7, 25)).astype(np.float32)
    model = Ridge(alpha=fitted.choice.alpha, fit_intercept=intercept)
    model.fit(responses.train, features.take(responses.train_id).reshape(-1, 6))
    for new in (responses.test, others):
        expected = model.predict(new).reshape(-1, 2, 3)
        np.testing.assert_allclose(fitted.predict(new), expected, atol=1e-4)
    assert len(factored) == 1


def test_without_intercept_decoded_features_lose_their_mean(trials, features):
    responses = standardise(trials, np.ones(25, bool), TakagiSettings.careful())
    kept, lost = (
        fit(responses, features, settings).predict(responses.test)
        for settings in (TakagiSettings.careful(), TakagiSettings.careful(ridge_intercept=False))
    )
    assert abs(kept.mean() - 5) < 0.2
    assert abs(lost.mean()) < 0.2
    axes = mean_scatter(features.array, {"with": kept, "without": lost})
    assert [line.get_label().split()[0] for line in axes.lines[:2]] == ["with", "without"]


def test_test_averages_have_the_spread_of_the_statistics_that_scale_them(trials):
    """Averages of three vary less than single trials; a careful z-score takes that into account."""
    all_voxels = np.ones(25, bool)
    careful = standardise(trials, all_voxels, TakagiSettings.careful())
    published = standardise(trials, all_voxels, TakagiSettings.published())
    np.testing.assert_array_equal(careful.train, published.train)
    np.testing.assert_allclose(careful.train.std(axis=0, ddof=1), 1, atol=1e-4)
    train, _ = average(trials.betas[~trials.shared] / 300, trials.nsd_id[~trials.shared])
    test, _ = average(trials.betas[trials.shared] / 300, trials.nsd_id[trials.shared])
    expected = (test - train.mean(0)) / train.std(axis=0, ddof=1)
    np.testing.assert_allclose(careful.test, expected, atol=1e-3)
    assert published.test.std() < 0.9 * careful.test.std()


def test_no_image_is_in_two_folds_when_careful(trials, features, monkeypatch):
    seen = {}

    def choose(responses, targets, alphas, method, **options):
        seen.update(options)
        raise InterruptedError

    monkeypatch.setattr("nbutils.systems.takagi_decoding.choose_alpha", choose)
    responses = standardise(trials, np.ones(25, bool), TakagiSettings.careful())
    for preset, grouped in (("careful", True), ("published", False)):
        with pytest.raises(InterruptedError):
            fit(responses, features, TakagiSettings.preset(preset))
        assert (seen["groups"] is not None) is grouped
    np.testing.assert_array_equal(seen["nsd_id"], responses.train_id)


def test_first_training_images_bring_all_their_trials(trials):
    few, images = trials.train(np.arange(25) < 4, n_images=10)
    assert few.shape == (30, 4)
    first = list(dict.fromkeys(trials.nsd_id[~trials.shared]))[:10]
    assert set(images) == set(first)


def test_a_region_without_voxels_is_refused(trials):
    with pytest.raises(ValueError, match="no voxel"):
        trials.train(np.zeros(25, bool))


def test_samples_are_painted_from_z_and_c(painters, predicted):
    settings = TakagiSettings.careful(**FAST)
    made = takagi.reconstruct(painters, predicted, settings, IDS, progress=False)
    assert made["images"].shape == (3, 3, 16, 16, 3) and made["images"].dtype == np.uint8
    assert made["low_level"].shape == (3, 10, 10, 3)
    small = takagi.reconstruct(
        painters, predicted, settings, IDS, batch_size=2, progress=False
    )["images"]  # fmt: skip
    assert np.abs(made["images"].astype(int) - small).max() <= 1
    assert np.abs(made["images"][:, 0].astype(int) - made["images"][:, 1]).mean() > 1


def test_z_alone_is_decoded_and_c_alone_starts_from_noise(painters, predicted):
    settings = TakagiSettings.careful(**FAST)
    images = {}
    for name, inputs in takagi.COMPARISON.items():
        found = takagi.reconstruct(
            painters, predicted, settings, IDS, inputs=inputs, progress=False
        )  # fmt: skip
        images[name] = found["images"]
        assert ("low_level" in found) == (name != "c")
    assert {name: len(found[0]) for name, found in images.items()} == {"z": 1, "c": 3, "z_c": 3}
    again = takagi.reconstruct(
        painters, {"stable_text": predicted["stable_text"]}, settings, IDS,
        inputs=("stable_text",), progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(images["c"], again["images"])


def test_z_goes_through_a_picture_and_is_encoded_again(painters, predicted):
    """The start latent is that of the enlarged low-level image, not z itself."""
    settings = TakagiSettings.careful(**FAST)
    made = takagi.reconstruct(
        painters, predicted, settings, IDS, inputs=("stable_latent",), progress=False
    )  # fmt: skip
    autokl = painters.stable_autokl
    low = autokl.decode(torch.from_numpy(predicted["stable_latent"]).float())
    np.testing.assert_array_equal(made["low_level"], low)
    np.testing.assert_array_equal(made["images"][:, 0], autokl.decode(autokl.encode(low)))


def test_noise_is_per_image_when_careful_and_shared_when_published():
    careful = takagi.draw_noise(TakagiSettings.careful(samples=2), IDS, (2, 3, 3))
    alone = takagi.draw_noise(TakagiSettings.careful(samples=5), IDS[1:2], (2, 3, 3))
    torch.testing.assert_close(careful[2:4], alone[:2])
    assert len({tuple(noise.flatten().tolist()) for noise in careful}) == 6
    shared = takagi.draw_noise(TakagiSettings.published(samples=2), IDS, (2, 3, 3))
    torch.testing.assert_close(shared[:2], shared[2:4])


def test_presets_name_every_switch():
    table = TakagiSettings.table()
    differing = table.index[table["published"] != table["careful"]]
    assert set(differing) == set(TakagiSettings.differences)
    published = TakagiSettings.published()
    assert (published.strength, published.guidance_scale, published.samples) == (0.8, 5.0, 5)
    assert published.alphas == (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def test_a_study_leaves_the_papers_scale_unless_it_was_set():
    assert TakagiSettings.of(Study(device="cpu", guidance_scale=None)).guidance_scale == 5
    chosen = TakagiSettings.of(Study(device="cpu", guidance_scale=2.0, n_seeds=3))
    assert (chosen.guidance_scale, chosen.samples, chosen.strength) == (2, 3, 0.8)


def test_features_are_a_small_images_latent_and_the_mean_of_raw_tokens(painters):
    images = np.random.default_rng(0).integers(0, 255, (3, 24, 24, 3), dtype=np.uint8)
    sentences = [["a red dog", "the cat"], ["a tree"], ["beach", "", "grass"]]
    options = TakagiSettings.careful().feature_options()
    z = encoder("stable_latent", painters, options)(images, sentences, IDS)
    c = encoder("stable_text", painters, options)(None, sentences, IDS)
    reduced = [Image.fromarray(i).resize((10, 10), Image.Resampling.LANCZOS) for i in images]
    pixels = torch.tensor(np.stack(reduced) / 127.5 - 1).float().permute(0, 3, 1, 2)
    expected = 0.5 * painters.stable_autokl.posterior(pixels)[0]
    torch.testing.assert_close(z, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(c[0], painters.stable_text.tokens(sentences[0]).mean(0))
    assert c.shape == (3, 8, 12)
