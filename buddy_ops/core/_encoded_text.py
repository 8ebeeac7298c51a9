"""Texts within texts: what a text says behind escapes, entities, markup, base64, hex and UTF-16.

``unescaped`` and ``decoded`` yield each as a text of its own that has the places its characters came from, so that a
secret that is found in it can be cut at its place. It may be decoded again: JSON in JSON, base64 in a URL.
"""

import base64
import binascii
import html
import re
import urllib.parse
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

Span = tuple[int, int]


@dataclass(frozen=True)
class Decoded:
    """A decoded text. ``source`` gives the place in the encoding text of a place in this one."""

    text: str
    source: Callable[[int, int], Span]


def unescaped(text: str) -> Iterator[Decoded]:
    """The text without escapes, entities and markup, and each part of it that is UTF-16."""
    if SIGNS.search(text):
        view = _Unescaped(text)
        if view.differs:
            yield Decoded(view.text, view.source)
    if "\0" in text:
        for match in UTF_16.finditer(text):
            yield _without_nuls(text, *match.span())


def decoded(text: str, begin: int, end: int) -> Iterator[Decoded]:
    """Each text that is encoded in a run of letters, digits and signs, in base64 or hex."""
    lines = [begin + line.start() for line in re.finditer("\n", text[begin:end])]
    if lines:
        # Lines below each other may be one text, or one each.
        for first, last in pairwise([begin, *(line + 1 for line in lines), end]):
            for pattern in (BASE64, BASE64_UTF_16):
                yield from _pieces(pattern, text, first, last, partial(_from_base64, limit=last))
    yield from _pieces(BASE64, text, begin, end, _from_base64)
    yield from _pieces(BASE64_UTF_16, text, begin, end, _from_base64)
    yield from _pieces(HEX, text, begin, end, _from_hex)


# Escapes, entities and markup: a few characters stand for one or none


INVISIBLE = "\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
SIGN = rf"[\x1b\x9b\\%&<{INVISIBLE}]"
SIGNS = re.compile(SIGN)

# Markup goes first, without a look at what it says. One set of characters begins each pattern: this is what is fast.
INLINE = "a|abbr|b|code|em|font|i|kbd|mark|s|small|span|strong|sub|sup|u|wbr|tt"
BLOCK = re.compile(rf"</?(?!(?:{INLINE})[\s/>])[A-Za-z][^<>]{{0,300}}>")
"""A cell, a paragraph: what is in it is a text of its own."""

MARKUP = re.compile(
    rf"[\x1b\x9b<{INVISIBLE}](?:"
    r"(?<=\x1b)(?:\[[0-?]{0,40}[ -/]{0,4}[@-~]|\][^\x07\x1b]{0,300}(?:\x07|\x1b\\)|[ -/]{0,3}[0-Z\\^_`-~])"
    r"|(?<=\x9b)[0-?]{0,40}[ -/]{0,4}[@-~]"
    r"|(?<=<)(?:!--[^>]{0,300}?-->|/?[A-Za-z][^<>]{0,300}>)"
    rf"|(?<=[{INVISIBLE}]))"
)
ESCAPE = re.compile(
    r"[%&\\](?:"
    r"(?<=%)(?P<percent>[0-9A-Fa-f]{2}(?:%[0-9A-Fa-f]{2}){0,63})"
    r"|(?<=&)(?P<entity>(?:\#[0-9]{1,7}|\#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,8});)"
    r"|(?<=\\)\\{0,64}(?:u(?P<u>[0-9A-Fa-f]{4})|u\{(?P<brace>[0-9A-Fa-f]{1,6})\}|U(?P<U>[0-9A-Fa-f]{8})"
    r"|x(?P<x>[0-9A-Fa-f]{2})|(?P<octal>[0-7]{3})|(?P<letter>[nrtbfav0])|(?P<line>\r?\n)|(?P<sign>[^\w\s\\&%]))"
    r")"
)
LETTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "", "f": "\n", "a": "", "v": "\n", "0": "\0"}
KNOWN_ESCAPES: dict[str, str] = {}
MOST_KNOWN_ESCAPES = 5000


