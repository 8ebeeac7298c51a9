"""Tokens that are secrets by their form: rules that are data (``secret_rules.json``), and three that need more.

One pass finds the literals that the rules begin with; only there a rule is tried. All repetitions are bounded, so that
the cost grows with the length of the text and nothing else.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

from buddy_ops.core.documents import parse_json

FILE = Path(__file__).with_name("secret_rules.json")
Span = tuple[int, int]

SIGNS = frozenset("=:/-_.~|$@")

# API_KEY, db_password and authToken, but not 'monkey' and not 'author'.
SECRET_NAME = re.compile(
    r"secret|token|passw|pwd|passphrase|(api|access|private|encryption|account|master|shared)[-_]?key|(?<![a-z])key$"
    r"|signing|credential|webhook|auth(?!or)|dsn|bearer",
    re.IGNORECASE,
)
"""The name of a parameter, variable or field that holds a secret."""

SETTING_NAME = re.compile(
    r"(?:^|[-_ ])(?:ttl|timeout|max|min|length|size|count|limit|number|age|expir[a-z]*|valid[a-z]*|lifetime"
    r"|interval|rotation|period|days?|hours?|minutes?|seconds?|enabled|disabled|required|type|kind|method|mode"
    r"|provider|version|region|name|names|path|paths|file|files|dir|folder|bucket|table|url|uri|endpoint|host|port"
    r"|id|ids|arn|status|state|scope|scopes|algorithm|alg|format|policy|issuer|audience|prefix|pattern|at|since|until)"
    r"(?:[-_](?:s|ms|seconds|minutes|hours|days|at|in))?$",
    re.IGNORECASE,
)
"""The name of a setting that is about a secret: TOKEN_TTL, SECRET_PATH, AUTH_TYPE."""

# -12.5, 10s, 3.11.4, 2026-11-22T03:12:00Z, 0x1f
FIGURE = re.compile(
    r"[-+]?[\d.,:/ _%-]+(?:[eE][-+]?\d+)?(?:[a-zA-Zµ%]{1,7})?"
    r"|\d{4}-\d\d-\d\dT?[\d:.+-]*(?:Z|UTC)?|0x[0-9a-fA-F]{1,8}"
)
"""A number with or without a unit, a date, a time, a version."""

PLACE = re.compile(r"(?:ssm:/|env:|arn:aws|/aws/|s3://|vault:|op://|file:|\$\{|\$\(|<[A-Za-z])\S*")
"""Where a secret is kept, which is none itself."""

# ~/.aws/config, ../keys/a.pem, C:\keys\a.pem
PATH = re.compile(r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\](?:[\w.@+ -]*[/\\])*[\w.@+ -]*")


@dataclass(frozen=True)
class Rule:
    """One form of token. ``pattern`` is tried where ``literal`` was found: at its place, or anywhere near it."""

    id: str
    pattern: str
    anywhere: bool
    mixed: bool

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def accepts(self, found: str) -> bool:
        """Whether a match is a token and not a long word: it has a digit and a letter, where the rule asks for both."""
        return not self.mixed or (any(map(str.isdigit, found)) and any(map(str.isalpha, found)))


class _WrittenRule(TypedDict, total=False):
    """A rule as the file has it: with ``starts`` and ``rest``, or with ``contains`` and ``pattern``."""

    id: str
    starts: list[str]
    rest: str
    contains: str
    pattern: str
    mixed: bool


_Data = TypedDict("_Data", {"rules": list[_WrittenRule], "services": list[str], "no secrets": list[str]})


@cache
def _data() -> _Data:
    found: _Data = parse_json(FILE.read_bytes(), unique=True)
    return found


@cache
def _rules() -> tuple[dict[str, list[Rule]], dict[str, list[Rule]]]:
    """The rules by the literal that a token begins with, and by the literal that is somewhere in it."""
    starts: dict[str, list[Rule]] = {}
    within: dict[str, list[Rule]] = {}
    for given in _data()["rules"]:
        mixed = given.get("mixed", False)
        for start in given.get("starts", ()):
            starts.setdefault(start, []).append(Rule(given["id"], given["rest"], anywhere=False, mixed=mixed))
        if "contains" in given:
            rule = Rule(given["id"], given["pattern"], anywhere=True, mixed=mixed)
            within.setdefault(given["contains"], []).append(rule)
    return starts, within


@cache
def _starts() -> re.Pattern[str]:
    """Every literal that a token begins with, behind a character that is part of no word."""
    return re.compile(rf"[^A-Za-z0-9]({_alternation(_rules()[0])})")


def _alternation(words: Iterable[str]) -> str:
    """A pattern for any of the words, the longest first; common beginnings are tried once."""
    by_first: dict[str, list[str]] = {}
    for word in words:
        by_first.setdefault(word[:1], []).append(word[1:])
    branches = [f"{re.escape(first)}{_alternation(rest)}" for first, rest in sorted(by_first.items()) if first]
    if not branches:
        return ""
    if "" in by_first:
        return f"(?:{'|'.join(branches)})?"
    if len(branches) == 1:
        return branches[0]
    return f"(?:{'|'.join(branches)})"


INNER_SIGNS = frozenset(".|$:~")
"""What joins the parts of a token that are runs of their own, or too short for one."""

SIGNS_BEFORE = INNER_SIGNS | {"="}

LONGEST_HEAD = 48
"""Characters before a run in which its token may begin, where such a sign is between."""


WORDS = bytes(number if chr(number).isalnum() and number < 128 else 32 for number in range(256))


def words_of(text: str) -> bytes:
    """The text with a blank for each character that is part of no word, for ``find_in_run``."""
    return text.encode("latin-1", "replace").translate(WORDS)


def find_in_run(text: str, words: bytes, begin: int, end: int) -> Iterable[Span]:
    """Where a token is that begins with a known literal, in a run or just before it, and where a bare key is."""
    place = begin
    if begin and text[begin - 1] in SIGNS_BEFORE:
        # A sign such as '.' may join the run to the head of its token: 'SG.' and a key.
        place = max(0, begin - LONGEST_HEAD)
        place = max(place, text.rfind(" ", place, begin) + 1, text.rfind("\n", place, begin) + 1)
        if not _may_begin_in(words[place:begin]):
            place = begin
    # A token begins at a word's beginning. Most words begin as no token does.
    threes, twos = _beginnings()
    piece = words[place:end]
    if b" " not in piece:
        begins = piece[:3] in threes or piece[:2] in twos
    else:
        found = piece.split()
        begins = not (threes.isdisjoint([word[:3] for word in found]) and twos.isdisjoint([word[:2] for word in found]))
    if begins:
        return _tokens_in_run(text, place, begin, end)
    # AWS's secret keys have 40 characters.
    if end - begin == 40 and _is_bare_key(text, begin, end):
        return [(begin, end)]
    return ()


@lru_cache(5000)
def _may_begin_in(words: bytes) -> bool:
    threes, twos = _beginnings()
    found = words.split()
    return not (threes.isdisjoint([word[:3] for word in found]) and twos.isdisjoint([word[:2] for word in found]))


def _tokens_in_run(text: str, place: int, begin: int, end: int) -> Iterator[Span]:
    starts = _starts()
    if place:
        place -= 1
    else:
        if first := starts.match("\n" + text[:LONGEST_HEAD]):
            yield from _tokens_at(text, 0, first[1])
    while match := starts.search(text, place, end):
        yield from _tokens_at(text, match.start(1), match[1])
        place = match.end()
    if end - begin == 40 and _is_bare_key(text, begin, end):
        yield begin, end


@cache
def _beginnings() -> tuple[frozenset[bytes], frozenset[bytes]]:
    """The first three characters of each literal, or its first word where that is shorter; and literals of two."""
    starts = [start.encode() for start in _rules()[0]]
    threes = frozenset(re.split(rb"[^A-Za-z0-9]", start[:3])[0] for start in starts)
    return threes, frozenset(start for start in starts if len(start) == 2)


BEFORE_VALUE = frozenset("\"'`=: >")


def is_key_of_service(text: str, begin: int, end: int) -> bool:
    """Whether a run is a value behind the name of a service whose keys have no form of their own."""
    if text[begin - 1 : begin] not in BEFORE_VALUE:
        return False
    before = text[max(0, begin - 60) : begin]
    name = before.rstrip(" \t\"'`=:>")
    if not {"=", ":"} & set(before[len(name) :]):
        return False
    # Reversed: where the name ends is certain, and a pattern goes on from there to where it begins.
    words = NAME_BEFORE.match(name[::-1])
    if words is None or not _is_of_service(words[0]):
        return False
    run = text[begin:end]
    return any(map(str.isdigit, run)) and any(map(str.isalpha, run))


@lru_cache(1000)
def _is_of_service(reversed_name: str) -> bool:
    parts = PARTS.split(reversed_name[::-1].lower())
    services, others = _services()
    return others.isdisjoint(parts) and not services.isdisjoint([*parts, "".join(parts[:2])])


@cache
def _services() -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(_data()["services"]), frozenset(_data()["no secrets"])


def is_request_id(text: str, begin: int, end: int) -> bool:
    """Whether a run is a UUID and nothing else: logs are full of them, and none is a token by itself."""
    if end - begin != 36 or not text[begin + 8] == text[begin + 13] == text[begin + 18] == text[begin + 23] == "-":
        return False
    return begin == 0 or text[begin - 1] not in INNER_SIGNS


def _tokens_at(text: str, begin: int, literal: str) -> Iterator[Span]:
    rules = _rules()[0]
    # A shorter literal may begin here, too: sk_live_ and sk_.
    for length in range(len(literal), 0, -1):
        for rule in rules.get(literal[:length], ()):
            rest = rule.compiled.match(text, begin + length)
            if rest and rule.accepts(rest[0]):
                yield begin, rest.end()


def find_by_literals(text: str) -> Iterator[Span]:
    """Where a secret is whose rule has a literal anywhere."""
    # Most texts lack some signs, and it takes next to no time to see that.
    lacking = {sign for sign in SIGNS if sign not in text}
    for literal, rules in _rules()[1].items():
        if lacking.isdisjoint(literal) and literal in text:
            for rule in rules:
                yield from _matches(rule, text)


def find_by_names(text: str) -> Iterator[Span]:
    """Where a secret is that has its name before it."""
    small = text.lower()
    if len(small) != len(text):  # a few letters become two
        small = "".join(character.lower()[:1] for character in text)
    if "=" in text or ":" in text:
        yield from _find_assignments(text, small)
    yield from _find_authorization(text, small)


def _matches(rule: Rule, text: str) -> Iterator[Span]:
    for match in rule.compiled.finditer(text):
        group = "cut" if "cut" in match.re.groupindex else 0
        if rule.accepts(match[group]) and not (group and _is_placeholder(match[group])):
            yield match.span(group)


# Secrets without a form of their own


NAMES = ("secret", "token", "passw", "pwd", "passphrase", "credential", "key")
KEYS = re.compile(
    r"(?:api|app|application|access|licen[sc]e|account|private|secret|shared|master|encryption|signing)[-_ ]?$"
)
LONGEST_VALUE = 4000
LONGEST_TAIL = 50
"""Characters of a name, and what is between it and its value, behind the word that says secret."""

ASSIGNED = re.compile(
    r"[\w-]{0,40}[\"'`]{0,3}\s{0,3}(?::=|=>|=|:)\s{0,3}(?:b?[\"'`]{1,3})?"
    rf"(?P<cut>[^\s\"'`(),;<>&\\]{{8,{LONGEST_VALUE}}})"
)
"""A value behind the end of a secret's name and a sign of equality."""

