"""Five sentences about a drawn scene, in the manner of the COCO captions, from a small grammar.

Every sentence names the category of everything it mentions, and no word names two categories.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nbutils.miniature.scenes import COLORS, SEED, Scene, Thing

CAPTIONS_PER_SCENE = 5
MAX_WORDS = 14
CATEGORY_WORDS: dict[str, frozenset[str]] = {
    "face": frozenset({"face", "portrait", "man", "guy", "woman", "lady", "child", "kid"}),
    "body": frozenset({"person", "runner", "figure"}),
    "place": frozenset({"house", "home", "church", "chapel", "tower", "building"}),
    "food": frozenset({"apple", "banana", "pizza", "donut", "food", "fruit", "snack"}),
    "word": frozenset({"sign", "word", "letters", "open", "stop", "taxi", "cafe"}),
    "animal": frozenset({"cat", "kitten", "dog", "puppy", "bird", "animal"}),
    "vehicle": frozenset({"car", "bus", "boat", "sailboat", "vehicle"}),
    "plant": frozenset({"tree", "flower", "cactus", "plant", "blossom"}),
}
_NOUNS: dict[str, tuple[str, ...]] = {
    "man": ("man", "guy"),
    "woman": ("woman", "lady"),
    "child": ("child", "kid"),
    "house": ("house", "home"),
    "church": ("church", "chapel"),
    "tower": ("tower",),
    "cat": ("cat", "kitten"),
    "dog": ("dog", "puppy"),
    "boat": ("boat", "sailboat"),
    "flower": ("flower", "blossom"),
}
_GENERIC: dict[str, str] = {
    "man": "face",
    "woman": "face",
    "child": "face",
    "standing": "person",
    "running": "runner",
    "waving": "figure",
    "house": "building",
    "church": "building",
    "tower": "building",
    "apple": "fruit",
    "banana": "fruit",
    "pizza": "food",
    "donut": "snack",
    "open": "sign",
    "stop": "sign",
    "taxi": "sign",
    "cafe": "sign",
    "cat": "animal",
    "dog": "animal",
    "bird": "animal",
    "car": "vehicle",
    "bus": "vehicle",
    "boat": "vehicle",
    "tree": "plant",
    "flower": "plant",
    "cactus": "plant",
}
_ACTIONS: dict[str, tuple[str, ...]] = {
    "man": ("smiling", "looking ahead"),
    "woman": ("smiling", "looking ahead"),
    "child": ("smiling", "looking ahead"),
    "standing": ("standing still", "waiting"),
    "running": ("running", "running fast"),
    "waving": ("waving", "waving both arms"),
    "cat": ("sitting", "looking ahead"),
    "dog": ("standing still", "waiting"),
    "bird": ("sitting", "looking ahead"),
    "car": ("waiting", "driving along"),
    "bus": ("waiting", "driving along"),
    "boat": ("sailing", "with tall sails"),
    "tree": ("growing",),
    "flower": ("growing", "in bloom"),
    "cactus": ("growing",),
    "house": ("with two windows", "with a chimney"),
    "church": ("with a cross", "with a steeple"),
    "tower": ("with tall windows",),
    "apple": ("lying", "ready to eat"),
    "banana": ("lying", "ready to eat"),
    "pizza": ("lying", "ready to eat"),
    "donut": ("lying", "ready to eat"),
    "open": ("on a post",),
    "stop": ("on a post",),
    "taxi": ("on a post",),
    "cafe": ("on a post",),
}
_PLACES: dict[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "on the grass"),
    "beach": ("on the beach", "near the sea"),
    "snow": ("in the snow", "on the snow"),
    "street": ("on a street", "in the city"),
    "night": ("at night", "under the moon"),
    "room": ("in a room", "inside a room"),
    "table": ("on a table", "on the table"),
}
_SIZES = ("big", "large", "nice")
_SINGLE: tuple[tuple[str, ...], ...] = (
    ("{full} {place}",),
    ("a photo of {full} {place}", "a picture of {full} {place}", "a view of {full} {place}"),
    ("{full} {action} {place}",),
    ("there is {full} {place}", "we see {full} {place}"),
    (
        "{generic} {place}",
        "a close view of {generic} {place}",
        "the picture shows {generic} {place}",
    ),
)
_DOUBLE: tuple[tuple[str, ...], ...] = (
    ("{a} near {b} {place}",),
    ("a photo of {a} and {b}", "a picture of {a} and {b}"),
    ("{b} beside {a} {place}",),
    ("there is {plain_a} and {plain_b} {place}", "we see {plain_a} and {plain_b} {place}"),
    ("{plain_a} and {plain_b} {place}", "{plain_b} next to {plain_a} {place}"),
)
_POSES = {"standing": "standing", "running": "running", "waving": "waving"}


def captions(scene: Scene) -> tuple[str, str, str, str, str]:
    """Return five lower-case sentences about a scene.

    Parameters
    ----------
    scene : Scene
        The scene; the sentences depend on nothing else.

    Returns
    -------
    tuple of five str
        Sentences of at most 14 words, all from :data:`VOCABULARY`.
    """
    rng = np.random.default_rng((SEED, scene.index, 2))
    describe = _describe_one if len(scene.things) == 1 else _describe_two
    sentences = [describe(rng, scene, number) for number in range(CAPTIONS_PER_SCENE)]
    return tuple(sentences[int(k)] for k in rng.permutation(CAPTIONS_PER_SCENE))


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _article(phrase: str) -> str:
    """Put the indefinite article before a phrase."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _noun(rng: np.random.Generator, thing: Thing) -> str:
    """Return a noun of the thing's kind; signs and figures have a general one."""
    if thing.category == "word":
        return f"{thing.kind} sign"
    if thing.category == "body":
        return "person"
    return _pick(rng, _NOUNS.get(thing.kind, (thing.kind,)))


