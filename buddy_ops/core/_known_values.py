"""Values that are known to be secrets, found in a text.

A long value of mixed characters is cut wherever it is. A word or a number could be part of anything: it is cut only
where it is a value by itself.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from buddy_ops.core._encoded_text import base64_forms, unescaped_forms
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

Span = tuple[int, int]


class KnownValues:
    """Secrets by their values, each with the name that it was learned under, which may be empty."""

    def __init__(self, values: Iterable[tuple[str, str]]) -> None:
        self._needles: set[str] = set()
        self._patterns: set[str] = set()
        for value, name in values:
            self._take(value, name)

    def _take(self, value: str, name: str) -> None:
        stripped = value.strip()
        plain = re.escape(stripped)
        named = f"{re.escape(name)}\\W{{1,6}}" if name else ""
        if FIGURE.fullmatch(stripped):
            if named:
                self._patterns.add(f"{named}(?P<cut>{plain})(?![\\w.])")
            if len(re.sub(r"\D", "", stripped)) >= LONG_NUMBER:
                self._patterns.add(_alone(plain))
        elif stripped.isalpha() and len(stripped) < LONG_WORD:
            if named:
                self._patterns.add(f"{named}(?P<cut>{plain})(?!\\w)")
            self._patterns.add(_alone(plain))
        elif len(stripped) < LONG:
            self._patterns.add(f"(?<![\\w.-])(?P<cut>{plain})(?![\\w-]|\\.\\w)")
        else:
            self._needles |= _needles(value)

    @cached_property
    def _compiled(self) -> list[re.Pattern[str]]:
        patterns = [re.compile(pattern, re.MULTILINE) for pattern in sorted(self._patterns)]
        if len(self._needles) > MANY:
            longest_first = sorted(self._needles, key=lambda needle: (-len(needle), needle))
            patterns.append(re.compile("|".join(map(re.escape, longest_first))))
        return patterns

    def find(self, text: str) -> Iterator[Span]:
        """Where a known value is, as it is or in base64 within longer base64."""
        if len(self._needles) <= MANY:
            for needle in self._needles:
                place = text.find(needle)
                while place >= 0:
                    yield place, place + len(needle)
                    place = text.find(needle, place + len(needle))
        for pattern in self._compiled:
            for match in pattern.finditer(text):
                yield match.span("cut" if pattern.groupindex else 0)


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
            found |= {json.dumps(text)[1:-1], json.dumps(json.dumps(text))[3:-3], repr(text)[1:-1], html.escape(text)}
        content = text.encode("utf-8", "surrogatepass")
        found.add(content.decode("latin-1"))
        if len(text) < DECODED_ANYWAY or not text.isascii() or not text.isprintable():
            found |= {form for form in base64_forms(content) if len(form) >= LONG}
            found |= {content.hex(), content.hex().upper()}
            found |= {form for form in base64_forms(text.encode("utf-16-le", "surrogatepass")) if len(form) >= LONG}
    return found
