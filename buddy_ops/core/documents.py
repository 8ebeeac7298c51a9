"""YAML and JSON from outside, as plain values: the one place that parses either.

Size, depth and number of values are limited, so that no document takes much time or memory, and none is read
differently from what its author sees: a key given twice is an error, and so is a number that is none. Whatever cannot
be read is one ValueError, which says the line and shows no value: a secret may be in it.
"""

import json
import math
import re
from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import Any, Literal

import yaml

DEPTH = 60
"""Levels of a document. What runbooks, records and settings need is about ten."""

YAML_CHARACTERS = 256 * 1024
YAML_VALUES = 20_000
"""Values of a YAML document, with each alias counted as its copies: nine lines can mean 10^9 values."""

JSON_BYTES = 64 * 1024**2
OWN_JSON_BYTES = 1024**3
"""Bytes of an executed notebook: as many as its cells have printed."""

JSON_VALUES = 2_000_000
"""Values of a JSON document: of two million, Python makes about 200 MB."""

EXPLAINED = 16 * 1024
"""Characters of a YAML text that is parsed once more, slowly, for a better error."""

Scalars = Literal["typed", "text", "text or null"]
"""What plain scalars are: numbers, booleans and nulls by their form, or texts as they are written."""

FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser, where PyYAML was built with it: eight times as fast, and every command reads four files."""

NULLS = ("", "~", "null", "Null", "NULL")
TAG = "tag:yaml.org,2002:"


class _Loader(FAST_LOADER):  # type: ignore[misc, valid-type]
    """The forms of YAML 1.2's core schema.

    YAML 1.1 makes 8 of 010, 1350 of 22:30, a boolean of no, and a date of 2026-11-22: all of these stay texts here.
    """

    # Empty, since PyYAML's own resolvers are those of YAML 1.1.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for tag, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", "<<", ["<"]),
):
    # PyYAML tries only the resolvers that are registered for a scalar's first character.
    _Loader.add_implicit_resolver(TAG + tag, re.compile(f"^(?:{pattern})$"), first)


def parse_yaml(text: str, scalars: Scalars = "typed", *, short_forms: bool = False) -> Any:
    """A YAML document's value.

    Args:
        scalars: what plain scalars are. Quoted ones are always texts.
        short_forms: take CloudFormation's tags (!Sub, !Ref) as if they were not there.

    Raises:
        ValueError: no YAML, too large, a duplicate key, or a number that is none; with the line.
    """
    root = _root(text)
    return None if root is None else _Values(scalars, short_forms).of(root)


def parse_yaml_mapping(text: str, scalars: Mapping[str, Scalars]) -> dict[str, Any]:
    """A YAML mapping's values, each with the scalars that its key asks for; 'typed' where it names none.

    Raises:
        ValueError: as ``parse_yaml``; also for what is no mapping of names.
    """
    root = _root(text)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("not a YAML mapping")
    if not all(isinstance(key, yaml.ScalarNode) and key.tag == f"{TAG}str" for key, _ in root.value):
        raise ValueError("not a YAML mapping of names")
    _Values("typed").of(root)  # all of its errors, in its own order
    return {key.value: _Values(scalars.get(key.value, "typed")).of(value) for key, value in root.value}


def parse_json(content: str | bytes, *, limit: int = JSON_BYTES, unique: bool = False, finite: bool = False) -> Any:
    """A JSON document's value.

    Args:
        limit: bytes that it may have.
        unique: refuse a name that an object has twice; else the last one counts, as everywhere in Python.
        finite: refuse NaN and infinities, which Python writes and JSON does not have.

    Raises:
        ValueError: no JSON, or too large, too deep or too many values.
    """
    if len(content) > limit:
        raise ValueError(f"has {len(content):,} bytes; the limit is {limit:,}")
    opened, between = _count(content, "[") + _count(content, "{"), _count(content, ",")
    # Counting signs is fast; only where they are many is it looked which of them are in texts.
    if opened + between > JSON_VALUES and _structural(content) > JSON_VALUES:
        raise ValueError(f"has more than {JSON_VALUES:,} values")
    try:
        value = json.loads(
            content,
            object_pairs_hook=_unique if unique else None,
            parse_constant=_no_number if finite else None,
            parse_float=_finite if finite else None,
        )
    except RecursionError:
        raise ValueError(f"has more than {DEPTH} levels") from None
    # Only where so many brackets are opened can it be too deep.
    if opened > DEPTH and not _flat_enough(value):
        raise ValueError(f"has more than {DEPTH} levels")
    if _count(content, "\\ud") or _count(content, "\\uD"):
        # Half a character can be neither printed nor saved.
        value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return value


def is_finite(value: object) -> bool:
    """Whether plain values have neither NaN nor an infinity in them."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
    return True


def _count(content: str | bytes, character: str) -> int:
    if isinstance(content, bytes):
        return content.count(character.encode())
    return content.count(character)


def _structural(content: str | bytes) -> int:
    """How many values a document has, at most: what is in texts does not count."""
    text = content
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    bare = re.sub(r'"[^"\\]*(?:\\.[^"\\]*)*"', "", text)
    return bare.count("[") + bare.count("{") + bare.count(",")


def _flat_enough(value: object) -> bool:
    # Level by level, without recursion: the value may be as deep as its text is long.
    level: list[object] = [value]
    for _ in range(DEPTH + 1):
        below: list[object] = []
        for part in level:
            if isinstance(part, dict):
                below += part.values()
            elif isinstance(part, list):
                below += part
        if not below:
            return True
        level = below
    return False


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {_shown(twice)} is given twice")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    # 1e999 is a number of JSON and of YAML, and infinite for Python: it would pass every limit.
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _shown(key: object) -> str:
    shown = repr(key)
    if len(shown) <= 60:
        return shown
    return f"{shown[:60]}…"