DIGIT = re.compile(r"\d")
NAME_BEFORE = re.compile(r"[\w.-]{0,60}")
PARTS = re.compile(r"[-_.]+")
NAME_BEHIND = re.compile(r"[\w-]{0,40}")
SCHEMES = ("bearer ", "oauth ", "basic ", "apikey ", "geniekey ")
CREDENTIAL = re.compile(r" {0,3}(?P<cut>[A-Za-z0-9._~+/=-]{12,4000})")
LINE_OF_BASE64 = re.compile(r"[A-Za-z0-9+/]{56,}\s{1,8}$")


def _find_assignments(text: str, small: str) -> Iterator[Span]:
    """Values with a digit behind names of secrets. ``small`` is the text in small letters."""
    for name in NAMES:
        plain_until = 0
        for end in _ends(small, name):
            if end < plain_until:
                continue
            match = ASSIGNED.match(text, end)
            # 'key' alone names anything. It counts behind 'api', 'private' and the like.
            if match is None or (name == "key" and not KEYS.search(small, max(0, end - 20), end - 3)):
                continue
            # Without a digit it is prose: 'token: expired-by-policy'.
            if not DIGIT.search(text, *match.span("cut")):
                # What is assigned within this value ends with it, unless the name goes on to its end.
                plain_until = match.end() - LONGEST_TAIL
                if len(match["cut"]) == LONGEST_VALUE:
                    plain_until -= LONGEST_VALUE // 2
                continue
            value = match["cut"]
            if _is_placeholder(value) or is_harmless(value):
                continue
            before = NAME_BEFORE.match(text[max(0, end - 60) : end][::-1])
            more = NAME_BEHIND.match(text, end)
            whole = (before[0][::-1] if before else "") + (more[0] if more else "")
            if not is_setting(whole, value):
                yield match.span("cut")


