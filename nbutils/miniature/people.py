"""Shapes of people: portraits and full figures."""

from __future__ import annotations

from collections.abc import Sequence

from nbutils.miniature.look import Look
from nbutils.miniature.pen import (
    CLOTHS,
    HAIR,
    SKINS,
    WHITE,
    Color,
    Pen,
    Points,
    shade,
)


def draw_eyes(pen: Pen, x: float, y: float, r: float) -> None:
    """Draw a pair of dark eyes with highlights, symmetric about the middle."""
    for side in (-1, 1):
        pen.oval(side * x, y, r * 1.35, r * 1.15, WHITE)
        pen.oval(side * x, y, r * 0.85, r * 0.95, (52, 40, 44))
        pen.oval(side * x - r * 0.25, y - r * 0.35, r * 0.34, r * 0.34, WHITE)


def draw_head(pen: Pen, look: Look, width: float, height: float) -> None:
    """Draw shoulders, neck, ears and the head of a portrait."""
    skin = SKINS[look.skin]
    pen.oval(0, 1.3, 0.98, 0.62, CLOTHS[look.cloth])
    pen.box(-0.2, 0.4, 0.2, 0.86, shade(skin, 0.84), 0.1)
    for side in (-1, 1):
        pen.oval(side * width, 0.0, 0.11, 0.16, shade(skin, 0.92))
    pen.oval(0, 0, width, height, skin)


def draw_features(pen: Pen, look: Look, eye: float, lips: Color) -> None:
    """Draw the eyes, brows, nose, cheeks and smile of a portrait."""
    skin = SKINS[look.skin]
    for side in (-1, 1):
        pen.oval(
            side * 0.36,
            0.22,
            0.12,
            0.08,
            tuple(int(0.6 * a + 0.4 * b) for a, b in zip(skin, (236, 96, 96), strict=True)),
        )
        pen.line([(side * 0.16, -0.28), (side * 0.36, -0.26)], 0.06, shade(HAIR[look.color], 0.75))
    draw_eyes(pen, 0.25, -0.02, eye)
    pen.line([(0, 0.06), (0, 0.17)], 0.07, shade(skin, 0.78))
    pen.arc(0, 0.24, 0.24, 0.18, (20, 160), 0.09, lips)


def draw_man(pen: Pen, look: Look) -> None:
    """Draw a man's portrait: short hair and a beard in the hair colour."""
    hair = HAIR[look.color]
    draw_head(pen, look, 0.6, 0.72)
    pen.chord(0, 0.02, 0.61, 0.74, (12, 168), hair)
    pen.oval(0, 0.22, 0.42, 0.28, SKINS[look.skin])
    pen.chord(0, -0.14, 0.66, 0.72, (202, 338), hair)
    pen.box(-0.64, -0.4, -0.5, -0.08, hair, 0.05)
    pen.box(0.5, -0.4, 0.64, -0.08, hair, 0.05)
    draw_features(pen, look, 0.1, (170, 60, 60))


def draw_woman(pen: Pen, look: Look) -> None:
    """Draw a woman's portrait: long hair down to the shoulders, red lips."""
    hair = HAIR[look.color]
    pen.oval(0, -0.12, 0.84, 0.84, hair)
    pen.box(-0.84, -0.12, 0.84, 0.92, hair, 0.22)
    draw_head(pen, look, 0.54, 0.68)
    pen.chord(0, -0.12, 0.64, 0.66, (202, 338), hair)
    for side in (-1, 1):
        pen.poly(
            [
                (side * 0.5, -0.4),
                (side * 0.84, -0.2),
                (side * 0.8, 0.84),
                (side * 0.48, 0.74),
                (side * 0.56, 0.1),
            ],
            shade(hair, 0.92),
        )
    draw_features(pen, look, 0.115, (206, 36, 60))


def draw_child(pen: Pen, look: Look) -> None:
    """Draw a child's portrait: a round head, tufts of hair, big eyes and an open smile."""
    hair = HAIR[look.color]
    for side in (-1, 1):
        pen.oval(side * 0.78, -0.34, 0.24, 0.26, hair)
    draw_head(pen, look, 0.68, 0.64)
    pen.chord(0, -0.06, 0.72, 0.68, (210, 330), hair)
    pen.line([(-0.04, -0.66), (0.06, -0.86), (0.18, -0.84)], 0.12, hair)
    draw_features(pen, look, 0.145, (180, 50, 60))
    pen.chord(0, 0.3, 0.22, 0.2, (0, 180), (170, 40, 54))
    pen.chord(0, 0.3, 0.18, 0.1, (0, 180), WHITE)


def draw_figure(pen: Pen, look: Look, arms: Sequence[Points], legs: Sequence[Points]) -> None:
    """Draw a full figure from the joints of its limbs, with a small faceless head."""
    skin, trousers = SKINS[look.skin], (62, 80, 138)
    for leg in legs:
        pen.line(leg, 0.22, trousers)
        (x, y) = leg[-1]
        pen.oval(x + 0.06, y, 0.17, 0.09, (60, 44, 40))
    for arm in arms:
        pen.line(arm, 0.17, skin)
        pen.line(arm[:2], 0.21, shade(look.paint, 0.86))
    pen.box(-0.28, -0.52, 0.28, 0.26, look.paint, 0.12)
    pen.box(-0.08, -0.62, 0.08, -0.48, shade(skin, 0.85))
    pen.oval(0, -0.78, 0.19, 0.21, skin)
    pen.chord(0, -0.81, 0.21, 0.21, (170, 370), (64, 44, 36))


def draw_standing(pen: Pen, look: Look) -> None:
    """Draw a person standing with the arms down."""
    draw_figure(
        pen,
        look,
        [[(-0.3, -0.38), (-0.4, -0.02), (-0.4, 0.2)], [(0.3, -0.38), (0.4, -0.02), (0.4, 0.2)]],
        [[(-0.15, 0.24), (-0.16, 0.92)], [(0.15, 0.24), (0.16, 0.92)]],
    )


def draw_running(pen: Pen, look: Look) -> None:
    """Draw a person running, seen from the side."""
    draw_figure(
        pen,
        look,
        [
            [(-0.26, -0.36), (-0.58, -0.1), (-0.74, -0.32)],
            [(0.26, -0.36), (0.54, -0.02), (0.78, -0.26)],
        ],
        [[(-0.1, 0.22), (-0.3, 0.58), (-0.78, 0.62)], [(0.1, 0.22), (0.5, 0.4), (0.46, 0.92)]],
    )


def draw_waving(pen: Pen, look: Look) -> None:
    """Draw a person with both arms up and the legs apart."""
    draw_figure(
        pen,
        look,
        [
            [(-0.28, -0.4), (-0.56, -0.6), (-0.62, -0.94)],
            [(0.28, -0.4), (0.56, -0.6), (0.62, -0.94)],
        ],
        [[(-0.14, 0.22), (-0.4, 0.92)], [(0.14, 0.22), (0.4, 0.92)]],
    )
