"""What varies in the drawing of one thing."""

from __future__ import annotations

from dataclasses import dataclass

from nbutils.miniature.pen import (
    GLASS,
    LAMP,
    PALETTE,
    Color,
)


@dataclass(frozen=True)
class Look:
    """The drawn choices of one thing: its colour word, skin and cloth variants, and the night."""

    color: str
    skin: int = 0
    cloth: int = 0
    night: bool = False

    @property
    def paint(self) -> Color:
        """Main colour of the thing, RGB 0 to 255."""
        return PALETTE[self.color]

    @property
    def pane(self) -> Color:
        """Colour of window glass: lit at night."""
        return LAMP if self.night else GLASS