def _find_authorization(text: str, small: str) -> Iterator[Span]:
    for scheme in SCHEMES:
        for end in _ends(small, scheme):
            match = CREDENTIAL.match(text, end)
            if match and DIGIT.search(match["cut"]) and not is_harmless(match["cut"]):
                yield match.span("cut")


def _ends(text: str, word: str) -> Iterator[int]:
    """Where each occurrence of a word ends."""
    place = text.find(word)
    while place >= 0:
        place += len(word)
        yield place
        place = text.find(word, place)


def _is_bare_key(text: str, begin: int, end: int) -> bool:
    """AWS's secret keys have no mark: 40 characters of base64 as chance makes them, as no hash and no path is."""
    if (
        text[max(0, begin - 1) : begin] == "."
        or text[end : end + 1] in ("=", ".")
        or set("-_\n") & set(text[begin:end])
    ):
        return False
    return _is_random(text[begin:end]) and not LINE_OF_BASE64.search(text, max(0, begin - 100), begin)


def _is_random(text: str) -> bool:
    kinds = [_kind(character) for character in text]
    counts = Counter(kinds)
    if counts["upper"] < 5 or counts["lower"] < 5 or not counts["digit"]:
        return False
    changes = sum(first != second for first, second in pairwise(kinds))
    return changes >= 14 and _entropy(text) >= 4.2


