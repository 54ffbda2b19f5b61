"""Drawn scenes: 64 x 64 pictures of things, each a pure function of one integer.

The scenes stand in for natural photographs: eight categories that the visual cortex treats
differently (faces, bodies, places, food, words, animals, vehicles, plants) on seven backgrounds.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from nbutils.miniature.drawing import FOOT, SHAPES
from nbutils.miniature.look import Look
from nbutils.miniature.pen import CLOTHS, SKINS, Pen

SEED = 73_000
IMAGE_SIZE = 64
SCALE = 4
CATEGORIES = ("face", "body", "place", "food", "word", "animal", "vehicle", "plant")
BACKGROUNDS = ("meadow", "beach", "snow", "street", "night", "room", "table")
KINDS: dict[str, tuple[str, ...]] = {
    "face": ("man", "woman", "child"),
    "body": ("standing", "running", "waving"),
    "place": ("house", "church", "tower"),
    "food": ("apple", "banana", "pizza", "donut"),
    "word": ("open", "stop", "taxi", "cafe"),
    "animal": ("cat", "dog", "bird"),
    "vehicle": ("car", "bus", "boat"),
    "plant": ("tree", "flower", "cactus"),
}
_SHIRTS = ("red", "blue", "green", "white", "purple")
COLORS: dict[str, tuple[str, ...]] = {
    "man": ("black", "blond", "red", "grey"),
    "woman": ("black", "blond", "red", "brown"),
    "child": ("black", "blond", "red"),
    "standing": _SHIRTS,
    "running": _SHIRTS,
    "waving": _SHIRTS,
    "house": ("red", "white", "yellow"),
    "church": ("white", "grey", "brown"),
    "tower": ("brown", "grey", "blue"),
    "apple": ("red", "green"),
    "banana": ("yellow", "green"),
    "pizza": ("yellow", "red"),
    "donut": ("pink", "brown", "white"),
    "open": ("blue", "green", "red"),
    "stop": ("red",),
    "taxi": ("yellow", "black"),
    "cafe": ("brown", "purple"),
    "cat": ("orange", "black", "white", "grey"),
    "dog": ("brown", "white", "black"),
    "bird": ("red", "blue", "yellow"),
    "car": ("red", "blue", "green", "yellow"),
    "bus": ("yellow", "blue", "red"),
    "boat": ("white", "red", "blue"),
    "tree": ("green", "orange"),
    "flower": ("red", "pink", "purple", "yellow", "white"),
    "cactus": ("green",),
}
LABELS: tuple[str, ...] = (
    *(f"category:{name}" for name in CATEGORIES),
    *(f"kind:{name}" for kinds in KINDS.values() for name in kinds),
    *(f"color:{name}" for name in sorted({c for colors in COLORS.values() for c in colors})),
    *(f"background:{name}" for name in BACKGROUNDS),
)
PAIR_CHANCE = 0.15


@dataclass(frozen=True)
class Thing:
    """One drawn thing: what it is, and its centre and radius as fractions of the frame."""

    category: str
    kind: str
    color: str
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Scene:
    """One scene: its number, background and one or two things (left first)."""

    index: int
    background: str
    things: tuple[Thing, ...]


def scene(index: int) -> Scene:
    """Return scene number `index`.

    Parameters
    ----------
    index : int
        Number of the scene, at least 0; the same number always gives the same scene.

    Raises
    ------
    ValueError
        If `index` is negative.
    """
    if index < 0:
        raise ValueError(f"index={index}: scenes are numbered from 0")
    rng = np.random.default_rng((SEED, index))
    background = _pick(rng, BACKGROUNDS)
    if rng.random() < PAIR_CHANCE:
        first, second = rng.choice(len(CATEGORIES), size=2, replace=False)
        spots = ((CATEGORIES[first], (0.25, 0.29)), (CATEGORIES[second], (0.71, 0.75)))
        things = tuple(_place(rng, name, across, (0.22, 0.28)) for name, across in spots)
    else:
        things = (_place(rng, _pick(rng, CATEGORIES), (0.38, 0.62), (0.32, 0.42)),)
    return Scene(int(index), background, things)


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _place(
    rng: np.random.Generator, category: str, across: tuple[float, float], sizes: tuple[float, float]
) -> Thing:
    """Choose kind, colour and size, and stand the thing on the ground line."""
    kind = _pick(rng, KINDS[category])
    color = _pick(rng, COLORS[kind])
    size = round(float(rng.uniform(*sizes)), 4)
    # Large things are nearer, so they stand lower; portraits reach the frame's lower edge.
    base = 1.0 if category == "face" else 0.8 + 0.3 * size + float(rng.uniform(-0.02, 0.02))
    x = round(min(max(float(rng.uniform(*across)), size), 1 - size), 4)
    return Thing(category, kind, color, x, round(base - FOOT.get(kind, 1.0) * size, 4), size)


def draw(scene: Scene) -> np.ndarray:
    """Draw a scene.

    Parameters
    ----------
    scene : Scene
        The scene, as returned by :func:`scene`.

    Returns
    -------
    numpy.ndarray of uint8, shape (64, 64, 3)
        RGB picture.
    """
    rng = np.random.default_rng((SEED, scene.index, 1))
    variant, shift = int(rng.integers(2)), int(rng.integers(-3, 4))
    tint = 1 + rng.uniform(-0.03, 0.03, size=3).astype(np.float32)
    picture = _background(scene.background, variant, shift) * tint
    for thing in scene.things:
        look = Look(
            thing.color,
            int(rng.integers(len(SKINS))),
            int(rng.integers(len(CLOTHS))),
            scene.background == "night",
        )
        _paint(picture, thing, look, flip=bool(rng.integers(2)))
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


_AXIS = ((np.arange(IMAGE_SIZE) + 0.5) / IMAGE_SIZE).astype(np.float32)


def _paint(picture: np.ndarray, thing: Thing, look: Look, *, flip: bool) -> None:
    """Draw one thing onto a float picture in place: shadow, dark outline, shaded body."""
    side = IMAGE_SIZE * SCALE
    layer = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen = Pen(layer, thing.x * side, thing.y * side, thing.size * side, flip=flip, night=look.night)
    SHAPES[thing.kind](pen, look)
    small = layer.reduce(SCALE)
    alpha = small.getchannel("A")
    rim = np.asarray(alpha.filter(ImageFilter.MaxFilter(3)), np.float32) / 255
    solid = np.asarray(alpha, np.float32) / 255
    u, v = (_AXIS - thing.x) / thing.size, (_AXIS - thing.y) / thing.size
    if thing.category != "face":
        foot = v - FOOT.get(thing.kind, 1.0)
        distance = (u / 1.0)[None] ** 2 + (foot / 0.17)[:, None] ** 2
        picture *= 1 - 0.42 * np.clip(1 - distance, 0, 1)[..., None]
    light = np.clip(1.0 - 0.13 * (u[None] + v[:, None]), 0.76, 1.12)
    edge = (0.62 * rim * (1 - solid))[..., None]
    picture += edge * (np.array([38, 30, 46], np.float32) - picture)
    body = np.minimum(np.asarray(small, np.float32)[..., :3] * light[..., None], 255)
    picture += solid[..., None] * (body - picture)


_GROUND = {  # sky top, sky bottom, ground far, ground near, horizon
    "meadow": ((92, 168, 240), (206, 232, 252), (136, 204, 92), (84, 164, 64), 0.6),
    "beach": ((84, 182, 246), (212, 240, 252), (248, 226, 170), (232, 200, 132), 0.66),
    "snow": ((176, 200, 226), (222, 232, 244), (250, 252, 255), (216, 228, 244), 0.58),
    "street": ((168, 180, 200), (214, 218, 226), (112, 114, 122), (82, 84, 92), 0.64),
    "night": ((14, 18, 56), (52, 52, 112), (38, 56, 66), (24, 36, 46), 0.66),
    "room": ((246, 222, 196), (238, 206, 176), (182, 124, 80), (150, 98, 62), 0.68),
    "table": ((92, 118, 124), (116, 142, 146), (214, 164, 106), (184, 130, 78), 0.5),
}


@functools.lru_cache(maxsize=128)
def _background(name: str, variant: int, shift: int) -> np.ndarray:
    """Return one background as float32 (64, 64, 3); `shift` moves the clouds in pixels."""
    side = IMAGE_SIZE * SCALE
    *stops, horizon = _GROUND[name]
    top, bottom, far, near = (np.array(c, np.float32) for c in stops)
    y = ((np.arange(side) + 0.5) / side)[:, None]
    sky = top + (bottom - top) * np.clip(y / horizon, 0, 1)
    ground = far + (near - far) * np.clip((y - horizon) / (1 - horizon), 0, 1)
    column = np.where(y < horizon, sky, ground).astype(np.uint8)
    canvas = Image.fromarray(np.repeat(column[:, None], side, axis=1))
    _DETAILS[name](ImageDraw.Draw(canvas), variant, shift * SCALE, round(horizon * side))
    return np.asarray(canvas.reduce(SCALE), np.float32)


_SPOTS = (
    (14, 22),
    (38, 96),
    (66, 16),
    (84, 62),
    (108, 30),
    (132, 84),
    (150, 14),
    (170, 52),
    (190, 106),
    (206, 28),
    (226, 74),
    (246, 36),
    (18, 128),
    (112, 126),
    (240, 124),
)


def _clouds(ink: ImageDraw.ImageDraw, variant: int, shift: int, color: tuple) -> None:
    spots = ((44, 40), (196, 62)) if variant else ((74, 56), (208, 34))
    for x, y in spots:
        for dx, dy, r in ((-24, 4, 13), (0, -5, 19), (23, 3, 14)):
            x0, y0 = x + shift + dx, y + dy
            ink.ellipse([x0 - r * 1.3, y0 - r, x0 + r * 1.3, y0 + r], fill=color)


def _meadow(ink: ImageDraw.ImageDraw, variant: int, shift: int, line: int) -> None:
    x = 60 if variant else 190
    ink.ellipse([x - 150, line - 34, x + 150, line + 60], fill=(112, 182, 92))
    ink.rectangle([0, line, 256, line + 62], fill=(136, 204, 92))
    for row in range(64):
        mix = row / 64
        ink.line(
            [0, line + row, 256, line + row],
            fill=(int(136 - 30 * mix), int(204 - 22 * mix), int(92 - 16 * mix)),
        )
    _clouds(ink, variant, shift, (250, 252, 255))


def _beach(ink: ImageDraw.ImageDraw, variant: int, shift: int, line: int) -> None:
    ink.rectangle([0, line - 44, 256, line], fill=(40, 138, 196))
    ink.rectangle([0, line - 18, 256, line], fill=(74, 178, 212))
    ink.rectangle([0, line - 4, 256, line + 2], fill=(244, 252, 252))
    x = 214 if variant else 40
    ink.ellipse([x - 22, 18, x + 22, 62], fill=(255, 232, 120))


def _snow(ink: ImageDraw.ImageDraw, variant: int, shift: int, line: int) -> None:
    x = 70 if variant else 180
    ink.polygon([(x - 110, line), (x, line - 70), (x + 110, line)], fill=(178, 194, 218))
    ink.polygon([(x - 44, line - 42), (x, line - 70), (x + 44, line - 42)], fill=(248, 250, 255))
    for spot_x, y in _SPOTS:
        fx = spot_x if variant else 256 - spot_x
        ink.ellipse([fx - 4, y - 4, fx + 4, y + 4], fill=(255, 255, 255))


def _street(ink: ImageDraw.ImageDraw, variant: int, shift: int, line: int) -> None:
    heights = (60, 84, 48, 72, 92, 56) if variant else (84, 52, 70, 94, 50, 66)
    for k, height in enumerate(heights):
        ink.rectangle([k * 44 - 6, line - height, k * 44 + 36, line], fill=(152, 162, 182))
    ink.rectangle([0, line - 8, 256, line + 4], fill=(196, 196, 194))
    for k in range(-1, 5):
        x = k * 72 + shift * 2 + 20
        ink.polygon([(x, 222), (x + 38, 222), (x + 36, 232), (x - 4, 232)], fill=(246, 240, 214))


def _night(ink: ImageDraw.ImageDraw, variant: int, shift: int, line: int) -> None:
    x = 212 if variant else 44
    ink.ellipse([x - 24, 18, x + 24, 66], fill=(252, 244, 200))
    if variant:
        ink.ellipse([x - 36, 10, x + 10, 56], fill=(20, 24, 66))
    for k, (spot_x, y) in enumerate(_SPOTS):
        sx, r = (256 - spot_x if variant else spot_x), 3 + k % 3
        if abs(sx - x) > 34 or y > 76:
            ink.ellipse([sx - r, y - r, sx + r, y + r], fill=(250, 246, 220))


def _room(ink: ImageDraw.ImageDraw, variant: int, shift: int, line: int) -> None:
    x = 198 if variant else 58
    ink.rectangle([x - 38, 22, x + 38, 98], fill=(250, 248, 244))
    ink.rectangle([x - 31, 29, x + 31, 91], fill=(158, 212, 244))
    ink.rectangle([x - 3, 29, x + 3, 91], fill=(250, 248, 244))
    ink.rectangle([x - 31, 57, x + 31, 62], fill=(250, 248, 244))
    ink.rectangle([0, line - 10, 256, line], fill=(250, 246, 240))
    for y in (line + 22, line + 50):
        ink.line([0, y, 256, y], fill=(136, 88, 54), width=3)


def _table(ink: ImageDraw.ImageDraw, variant: int, shift: int, line: int) -> None:
    ink.rectangle([0, line, 256, line + 8], fill=(236, 192, 136))
    for y in (line + 40, line + 88) if variant else (line + 30, line + 70):
        ink.line([0, y, 256, y], fill=(164, 112, 66), width=4)


_DETAILS = {
    "meadow": _meadow,
    "beach": _beach,
    "snow": _snow,
    "street": _street,
    "night": _night,
    "room": _room,
    "table": _table,
}


def _draw_index(index: int) -> np.ndarray:
    return draw(scene(index))


def draw_many(indices: Iterable[int], workers: int = 1) -> np.ndarray:
    """Draw the scenes of many numbers.

    Parameters
    ----------
    indices : iterable of int
        Scene numbers.
    workers : int
        Number of processes; 1 draws in this one.

    Returns
    -------
    numpy.ndarray of uint8, shape (n, 64, 64, 3)
    """
    numbers = [int(i) for i in indices]
    out = np.empty((len(numbers), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    if workers <= 1:
        for row, number in enumerate(numbers):
            out[row] = _draw_index(number)
        return out
    chunk = max(1, min(256, -(-len(numbers) // workers)))
    # Spawned, not forked: a fork of a process that runs torch threads can hang.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for row, picture in enumerate(pool.imap(_draw_index, numbers, chunksize=chunk)):
            out[row] = picture
    return out


def labels(scene: Scene) -> dict[str, set[str] | str]:
    """Return the true labels of a scene: sets of categories, kinds and colours, the background."""
    return {
        "category": {thing.category for thing in scene.things},
        "kind": {thing.kind for thing in scene.things},
        "color": {thing.color for thing in scene.things},
        "background": scene.background,
    }


def label_vector(scene: Scene) -> np.ndarray:
    """Return the multi-hot label vector of a scene, float32 of shape (len(LABELS),)."""
    names = {f"background:{scene.background}"}
    for thing in scene.things:
        names |= {f"category:{thing.category}", f"kind:{thing.kind}", f"color:{thing.color}"}
    return np.array([name in names for name in LABELS], np.float32)