# YAML


def _root(text: str) -> yaml.Node | None:
    """A text's root, once its depth is known: a parser that nests too deeply ends the process."""
    if len(text) > YAML_CHARACTERS:
        raise ValueError(f"has {len(text):,} characters; the limit is {YAML_CHARACTERS:,}")
    # Twice over the text: events are flat, whatever its depth, and nodes are built recursively.
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise _wrong(event, f"more than {DEPTH} levels")
        loader = _Loader(text)
        try:
            root: yaml.Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(_explain(text, error)) from None
    except UnicodeError:
        raise ValueError("not YAML: not UTF-8") from None
    return root


def _explain(text: str, error: yaml.YAMLError) -> str:
    """What is wrong with a text that is no YAML, without any of its content."""
    if len(text) <= EXPLAINED:
        try:
            for _ in yaml.parse(text, Loader=yaml.SafeLoader):  # its errors say more
                pass
        except yaml.YAMLError as better:
            error = better
    if isinstance(error, yaml.MarkedYAMLError):
        if error.problem_mark:
            return f"not YAML in line {error.problem_mark.line + 1}: {error.problem}"
        return f"not YAML: {error.problem}"
    return "not YAML: it has characters that YAML does not have"


def _wrong(place: yaml.Node | yaml.Event, problem: str) -> ValueError:
    return ValueError(f"in line {_line(place)}: {problem}")


def _line(place: yaml.Node | yaml.Event) -> int:
    """Where it begins, from 1."""
    return place.start_mark.line + 1 if place.start_mark else 1


class _Values:
    """Makes plain values of nodes; an alias becomes a copy of what it stands for, and counts as one."""

    def __init__(self, scalars: Scalars, short_forms: bool = False) -> None:
        self._scalars = scalars
        self._short_forms = short_forms
        self._left = YAML_VALUES

    def of(self, node: yaml.Node, depth: int = 0) -> object:
        # Counted where values are made: an alias is one node in the document, and a copy each time here.
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"more than {YAML_VALUES:,} values, with each alias counted as a copy")
        if depth > DEPTH:
            raise _wrong(node, f"more than {DEPTH} levels, or an alias that contains itself")
        if not self._short_forms and not node.tag.startswith(TAG):
            raise _wrong(node, f"the tag {_shown(node.tag)} is not allowed")
        if isinstance(node, yaml.SequenceNode):
            self._require_kind(node, "seq")
            return [self.of(part, depth + 1) for part in node.value]
        if isinstance(node, yaml.MappingNode):
            self._require_kind(node, "map")
            return self._mapping(node, depth)
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node)

    def _require_kind(self, node: yaml.Node, kind: str) -> None:
        if node.tag.startswith(TAG) and node.tag != TAG + kind:
            raise _wrong(node, f"the tag {_shown(node.tag)} is not allowed")

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[Hashable, object]:
        merged: dict[Hashable, object] = {}
        own: dict[Hashable, object] = {}
        # PyYAML takes the last of two equal keys without a word.
        lines: dict[Hashable, int] = {}
        for key_node, value_node in node.value:
            merges = key_node.tag == f"{TAG}merge"
            key: Hashable = key_node.value
            if not merges:
                key = self._key(key_node, depth)
            # A key that is the text "<<", in quotes, merges nothing.
            if (key, merges) in lines:
                raise _wrong(
                    key_node, f"the key {_shown(key)} is given twice, the first time in line {lines[key, merges]}"
                )
            lines[key, merges] = _line(key_node)
            if merges:
                merged = self._merged(value_node, depth)
            else:
                own[key] = self.of(value_node, depth + 1)
        # A mapping's own keys come before merged ones, wherever << stands.
        return merged | own

    def _key(self, node: yaml.Node, depth: int) -> Hashable:
        key = self.of(node, depth + 1)
        if isinstance(key, list | dict):
            raise _wrong(node, "a key must not be a list or a mapping")
        assert isinstance(key, Hashable)
        return key

    def _merged(self, node: yaml.Node, depth: int) -> dict[Hashable, object]:
        """What ``<<`` takes over: of several mappings the first one that has a key counts."""
        sources = self.of(node, depth + 1)
        if not isinstance(sources, list):
            sources = [sources]
        found: dict[Hashable, object] = {}
        for source in reversed(sources):
            if not isinstance(source, dict):
                raise _wrong(node, "<< takes a mapping, or a list of mappings")
            found |= source
        return found

    def _scalar(self, node: yaml.ScalarNode) -> object:
        text = str(node.value)
        if not text.isascii():
            with suppress(UnicodeEncodeError):
                text.encode()
                return self._plain(node, text)
            raise _wrong(node, "half of a character")
        return self._plain(node, text)

    def _plain(self, node: yaml.ScalarNode, text: str) -> object:
        kind = node.tag.removeprefix(TAG)
        written_as_text = kind in ("str", "merge") or not node.tag.startswith(TAG)
        if written_as_text or (self._scalars == "text" and not node.style):
            return text
        if kind == "null" and text in NULLS:
            return None
        if self._scalars == "text or null" and not node.style:
            return text
        try:
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text)
            if kind == "float":
                return _finite(text.replace(".inf", "inf").replace(".nan", "nan").replace(".NaN", "nan"))
        except (ValueError, KeyError):
            raise _wrong(node, "a value that does not fit its tag, or a number that is not finite") from None
        raise _wrong(node, f"the tag {_shown(node.tag)} is not allowed")
