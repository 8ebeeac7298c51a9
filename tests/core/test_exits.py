"""Text from outside at each exit: a terminal, GitHub's log and summary, Markdown, HTML, Slack. None obeys it."""

import html
import re
import unicodedata
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buddy_ops.core.text import escape_html, escape_markdown, escape_terminal, show_controls
from buddy_ops.runs import pages

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\x1b[1A",  # a title, a cleared screen, a line that is written over
    "ok\rFAILED",
    "v2\u202e1v\u2066",
    "\x9b31m\x85",
    "::stop-commands::pause\n::error::owned\n  ::add-mask::a",
    "fine ##[error]owned",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "a | b\n\n# owned\n[click](javascript:alert(1)) `code` **bold**",
    "<!channel> <@U123> & <https://evil.example|safe>",
    "Ada\u200bLovelace\ufeff",
)
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(), st.lists(st.sampled_from(HOSTILE)).map(" ".join))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(TEXTS)
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    """Lines and tabs stay; each other control, turning or hidden character is written out."""
    shown = escape_terminal(text, github=True)
    kinds = {unicodedata.category(character) for character in shown if character not in "\n\t"}
    assert "Cc" not in kinds and not set("\u202a\u202e\u2066\u2069\u200b\ufeff\u2028") & set(shown)
    assert not re.search(r"^\s*::|##\[", shown, re.MULTILINE)
    assert escape_terminal("v2 error rate 4.8 % → \n\tüber 1 %") == "v2 error rate 4.8 % → \n\tüber 1 %"


@settings(max_examples=300, derandomize=True, deadline=None)
@given(TEXTS)
def test_no_tag_reaches_a_page_or_a_summary(text: str) -> None:
    """HTML has no tag, a line of Markdown stays one line and one cell, and a step's summary has no markup at all."""
    assert "<" not in escape_html(text) and html.unescape(escape_html(text)) == show_controls(text)
    line = escape_markdown(text, keep_code=False)
    assert "\n" not in line and "<" not in line and not re.search(r"(?<!\\)\|", line) and "\x1b" not in line
    summary = pages.step_summary({"runbook": text, "trouble": text, "notes": [text], "people": [text]}, "")
    assert not set("<`[(*") & set(re.sub(r"\*\*|&#\d+;", "", summary))


def test_the_command_shows_what_it_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On stdout and stderr, with rich and without; in GitHub's log no line is a command."""
    from buddy_ops.cli import main

    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for text in HOSTILE:
        main.out.print(text)
        main.err.print(text, style="problem")
        main.say(SimpleNamespace(text=text).text)
        main.out.print_json(data={"reason": text})
    said = capsys.readouterr()
    for stream in (said.out, re.sub(r"\x1b\[[0-9;]*m", "", said.err)):
        assert not set("\x1b\x07\x9b\x85\r\u202e\u2066\u200b") & set(stream)
        assert not re.search(r"^\s*::|##\[", stream, re.MULTILINE)