def _kind(character: str) -> str:
    if character.isdigit():
        return "digit"
    if not character.isalpha():
        return "sign"
    if character.isupper():
        return "upper"
    return "lower"


def _entropy(text: str) -> float:
    """Bits a character, by how often each occurs."""
    return -sum(number / len(text) * math.log2(number / len(text)) for number in Counter(text).values())


# What is no secret


def is_harmless(value: str) -> bool:
    """Whether a value is a figure, a time, a path or the place of a secret, whatever its name is."""
    return bool(FIGURE.fullmatch(value) or PLACE.match(value) or is_path(value))


def is_path(value: str) -> bool:
    """Whether a value is a path of files. A key in base64 may have slashes as well; its parts are no names."""
    if not PATH.fullmatch(value):
        return False
    parts = [part for part in re.split(r"[/\\]", value) if part]
    return not any(len(part) >= 20 and _is_mixed(part) for part in parts) and (len(parts) > 1 or len(value) < 20)


def _is_mixed(text: str) -> bool:
    return (
        re.search("[a-z]", text) is not None and re.search("[A-Z]", text) is not None and bool(re.search(r"\d", text))
    )


def is_setting(name: str, value: str) -> bool:
    """Whether a name with 'token' or 'secret' in it is that of a setting, and the value is plain enough for one."""
    # The shell's folders: no passwords.
    if name.upper() in ("PWD", "OLDPWD"):
        return True
    if not SETTING_NAME.search(name):
        return False
    address = re.fullmatch(r"(?:https?|wss?)://[^\s@?#]+", value) is not None and "hook" not in name.lower()
    return (
        address
        or is_harmless(value)
        or re.fullmatch(r"[A-Za-z][A-Za-z .:_-]{0,23}[0-9]?|[\w.-]+\.[a-z]{2,}", value) is not None
    )


def _is_placeholder(value: str) -> bool:
    """Whether a value is a form to fill in or what is left of a secret: ***, [redacted], ${NAME}, {}."""
    return re.fullmatch(r"[*x.…•]+|\[redacted\].*|\$?\{[^}]*\}\S*|\$\w+|%\w+%?|<[^>]+>", value) is not None
