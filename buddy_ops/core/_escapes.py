"""What a text says behind escapes, entities and markup.

The text is made plain in steps, each fast where nothing is to be done. Where the characters came from is found out only
for a text in which a secret was found: for that the same steps are gone through once more.
"""

import html
import re
import urllib.parse
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from buddy_ops.core._encoded_text import Decoded, Span

INVISIBLE = "\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
FEW = 12
"""Different escapes of a text that are replaced one after the other; of more, each where it is found."""

MOST_LEVELS = 4
"""How often a text is unescaped: an entity may be the sign of another."""

FEW_LINES = 4
"""Where fewer lines than one in four have an escape, these are searched alone."""


@dataclass(frozen=True)
class Step:
    """One kind of escape. A pattern that begins with one character is found as fast as this character.

    Args:
        sign: the character that each begins with.
        pattern: the escapes, and nothing else; ``single`` is one of them where ``pattern`` takes several.
        plain: what an escape means; None: it means ``constant``.
        forms: the escapes that a text has, where there is a faster way than the pattern. It may name more.
    """

    sign: str
    pattern: re.Pattern[str]
    plain: Callable[[str], str] | None = None
    constant: str = ""
    single: re.Pattern[str] | None = None
    forms: Callable[[str], set[str]] | None = None

    def changes(self, text: str) -> bool:
        """Whether there is such an escape in a text."""
        return self.sign in text and self.pattern.search(text) is not None

    def apply(self, text: str) -> str:
        """The text with what its escapes mean."""
        if self.sign not in text:
            return text
        if self.plain is None:
            return self.pattern.sub(self.constant, text)
        # Each form is replaced once in the whole text: a text has many escapes and few forms of them.
        forms = self.forms(text) if self.forms else set(self.pattern.findall(text))
        plain = {escape: self.plain(escape) for escape in forms}
        # What '&amp;' means may be the sign of a new escape, which only the next level may read.
        again = [escape for escape, found in plain.items() if self.sign in found]
        if len(plain) > FEW or len(again) > 1:
            return self.pattern.sub(self.replace, text)
        # The longest first: a short one may be the end of a long one. Last the one that may make another.
        for escape in sorted(plain, key=lambda escape: (escape in again, -len(escape))):
            text = text.replace(escape, plain[escape])
        return text

    def replace(self, match: re.Match[str]) -> str:
        """What an escape means."""
        return self.plain(match[0]) if self.plain else self.constant


@lru_cache(5000)
def _entity(escape: str) -> str:
    return html.unescape(escape)


@lru_cache(5000)
def _percent(escape: str) -> str:
    plain = urllib.parse.unquote(escape, errors="replace")
    # Bytes that are not UTF-8.
    if "\ufffd" in plain:
        return urllib.parse.unquote(escape, "latin-1")
    return plain


class _Backslashes(Step):
    """Any number of backslashes in a row counts as one: JSON within JSON doubles them."""

    def apply(self, text: str) -> str:
        while "\\\\" in text:
            text = text.replace("\\\\", "\\")
        return text


class _Unseen(Step):
    """Characters that nobody sees. A text in ASCII has none."""

    def changes(self, text: str) -> bool:
        return not text.isascii() and super().changes(text)

    def apply(self, text: str) -> str:
        return text if text.isascii() else super().apply(text)


# What shows nothing is left out: \b and \a. A new page and a vertical tab end a line.
LETTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "", "f": "\n", "a": "", "v": "\n"}


def _letter(escape: str) -> str:
    return LETTERS.get(escape[1:], escape[1:])


# \n, \" and \/: a backslash and a letter or sign.
LETTER = re.compile(r"\\(?:[nrtbfav]|[^\w\s\\&%\x00-\x1f\x7f-\x9f])")


def _letters(text: str) -> set[str]:
    found = {f"\\{piece[:1]}" for piece in text.split("\\")[1:]}
    return {escape for escape in found if LETTER.fullmatch(escape)}


