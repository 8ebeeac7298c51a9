"""Texts within texts: what a text says in base64, hex and UTF-16.

A secret that is found in a decoded text is cut at the place that it came from. All texts of one part are decoded and
searched together: the bits of all characters are compared at once, as those of a few large numbers, and only where four
groups in a row can be printable is anything decoded.
"""

import base64
import binascii
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

Span = tuple[int, int]


@dataclass(frozen=True)
class Decoded:
    """A decoded text. ``source`` gives the place in the encoding text of a place in this one.

    Args:
        is_line: a line by itself of what was decoded as a whole, too: only how it begins and ends is new.
        has_signs: a sign that ends an address or a value may have been an escape within it.
    """

    text: str
    source: Callable[[int, int], Span]
    is_line: bool = False
    has_signs: bool = False


SEPARATOR = "\n\n;\n\n"
"""Between two texts that are searched together: nothing that a secret or its name goes on behind."""


def together(texts: Iterable[Decoded]) -> Iterator[Decoded]:
    """One text that has all of them, if there are any."""
    every = [text for text in texts if len(text.text) >= 6]
    if len(every) < 2:
        yield from every
        return
    begins = []
    end = 0
    for text in every:
        begins.append(end)
        end += len(text.text) + len(SEPARATOR)

    def source(begin: int, end: int) -> Span:
        number = bisect_right(begins, begin) - 1
        inside = len(every[number].text)
        first = min(begin - begins[number], inside - 1)
        return every[number].source(first, max(first + 1, min(end - begins[number], inside)))

    yield Decoded(SEPARATOR.join(text.text for text in every), source)


# Runs of letters, digits and signs


LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"
SHORTEST_RUN = 16
SHORTEST_LINE = 56
"""Characters of a line of base64 that goes on in the next line."""

FLAT = bytes(97 if number in LETTERS else 32 for number in range(256))
"""An "a" for each character that a run may have, and a blank for any other."""

RUN = b"a" * SHORTEST_RUN


def find_runs(text: str) -> Iterator[list[Span]]:
    """What a token or an encoded text can be made of: 16 characters or more, and where its lines are."""
    flat = text.encode("latin-1", "replace").translate(FLAT)
    begin = flat.find(RUN)
    while begin >= 0:
        lines = []
        while True:
            end = flat.find(b" ", begin)
            if end < 0:
                end = len(flat)
            lines.append((begin, end))
            following = end + 1
            if end - begin < SHORTEST_LINE or following >= len(flat):
                break
            if text[end] == "\r":
                following += 1
            if text[following - 1 : following] != "\n" or flat[following : following + 1] != b"a":
                break
            begin = following
        yield lines
        begin = flat.find(RUN, end)


def _bits() -> bytes:
    """A byte for each character: what it can be in a group of base64 that is printable, or one half of in hex.

    Base64 makes four characters of three bytes. The first two bytes are printable, or begin a colour, where the first
    three characters are among these. In UTF-16 each second byte is zero.
    """
    classes = (
        b"CDGIJKLMNOPQRSTUVWXYZabcdef",
        b"ABCDEFGHQRSTUVWXghijklmnwxyz0123",
        b"ABEFIJMNQRUVYZcdghklopstwx014589",
        LETTERS,
        b"AIJKLMNOPQRSTUVWXYZabcdef",
        b"ACDEFGHQgw",
        b"ABEIMQUYcgkosw048",
        b"01234567",
    )
    return bytes(sum((number in letters) << bit for bit, letters in enumerate(classes)) for number in range(256))


BITS = _bits()
GROUPS = 4
"""Printable groups in a row from which on a run is decoded: twelve characters."""

GROUPS_UTF_16 = 5
GROUPS_HEX = 3
STANDARD = bytes.maketrans(b"-_", b"+/")
HEX = re.compile(rb"[02-7][0-9a-fA-F](?:[2-7][0-9a-fA-F]|0[09aAdD]|1[bB]){7,40000}")


