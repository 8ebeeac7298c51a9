"""Secrets kept out of all that is written: known values in each encoding, and tokens of known forms.

Every process of a run (supervisor, engine, kernel) has a redactor of its own; what one learns the others read from a
private file, whose lines are encrypted with a key that only these processes have. No value is kept anywhere else, and
nothing says which one was cut.

A text is searched in parts, so that the cost grows with its length only. The parts of a text that grew are remembered.
"""

import base64
import hashlib
import json
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from buddy_ops.core import _pictures
from buddy_ops.core._encoded_text import Decoded, Runs, find_runs, find_utf_16, together
from buddy_ops.core._escapes import stripped, unescaped
from buddy_ops.core._known_values import KnownValues
from buddy_ops.core._secret_rules import (
    SECRET_NAME,
    find_by_literals,
    find_by_names,
    find_in_run,
    is_harmless,
    is_key_of_service,
    is_request_id,
    is_setting,
    words_of,
)
from buddy_ops.core.documents import parse_json

MARK = "[redacted]"
SHORTEST = 8
"""A shorter value is a secret only where its name says so: 'true' and 'INFO' are everywhere."""

SHORTEST_NAMED = 4
WORD = re.compile(r"[A-Za-z]+")

FILE = "BUDDY_OPS_SECRETS"
"""Names the private file, for the processes of a run: its path, a space, and the key of its lines."""

DEPTH = 4
"""Encodings within each other that are searched: a URL in JSON in base64 in JSON."""

PART = 128 * 1024
"""Characters of a text that are searched at a time."""

OVERLAP = 8 * 1024
"""Characters before and after a part that are searched with it: a private key is shorter."""

REMEMBERED = 2000
"""Parts whose result is remembered."""

T = TypeVar("T")
Span = tuple[int, int]


