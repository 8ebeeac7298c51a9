"""Every colour that operators read has contrast enough, computed: WCAG 2.2 AA, in JupyterLab's themes and in reports."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pygments.formatters import HtmlFormatter

from buddy_ops.checks import findings
from buddy_ops.core import palette
from buddy_ops.notebook import _widgets
from buddy_ops.runs import pages
from tests.notebook.test_chart_shapes import contrast

ROOT = Path(__file__).parents[2]
HEX = re.compile(r"#(?:[0-9a-fA-F]{3}){1,2}\b")
TEXT = 4.5
WHITE = "#ffffff"

OWN_COLOURS = ("core/palette.py", "notebook/_chart_scene.py", "runs/pages.py")
"""Where colours are written; ``runs/templates/style.css`` has those of the archived pages."""


def whole(colour: str) -> str:
    """'#c00' as '#cc0000'."""
    return colour if len(colour) == 7 else "#" + "".join(2 * digit for digit in colour[1:])


@pytest.mark.parametrize("tone", palette.TONES)
def test_result_words_have_contrast(tone: palette.Tone) -> None:
    """A label brings its own background, so the page's theme does not matter."""
    assert contrast(tone.text, tone.background) >= TEXT
    assert tone.banner == f"color:{WHITE};background:{tone.text}" and contrast(WHITE, tone.text) >= TEXT
    assert tone.colours in tone.style and f"background:{tone.background}" in tone.style


@pytest.mark.parametrize("style", ["primary", "danger"])
def test_buttons_have_contrast(style: _widgets.ButtonStyle) -> None:
    """They have colours of their own: JupyterLab's are white on orange in one theme, and black on red in the other."""

    async def make() -> Any:
        return _widgets.ClickQueue().button("Abort", "abort", style)

    button = asyncio.run(make())
    assert contrast(button.style.text_color, button.style.button_color) >= TEXT
    assert button.button_style == ""


@pytest.mark.parametrize("state", findings.State)
def test_every_label_has_its_background(state: findings.State) -> None:
    """No text is coloured on a background that it does not know."""
    assert f'style="{findings.TONES[state].style}"' in findings.html_label(state)


def coloured_sources() -> Iterator[tuple[str, str]]:
    for folder in ("buddy_ops", "notebooks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".ipynb", ".j2", ".js") and not str(path).endswith(OWN_COLOURS):
                yield str(path.relative_to(ROOT)), path.read_text("utf-8")


def test_colours_are_written_in_one_place() -> None:
    """What operators read takes its colours from ``core.palette``: nothing else is checked for contrast."""
    styled = re.compile(r"(?:color|background|colour)\W{1,4}(#(?:[0-9a-fA-F]{3}){1,2}\b)")
    assert [(name, match[1]) for name, text in coloured_sources() for match in styled.finditer(text)] == []


def rules(style: str) -> Iterator[tuple[str, str, str]]:
    """Selector, colour and background ('' where there is none) of each rule."""
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", style):
        colour = re.search(rf"(?:^|;)\s*color:\s*({HEX.pattern})", body)
        background = re.search(rf"background(?:-color)?:\s*({HEX.pattern})", body)
        yield selector.strip(), colour[1] if colour else "", background[1] if background else ""


def test_archived_pages_have_contrast() -> None:
    """Every text colour of reports and index on every background that it can be on."""
    style = pages.STYLE + pages.DIFFERS
    backgrounds = {"#ffffff", *(whole(background) for _, _, background in rules(style) if background)}
    colours = {whole(colour) for _, colour, _ in rules(style) if colour}
    assert len(colours) >= 5 and len(backgrounds) >= 3
    low = [
        (colour, background) for colour in colours for background in backgrounds if contrast(colour, background) < TEXT
    ]
    assert low == []


def test_highlighted_code_has_contrast() -> None:
    """The colours of Python code on the background of a cell; white space has none to read."""
    code = next(background for selector, _, background in rules(pages.STYLE) if selector.endswith(".input"))
    coloured = list(rules(str(HtmlFormatter(style="default").get_style_defs(".highlight"))))
    low = [
        (selector, colour)
        for selector, colour, background in coloured
        if colour and contrast(whole(colour), whole(background or code)) < TEXT and not selector.endswith(" .w")
    ]
    assert len(coloured) > 30 and low == []