class Runs:
    """Runs of a text, decoded together."""

    def __init__(self, text: str, lines: Sequence[Sequence[Span]]) -> None:
        content = text.encode("latin-1", "replace")
        pieces = []
        self._begins: list[int] = []
        self._places: list[int] = []
        place = 0
        for run in lines:
            for begin, end in run:
                pieces.append(content[begin:end])
                self._begins.append(place)
                self._places.append(begin)
                place += end - begin
            pieces.append(b" ")
            place += 1
        self._joined = b"".join(pieces)

    def decoded(self) -> Iterator[Decoded]:
        """Each text that is encoded in one of the runs, in base64 or hex."""
        bits = self._joined.translate(BITS)
        bits += bytes(-len(bits) % 4)
        size = len(bits) // 4
        quarters = [int.from_bytes(bits[number::4], "little") for number in range(4)]
        # The characters behind the last ones of a group are in the next group.
        quarters += [quarter >> 8 for quarter in quarters[:3]]
        ones = int.from_bytes(b"\1" * size, "little")
        for first in range(4):
            a, b, c, d = quarters[first : first + 4]
            whole = d >> 3 & ones
            printable = a & b >> 1 & c >> 2 & whole
            for begin, end in _stretches(printable, GROUPS, size):
                yield from self._of_lines(begin * 4 + first, end * 4 + first)
            printable = a >> 4 & b >> 5 & c >> 6 & whole
            for begin, end in _stretches(printable, GROUPS_UTF_16, size):
                yield from self._of_lines(begin * 4 + first, end * 4 + first)
        for first in range(2):
            halves = quarters[first] >> 7 & quarters[first + 2] >> 7 & ones
            for begin, end in _stretches(halves, GROUPS_HEX, size):
                yield from self._from_hex(begin * 4 + first, end * 4 + first)

    def _of_lines(self, begin: int, end: int) -> Iterator[Decoded]:
        """What base64 says. Lines below each other may be one text, or one each."""
        begin = max(begin - 12, begin - (begin - self._joined.rfind(b" ", 0, begin) - 1) // 4 * 4)
        end = min(end + 8, self._joined.find(b" ", end - 1))
        whole = self._from_base64(begin, end)
        yield whole
        borders = self._borders(begin, end)
        if len(borders) == 2:
            return
        if any((border - begin) % 4 for border in borders[:-1]):
            for border, stop in pairwise(borders):
                start = border + (begin - border) % 4
                if stop - start >= SHORTEST_RUN:
                    yield self._from_base64(start, stop)
            return
        places = [(border - begin) // 4 * 3 for border in borders[:-1]]
        for first, last in pairwise([*places, len(whole.text)]):
            line = whole.text[first:last]
            yield Decoded(line, partial(_moved_source, whole.source, first), is_line="\0" not in line)

    def _from_base64(self, begin: int, end: int) -> Decoded:
        run = self._joined[begin:end]
        if len(run) % 4 == 1:
            run = run[:-1]
        content = binascii.a2b_base64(run.translate(STANDARD) + b"=" * (-len(run) % 4))

        def source(first: int, last: int) -> Span:
            return self._source(begin + first // 3 * 4, begin + min(len(run), -(-last // 3) * 4))

        return Decoded(content.decode("latin-1"), source)

    def _from_hex(self, begin: int, limit: int) -> Iterator[Decoded]:
        """What pairs of digits say, those of several lines and those of each."""
        place = max(begin - 2, begin % 2)
        while place < limit:
            match = HEX.match(self._joined, place)
            if match is None:
                place += 2
                continue
            place = match.end()
            yield self._pairs(*match.span())
            borders = self._borders(*match.span())
            if len(borders) > 2:
                for start, stop in pairwise(borders):
                    yield self._pairs(start + (place - start) % 2, stop - (place - stop) % 2)

    def _pairs(self, begin: int, end: int) -> Decoded:
        content = bytes.fromhex(self._joined[begin:end].decode())
        return Decoded(content.decode("latin-1"), lambda first, last: self._source(begin + first * 2, begin + last * 2))

    def _borders(self, begin: int, end: int) -> list[int]:
        """Where lines begin in a stretch, its own beginning first, and its end."""
        first = bisect_right(self._begins, begin)
        return [begin, *self._begins[first : bisect_left(self._begins, end, first)], end]

    def _source(self, begin: int, end: int) -> Span:
        return self._place(begin), self._place(end - 1) + 1

    def _place(self, place: int) -> int:
        number = bisect_right(self._begins, place) - 1
        return self._places[number] + place - self._begins[number]


def _moved_source(source: Callable[[int, int], Span], by: int, begin: int, end: int) -> Span:
    return source(begin + by, end + by)


def _stretches(flags: int, shortest: int, size: int) -> Iterator[Span]:
    """Where so many bytes in a row are one, in a number that has ``size`` bytes, the first of them the lowest."""
    some = flags & flags >> 8
    if not some & some >> 8 * (shortest - 2):
        return
    content = flags.to_bytes(size, "little")
    row = b"\1" * shortest
    begin = content.find(row)
    while begin >= 0:
        end = content.find(b"\0", begin)
        if end < 0:
            end = size
        yield begin, end
        begin = content.find(row, end)


UTF_16 = re.compile(r"\0[\t\n\r -~\xa0-\xff](?:\0[\t\n\r -~\xa0-\xff]){3,40000}")


def find_utf_16(text: str) -> Iterator[Decoded]:
    """Each part of a text that is UTF-16."""
    if "\0" in text:
        for match in UTF_16.finditer(text):
            yield _without_nuls(text, *match.span())


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
