"""Values that are known to be secrets, found in a text.

A long value of mixed characters is cut wherever it is. A word or a number could be part of anything: it is cut only
where it is a value by itself.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from buddy_ops.core._encoded_text import base64_forms
from buddy_ops.core._escapes import unescaped_forms
from buddy_ops.core._secret_rules import FIGURE

LONG = 8
"""Characters from which on a mixed value is cut within longer words, too."""

LONG_WORD = 16
"""Letters from which on a word is no longer one of a dictionary."""

LONG_NUMBER = 6
"""Digits of the shortest number that is cut where it is a value by itself, without its name before it."""

DECODED_ANYWAY = 15
"""Characters from which on a value is found by decoding what surrounds it; shorter ones are also sought in base64."""

MANY = 150
"""Needles that are sought one by one; of more, one pattern is made."""

LONGEST_GAP = 10
"""Characters before or behind a value that say whether it is one by itself."""

ESCAPING = re.compile(r"[\\&]")
Span = tuple[int, int]


class KnownValues:
    """Secrets by their values, each with the name that it was learned under, which may be empty."""

    def __init__(self, values: Iterable[tuple[str, str]]) -> None:
        self._needles: set[str] = set()
        self._patterns: set[tuple[str, int, str]] = set()
        for value, name in values:
            self._take(value, name)

    def _take(self, value: str, name: str) -> None:
        stripped = value.strip()
        plain = re.escape(stripped)
        # Between the name and its value: '=', ': ', '": "'.
        named = f"{re.escape(name)}\\W{{1,6}}" if name else ""
        # A number: behind its name, or by itself if it is long.
        if FIGURE.fullmatch(stripped):
            if named:
                self._patterns.add((stripped, len(name) + LONGEST_GAP, f"{named}(?P<cut>{plain})(?![\\w.])"))
            if len(re.sub(r"\D", "", stripped)) >= LONG_NUMBER:
                self._patterns.add((stripped, LONGEST_GAP, _alone(plain)))
        # A word: behind its name, or by itself.
        elif stripped.isalpha() and len(stripped) < LONG_WORD:
            if named:
                self._patterns.add((stripped, len(name) + LONGEST_GAP, f"{named}(?P<cut>{plain})(?!\\w)"))
            self._patterns.add((stripped, LONGEST_GAP, _alone(plain)))
        # Short and mixed: not within a longer word.
        elif len(stripped) < LONG:
            self._patterns.add((stripped, LONGEST_GAP, f"(?<![\\w.-])(?P<cut>{plain})(?![\\w-]|\\.\\w)"))
        else:
            self._needles |= _needles(value)

    @cached_property
    def _compiled(self) -> list[tuple[str, int, re.Pattern[str]]]:
        return [(literal, before, re.compile(pattern, re.MULTILINE)) for literal, before, pattern in self._patterns]

    @cached_property
    def _any_needle(self) -> re.Pattern[str] | None:
        if len(self._needles) <= MANY:
            return None
        # A pattern takes the first alternative that fits, and a short needle may begin a longer one.
        longest_first = sorted(self._needles, key=lambda needle: (-len(needle), needle))
        return re.compile("|".join(map(re.escape, longest_first)))

    def find_escaped(self, text: str) -> Iterator[Span]:
        """Where a known value is that could be taken for an escape together with what follows it."""
        for needle in self._delicate:
            yield from _places(needle, text)

    @cached_property
    def _delicate(self) -> list[str]:
        return [needle for needle in self._needles if ESCAPING.search(needle)]

    def find(self, text: str) -> Iterator[Span]:
        """Where a known value is, as it is or in base64 within longer base64."""
        if self._any_needle:
            yield from (match.span() for match in self._any_needle.finditer(text))
        else:
            for needle in self._needles:
                yield from _places(needle, text)
        for literal, before, pattern in self._compiled:
            place = text.find(literal)
            while place >= 0:
                end = place + len(literal)
                # Only around the place, so that the cost does not grow with the number of places times the text.
                match = pattern.search(text, max(0, place - before), end + LONGEST_GAP)
                if match:
                    yield match.span("cut")
                    end = max(end, match.end("cut"))
                place = text.find(literal, end)


def _places(needle: str, text: str) -> Iterator[Span]:
    place = text.find(needle)
    while place >= 0:
        yield place, place + len(needle)
        place = text.find(needle, place + len(needle))


def _alone(plain: str) -> str:
    """A pattern for a value that is a whole line, or stands in quotes or in an element."""
    return f"(?:^[ \\t]{{0,8}}|(?P<quote>[\"'`>]))(?P<cut>{plain})(?=(?(quote)[\"'`<]|[ \\t]{{0,8}}$))"


def _needles(value: str) -> set[str]:
    found = {value, value.strip(), value.replace(" ", "+")}
    found |= {line.strip() for line in value.splitlines() if len(line.strip()) >= LONG}
    for text in tuple(found):
        # Decoding a text decodes the value in it, too, where it looks like an escape.
        found |= set(unescaped_forms(text))
        if not text.isalnum():
            # As JSON has it, without the quotes, and as JSON within JSON, whose quotes have a backslash.
            found |= {json.dumps(text)[1:-1], json.dumps(json.dumps(text))[3:-3], repr(text)[1:-1], html.escape(text)}
        content = text.encode("utf-8", "surrogatepass")
        # What is decoded is read as Latin-1, so a value beyond ASCII reads so there.
        found.add(content.decode("latin-1"))
        if len(text) < DECODED_ANYWAY or not text.isascii() or not text.isprintable():
            found |= {form for form in base64_forms(content) if len(form) >= LONG}
            found |= {content.hex(), content.hex().upper()}
            found |= {form for form in base64_forms(text.encode("utf-16-le", "surrogatepass")) if len(form) >= LONG}
    return found
