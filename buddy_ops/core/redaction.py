"""Secrets kept out of all that is written: known values, in each form in which they turn up, and known patterns.

Every process of a run (supervisor, engine, kernel) has a redactor of its own; what one learns the others read from a
private file that the run deletes. Never keeps a value anywhere else, and never says which one it cut.
"""

import base64
import binascii
import html
import json
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from buddy_ops.core.documents import parse_json

MARK = "[redacted]"
SHORTEST = 8
"""A shorter value is cut only where its name says that it is a secret: 'true' and 'INFO' are everywhere."""

SHORTEST_NAMED = 4
SECRET_NAME = re.compile(
    r"secret|token|passw|pwd|passphrase|(api|access|private|encryption)_?key|_key$|signing|credential|webhook"
    r"|auth(?!or)|dsn|bearer",
    re.IGNORECASE,
)
HARMLESS = re.compile(r"[A-Za-z]+|[\d.,:-]+|(ssm:/|env:|arn:aws|/aws/)\S*")
"""Values under innocent names that are no secrets: a word, a number, a place."""

FILE = "BUDDY_OPS_SECRETS"
"""Names the private file, for the processes of a run."""

START = r"(?:(?<!\w)|(?<=\\[nrt])|(?<=\dm))"
"""Where a word begins: also behind a line's end that is written as an escape, and behind a terminal's colour."""

PATTERNS = (
    START + r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])",
    r"https?://hooks\.slack\.com/[^\s\"'<>\\]+",
    r"https?://[^\s\"'<>\\]*webhook[^\s\"'<>\\]*",
    START + r"xox[a-z]-[\w-]{8,}",
    START + r"(?:gh[pousr]_|github_pat_|glpat-)[\w-]{16,}",
    START + r"[rsp]k[-_](?:[a-z]+[-_])*[A-Za-z0-9]{16,}",
    START + r"AIza[\w-]{30,}",
    START + r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]+?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    r"(?i:(?:bearer|oauth|basic)\s+)(?P<a>(?=[^\s\"'<>]*\d)[\w.~+/=-]{12,})",
    r"(?i:X-Amz-(?:Signature|Security-Token|Credential)=)(?P<b>[^\s&\"'<>\\]+)",
    r"[a-z][a-z0-9+.-]{0,20}://[^\s/:@\"'<>]+:(?P<c>[^\s/@\"'<>]+)@",
    r"(?i:(?:secret|token|passw(?:or)?d|passphrase|api[_-]?key|access[_-]?key|credential)[\w-]*\\*[\"']?\s*[:=]\s*"
    r"\\*[\"']?)(?P<d>(?!ssm:|env:)(?=[^\s\"']*\d)[^\s\"'(),;<>&\\]{8,})",
)
"""What is a secret in any text. Where a pattern names a group, only that is cut."""

T = TypeVar("T")