# \u0041, \U0001f600, \u{1f600}, \x41, \101 and \0
DIGITS = re.compile(r"\\(?:[uUx]\{?([0-9A-Fa-f]{1,8})\}?|([0-7]{3})|0)")


@lru_cache(5000)
def _numbered(escape: str) -> str:
    return "".join(map(_character, DIGITS.finditer(escape)))


def _character(match: re.Match[str]) -> str:
    if match[2]:
        return chr(int(match[2], 8))
    number = int(match[1] or "0", 16)
    if number >= 0x110000:
        return ""  # beyond Unicode
    return chr(number)


INLINE = "a|abbr|b|code|em|font|i|kbd|mark|s|small|span|strong|sub|sup|u|wbr|tt"
OTHER_NUMBERS = r"u\{[0-9A-Fa-f]{1,6}\}|U[0-9A-Fa-f]{8}|x[0-9A-Fa-f]{2}|[0-7]{3}|0"

KEEPING = (
    # &amp;, &#65; and &#x41;
    Step("&", re.compile(r"&(?:\#[0-9]{1,7}|\#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,8});"), _entity),
    _Backslashes("\\", re.compile(r"\\{2,}"), constant="\\"),
    Step("\\", LETTER, _letter, forms=_letters),
    Step(
        "\\",
        re.compile(rf"\\(?:u[0-9A-Fa-f]{{4}}(?:\\u[0-9A-Fa-f]{{4}}){{0,63}}|{OTHER_NUMBERS})"),
        _numbered,
        single=re.compile(rf"\\(?:u[0-9A-Fa-f]{{4}}|{OTHER_NUMBERS})"),
    ),
)
"""What these make plain says all that it said before: it can be searched instead."""

PLAINEST = KEEPING[1:3]

CHANGING = (
    # No one sign begins these: all lines are searched for them.
    _Unseen("", re.compile(f"[{INVISIBLE}]")),
    # A cell, a paragraph: what is in it is a text of its own.
    Step("<", re.compile(rf"</?(?!(?:{INLINE})[\s/>])[A-Za-z][^<>]{{0,300}}>"), constant=" "),
    Step("<", re.compile(r"<(?:!--[^>]{0,300}?-->|/?[A-Za-z][^<>]{0,300}>)")),
    Step(
        # Of terminals: a colour (ESC [31m), a link or a title (ESC ]8;;...), a character set (ESC (B).
        "\x1b",
        re.compile(r"\x1b(?:\[[0-?]{0,40}[ -/]{0,4}[@-~]|\][^\x07\x1b]{0,300}(?:\x07|\x1b\\)|[ -/]{0,3}[0-Z\\^_`-~])"),
    ),
    # The same colour, begun by one character in place of two.
    Step("\x9b", re.compile(r"\x9b[0-?]{0,40}[ -/]{0,4}[@-~]")),
    Step("%", re.compile(r"%[0-9A-Fa-f]{2}(?:%[0-9A-Fa-f]{2}){0,63}"), _percent),
    # A command that goes on in the next line.
    Step("\\", re.compile(r"\\\r?\n")),
)
"""What these remove may have been a part of a secret: the text before is searched, too."""


def unescaped(text: str) -> Decoded | None:
    """The whole text without escapes and entities; None where it has none."""
    if "&" not in text and "\\" not in text:
        return None
    view = _View(text, [(0, len(text))])
    for _ in range(MOST_LEVELS):
        if not view.apply(KEEPING):
            break
    if not view.stages:
        return None
    return Decoded(view.text, view.source, has_signs=any(step not in PLAINEST for step, _ in view.stages))


def stripped(text: str) -> Iterator[Decoded]:
    """The lines of a text with markup, invisible characters or percent signs in them, without; nothing for no line."""
    signs = {step.sign for step in CHANGING if step.changes(text)}
    if signs:
        view = _View(text, [(0, len(text))] if "" in signs else _lines_with(signs, text))
        view.apply(CHANGING)
        if view.stages:
            yield Decoded(view.text, view.source)


