"""The shipped networks still do what their card says, with room for other machines' rounding."""

import numpy as np
import pytest

from nbutils.metrics.images import category_hit, classify, pixcorr
from nbutils.miniature import scenes
from nbutils.miniature.captions import captions
from nbutils.miniature.train.quality import FIRST_HELD_OUT, measure
from nbutils.networks.loading import load
from nbutils.systems import takagi, unibrain
from nbutils.systems.settings import Settings
from nbutils.systems.settings_takagi import TakagiSettings
from nbutils.world import find_world

WEIGHTS = find_world("miniature").networks


def test_shipped_files_stay_within_their_size():
    assert sum(p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file()) <= 40e6


def test_encoders_and_judge_are_as_good_as_their_card_says():
    found = measure(WEIGHTS, n=100)
    least = {"CLIP: two-way": 0.98, "AutoKL": 26, "VDVAE": 19, "Optimus": 0.75, "classifier": 0.93}
    for start, floor in least.items():
        values = [value for name, value in found.items() if name.startswith(start)]
        assert values and min(values) >= floor, (start, values)


@pytest.fixture(scope="module")
def painted():
    """Twelve held-out scenes painted from their own features."""
    networks, ids = load(WEIGHTS), np.arange(FIRST_HELD_OUT, FIRST_HELD_OUT + 12)
    drawn = [scenes.scene(int(i)) for i in ids]
    truth = np.stack([scenes.draw(scene) for scene in drawn])
    features = {
        "autokl": networks.autokl.encode(truth),
        "clip_image": networks.clip.image_tokens(truth),
        "clip_text": networks.clip.caption_tokens([captions(scene) for scene in drawn]),
    }
    settings = Settings.careful(steps=20, guidance_scale=4.0)
    made = unibrain.reconstruct(networks, features, settings, ids, progress=False)
    present = np.stack([scenes.label_vector(s)[: len(scenes.CATEGORIES)] for s in drawn]) > 0
    return networks, truth, made, present


def test_painter_shows_the_right_things_and_not_another_scenes(painted):
    networks, truth, made, present = painted
    read = classify(networks.classifier, made)["category"]
    assert category_hit(read, present).mean() >= 0.75
    assert category_hit(read, np.roll(present, 1, axis=0)).mean() <= 0.5


def test_painter_keeps_the_layout(painted):
    _, truth, made, _ = painted
    assert pixcorr(made, truth).mean() >= 0.75
    assert pixcorr(made, np.roll(truth, 1, axis=0)).mean() <= 0.5


def test_stable_diffusion_paints_what_captions_say(painted):
    """Twelve held-out scenes from their captions alone, with raw text tokens."""
    networks, truth, _, present = painted
    ids = np.arange(FIRST_HELD_OUT, FIRST_HELD_OUT + len(truth))
    sentences = [captions(scenes.scene(int(i))) for i in ids]
    tokens = {"stable_text": networks.stable_text.caption_tokens(sentences).numpy()}
    settings = TakagiSettings.careful(steps=20, samples=1)
    made = takagi.reconstruct(
        networks, tokens, settings, ids, inputs=("stable_text",), progress=False
    )["images"][:, 0]  # fmt: skip
    read = classify(networks.classifier, made)["category"]
    assert category_hit(read, present).mean() >= 0.75
    assert category_hit(read, np.roll(present, 1, axis=0)).mean() <= 0.5


def test_stable_diffusion_reads_and_draws_with_the_shipped_towers():
    """Its autoencoder and text tower are copies; the tower's tokens are raw, not projected."""
    networks = load(WEIGHTS)
    sentence = ["a red car on the street"]
    clip = networks.clip
    expected = clip.text_model(input_ids=clip.token_ids(sentence)).last_hidden_state
    np.testing.assert_array_equal(networks.stable_text.tokens(sentence), expected)
    own = (WEIGHTS / "autokl.safetensors").read_bytes()
    assert own == (WEIGHTS / "stable_autokl.safetensors").read_bytes()
