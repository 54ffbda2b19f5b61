"""The planted truth can be found again from outside."""

import numpy as np
import pytest

from nbutils.miniature import scenes
from nbutils.miniature.anatomy import AREAS, EARLY, NAMES
from nbutils.miniature.cortex import LOCALIZED, Cortex
from nbutils.miniature.tuning import CHANNELS, WAVELENGTHS, channel_maps
from nbutils.miniature.volumes import atlas_labels

SCALE = 0.25
GREY = np.full((64, 64, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def cortex() -> Cortex:
    """A brain with a quarter of the voxels."""
    return Cortex(1, scale=SCALE)


def grating(degrees: float, wavelength: float, phase: float = 0.0) -> np.ndarray:
    """Draw a luminance grating that varies along the direction `degrees` (0 is along x)."""
    y, x = np.mgrid[:64, :64]
    angle = np.radians(degrees)
    along = x * np.cos(angle) + y * np.sin(angle)
    wave = 0.5 + 0.45 * np.cos(2 * np.pi * along / wavelength + phase)
    return np.repeat((255 * wave)[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("degrees", [0, 30, 60, 90, 120, 150])
@pytest.mark.parametrize("wavelength", WAVELENGTHS)
def test_filters_find_orientation_and_wavelength_of_a_grating(degrees, wavelength):
    energy = channel_maps(grating(degrees, wavelength)[None])[:18, 0].mean(axis=1)
    assert CHANNELS[energy.argmax()] == f"energy:{wavelength:g}px:{degrees}deg"


def test_energy_does_not_depend_on_phase():
    waves = np.stack([grating(60, 8.0, phase) for phase in (0, 1, 2, 3)])
    middle = channel_maps(waves)[CHANNELS.index("energy:8px:60deg")]
    middle = middle.reshape(4, 32, 32)[:, 12:20, 12:20].mean(axis=(1, 2))
    assert middle.std() / middle.mean() < 0.05


@pytest.mark.parametrize(
    ("color", "name"),
    [
        ((255, 0, 0), "red"),
        ((0, 255, 0), "green"),
        ((0, 0, 255), "blue"),
        ((255, 255, 0), "yellow"),
        ((255, 255, 255), "light"),
        ((0, 0, 0), "dark"),
    ],
)
def test_colour_channels_see_their_colour(color, name):
    picture = np.broadcast_to(np.array(color, np.uint8), (1, 64, 64, 3))
    maps = channel_maps(picture)[18:, 0].mean(axis=1)
    assert maps[CHANNELS.index(name) - 18] == maps.max()


def test_float_pictures_are_refused():
    with pytest.raises(TypeError, match="uint8"):
        channel_maps(np.zeros((1, 64, 64, 3)))


def test_receptive_fields_are_recovered_by_probing_with_spots(cortex):
    """Reverse correlation with small coloured spots finds each centre that lies in the frame."""
    centres = np.arange(4, 64, 5)
    spots, where = [], []
    for row in centres:
        for column in centres:
            for color in (
                (255, 255, 255),
                (0, 0, 0),
                (255, 0, 0),
                (0, 255, 0),
                (0, 0, 255),
                (255, 255, 0),
            ):
                picture = GREY.copy()
                picture[row - 2 : row + 2, column - 2 : column + 2] = color
                spots.append(picture)
                where.append((column, row))
    early = cortex.early
    answers = early.respond(np.stack(spots)) - early.respond(GREY[None])
    # The compression is undone, so that answers add up.
    answers = np.maximum(answers, 0) ** (1 / early.exponent)
    x, y = (np.array(where).T - 32) / 64 * 8.4
    total = answers.sum(axis=0)
    found_x, found_y = x @ answers / total, -y @ answers / total
    v1 = cortex.anatomy.of("V1v", "V1d")[cortex.early_voxels]
    inside = v1 & (np.abs(early.x) < 2.6) & (np.abs(early.y) < 2.6) & (early.size < 0.7)
    assert inside.sum() > 40
    error = np.hypot(found_x - early.x, found_y - early.y)[inside]
    assert np.median(error) < 0.45
    assert np.corrcoef(found_x[inside], early.x[inside])[0, 1] > 0.9
    assert np.corrcoef(found_y[inside], early.y[inside])[0, 1] > 0.9


def test_maps_are_crossed_and_upside_down(cortex):
    right = cortex.anatomy.right[cortex.early_voxels]
    assert (cortex.early.x[right] <= 1e-3).all() and (cortex.early.x[~right] >= -1e-3).all()
    dorsal = cortex.anatomy.of("V1d", "V2d", "V3d")[cortex.early_voxels]
    ventral = cortex.anatomy.of("V1v", "V2v", "V3v")[cortex.early_voxels]
    assert (cortex.early.y[dorsal] <= 1e-3).all() and (cortex.early.y[ventral] >= -1e-3).all()


def test_fields_grow_with_eccentricity_and_along_the_hierarchy(cortex):
    sizes = []
    for names in (("V1v", "V1d"), ("V2v", "V2d"), ("V3v", "V3d"), ("hV4",)):
        here = cortex.anatomy.of(*names)[cortex.early_voxels]
        sizes.append(np.median(cortex.early.size[here]))
        assert np.corrcoef(cortex.early.size[here], cortex.early.eccentricity[here])[0, 1] > 0.5
    assert sizes == sorted(sizes)


@pytest.fixture(scope="module")
def answers(cortex) -> tuple[np.ndarray, np.ndarray]:
    """Noise-free responses to 400 one-thing scenes, and the category of each."""
    described = [
        one for one in map(scenes.scene, range(5_000_000, 5_000_520)) if len(one.things) == 1
    ][:400]
    images = np.stack([scenes.draw(one) for one in described])
    return (
        cortex.responses(images, described),
        np.array([one.things[0].category for one in described]),
    )


@pytest.mark.parametrize(
    ("area", "category"),
    [
        ("OFA", "face"),
        ("FFA-1", "face"),
        ("FFA-2", "face"),
        ("EBA", "body"),
        ("FBA-1", "body"),
        ("PPA", "place"),
        ("OPA", "place"),
        ("RSC", "place"),
        ("OWFA", "word"),
        ("VWFA-1", "word"),
        ("VWFA-2", "word"),
        ("FOOD", "food"),
        ("ANIM", "animal"),
        ("TOOL", "vehicle"),
    ],
)
def test_areas_answer_most_to_their_category(cortex, answers, area, category):
    responses, shown = answers
    here = responses[:, cortex.anatomy.of(area)].mean(axis=1)
    means = {name: here[shown == name].mean() for name in scenes.CATEGORIES}
    assert max(means, key=means.get) == category
    # Graded: the others do not all answer alike.
    assert np.std([mean for name, mean in means.items() if name != category]) > 0.02


def test_many_voxels_like_a_second_category_and_lie_in_both_atlases(cortex, answers):
    responses, shown = answers
    labels = atlas_labels(cortex)
    both = (labels["floc-faces"] > 0) & (labels["floc-bodies"] > 0)
    assert both.sum() >= 3
    mixed = cortex.second == LOCALIZED.index("food")
    pure = (cortex.second < 0) & ~cortex.anatomy.of("FOOD", "LOC", *EARLY)
    food = responses[shown == "food"].mean(axis=0)
    assert food[mixed].mean() > food[pure].mean() + 0.5


def test_category_voxels_answer_less_where_a_thing_is_far_or_small(cortex):
    late = cortex.late
    face = np.flatnonzero(cortex.anatomy.of("FFA-1")[cortex.late_voxels])
    at = [
        scenes.Scene(0, "room", (scenes.Thing("face", "man", "black", x, 0.55, size),))
        for x, size in ((0.5, 0.4), (0.5, 0.25), (1.4, 0.4))
    ]
    here, small, far = late.respond(at)[:, face].mean(axis=1)
    assert here > small and here > far > 0.3 * here


def test_responses_are_standard_over_scenes(answers):
    responses, _ = answers
    assert abs(np.median(responses.mean(axis=0))) < 0.15
    assert np.median(responses.std(axis=0)) == pytest.approx(1, abs=0.1)


def test_areas_are_compact_and_of_the_planned_size(cortex):
    for k, (name, area) in enumerate(AREAS.items()):
        here = cortex.anatomy.area == k
        assert here.sum() == pytest.approx(SCALE * area.voxels, rel=0.35, abs=8), name
    assert (np.diff(cortex.anatomy.voxels) > 0).all()
    assert cortex.anatomy.cortex.ravel()[cortex.anatomy.voxels].all()


def test_full_size_is_about_four_thousand_voxels_with_early_areas_less_noisy():
    full = Cortex(2)
    assert 3600 <= len(full.anatomy.voxels) <= 4600
    early = full.anatomy.of("V1v", "V1d")
    assert np.median(full.ncsnr[early]) > 1.15 * np.median(full.ncsnr[full.late_voxels])


def test_the_same_seed_is_the_same_brain_and_people_differ(cortex):
    again, other, elsewhere = Cortex(1, scale=SCALE), Cortex(2, scale=SCALE), Cortex(1, 1, SCALE)
    np.testing.assert_array_equal(again.early.weights, cortex.early.weights)
    np.testing.assert_array_equal(again.late.kinds, cortex.late.kinds)
    assert other.anatomy.shape != cortex.anatomy.shape or len(other.anatomy.voxels) != len(
        cortex.anatomy.voxels
    )
    assert not np.array_equal(elsewhere.noise_sd[:50], cortex.noise_sd[:50])


def test_an_unknown_subject_or_unequal_lists_are_refused(cortex):
    with pytest.raises(ValueError, match="subject=5: the miniature world has subjects 1 to 4"):
        Cortex(5)
    with pytest.raises(ValueError, match="1 images but 0 scenes"):
        cortex.responses(GREY[None], [])
    assert set(cortex.prefers()[cortex.early_voxels]) == {""}
    assert len(NAMES) == len(AREAS)
