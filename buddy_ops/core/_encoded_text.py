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
        # A place in the separator is taken for the end of the text before it.
        first = min(begin - begins[number], inside - 1)
        return every[number].source(first, max(first + 1, min(end - begins[number], inside)))

    yield Decoded(SEPARATOR.join(text.text for text in every), source)


# Runs of letters, digits and signs


LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"
SHORTEST_RUN = 16
# Encoders break lines at 64 characters (PEM) or 76 (MIME).
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
            # CR and LF, then more of the same run.
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
# One whole group, so that what follows it is decoded from its own beginning.
BETWEEN = base64.b64encode(b"\n;\n")
# base64's alphabet for URLs differs in two signs.
STANDARD = bytes.maketrans(b"-_", b"+/")
# Pairs that are printable ASCII, tabs and line ends, or 1b, which begins a colour: 41 57 53 4b 45 59 0a ...
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
        # Every fourth character's bits as one large number: an operation on four of them compares all groups at once.
        bits = self._joined.translate(BITS)
        bits += bytes(-len(bits) % 4)
        size = len(bits) // 4
        quarters = [int.from_bytes(bits[number::4], "little") for number in range(4)]
        # The characters behind the last ones of a group are in the next group.
        quarters += [quarter >> 8 for quarter in quarters[:3]]
        ones = int.from_bytes(b"\1" * size, "little")
        texts: list[Span] = []
        lines: list[Span] = []
        # The text that was encoded may begin at any of a group's four places.
        for first in range(4):
            a, b, c, d = quarters[first : first + 4]
            whole = d >> 3 & ones
            printable = a & b >> 1 & c >> 2 & whole
            for begin, end in _stretches(printable, GROUPS, size):
                self._add(begin * 4 + first, end * 4 + first, texts=texts, lines=lines)
            printable = a >> 4 & b >> 5 & c >> 6 & whole
            for begin, end in _stretches(printable, GROUPS_UTF_16, size):
                self._add(begin * 4 + first, end * 4 + first, texts=texts, lines=texts)
        yield from self._from_base64(texts)
        yield from self._from_base64(lines, is_line=True)
        # A pair may begin at an even or an odd place; two pairs are in a group.
        for first in range(2):
            halves = quarters[first] >> 7 & quarters[first + 2] >> 7 & ones
            for begin, end in _stretches(halves, GROUPS_HEX, size):
                yield from self._from_hex(begin * 4 + first, end * 4 + first)

    def _add(self, begin: int, end: int, *, texts: list[Span], lines: list[Span]) -> None:
        """Add a stretch to the texts, and each of its lines: lines below each other may be one text, or one each."""
        # A token may begin or end in a group that holds other bytes, too: some more groups are decoded.
        first = max(begin % 4, begin - 12)
        blank = self._joined.rfind(b" ", first, begin)
        begin -= (begin - max(first, blank + 1)) // 4 * 4
        end = min(end + 8, self._joined.find(b" ", end - 1))
        texts.append((begin, end))
        borders = self._borders(begin, end)
        if len(borders) > 2:
            # Where each line begins a group, the whole says the same as its lines, but for how they begin and end.
            aligned = all((border - begin) % 4 == 0 for border in borders[:-1])
            pairs = [(border + (begin - border) % 4, stop) for border, stop in pairwise(borders)]
            (lines if aligned else texts).extend((start, stop) for start, stop in pairs if stop - start >= SHORTEST_RUN)

    def _from_base64(self, spans: Sequence[Span], *, is_line: bool = False) -> Iterator[Decoded]:
        """What base64 says in all of these places, as one text."""
        pieces = []
        begins = []
        place = 0
        for begin, end in spans:
            # One character alone holds no byte, and the decoder refuses it. What lacks to a whole group is filled up.
            run = self._joined[begin : end - ((end - begin) % 4 == 1)]
            begins.append(place)
            pieces += [run, b"A" * (-len(run) % 4), BETWEEN]
            place += (len(run) + 3) // 4 * 3 + 3
        if not spans:
            return
        content = binascii.a2b_base64(b"".join(pieces).translate(STANDARD))

        def source(first: int, last: int) -> Span:
            # Three bytes are four characters: cut are all groups that have some of these bytes.
            number = bisect_right(begins, first) - 1
            begin, end = spans[number]
            start = min(end - 1, begin + (first - begins[number]) // 3 * 4)
            stop = min(end, begin + -(-(last - begins[number]) // 3) * 4)
            return self._source(start, max(start + 1, stop))

        yield Decoded(content.decode("latin-1"), source, is_line)

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


def _stretches(flags: int, shortest: int, size: int) -> Iterator[Span]:
    """Where so many bytes in a row are one, in a number that has ``size`` bytes, the first of them the lowest."""
    # Most texts have no row of that length: this finds it out before anything is searched byte by byte.
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


# A\0W\0S\0 or \0A\0W\0S: one byte of each two is zero.
UTF_16 = re.compile(r"\0[\t\n\r -~\xa0-\xff](?:\0[\t\n\r -~\xa0-\xff]){3,40000}")


def find_utf_16(text: str) -> Iterator[Decoded]:
    """Each part of a text that is UTF-16."""
    if "\0" in text:
        for match in UTF_16.finditer(text):
            yield _without_nuls(text, *match.span())


def _without_nuls(text: str, begin: int, end: int) -> Decoded:
    # With the low byte first, a character is before its zero: the first one is not in the match.
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
        inner = encoded[first:]
        # Of the last group only the characters that have no bits of what follows: one for each byte in it.
        if cut:
            inner = encoded[first : cut - 4]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found