def _plain(match: re.Match[str]) -> str:
    """What an escape stands for."""
    known = KNOWN_ESCAPES.get(match[0])
    if known is None:
        known = _plain_of(match)
        if len(KNOWN_ESCAPES) < MOST_KNOWN_ESCAPES:
            KNOWN_ESCAPES[match[0]] = known
    return known


def _plain_of(match: re.Match[str]) -> str:
    kind = match.lastgroup or ""
    value = match[kind]
    if kind in ("u", "U", "x", "brace"):
        return _character(int(value, 16))
    if kind == "entity":
        return html.unescape(f"&{value}")
    if kind == "percent":
        plain = urllib.parse.unquote(f"%{value}", errors="replace")
        return urllib.parse.unquote(f"%{value}", "latin-1") if "\ufffd" in plain else plain
    if kind == "letter":
        return LETTERS[value]
    if kind == "octal":
        return _character(int(value, 8))
    return value if kind == "sign" else ""


def _character(number: int) -> str:
    return chr(number) if number < 0x110000 else ""


def unescaped_forms(text: str) -> Iterator[str]:
    """What unescaping makes of a text that has no escapes of its own, once and again."""
    for _ in range(4):
        plain = ESCAPE.sub(_plain, MARKUP.sub("", BLOCK.sub(" ", text)))
        if plain == text or len(plain) < 8:
            return
        yield plain
        text = plain


class _Places:
    """Where the characters of a text come from that a pattern's replacements made of another."""

    def __init__(self, pattern: re.Pattern[str], text: str, replace: Callable[[re.Match[str]], str]) -> None:
        self._begins: list[int] = []
        self._lengths: list[int] = []
        self._places: list[Span] = []
        removed = 0
        for match in pattern.finditer(text):
            length = len(replace(match))
            self._begins.append(match.start() - removed)
            self._lengths.append(length)
            self._places.append(match.span())
            removed += len(match[0]) - length

    def source(self, begin: int, end: int) -> Span:
        return self._place(begin, last=False), self._place(end - 1, last=True)

    def _place(self, place: int, *, last: bool) -> int:
        """The place before a character, or behind it. An escape is one with the characters that it stands for."""
        number = bisect_right(self._begins, place) - 1
        if number < 0:
            return place + last
        start, stop = self._places[number]
        into = place - self._begins[number]
        if into < self._lengths[number]:
            return stop if last else start
        return stop + into - self._lengths[number] + last


class _Unescaped:
    """The lines with escapes in them, unescaped. Lines without are left out: they were searched already."""

    def __init__(self, text: str) -> None:
        self._begins: list[int] = []
        self._lines: list[str] = []
        place = 0
        while sign := SIGNS.search(text, place):
            begin = max(text.rfind("\n", place, sign.start()) + 1, place)
            end = text.find("\n", sign.end()) + 1 or len(text)
            self._lines.append(text[begin:end])
            self._begins.append(begin)
            place = end
        self._joined = "".join(self._lines)
        self._blocks = BLOCK.sub(" ", self._joined)
        self._bare = MARKUP.sub("", self._blocks)
        self.text = ESCAPE.sub(_plain, self._bare)
        self.differs = self.text != self._joined

    @cached_property
    def _places(self) -> tuple[_Places, ...]:
        return (
            _Places(ESCAPE, self._bare, _plain),
            _Places(MARKUP, self._blocks, lambda _: ""),
            _Places(BLOCK, self._joined, lambda _: " "),
        )

    @cached_property
    def _offsets(self) -> list[int]:
        """Where each line begins in the joined lines."""
        found = [0]
        for line in self._lines:
            found.append(found[-1] + len(line))
        return found[:-1]

    def source(self, begin: int, end: int) -> Span:
        for places in self._places:
            begin, end = places.source(begin, end)
        return self._in_text(begin), self._in_text(end - 1) + 1

    def _in_text(self, place: int) -> int:
        number = bisect_right(self._offsets, place) - 1
        return self._begins[number] + place - self._offsets[number]


# Runs in another alphabet

