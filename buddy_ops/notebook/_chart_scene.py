"""What a chart is made of once every place is known: lines, areas and texts in pixels, and the width of a text.

The layout makes a scene, and two writers draw the same one: SVG while a notebook is live, PNG for what stays.
"""

import os
import threading
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font, LoadFlags

Point = tuple[float, float]

Anchor = Literal["start", "middle", "end"]

FONT = "DejaVu Sans"
"""Comes with matplotlib, so that a text is as wide on every machine as it was measured."""

ASCENT, DESCENT = 0.93, 0.24
"""How far the font reaches above and below the baseline, in parts of its size."""


class Ink(StrEnum):
    """What a colour means.

    Okabe and Ito's colours, which colour-blind people can distinguish; the lines differ in style, too. Each has a
    contrast of 3:1 and more against the card, light and dark (WCAG 2.2, 1.4.11); texts have 4.5:1 (1.4.3).
    """

    STABLE = "#0072B2"
    NEW = "#D55E00"
    THIRD = "#008A63"
    FOURTH = "#AA4499"
    UNKNOWN = "#767676"
    LIMIT = "#D11313"
    MARK = "#6E6E6E"
    TEXT = "#1a1a1a"
    GRID = "#e6e6e6"
    CARD = "#ffffff"


@dataclass(frozen=True)
class Text:
    """A text. ``x`` is where it starts, has its middle, or ends; ``y`` is its baseline."""

    text: str
    x: float
    y: float
    size: float = 12.0
    anchor: Anchor = "start"
    bold: bool = False

    @property
    def width(self) -> float:
        """In pixels."""
        return text_width(self.text, self.size, bold=self.bold)

    @property
    def left(self) -> float:
        """Where it begins."""
        share = {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]
        return self.x - share * self.width

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom."""
        return self.left, self.y - ASCENT * self.size, self.left + self.width, self.y + DESCENT * self.size


@dataclass(frozen=True)
class Stroke:
    """Lines. ``dash`` has the lengths of dashes and gaps; empty for a line without gaps."""

    paths: Sequence[Sequence[Point]]
    ink: Ink
    width: float = 1.0
    dash: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fill:
    """Areas."""

    paths: Sequence[Sequence[Point]]
    ink: Ink
    opacity: float = 1.0


@dataclass
class Scene:
    """A picture. ``description`` says in words what it shows."""

    width: int
    height: int
    description: str
    shapes: list[Stroke | Fill | Text] = field(default_factory=list)

    @property
    def texts(self) -> list[Text]:
        """Its texts."""
        return [shape for shape in self.shapes if isinstance(shape, Text)]


def text_width(text: str, size: float = 12.0, *, bold: bool = False) -> float:
    """The width of a text in pixels."""
    return size * sum(_advance(character, bold) for character in text)


def shorten_to(text: str, width: float, size: float = 12.0, *, bold: bool = False) -> str:
    """A text of at most this width; '…' at its end shows that it was cut."""
    if text_width(text, size, bold=bold) <= width:
        return text
    while text and text_width(f"{text}…", size, bold=bold) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def wrap(text: str, width: float, size: float = 12.0) -> list[str]:
    """A text's lines, each of at most this width."""
    lines = []
    for part in text.splitlines():
        line = ""
        for word in part.split():
            longer = " ".join(filter(None, (line, word)))
            if line and text_width(longer, size) > width:
                lines.append(line)
                longer = word
            line = shorten_to(longer, width, size)
        lines.append(line)
    return [line for line in lines if line]


@cache
def _advance(character: str, bold: bool) -> float:
    """How wide a character is, in parts of the font's size."""
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0  # the font does not have it, and a browser takes another one
    font = _font(bold, threading.get_ident())
    # FreeType gives the advance in 1/65536 of a pixel, here of a font of 100 pixels.
    return float(font.load_char(ord(character), _no_hinting()).linearHoriAdvance) / 65536 / 100


@cache
def _font(bold: bool, thread: int) -> "FT2Font":
    """A font of this thread's own: two threads that share one read its file in turn, and neither reads it right."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    name = "DejaVuSans.ttf"
    if bold:
        name = "DejaVuSans-Bold.ttf"
    font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name))
    font.set_size(100, 72)
    return font


if hasattr(os, "register_at_fork"):
    # A kernel that is forked from a warm process has none of that one's open files.
    os.register_at_fork(after_in_child=_font.cache_clear)


@cache
def _no_hinting() -> "LoadFlags":
    from matplotlib.ft2font import LoadFlags

    return LoadFlags.NO_HINTING