class Redactor:
    """Cuts secrets out of texts and of whatever is made of texts.

    Args:
        patterns: more patterns, from parameters/.
        file: the private file that the run's processes share; None: nothing is shared.
    """

    def __init__(self, patterns: Iterable[str] = (), file: str | None = None) -> None:
        self._patterns = [re.compile(pattern) for pattern in (*PATTERNS, *patterns)]
        self._file: Path | None = None
        self._read = 0
        self._values: set[str] = set()
        self._forms: list[str] = []
        self._innocent: set[str] = set()
        self.add_secrets_of(os.environ)
        if file:
            self.share_with_kernel(file)

    def share_with_kernel(self, file: str) -> None:
        """Share what is and will be learned with the run's other processes, through a private file."""
        self._file = Path(file)
        self._tell(self._values)

    def never_redact(self, values: Any) -> None:
        """Texts that are no secrets wherever they come from: names in the environment's settings."""
        self._innocent |= set(_texts(values))

    def add_secrets_of(self, values: Mapping[str, Any], strict: bool = True) -> None:
        """Learn values by their names.

        Args:
            strict: only those whose name says secret; otherwise also any that is neither a word nor a number.
        """
        for name, value in values.items():
            text, named = str(value), SECRET_NAME.search(name) is not None
            if named or (not strict and len(text) >= SHORTEST and not HARMLESS.fullmatch(text)):
                self.add_secret(text, SHORTEST_NAMED if named and not strict else SHORTEST)

    def add_secret(self, value: str, shortest: int = SHORTEST) -> None:
        """Learn one value, and let the run's other processes know it."""
        if len(value) >= shortest and not value.isspace() and self._take(value):
            self._tell([value])

    def _tell(self, values: Iterable[str]) -> None:
        if self._file is not None:
            with suppress(OSError), open(self._file, "a", encoding="utf-8", opener=_private) as file:
                file.write("".join(json.dumps(value) + "\n" for value in values))

    def reload_shared(self) -> bool:
        """Read what the run's other processes have learned; whether there was anything new."""
        with suppress(OSError):
            if self._file is not None and self._file.stat().st_size > self._read:
                with self._file.open("rb") as file:
                    file.seek(self._read)
                    whole = file.read().rpartition(b"\n")[0]
                self._read += len(whole) + 1 if whole else 0
                return bool([line for line in whole.splitlines() if self._take(parse_json(line))])
        return False

    def redact(self, value: T) -> T:
        """The same value without secrets: texts, and mappings and sequences of them. Pictures are searched, too."""
        found: Any = value
        if isinstance(value, str):
            found = self._clean(value)
        elif isinstance(value, dict):
            found = type(value)((self.redact(key), self._clean_field(key, each)) for key, each in value.items())
        elif isinstance(value, list):
            found = [self.redact(each) for each in value]
        elif isinstance(value, tuple):
            found = tuple(self.redact(each) for each in value)
        return found  # type: ignore[no-any-return]

    def _clean_field(self, name: Any, value: Any) -> Any:
        if not isinstance(name, str) or not isinstance(value, str):
            return self.redact(value)
        if name.startswith("image/") and "svg" not in name:
            return "" if self._in_picture(value) else value
        named = SECRET_NAME.search(name) and len(value) >= SHORTEST and not HARMLESS.fullmatch(value)
        return MARK if named else self._clean(value)

    def _in_picture(self, encoded: str) -> bool:
        """Whether a value stands in a picture's bytes; its base64 is no text to search for patterns."""
        try:
            content = base64.b64decode(encoded)
        except (binascii.Error, ValueError):
            return True  # no picture at all
        return any(value.encode() in content for value in self._values)

    def _clean(self, text: str) -> str:
        for form in self._forms:
            if form in text:
                text = text.replace(form, MARK)
        for pattern in self._patterns:
            text = pattern.sub(_cut, text)
        return text

    def _take(self, value: str) -> bool:
        if value in self._values or value in self._innocent:
            return False
        self._values.add(value)
        self._forms = sorted({form for each in self._values for form in _forms(each)}, key=len, reverse=True)
        return True


def _cut(match: re.Match[str]) -> str:
    groups = match.re.groupindex
    if not groups:
        return MARK
    start, end = (each - match.start() for each in match.span(next(iter(groups))))
    return match[0][:start] + MARK + match[0][end:]


def _forms(value: str) -> set[str]:
    """How a value turns up: as it is, quoted in JSON, Python, HTML and addresses, in base64, and line by line."""
    found = {value, value.strip(), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    found |= {repr(value)[1:-1], html.escape(value), html.escape(value, quote=False)}
    found |= {urllib.parse.quote(value), urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value)}
    # In base64 a text reads in one of three ways, by where it begins; its ends depend on its neighbours.
    for offset, first in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(b"\0" * offset + value.encode("utf-8", "surrogatepass")).decode()
        inner = encoded[first : len(encoded) - 4]
        found |= {inner} if len(inner) >= SHORTEST else set()
    found |= {line.strip() for line in value.splitlines() if len(line.strip()) >= SHORTEST}
    return {form for form in found if form}


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
