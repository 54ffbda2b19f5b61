"""Neural-Recon is Brain-Diffuser's method under a preset of its own."""

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


def test_it_paints_by_brain_diffusers_code():
    assert neural_recon.reconstruct is brain_diffuser.reconstruct


def test_differences_name_what_its_authors_struggled_with():
    table = neural_recon.differences()
    assert list(table) == ["Brain-Diffuser", "Neural-Recon", "here"]
    assert {"memory", "NSD"} <= set(table.index)
    assert "4 GB of GPU" in table.loc["memory", "Neural-Recon"]
    assert "nsd fetch" in table.loc["NSD", "here"]