class Redactor:
    """Cuts secrets out of texts and of whatever is made of texts.

    Args:
        patterns: more patterns, from parameters/. Of a pattern with named groups the first is cut.
        file: the private file that the run's processes share, as FILE has it; None: nothing is shared.
    """

    def __init__(self, patterns: Iterable[str] = (), file: str | None = None) -> None:
        self._patterns = [re.compile(pattern) for pattern in patterns]
        self._file: Path | None = None
        self._key = b""
        self._read = 0
        self._values: dict[str, str] = {}
        self._innocent: set[str] = set()
        self._known: KnownValues | None = None
        self._found: OrderedDict[bytes, tuple[Span, ...]] = OrderedDict()
        self.add_secrets_of(os.environ)
        if file:
            self.share_with_kernel(file)

    def share_with_kernel(self, file: str) -> None:
        """Share what is and will be learned with the run's other processes, through a private file."""
        path, _, key = file.rpartition(" ")
        self._file = Path(path)
        self._key = key.encode()
        self.add_secret(key)
        self._tell(self._values.items())

    def never_redact(self, values: object) -> None:
        """Texts that are no secrets wherever they come from: names in the environment's settings."""
        self._innocent |= set(_texts(values))

    def add_secrets_of(self, values: Mapping[str, object], strict: bool = True) -> None:
        """Learn values by their names.

        Args:
            strict: only those whose name says secret; otherwise also any that is neither a word nor a number.
        """
        for name, value in values.items():
            text = str(value)
            if _is_place(text):
                continue
            if SECRET_NAME.search(name):
                if is_setting(name, text):
                    continue
                self.add_secret(text, SHORTEST if strict else SHORTEST_NAMED, name=name)
            elif not strict and len(text) >= SHORTEST and not (WORD.fullmatch(text) or is_harmless(text)):
                self.add_secret(text, name=name)

    def add_secret(self, value: str, shortest: int = SHORTEST, *, name: str = "") -> None:
        """Learn one value, and let the run's other processes know it.

        Args:
            name: what it was found under; a number or a word is cut behind it.
        """
        if len(value) >= shortest and not value.isspace() and self._take(value, name):
            self._tell([(value, name)])

    def _tell(self, values: Iterable[tuple[str, str]]) -> None:
        if self._file is not None:
            # One write: two processes that append at once do not mix their lines.
            lines = b"".join(_encrypted(json.dumps(pair), self._key) + b"\n" for pair in values)
            # A full disk, or a folder that is gone: this process still cuts what it has learned itself.
            with suppress(OSError), open(self._file, "ab", opener=_private) as file:
                file.write(lines)

    def reload_shared(self) -> bool:
        """Read what the run's other processes have learned; whether there was anything new."""
        with suppress(OSError):
            if self._file is not None and self._file.stat().st_size > self._read:
                with self._file.open("rb") as file:
                    file.seek(self._read)
                    # A line that another process is writing is read the next time.
                    lines, end, _ = file.read().rpartition(b"\n")
                self._read += len(lines) + len(end)
                pairs = [parse_json(_decrypted(line, self._key)) for line in lines.splitlines()]
                # All of them, not until the first that is new, as any() would.
                return bool([value for value, name in pairs if self._take(value, name)])
        return False

    def redact_with_shared(self, value: T) -> T:
        """The same as ``redact``, with what the run's other processes have learned until now."""
        self.reload_shared()
        return self.redact(value)

    def redact(self, value: T) -> T:
        """The same value without secrets: texts, and mappings and sequences of them. Pictures are searched, too."""
        found: Any = value
        if isinstance(value, str):
            found = self._clean(value)
        elif isinstance(value, dict):
            # A notebook's nodes stay nodes, which nbformat writes.
            found = type(value)((self.redact(key), self._clean_field(key, item)) for key, item in value.items())
        elif isinstance(value, list) and len(value) > 1 and all(isinstance(item, str) for item in value):
            found = self._clean_lines(value)
        elif isinstance(value, list):
            found = [self.redact(item) for item in value]
        elif isinstance(value, tuple):
            found = tuple(self.redact(item) for item in value)
        return found  # type: ignore[no-any-return]

    def _clean_field(self, name: object, value: object) -> object:
        if not isinstance(name, str) or not isinstance(value, str):
            return self.redact(value)
        # SVG is text, and searched as such.
        if name.startswith("image/") and "svg" not in name:
            return _pictures.clean(value, self.is_clean)
        if SECRET_NAME.search(name) and len(value) >= SHORTEST and not _is_plain(name, value):
            return MARK
        return self._clean(value)

    def redact_page(self, page: str) -> str:
        """A page in HTML without secrets. The pictures in it were searched before, and stay as they are."""
        parts = _pictures.IN_PAGE.split(page)
        return "".join(part if number % 2 else self._clean(part) for number, part in enumerate(parts))

    def is_clean(self, text: str) -> bool:
        """Whether there is no secret in a text."""
        return not self._spans(text)

    def _clean(self, text: str) -> str:
        return _without(text, self._spans(text))

    def _clean_lines(self, lines: list[str]) -> list[str]:
        """The texts of a list, which may be the lines of one: a notebook's output, a traceback."""
        # A private key goes over many lines: each by itself has no form.
        joint = ""
        if not all(line.endswith("\n") for line in lines[:-1]):
            joint = "\n"
        spans = self._spans(joint.join(lines))
        if not spans:
            return list(lines)
        found = []
        begin = 0
        first = 0
        for line in lines:
            end = begin + len(line)
            inside = []
            # What ended in earlier lines is passed over: no secret is compared with every line.
            for start, stop in islice(spans, first, None):
                if start >= end:
                    break
                if stop > begin:
                    inside.append((max(start, begin) - begin, min(stop, end) - begin))
                if stop <= end:
                    first += 1
            found.append(_without(line, inside))
            begin = end + len(joint)
        return found

    def _spans(self, text: str) -> list[Span]:
        """Where secrets are in a text, in order, none within another."""
        found: list[Span] = []
        begin = 0
        while begin < len(text):
            end = _end_of_part(text, begin)
            first = max(0, begin - OVERLAP)
            found += [(first + start, first + stop) for start, stop in self._spans_of(text[first : end + OVERLAP])]
            begin = end
        return _united(found)

    def _spans_of(self, part: str) -> tuple[Span, ...]:
        if len(part) < SHORTEST_NAMED:
            return ()
        # Its digest, not the text: 2,000 parts of 128 KB would be 256 MB.
        key = hashlib.blake2b(part.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key not in self._found:
            self._found[key] = tuple(self._search(part, DEPTH))
            if len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
        return self._found[key]

    def _search(self, text: str, depth: int) -> Iterator[Span]:
        """Where secrets are in a part of a text: as they are, and in whatever is encoded in it."""
        if self._known is None:
            self._known = KnownValues(self._values.items())
        plain = unescaped(text)
        if plain is None:
            yield from self._search_plain(self._known, text, depth)
            return
        # Before the escapes are read: a secret with a backslash or an ampersand would read otherwise.
        yield from self._known.find_escaped(text)
        if plain.has_signs:
            yield from find_by_literals(text)
        yield from self._find_by_patterns(text)
        for begin, end in self._search_plain(self._known, plain.text, depth):
            yield plain.source(begin, end)

    def _search_plain(self, known: KnownValues, text: str, depth: int) -> Iterator[Span]:
        """The same for a text without escapes."""
        yield from known.find(text)
        yield from find_by_literals(text)
        yield from find_by_names(text)
        yield from self._find_by_patterns(text)
        encoded = []
        words = words_of(text)
        for lines in find_runs(text):
            begin = lines[0][0]
            end = lines[-1][1]
            if is_key_of_service(text, begin, end):
                yield begin, end
            elif not is_request_id(text, begin, end):
                yield from find_in_run(text, words, begin, end)
                encoded.append(lines)
        if depth:
            yield from self._search_inner((*find_utf_16(text), *stripped(text)), depth)
        if depth and encoded:
            inner = list(Runs(text, encoded).decoded())
            yield from self._search_inner((each for each in inner if not each.is_line), depth)
            yield from self._search_lines(each for each in inner if each.is_line)

    def _search_inner(self, texts: Iterable[Decoded], depth: int) -> Iterator[Span]:
        for inner in together(texts):
            for begin, end in self._search(inner.text, depth - 1):
                yield inner.source(begin, end)

    def _search_lines(self, lines: Iterable[Decoded]) -> Iterator[Span]:
        """Where a secret is that begins or ends with a line, and has no name before it."""
        for inner in together(lines):
            found = [*find_by_literals(inner.text), *self._find_by_patterns(inner.text)]
            words = words_of(inner.text)
            for run in find_runs(inner.text):
                found += find_in_run(inner.text, words, run[0][0], run[-1][1])
            yield from (inner.source(begin, end) for begin, end in found)

    def _find_by_patterns(self, text: str) -> Iterator[Span]:
        for pattern in self._patterns:
            group = next(iter(pattern.groupindex), 0)
            yield from (match.span(group) for match in pattern.finditer(text) if match.end() > match.start())

    def _take(self, value: str, name: str = "") -> bool:
        if value in self._values or value in self._innocent:
            return False
        self._values[value] = name
        # What was remembered was searched without this value.
        self._known = None
        self._found.clear()
        return True


def new_file(folder: str) -> str:
    """The name of a private file in a folder, with a new key, for FILE and for ``Redactor``."""
    return f"{folder}/secrets {secrets.token_hex(16)}"


def _end_of_part(text: str, begin: int) -> int:
    """Where a part ends: behind a line, where there is one, and at the same place when more follows."""
    end = begin + PART
    if end >= len(text):
        return len(text)
    line = text.rfind("\n", begin + PART // 2, end)
    if line < 0:
        return end
    return line + 1


def _without(text: str, spans: Sequence[Span]) -> str:
    if not spans:
        return text
    pieces = []
    place = 0
    for begin, end in spans:
        pieces += [text[place:begin], MARK]
        place = end
    return "".join((*pieces, text[place:]))


def _united(spans: list[Span]) -> list[Span]:
    found: list[Span] = []
    for begin, end in sorted(set(spans)):
        if end <= begin:
            continue
        if found and begin < found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def _is_place(value: str) -> bool:
    """Whether a value is a path or says where a secret is kept. A number may be a secret."""
    return is_harmless(value) and not any(map(str.isdigit, value[:1]))


def _is_plain(name: str, value: str) -> bool:
    """Whether a field is no secret though its name has the word in it."""
    return WORD.fullmatch(value) is not None or is_harmless(value) or is_setting(name, value)


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _encrypted(line: str, key: bytes) -> bytes:
    """A line that says nothing without the key: a killed run leaves its file behind."""
    # Python's standard library has no cipher. The nonce makes each line's key stream its own.
    nonce = secrets.token_bytes(16)
    return base64.b64encode(nonce + _mixed(line.encode("utf-8", "surrogatepass"), key + nonce))


def _decrypted(line: bytes, key: bytes) -> str:
    content = base64.b64decode(line)
    return _mixed(content[16:], key + content[:16]).decode("utf-8", "surrogatepass")


def _mixed(content: bytes, key: bytes) -> bytes:
    """The content, each bit turned or not by SHAKE-256 of the key: applied twice, it is the content again."""
    stream = hashlib.shake_256(key).digest(len(content))
    return bytes(first ^ second for first, second in zip(content, stream, strict=True))
