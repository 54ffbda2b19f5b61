"""From stimuli and responses to images, captions and scores, through networks of tiny size."""

import numpy as np
import pytest
from skimage import data
from skimage.util import view_as_blocks

from nbutils.decoding.decoder import Decoder
from nbutils.decoding.encoders import FEATURES, FeatureOptions
from nbutils.decoding.features import extract
from nbutils.decoding.ridge import RidgeOperator
from nbutils.metrics.captions import CaptionJudge
from nbutils.metrics.images import ImageJudge
from nbutils.systems import brain_diffuser, unibrain
from nbutils.systems.settings import Settings

IDS = np.array([3, 17, 8, 40, 21, 5, 30, 11, 2, 26])
SENTENCES = ["a red dog on the beach", "the blue bus", "a cat in the grass", "a sign near a tree"]


@pytest.fixture(scope="module")
def stimuli():
    """Sixty-four different patches of a real photograph, 32 pixels wide."""
    patches = view_as_blocks(data.astronaut()[:256, :256], (32, 32, 3))
    return patches.reshape(64, 32, 32, 3)


def captions_of(ids):
    return [[SENTENCES[i % 4], SENTENCES[(i + 1) % 4]] for i in ids]


def store(name, networks, stimuli, folder, ids=IDS, batch_size=4, **options):
    return extract(
        [name], networks, stimuli, captions_of(ids), ids, folder,
        options=FeatureOptions(**options), batch_size=batch_size, progress=False,
    )[name]  # fmt: skip


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("drawn", [False, True], ids=["mean", "sample"])
def test_features_of_an_image_do_not_depend_on_batch_or_neighbours(
    networks, stimuli, tmp_path, name, drawn
):
    options = {"vdvae_latents": "sample", "autokl_latent": "sample"} if drawn else {}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = store(name, networks, stimuli, tmp_path / "a", **options)
    some = store(name, networks, stimuli, tmp_path / "b", IDS[[6, 1, 3]], 1, **options)
    np.testing.assert_allclose(whole.take(some.nsd_id), some.take(some.nsd_id), atol=4e-3)


def test_published_features_are_draws_around_the_careful_ones(networks, stimuli, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    mean = store("vdvae", networks, stimuli, tmp_path / "a", vdvae_layers=2)
    drawn = store(
        "vdvae", networks, stimuli, tmp_path / "b", vdvae_layers=2, vdvae_latents="sample"
    )
    assert mean.array.shape == drawn.array.shape == (10, networks.vdvae.count_features(2))
    assert np.abs(mean.array - drawn.array).mean() > 0.05


def test_float_images_are_refused_and_leave_nothing_behind(networks, stimuli, tmp_path):
    for name in ("clip_image", "autokl", "vdvae"):
        with pytest.raises(TypeError, match="uint8"):
            store(name, networks, stimuli / 255, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_decoded_images_and_captions_can_be_measured(networks, stimuli, tmp_path):
    rng = np.random.default_rng(0)
    pixels = stimuli[IDS].reshape(10, -1) / 255
    responses = ((pixels - pixels.mean(0)) @ rng.normal(size=(pixels.shape[1], 40))).astype("f4")
    features = {name: store(name, networks, stimuli, tmp_path) for name in FEATURES}
    operator = RidgeOperator(responses[:7], IDS[:7])
    decoder = Decoder(operator, features, dict.fromkeys(FEATURES, 10.0), mode="train_cv")
    predicted = decoder.decode(responses[7:])
    settings = Settings.careful(steps=4)
    images = unibrain.reconstruct(networks, predicted, settings, IDS[7:], progress=False)
    pictures = brain_diffuser.reconstruct(networks, predicted, settings, IDS[7:], progress=False)
    captions = unibrain.caption(networks, predicted, settings, IDS[7:], progress=False)
    judge = ImageJudge(stimuli[IDS[7:]], clip=networks.clip)
    for found in (images, pictures["images"], pictures["low_level"]):
        values = judge.measure(found)
        assert all(v.shape == (3,) and np.isfinite(v).all() for v in values.values())
    judge = CaptionJudge(captions_of(IDS[7:]), clip=networks.clip)
    values = judge.measure(captions)
    assert all(v.shape == (3,) and ((v >= 0) & (v <= 1)).all() for v in values.values())