# What base64 makes of three printable characters: the first two sextets begin with a zero bit each.
FIRST, SECOND, THIRD = "[CDI-Za-f]", "[ACDEFGHQS-Xgi-nwyz0-3]", "[ABEFIJMNQRUVYZcdghklopstwx014589]"
ANY = "[A-Za-z0-9+/_-]"
BREAK = r"(?:\r?\n)?"
GROUP = f"{FIRST}{SECOND}{THIRD}{ANY}"
BASE64 = re.compile(f"{GROUP}(?:{BREAK}{GROUP}){{3,20000}}")
# In UTF-16 each second byte is zero.
GROUP_UTF_16 = f"(?:[I-Za-f][AQgw][AB]{ANY}|A[C-H][AEIMQUYcgkosw048]A)"
BASE64_UTF_16 = re.compile(f"[AI-Za-f][AC-HQgw][ABEIMQUYcgkosw048]{ANY}(?:{BREAK}{GROUP_UTF_16}){{5,20000}}")
HEX = re.compile(r"[02-7][0-9a-fA-F](?:[2-7][0-9a-fA-F]|0[09aAdD]){7,40000}")
UTF_16 = re.compile(r"\0[\t\n\r -~\xa0-\xff](?:\0[\t\n\r -~\xa0-\xff]){3,40000}")


def _pieces(
    pattern: re.Pattern[str], text: str, begin: int, end: int, decode: Callable[[str, int, int], Decoded | None]
) -> Iterator[Decoded]:
    while match := pattern.search(text, begin, end):
        found = decode(text, *match.span())
        if found is not None and len(found.text) >= 6:
            yield found
        begin = match.end()


NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/_-]")
BASE64_END = re.compile(r"[A-Za-z0-9+/_-]{0,8}(?:(?<=[A-Za-z0-9+/_-]{56})\r?\n[A-Za-z0-9+/_-]{1,4})?")
STANDARD = str.maketrans("-_", "+/")


def _from_base64(text: str, begin: int, end: int, limit: int | None = None) -> Decoded | None:
    """What base64 says. Its neighbours are decoded with it: a character that is not printable ends a match early."""
    for _ in range(3):
        if begin >= 4 and not NOT_BASE64.search(text, begin - 4, begin):
            begin -= 4
    ending = BASE64_END.match(text, end) if limit is None else BASE64_END.match(text, end, limit)
    end = ending.end() if ending else end
    run = text[begin:end]
    places: list[int] | None = None
    if NOT_BASE64.search(run):
        places = [begin + number for number, character in enumerate(run) if not NOT_BASE64.match(character)]
        run = NOT_BASE64.sub("", run)
    if len(run) % 4 == 1:
        run = run[:-1]
    try:
        content = binascii.a2b_base64(run.translate(STANDARD) + "=" * (-len(run) % 4))
    except binascii.Error:
        return None

    def source(first: int, last: int) -> Span:
        start = first // 3 * 4
        stop = min(len(run), -(-last // 3) * 4)
        if places is None:
            return begin + start, begin + stop
        return places[start], places[stop - 1] + 1

    return Decoded(content.decode("latin-1"), source)


def _from_hex(text: str, begin: int, end: int) -> Decoded | None:
    places = []
    characters = []
    for match in re.finditer(r"[0-9a-fA-F]{2}", text[begin:end]):
        characters.append(chr(int(match[0], 16)))
        places.append(match.span())
    return Decoded("".join(characters), lambda first, last: (begin + places[first][0], begin + places[last - 1][1]))


def _without_nuls(text: str, begin: int, end: int) -> Decoded:
    begin -= begin > 0 and text[begin - 1] != "\0"
    run = text[begin:end]
    places = [begin + number for number, character in enumerate(run) if character != "\0"]
    return Decoded(run.replace("\0", ""), lambda first, last: (places[first], places[last - 1] + 1))


def base64_forms(content: bytes) -> set[str]:
    """How bytes read within longer base64, by where they begin. Characters with bits of the neighbours are left out."""
    found = set()
    for offset, first in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(b"\0" * offset + content).decode()
        cut = (offset + len(content)) % 3
        inner = encoded[first : len(encoded) - (4 if cut else 0)] + (encoded[-4 : -4 + cut] if cut else "")
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found