def unescaped_forms(text: str) -> Iterator[str]:
    """What a text that has no escapes of its own is in the texts that are searched."""
    for _ in range(MOST_LEVELS):
        before = text
        for find in (unescaped, lambda text: next(stripped(text), None)):
            view = find(text)
            if view is not None and len(view.text) >= 8:
                text = view.text
                yield text
        if text == before:
            return


class _Places:
    """Where the characters of a text come from that a step made of another."""

    def __init__(self, step: Step, text: str) -> None:
        self._begins: list[int] = []
        self._lengths: list[int] = []
        self._places: list[Span] = []
        pattern = step.single or step.pattern
        pieces = []
        removed = 0
        last = 0
        for match in pattern.finditer(text):
            plain = step.replace(match)
            pieces += [text[last : match.start()], plain]
            self._begins.append(match.start() - removed)
            self._lengths.append(len(plain))
            self._places.append(match.span())
            removed += len(match[0]) - len(plain)
            last = match.end()
        self.text = "".join((*pieces, text[last:]))

    def source(self, begin: int, end: int) -> Span:
        return self._place(begin, last=False), self._place(end - 1, last=True)

    def _place(self, place: int, *, last: bool) -> int:
        """The place before a character, or behind it. An escape is one with the characters that it means."""
        number = bisect_right(self._begins, place) - 1
        if number < 0:
            return place + last
        start, stop = self._places[number]
        into = place - self._begins[number]
        if into < self._lengths[number]:
            return stop if last else start
        return stop + into - self._lengths[number] + last


class _View:
    """Lines of a text, made plain step by step."""

    def __init__(self, text: str, spans: list[Span]) -> None:
        self._spans = spans
        self.text = "".join(text[begin:end] for begin, end in spans)
        self.stages: list[tuple[Step, str]] = []

    def apply(self, steps: Iterable[Step]) -> bool:
        """Whether one of the steps changed anything."""
        count = len(self.stages)
        for step in steps:
            plain = step.apply(self.text)
            if plain != self.text:
                self.stages.append((step, self.text))
                self.text = plain
        return len(self.stages) > count

    @cached_property
    def _places(self) -> tuple[_Places, ...]:
        """Empty where replacing all escapes of a kind at once says something else than each by itself."""
        found = [_Places(step, text) for step, text in self.stages]
        texts = [*(text for _, text in self.stages[1:]), self.text]
        exact = all(places.text == text for places, text in zip(found, texts, strict=True))
        return tuple(reversed(found)) if exact else ()

    @cached_property
    def _offsets(self) -> list[int]:
        """Where each line begins in the joined lines."""
        found = [0]
        for begin, end in self._spans:
            found.append(found[-1] + end - begin)
        return found[:-1]

    def source(self, begin: int, end: int) -> Span:
        if not self._places:
            # Where the places cannot be found exactly, all of it is cut: rather too much than a secret.
            return self._spans[0][0], self._spans[-1][1]
        for places in self._places:
            begin, end = places.source(begin, end)
        return self._in_text(begin), self._in_text(end - 1) + 1

    def _in_text(self, place: int) -> int:
        number = bisect_right(self._offsets, place) - 1
        return self._spans[number][0] + place - self._offsets[number]


def _lines_with(signs: set[str], text: str) -> list[Span]:
    """The lines that have one of some signs; the whole text, where many have."""
    if sum(map(text.count, signs)) * FEW_LINES > text.count("\n"):
        return [(0, len(text))]
    found = {}
    for sign in signs:
        place = text.find(sign)
        while place >= 0:
            begin = text.rfind("\n", 0, place) + 1
            end = text.find("\n", place) + 1 or len(text)
            found[begin] = end
            place = text.find(sign, end)
    return sorted(found.items())
