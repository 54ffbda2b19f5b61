"""Shapes of the drawn world: every kind of thing, in a frame of radius one around its centre.

A shape is a function of a :class:`~nbutils.miniature.pen.Pen` and a :class:`Look`; it uses unit
coordinates in which the thing spans about -1 to 1, y pointing down.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from nbutils.miniature.look import Look
from nbutils.miniature.pen import (
    INK,
    LAMP,
    WHITE,
    Pen,
    shade,
)
from nbutils.miniature.people import (
    draw_child,
    draw_man,
    draw_running,
    draw_standing,
    draw_waving,
    draw_woman,
)

# How far below its centre, in radii, each kind touches the ground (1 where not named).
FOOT: dict[str, float] = {
    "car": 0.62,
    "bus": 0.78,
    "banana": 0.6,
    "dog": 0.88,
    "bird": 0.88,
    "apple": 0.9,
    "pizza": 0.92,
    "donut": 0.84,
    "boat": 0.96,
    "man": 1.12,
    "woman": 1.12,
    "child": 1.12,
}


def draw_window(pen: Pen, look: Look, x: float, y: float, rx: float, ry: float) -> None:
    """Draw a framed window, lit at night."""
    pen.box(x - rx - 0.04, y - ry - 0.04, x + rx + 0.04, y + ry + 0.04, WHITE)
    pen.box(x - rx, y - ry, x + rx, y + ry, look.pane)
    pen.line([(x, y - ry), (x, y + ry)], 0.04, WHITE)


def draw_house(pen: Pen, look: Look) -> None:
    """Draw a house with a wide pitched roof, a chimney, a door and two windows."""
    pen.box(0.42, -0.86, 0.64, -0.3, (150, 70, 60))
    pen.box(-0.78, -0.16, 0.78, 1.0, look.paint)
    pen.poly([(-1.0, -0.12), (0, -0.96), (1.0, -0.12)], (112, 56, 48))
    pen.poly([(-1.0, -0.12), (1.0, -0.12), (0.92, -0.2), (-0.92, -0.2)], (84, 42, 38))
    pen.box(-0.18, 0.38, 0.18, 1.0, (92, 58, 36))
    pen.oval(0.1, 0.7, 0.04, 0.04, LAMP)
    draw_window(pen, look, -0.48, 0.28, 0.17, 0.19)
    draw_window(pen, look, 0.48, 0.28, 0.17, 0.19)


def draw_church(pen: Pen, look: Look) -> None:
    """Draw a church: a nave, a steeple with a cross, and arched windows."""
    roof = (92, 70, 96)
    pen.box(-0.1, 0.16, 0.96, 1.0, look.paint)
    pen.poly([(-0.2, 0.2), (0.1, -0.26), (0.8, -0.26), (1.04, 0.2)], roof)
    pen.box(-0.72, -0.34, -0.04, 1.0, shade(look.paint, 0.9))
    pen.poly([(-0.82, -0.3), (-0.38, -0.84), (0.06, -0.3)], roof)
    pen.line([(-0.38, -1.04), (-0.38, -0.76)], 0.08, (210, 160, 40))
    pen.line([(-0.5, -0.94), (-0.26, -0.94)], 0.08, (210, 160, 40))
    for x, y in ((-0.38, 0.0), (0.2, 0.56), (0.48, 0.56), (0.76, 0.56)):
        pen.oval(x, y - 0.08, 0.1, 0.12, look.pane)
        pen.box(x - 0.1, y - 0.08, x + 0.1, y + 0.14, look.pane)
    pen.box(-0.54, 0.54, -0.22, 1.0, (86, 54, 36))
    pen.oval(-0.38, 0.54, 0.16, 0.16, (86, 54, 36))


def draw_tower(pen: Pen, look: Look) -> None:
    """Draw a tall tower block with rows of windows."""
    pen.line([(0, -1.0), (0, -0.8)], 0.06, (120, 124, 134))
    pen.box(-0.5, -0.84, 0.5, 1.0, look.paint)
    pen.box(-0.56, -0.9, 0.56, -0.78, shade(look.paint, 0.7))
    for row in range(5):
        for x in (-0.3, 0.0, 0.3):
            y = -0.66 + 0.28 * row
            pen.box(x - 0.1, y, x + 0.1, y + 0.18, look.pane)
    pen.box(-0.16, 0.72, 0.16, 1.0, (60, 50, 50))


def draw_apple(pen: Pen, look: Look) -> None:
    """Draw an apple with a stem, a leaf and a highlight."""
    pen.line([(0, -0.5), (0.06, -0.9)], 0.1, (96, 62, 36))
    pen.oval(-0.32, 0.1, 0.56, 0.72, look.paint)
    pen.oval(0.32, 0.1, 0.56, 0.72, look.paint)
    pen.oval(0, 0.3, 0.5, 0.58, look.paint)
    pen.oval(0, -0.52, 0.2, 0.1, shade(look.paint, 0.6))
    pen.poly([(0.06, -0.66), (0.3, -0.94), (0.66, -0.92), (0.46, -0.66)], (70, 150, 50))
    pen.oval(-0.46, -0.16, 0.14, 0.22, shade(look.paint, 1.6))


def draw_banana(pen: Pen, look: Look) -> None:
    """Draw a curved banana with dark tips."""
    outer = [(np.cos(a), -0.5 + 1.1 * np.sin(a)) for a in np.radians(np.linspace(8, 172, 15))]
    inner = [
        (0.86 * np.cos(a), -0.5 + 0.56 * np.sin(a)) for a in np.radians(np.linspace(172, 8, 15))
    ]
    pen.poly(outer + inner, look.paint)
    pen.arc(0, -0.5, 0.9, 0.82, (24, 156), 0.07, shade(look.paint, 0.8))
    pen.line([(0.9, -0.36), (0.96, -0.58)], 0.14, (104, 76, 30))
    pen.oval(-0.94, -0.36, 0.09, 0.09, (104, 76, 30))


def draw_pizza(pen: Pen, look: Look) -> None:
    """Draw a whole pizza with slices of salami and olives."""
    pen.oval(0, 0, 0.96, 0.92, (196, 130, 62))
    pen.oval(0, 0, 0.82, 0.78, look.paint)
    spot = (196, 44, 40) if look.color == "yellow" else (250, 226, 150)
    for k in range(6):
        a = np.radians(60 * k + 12)
        pen.oval(0.52 * np.cos(a), 0.5 * np.sin(a), 0.17, 0.16, spot)
        pen.oval(0.3 * np.cos(a + 0.5), 0.28 * np.sin(a + 0.5), 0.07, 0.07, (60, 96, 50))
    pen.oval(0, 0, 0.15, 0.14, spot)


def draw_donut(pen: Pen, look: Look) -> None:
    """Draw an iced ring donut with sprinkles; the hole is left open."""
    pen.oval(0, 0.04, 0.98, 0.82, (206, 150, 88))
    pen.oval(0, -0.06, 0.9, 0.7, look.paint)
    tints = ((250, 220, 60), (70, 170, 230), (240, 90, 90), (120, 200, 90))
    for k in range(12):
        a = np.radians(30 * k + 10)
        x, y, turn = 0.63 * np.cos(a), -0.05 + 0.48 * np.sin(a), 1.9 * k
        dx, dy = 0.07 * np.cos(turn), 0.07 * np.sin(turn)
        pen.line([(x - dx, y - dy), (x + dx, y + dy)], 0.08, tints[k % 4])
    pen.oval(0, -0.02, 0.34, 0.26, (164, 108, 58))
    pen.ink.ellipse(pen.bounds(-0.27, -0.18, 0.27, 0.22), fill=(0, 0, 0, 0))


def draw_sign(pen: Pen, look: Look, word: str) -> None:
    """Draw a big board on a post, filled by the letters of `word`."""
    ink = INK if look.color in ("yellow", "white") else WHITE
    pen.box(-0.1, 0.3, 0.1, 1.0, (110, 112, 122))
    if word == "STOP":
        x, y, c = 1.0, 0.86, 0.4
        pen.poly(
            [
                (-x, -y + 0.1 + c),
                (-x + c, -y + 0.1),
                (x - c, -y + 0.1),
                (x, -y + 0.1 + c),
                (x, y - 0.3 - c / 2),
                (x - c, y - 0.2),
                (c - x, y - 0.2),
                (-x, y - 0.3 - c / 2),
            ],
            look.paint,
        )
    else:
        pen.box(-1.02, -0.7, 1.02, 0.48, ink, 0.14)
        pen.box(-0.96, -0.64, 0.96, 0.42, look.paint, 0.1)
    pen.text(word, -0.86, -0.46, 0.86, 0.26, ink)


def draw_cat(pen: Pen, look: Look) -> None:
    """Draw a sitting cat seen from the front, with pointed ears, whiskers and a curled tail."""
    fur, dark = look.paint, shade(look.paint, 0.8)
    pen.arc(0.5, 0.5, 0.4, 0.4, (100, -60), 0.2, dark)
    pen.oval(0, 0.52, 0.54, 0.5, fur)
    for side in (-1, 1):
        pen.oval(side * 0.24, 0.9, 0.2, 0.12, shade(fur, 1.3))
        pen.poly([(side * 0.62, -0.3), (side * 0.6, -1.0), (side * 0.12, -0.66)], fur)
        pen.poly(
            [(side * 0.52, -0.46), (side * 0.52, -0.84), (side * 0.28, -0.66)], (246, 160, 170)
        )
    pen.oval(0, -0.26, 0.66, 0.52, fur)
    for side in (-1, 1):
        pen.oval(side * 0.29, -0.3, 0.17, 0.19, (176, 222, 90))
        pen.oval(side * 0.29, -0.3, 0.08, 0.17, (24, 24, 28))
        pen.oval(side * 0.29 - 0.06, -0.38, 0.05, 0.05, WHITE)
        for dy in (-0.05, 0.07):
            pen.line(
                [(side * 0.3, -0.04), (side * 0.84, -0.06 + dy * 1.6)],
                0.03,
                (210, 210, 214) if look.color == "black" else (90, 84, 90),
            )
    pen.poly([(-0.08, -0.12), (0.08, -0.12), (0, -0.03)], (236, 110, 130))
    pen.arc(-0.09, -0.02, 0.09, 0.08, (10, 170), 0.04, (96, 60, 66))
    pen.arc(0.09, -0.02, 0.09, 0.08, (10, 170), 0.04, (96, 60, 66))


def draw_dog(pen: Pen, look: Look) -> None:
    """Draw a standing dog seen from the side, with a floppy ear, a collar and a raised tail."""
    fur, dark = look.paint, shade(look.paint, 0.66 if look.color != "black" else 1.28)
    pen.line([(-0.66, 0.1), (-0.9, -0.16), (-0.9, -0.44)], 0.17, fur)
    for x in (-0.4, 0.46):
        pen.line([(x, 0.3), (x, 0.78)], 0.19, shade(fur, 0.8))
    for x in (-0.6, 0.26):
        pen.line([(x, 0.3), (x, 0.78)], 0.21, fur)
    pen.box(-0.76, -0.06, 0.48, 0.44, fur, 0.24)
    pen.poly([(0.08, 0.1), (0.24, -0.4), (0.66, -0.3), (0.48, 0.24)], fur)
    pen.line([(0.22, -0.06), (0.56, 0.02)], 0.13, (222, 44, 60) if look.color != "red" else WHITE)
    pen.oval(0.44, -0.44, 0.36, 0.34, fur)
    pen.box(0.44, -0.46, 0.98, -0.16, shade(fur, 1.25), 0.14)
    pen.oval(0.93, -0.4, 0.1, 0.09, (30, 26, 30))
    pen.line([(0.66, -0.2), (0.84, -0.2)], 0.04, (80, 50, 50))
    pen.oval(0.52, -0.54, 0.1, 0.11, WHITE)
    pen.oval(0.54, -0.54, 0.07, 0.08, (24, 24, 28))
    pen.oval(0.52, -0.57, 0.03, 0.03, WHITE)
    pen.oval(0.18, -0.36, 0.15, 0.32, dark)


def draw_bird(pen: Pen, look: Look) -> None:
    """Draw a plump bird seen from the side, with a wing, a beak and thin legs."""
    coat, dark = look.paint, shade(look.paint, 0.72)
    for x in (-0.12, 0.16):
        pen.line([(x, 0.5), (x + 0.02, 0.84), (x + 0.16, 0.84)], 0.07, (220, 140, 40))
    pen.poly([(-0.4, 0.2), (-1.02, -0.22), (-0.94, 0.2), (-0.5, 0.46)], dark)
    pen.oval(0, 0.14, 0.64, 0.5, coat)
    pen.oval(0.12, 0.32, 0.42, 0.3, shade(coat, 1.5))
    pen.poly([(0.68, -0.5), (1.04, -0.34), (0.66, -0.22)], (246, 160, 40))
    pen.oval(0.4, -0.38, 0.4, 0.38, coat)
    pen.oval(0.48, -0.44, 0.12, 0.12, WHITE)
    pen.oval(0.5, -0.44, 0.08, 0.09, (24, 24, 28))
    pen.oval(0.47, -0.48, 0.035, 0.035, WHITE)
    pen.poly([(0.24, 0.0), (-0.1, -0.16), (-0.74, 0.22), (-0.2, 0.42), (0.14, 0.3)], dark)


def draw_wheel(pen: Pen, x: float, y: float, r: float) -> None:
    """Draw a wheel with a light hub."""
    pen.oval(x, y, r, r, (40, 40, 46))
    pen.oval(x, y, r * 0.5, r * 0.5, (206, 208, 214))


def draw_car(pen: Pen, look: Look) -> None:
    """Draw a car seen from the side."""
    pen.poly([(-0.66, -0.06), (-0.4, -0.54), (0.3, -0.54), (0.62, -0.06)], look.paint)
    pen.poly([(-0.5, -0.08), (-0.32, -0.43), (-0.06, -0.43), (-0.06, -0.08)], look.pane)
    pen.poly([(0.04, -0.08), (0.04, -0.43), (0.24, -0.43), (0.46, -0.08)], look.pane)
    pen.box(-1.0, -0.1, 1.0, 0.4, look.paint, 0.16)
    pen.box(-1.0, 0.24, 1.0, 0.4, shade(look.paint, 0.7), 0.08)
    pen.oval(0.92, 0.04, 0.09, 0.1, LAMP)
    pen.oval(-0.94, 0.04, 0.07, 0.1, (230, 90, 60))
    pen.line([(0.08, 0.06), (0.2, 0.06)], 0.05, shade(look.paint, 0.5))
    draw_wheel(pen, -0.54, 0.38, 0.25)
    draw_wheel(pen, 0.54, 0.38, 0.25)


def draw_bus(pen: Pen, look: Look) -> None:
    """Draw a long bus with a row of windows and a door."""
    pen.box(-1.02, -0.68, 1.02, 0.56, look.paint, 0.14)
    pen.box(-1.02, 0.2, 1.02, 0.3, WHITE)
    for x in (-0.88, -0.44, 0.0):
        pen.box(x, -0.48, x + 0.36, 0.02, look.pane, 0.05)
    pen.box(0.46, -0.48, 0.72, 0.5, shade(look.pane, 0.8) if not look.night else LAMP)
    pen.box(0.82, -0.48, 1.02, 0.02, look.pane)
    pen.oval(0.96, 0.4, 0.07, 0.08, LAMP)
    draw_wheel(pen, -0.56, 0.54, 0.24)
    draw_wheel(pen, 0.26, 0.54, 0.24)


def draw_boat(pen: Pen, look: Look) -> None:
    """Draw a sailing boat on a strip of water; the colour is that of the hull."""
    pen.line([(0.0, -0.98), (0.0, 0.5)], 0.09, (120, 80, 50))
    pen.poly([(0.08, -0.92), (0.08, 0.34), (0.86, 0.34)], WHITE)
    pen.poly([(-0.08, -0.72), (-0.08, 0.34), (-0.66, 0.34)], (236, 226, 200))
    pen.poly([(0.0, -1.0), (0.0, -0.8), (-0.3, -0.9)], (230, 120, 40))
    pen.poly([(-0.98, 0.44), (0.98, 0.44), (0.66, 0.92), (-0.66, 0.92)], look.paint)
    pen.poly([(-0.98, 0.44), (0.98, 0.44), (0.92, 0.54), (-0.92, 0.54)], shade(look.paint, 0.7))


def draw_tree(pen: Pen, look: Look) -> None:
    """Draw a tree with a round crown of five tufts."""
    leaf = look.paint
    pen.poly([(-0.15, 0.1), (0.15, 0.1), (0.24, 1.0), (-0.24, 1.0)], (116, 74, 44))
    for x, y, r in ((-0.5, 0.0, 0.4), (0.5, 0.0, 0.4), (0, 0.12, 0.4)):
        pen.oval(x, y, r, r, shade(leaf, 0.78))
    for x, y, r in ((-0.38, -0.34, 0.44), (0.38, -0.34, 0.44), (0, -0.56, 0.44)):
        pen.oval(x, y, r, r, leaf)
    pen.oval(-0.2, -0.56, 0.22, 0.2, shade(leaf, 1.25))


def draw_flower(pen: Pen, look: Look) -> None:
    """Draw a flower with eight petals, a stem and two leaves."""
    pen.line([(0, 0.0), (0, 0.96)], 0.12, (50, 140, 56))
    pen.poly([(0, 0.84), (0.24, 0.5), (0.66, 0.5), (0.4, 0.78)], (64, 164, 66))
    pen.poly([(0, 0.84), (-0.24, 0.56), (-0.66, 0.58), (-0.4, 0.82)], (50, 144, 58))
    for k in range(8):
        a = np.radians(45 * k + 22.5)
        petal = look.paint if k % 2 else shade(look.paint, 0.86)
        pen.oval(0.42 * np.cos(a), -0.32 + 0.42 * np.sin(a), 0.26, 0.26, petal)
    middle = (150, 84, 30) if look.color == "yellow" else (252, 204, 50)
    pen.oval(0, -0.32, 0.26, 0.26, middle)
    pen.oval(-0.07, -0.4, 0.08, 0.07, shade(middle, 1.5))


def draw_cactus(pen: Pen, look: Look) -> None:
    """Draw a cactus with two raised arms, ribs and a small blossom."""
    skin = shade(look.paint, 0.9)
    pen.line([(-0.1, 0.3), (-0.66, 0.26), (-0.66, -0.3)], 0.3, skin)
    pen.line([(0.1, 0.06), (0.66, 0.02), (0.66, -0.5)], 0.3, skin)
    pen.box(-0.26, -0.84, 0.26, 1.0, skin, 0.26)
    for x in (-0.11, 0.11):
        pen.line([(x, -0.6), (x, 0.9)], 0.05, shade(look.paint, 1.45))
    pen.oval(0, -0.86, 0.14, 0.11, (248, 130, 176))


SHAPES: dict[str, Callable[[Pen, Look], None]] = {
    "man": draw_man,
    "woman": draw_woman,
    "child": draw_child,
    "standing": draw_standing,
    "running": draw_running,
    "waving": draw_waving,
    "house": draw_house,
    "church": draw_church,
    "tower": draw_tower,
    "apple": draw_apple,
    "banana": draw_banana,
    "pizza": draw_pizza,
    "donut": draw_donut,
    "cat": draw_cat,
    "dog": draw_dog,
    "bird": draw_bird,
    "car": draw_car,
    "bus": draw_bus,
    "boat": draw_boat,
    "tree": draw_tree,
    "flower": draw_flower,
    "cactus": draw_cactus,
    **{
        word: functools.partial(draw_sign, word=word.upper())
        for word in ("open", "stop", "taxi", "cafe")
    },
}
