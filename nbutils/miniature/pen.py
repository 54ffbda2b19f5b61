"""Pen and colours of the drawn world: unit-coordinate shapes put onto a supersampled canvas."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

PALETTE: dict[str, Color] = {
    "black": (44, 42, 52),
    "blond": (250, 208, 84),
    "blue": (48, 104, 216),
    "brown": (140, 84, 46),
    "green": (52, 160, 70),
    "grey": (146, 148, 158),
    "orange": (242, 138, 40),
    "pink": (248, 140, 182),
    "purple": (136, 72, 188),
    "red": (222, 48, 48),
    "white": (246, 246, 244),
    "yellow": (250, 208, 46),
}
HAIR: dict[str, Color] = {**PALETTE, "red": (190, 74, 30), "brown": (106, 62, 34)}
SKINS: tuple[Color, ...] = ((250, 212, 180), (232, 182, 140), (190, 130, 88), (124, 80, 54))
CLOTHS: tuple[Color, ...] = ((70, 110, 130), (96, 86, 120))
INK: Color = (44, 36, 50)
GLASS: Color = (150, 206, 238)
WHITE: Color = (252, 252, 252)
LAMP: Color = (255, 226, 110)


@functools.lru_cache(maxsize=512)
def shade(color: Color, factor: float) -> Color:
    """Return `color` darkened (factor below 1) or mixed with white (factor above 1)."""
    if factor <= 1:
        return tuple(int(c * factor) for c in color)
    return tuple(int(c + (255 - c) * (factor - 1)) for c in color)


class Pen:
    """Draw unit-coordinate shapes on a canvas, centred at (x, y) pixels with radius r pixels."""

    def __init__(
        self, canvas: Image.Image, x: float, y: float, r: float, *, flip: bool, night: bool
    ) -> None:
        self.canvas, self.x, self.y, self.r = canvas, x, y, r
        self.ink = ImageDraw.Draw(canvas)
        self.sign, self.night = (-1 if flip else 1), night

    def tone(self, color: Color) -> tuple[int, int, int, int]:
        """Dim a colour at night, except for lamps and lit windows."""
        if self.night and color != LAMP:
            return (int(color[0] * 0.82), int(color[1] * 0.84), int(color[2] * 0.96), 255)
        return (*color, 255)

    def place(self, points: Points) -> list[tuple[float, float]]:
        """Map unit coordinates to canvas pixels."""
        k = self.r * self.sign
        return [(self.x + k * px, self.y + self.r * py) for px, py in points]

    def bounds(self, x0: float, y0: float, x1: float, y1: float) -> list[float]:
        """Map a unit box to ordered canvas bounds (left, top, right, bottom)."""
        (a, top), (b, bottom) = self.place([(x0, y0), (x1, y1)])
        return [min(a, b), top, max(a, b), bottom]

    def poly(self, points: Points, color: Color) -> None:
        """Fill a polygon."""
        self.ink.polygon(self.place(points), fill=self.tone(color))

    def oval(self, cx: float, cy: float, rx: float, ry: float, color: Color) -> None:
        """Fill an axis-aligned ellipse."""
        self.ink.ellipse(self.bounds(cx - rx, cy - ry, cx + rx, cy + ry), fill=self.tone(color))

    def chord(
        self, cx: float, cy: float, rx: float, ry: float, turn: tuple[int, int], color: Color
    ) -> None:
        """Fill an ellipse segment between two angles in degrees (not mirrored)."""
        self.ink.chord(
            self.bounds(cx - rx, cy - ry, cx + rx, cy + ry), *turn, fill=self.tone(color)
        )

    def box(
        self, x0: float, y0: float, x1: float, y1: float, color: Color, corner: float = 0.0
    ) -> None:
        """Fill a rectangle, with rounded corners if `corner` is positive."""
        bounds = self.bounds(x0, y0, x1, y1)
        if corner:
            self.ink.rounded_rectangle(bounds, corner * self.r, fill=self.tone(color))
        else:
            self.ink.rectangle(bounds, fill=self.tone(color))

    def line(self, points: Points, width: float, color: Color) -> None:
        """Draw a thick line with round ends and joints."""
        spots, w = self.place(points), max(1, round(width * self.r))
        self.ink.line(spots, fill=self.tone(color), width=w, joint="curve")
        for px, py in (spots[0], spots[-1]):
            self.ink.ellipse(
                [px - w / 2, py - w / 2, px + w / 2, py + w / 2], fill=self.tone(color)
            )

    def arc(
        self,
        cx: float,
        cy: float,
        rx: float,
        ry: float,
        turn: tuple[float, float],
        width: float,
        color: Color,
    ) -> None:
        """Draw an elliptic arc between two angles in degrees, mirrored with the thing."""
        angles = np.radians(np.linspace(*turn, 9))
        self.line([(cx + rx * np.cos(a), cy + ry * np.sin(a)) for a in angles], width, color)

    def text(self, word: str, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        """Fill a unit box with one word, stretched to fit it (never mirrored)."""
        left, top, right, bottom = (round(v) for v in self.bounds(x0, y0, x1, y1))
        mask = letters(word).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        self.canvas.paste(self.tone(color), (left, top), mask)


@functools.lru_cache(maxsize=16)
def letters(word: str) -> Image.Image:
    """Return a tight grey mask of `word` in bold capitals."""
    path = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")
    font = ImageFont.truetype(str(path), 72)
    mask = Image.new("L", (400, 120))
    ImageDraw.Draw(mask).text((10, 10), word, fill=255, font=font)
    return mask.crop(mask.getbbox())
