"""The drawn scenes: reproducible, complete, labelled and captioned truthfully."""

import hashlib

import numpy as np
import pytest

from nbutils.miniature import captions as language
from nbutils.miniature import scenes

# Frozen records: the trained networks know these scenes, so the numbering must never change.
RECORDS = {
    0: "fb43eefa9678d587e5fd209fdee37f82a566eb778c0a59ae8ea9b96fb6792cab",
    1: "e4ec7fe566cdc4f9b7133b59bcd8df3de7ad12f38fe5490b96f716fd14742285",
    7: "5ed7ca84e17aecc09876042829510975b412fd163e29faaf94e1f081cefd0bf0",
    72_999: "65b453c613061f694dcb29e6361ec5c8f0352d533137382c2b043fd378251e34",
}
# Mean picture of the scenes 0 to 199, as drawn when the networks were trained.
MEAN_RGB = (143.66, 147.84, 143.96)


@pytest.fixture(scope="module")
def many() -> list[scenes.Scene]:
    return [scenes.scene(index) for index in range(3000)]


@pytest.mark.parametrize("index", RECORDS)
def test_scene_records_are_frozen(index):
    digest = hashlib.sha256(repr(scenes.scene(index)).encode()).hexdigest()
    assert digest == RECORDS[index]


def test_scene_depends_on_the_number_alone():
    forwards = [scenes.scene(index) for index in range(20)]
    backwards = [scenes.scene(index) for index in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 20


def test_negative_number_is_refused():
    with pytest.raises(ValueError, match="index=-1"):
        scenes.scene(-1)


def test_every_kind_color_and_background_is_reachable(many):
    seen = {(thing.kind, thing.color) for scene in many for thing in scene.things}
    assert seen == {(kind, color) for kind, colors in scenes.COLORS.items() for color in colors}
    assert {scene.background for scene in many} == set(scenes.BACKGROUNDS)
    assert set(scenes.COLORS) == {kind for kinds in scenes.KINDS.values() for kind in kinds}


def test_distribution_is_the_stated_one(many):
    pairs = np.mean([len(scene.things) == 2 for scene in many])
    assert abs(pairs - 0.15) < 4 * np.sqrt(0.15 * 0.85 / len(many))
    singles = [scene.things[0].category for scene in many if len(scene.things) == 1]
    counts = np.array([singles.count(name) for name in scenes.CATEGORIES])
    expected = len(singles) / 8
    # Chi-squared with 7 degrees of freedom: 24.3 is its 99.9 % point.
    assert ((counts - expected) ** 2 / expected).sum() < 24.3


def test_things_have_the_stated_sizes_and_differ_in_category(many):
    for scene in many:
        low, high = (0.32, 0.42) if len(scene.things) == 1 else (0.22, 0.28)
        assert all(low <= thing.size <= high for thing in scene.things)
        assert len({thing.category for thing in scene.things}) == len(scene.things)
        assert all(abs(thing.x - 0.5) <= 0.5 - thing.size + 1e-4 for thing in scene.things)


def test_draw_gives_a_picture_and_repeats_itself(many):
    for scene in many[:30]:
        picture = scenes.draw(scene)
        assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, scenes.draw(scene))
        assert picture.std() > 15


def test_draw_leaves_the_cached_background_alone():
    background = scenes._background("room", 0, 0)
    before = background.copy()
    for index in range(60):
        scenes.draw(scenes.scene(index))
    np.testing.assert_array_equal(scenes._background("room", 0, 0), before)


def test_every_kind_changes_the_picture_where_it_stands():
    for category, kinds in scenes.KINDS.items():
        for kind in kinds:
            thing = scenes.Thing(category, kind, scenes.COLORS[kind][0], 0.5, 0.55, 0.36)
            empty = scenes.draw(scenes.Scene(5, "beach", ())).astype(float)
            full = scenes.draw(scenes.Scene(5, "beach", (thing,))).astype(float)
            changed = np.abs(full - empty).max(-1) > 8
            assert 0.08 < changed.mean() < 0.7, kind
            assert changed[:, :6].mean() < 0.1, kind


def test_drawing_matches_the_frozen_mean_color():
    pictures = scenes.draw_many(range(200))
    # Loose enough for another rasteriser version, tight enough to notice a redrawn shape.
    np.testing.assert_allclose(pictures.mean((0, 1, 2)), MEAN_RGB, atol=0.3)


def test_draw_many_equals_draw_with_any_number_of_workers():
    numbers = [5, 3, 900, 3, 12]
    expected = np.stack([scenes.draw(scenes.scene(number)) for number in numbers])
    np.testing.assert_array_equal(scenes.draw_many(numbers), expected)
    np.testing.assert_array_equal(scenes.draw_many(numbers, workers=2), expected)
    assert scenes.draw_many([]).shape == (0, 64, 64, 3)


def test_label_vector_agrees_with_labels(many):
    assert len(set(scenes.LABELS)) == len(scenes.LABELS) == 8 + 26 + 12 + 7
    for scene in many[:200]:
        truth = scenes.labels(scene)
        vector = scenes.label_vector(scene)
        assert vector.dtype == np.float32 and vector.shape == (len(scenes.LABELS),)
        named = {label for label, on in zip(scenes.LABELS, vector, strict=True) if on}
        expected = {f"background:{truth['background']}"}
        for part in ("category", "kind", "color"):
            expected |= {f"{part}:{name}" for name in truth[part]}
        assert named == expected


def test_category_words_are_disjoint_and_in_the_vocabulary():
    groups = list(language.CATEGORY_WORDS.values())
    assert sum(map(len, groups)) == len(frozenset().union(*groups))
    assert frozenset().union(*groups) <= set(language.VOCABULARY)
    assert set(language.CATEGORY_WORDS) == set(scenes.CATEGORIES)


def test_captions_use_exactly_the_vocabulary(many):
    used = {word for scene in many for text in language.captions(scene) for word in text.split()}
    assert used == set(language.VOCABULARY)
    assert list(language.VOCABULARY) == sorted(language.VOCABULARY)


def test_captions_are_five_short_different_lower_case_sentences(many):
    for scene in many[:500]:
        texts = language.captions(scene)
        assert texts == language.captions(scene)
        assert len(texts) == 5 and len(set(texts)) == 5
        assert all(3 <= len(text.split()) <= language.MAX_WORDS for text in texts)
        assert all(text == text.lower() for text in texts)


def test_captions_name_every_present_category_and_no_other(many):
    category_of = {word: name for name, words in language.CATEGORY_WORDS.items() for word in words}
    for scene in many:
        present = scenes.labels(scene)["category"]
        for text in language.captions(scene):
            named = {category_of[word] for word in text.split() if word in category_of}
            assert named == present, text


def test_captions_mostly_name_a_color_and_never_a_wrong_one(many):
    colors = {color for options in scenes.COLORS.values() for color in options}
    for scene in many:
        true = scenes.labels(scene)["color"]
        texts = [set(text.split()) for text in language.captions(scene)]
        assert all(words & colors <= true for words in texts)
        assert sum(bool(words & true) for words in texts) >= 3


def test_captions_use_the_right_article(many):
    for scene in many[:500]:
        for text in language.captions(scene):
            words = text.split()
            for article, word in zip(words, words[1:], strict=False):
                if article in ("a", "an"):
                    assert (article == "an") == (word[0] in "aeiou"), text
