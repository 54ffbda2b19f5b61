"""Settings: two presets, named differences, nothing unknown."""

from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from nbutils import Study
from nbutils.systems.settings import PUBLISHED, Settings

# The constants of the published code and papers.
SHARED = {
    "steps": 50, "strength": 0.75, "guidance_scale": 7.5, "mix_image": 0.6, "mix_caption": 0.9,
}  # fmt: skip


def test_both_presets_hold_the_published_constants():
    for settings in (Settings.published(), Settings.careful()):
        assert {name: getattr(settings, name) for name in SHARED} == SHARED


def test_every_difference_is_a_documented_field():
    table = Settings.table()
    different = table.index[table["published"] != table["careful"]]
    assert set(different) == set(PUBLISHED)
    assert list(table.index[: len(different)]) == list(different)
    for name in different:
        assert "published: " in table.loc[name, "meaning"]
        assert "careful: " in table.loc[name, "meaning"]


def test_feature_options_follow_the_preset():
    published, careful = Settings.published().feature_options(31), Settings().feature_options(31)
    assert (published.vdvae_latents, published.autokl_latent) == ("sample", "sample")
    assert (careful.vdvae_latents, careful.autokl_latent) == ("mean", "mode")
    assert published.vdvae_layers == 31


def make_study(preset, chosen=(), **values):
    defaults = {
        "seed": 3,
        "steps": 20,
        "strength": 0.5,
        "guidance_scale": 4.0,
        "mix_image": 0.3,
        "mix_caption": 0.2,
        "rescale": None,
        "temperature": 0.0,
    }
    return SimpleNamespace(preset=preset, model_fields_set=set(chosen), **{**defaults, **values})


def test_a_study_gives_its_parameters_and_its_preset():
    settings = Settings.of(make_study("published"))
    assert (settings.seed, settings.steps, settings.guidance_scale) == (3, 20, 4.0)
    assert settings.prediction_rescale == "test_stats"
    assert settings.caption_temperature == 1.0  # the preset's: the user named none
    chosen = Settings.of(
        make_study("published", ["temperature"], rescale="none"), keep_last_word=True
    )
    assert (chosen.prediction_rescale, chosen.caption_temperature) == ("none", 0.0)
    assert chosen.keep_last_word


def test_settings_of_an_artifact_are_those_it_was_made_with(tmp_path):
    where = {"device": "cpu", "data": str(tmp_path), "results": str(tmp_path)}
    made = Study(**where, steps=20, preset="published", temperature=0.5, guidance_scale=None)
    made.save("images", "some.npy", np.zeros(3))
    later = Study(**where, steps=7, seed=3)
    found = Settings.recorded(later, "images", "some.npy")
    assert found == Settings.of(made, seed=3)
    assert (found.steps, found.caption_temperature) == (20, 0.5)


def test_unknown_and_impossible_settings_are_refused():
    with pytest.raises(ValidationError, match="extra"):
        Settings(guidence_scale=3)
    with pytest.raises(ValidationError, match="strength"):
        Settings(strength=1.5)
    with pytest.raises(ValueError, match="choose published or careful"):
        Settings.preset("best")
