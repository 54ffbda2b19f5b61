"""Neural-Recon is Brain-Diffuser's method under a preset of its own."""

import numpy as np

from nbutils import Study
from nbutils.systems import brain_diffuser, neural_recon
from nbutils.systems.settings import Settings


def test_its_settings_are_those_of_brain_diffusers_public_code():
    assert neural_recon.settings() == Settings.published()
    assert neural_recon.settings(seed=3).seed == 3
    assert neural_recon.INPUTS == brain_diffuser.INPUTS


def test_what_its_user_chose_counts_and_the_rest_is_published():
    study = Study(steps=10, guidance_scale=3.0, preset="careful", device="cpu")
    chosen = neural_recon.settings_of(study)
    assert (chosen.steps, chosen.guidance_scale) == (10, 3.0)
    assert chosen == Settings.published(steps=10, guidance_scale=3.0)
    small = Study(device="cpu")
    assert neural_recon.settings_of(small).guidance_scale == small.world.guidance_scale


def test_controls_are_painted_with_the_settings_on_record(tmp_path):
    made = Study(steps=10, seed=4, guidance_scale=3.0, results=tmp_path, device="cpu")
    made.save("images", "neural_recon.npy", np.zeros((1, 2, 2, 3), np.uint8), nsd_id=[3])
    later = Study(seed=0, results=tmp_path, device="cpu")
    found = neural_recon.recorded(later, "images", "neural_recon.npy")
    assert found == neural_recon.settings_of(made)
    assert (found.steps, found.seed, found.noise) == (10, 4, "one_sequence")


def test_under_the_published_preset_it_is_brain_diffuser():
    study = Study(preset="published", device="cpu", steps=10, seed=3, strength=0.5, mix_image=0.7)
    assert neural_recon.settings_of(study) == Settings.of(study)
    careful = study.model_copy(update={"preset": "careful"})
    assert neural_recon.settings_of(careful) != Settings.of(careful)


def test_it_paints_by_brain_diffusers_code():
    assert neural_recon.reconstruct is brain_diffuser.reconstruct


def test_differences_name_what_its_authors_struggled_with():
    table = neural_recon.differences()
    assert list(table) == ["Brain-Diffuser", "Neural-Recon", "here"]
    assert {"memory", "NSD"} <= set(table.index)
    assert "4 GB of GPU" in table.loc["memory", "Neural-Recon"]
    assert "nsd fetch" in table.loc["NSD", "here"]
