"""Colours of result words for operators: each text has a background of its own, so that it reads in every theme.

A notebook's page may be white or black, and no colour has enough contrast on both. Charts have their own colours.
"""

from dataclasses import dataclass

ON_COLOUR = "#ffffff"
"""Text on a tone's own colour."""


@dataclass(frozen=True)
class Tone:
    """A colour of text and the background that it is read on: a contrast of at least 4.5:1 (WCAG 2.2, 1.4.3)."""

    text: str
    background: str

    @property
    def style(self) -> str:
        """As a style of an HTML element: the text as a label."""
        return f"{self.colours};padding:0 .35em;border-radius:3px"

    @property
    def banner(self) -> str:
        """White on the colour, for a whole line."""
        return f"color:{ON_COLOUR};background:{self.text}"

    @property
    def colours(self) -> str:
        """Text and background only, for an element that has a layout of its own."""
        return f"color:{self.text};background:{self.background}"


PROBLEM = Tone("#b00020", "#fff1ee")
UNKNOWN = Tone("#8a5a00", "#fff6e0")
INFO = Tone("#0059a0", "#eef6ff")
OK = Tone("#00705a", "#ebf8f3")

TONES = (PROBLEM, UNKNOWN, INFO, OK)