def _short(rng: np.random.Generator, thing: Thing) -> str:
    """Return a phrase with colour of at most five words."""
    noun = _noun(rng, thing)
    if thing.category == "face":
        return f"{_article(noun)} with {thing.color} hair"
    if thing.category == "body":
        return f"{_article(_POSES[thing.kind])} person in {thing.color}"
    return _article(f"{thing.color} {noun}")


def _full(rng: np.random.Generator, thing: Thing) -> str:
    """Return a phrase with colour of at most eight words."""
    if thing.category == "body":
        return f"{_article(_GENERIC[thing.kind])} in {_article(thing.color)} shirt"
    if thing.category == "word":
        form = _pick(
            rng, ("{} sign that says {}", "{} sign with the word {}", "{} sign with letters {}")
        )
        return _article(form.format(thing.color, thing.kind))
    if thing.category == "face" and rng.random() < 0.3:
        return f"a portrait of {_short(rng, thing)}"
    return _short(rng, thing)


def _describe_one(rng: np.random.Generator, scene: Scene, number: int) -> str:
    thing = scene.things[0]
    return _pick(rng, _SINGLE[number]).format(
        full=_full(rng, thing),
        place=_pick(rng, _PLACES[scene.background]),
        action=_pick(rng, _ACTIONS[thing.kind]),
        generic=_article(f"{_pick(rng, _SIZES)} {_GENERIC[thing.kind]}"),
    )


def _describe_two(rng: np.random.Generator, scene: Scene, number: int) -> str:
    first, second = scene.things
    return _pick(rng, _DOUBLE[number]).format(
        a=_short(rng, first),
        b=_short(rng, second),
        place=_pick(rng, _PLACES[scene.background]),
        plain_a=_article(_noun(rng, first)),
        plain_b=_article(_noun(rng, second)),
    )


def _collect_words(phrases: Iterable[str]) -> set[str]:
    return {word for phrase in phrases for word in phrase.split() if not word.startswith("{")}


def _build_vocabulary() -> tuple[str, ...]:
    """Return every word that the grammar can produce, sorted."""
    words = {"a", "an", "with", "hair", "in", "shirt", "that", "says", "the", "of", "portrait"}
    tables = (_NOUNS, _ACTIONS, _PLACES, COLORS, dict(enumerate(_SINGLE)), dict(enumerate(_DOUBLE)))
    for table in tables:
        for phrases in table.values():
            words |= _collect_words(phrases)
    words |= _collect_words((*_GENERIC.values(), *_SIZES, *_POSES.values(), "word letters"))
    kinds = (kind for kind in COLORS if kind not in _NOUNS)
    return tuple(sorted(words | set(kinds) | {"person"}))


VOCABULARY: tuple[str, ...] = _build_vocabulary()
