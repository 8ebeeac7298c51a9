"""An answer of AWS that lacks a member: the run ends as it does, or with an error of ours, never with one of Python's.

AWS's models mark few members of an answer as required. Emulators leave some out, and AWS adds and retires some. What
the library cannot do without is in ``_replies.REQUIRED``; without any other member it goes on.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest
from botocore.model import ListShape, Shape, StructureShape
from botocore.parsers import ResponseParser

from buddy_ops.aws import _replies
from buddy_ops.checks import readiness, setup
from buddy_ops.checks import status as status_
from buddy_ops.core.errors import BuddyError
from tests.checks.test_readiness import ready
from tests.conftest import Situation
from tests.resilience.harness import RUNBOOKS, Drive, no_backoff

Bring = Callable[..., Situation]
Path = tuple[str, ...]
"""An answer's type in AWS's model, and the members that lead to one of its members."""


class Leaky(ResponseParser):
    """A parser that leaves one member out of each answer in which it is, and notes the members that there are."""

    def __init__(self, parser: ResponseParser, seen: set[Path], without: Callable[[Path], bool]) -> None:
        super().__init__()
        self._parser = parser
        self._seen = seen
        self._without = without

    def parse(self, response: Mapping[str, Any], shape: Shape) -> Any:
        parsed = self._parser.parse(response, shape)
        if isinstance(shape, StructureShape) and response["status_code"] < 300:
            found = {(shape.name, *path) for path in optional_members(parsed, shape)}
            self._seen |= found
            for path in sorted(filter(self._without, found)):
                leave_out(parsed, path[1:])
        return parsed


def optional_members(parsed: Mapping[str, Any], shape: StructureShape) -> Iterator[Path]:
    """The members that an answer has and that it may lack, with those of its structures and lists of structures."""
    needed = {*shape.required_members, *_replies.REQUIRED.get(shape.name, ())}
    for name, member in shape.members.items():
        value = parsed.get(name)
        if value is None:
            continue
        if name not in needed:
            yield (name,)
        inner = member.member if isinstance(member, ListShape) else member
        # A value of an item names its type, and is no answer's own.
        if isinstance(inner, StructureShape) and inner.name != "AttributeValue":
            for each in value if isinstance(member, ListShape) else [value]:
                yield from ((name, *path) for path in optional_members(each, inner))


def leave_out(found: Any, path: Sequence[str]) -> None:
    """Remove what a path leads to, in each item of a list."""
    if isinstance(found, list):
        for each in found:
            leave_out(each, path)
    elif isinstance(found, dict) and path[1:]:
        leave_out(found.get(path[0]), path[1:])
    elif isinstance(found, dict):
        found.pop(path[0], None)


def run_without(here: Situation, drive: Drive, without: Callable[[Path], bool]) -> set[Path]:
    """One run in which answers lack some members; the optional ones that they had. An error of ours ends it as well."""
    seen: set[Path] = set()

    class Factory(_replies.ParserFactory):
        def create_parser(self, protocol_name: str) -> Any:
            parser = super().create_parser(protocol_name)
            parser._parser = Leaky(parser._parser, seen, without)
            return parser

    with pytest.MonkeyPatch.context() as patch, no_backoff(), suppress(BuddyError):
        patch.setattr(_replies, "ParserFactory", Factory)
        drive(here)
    return seen


def read(here: Situation) -> str:
    """What only reads: the first page, the doctor and the audit."""
    target = here.connect("readiness_audit", values=json.loads((here.folder / "settings.json").read_text("utf-8")))
    with suppress(BuddyError):
        str(status_.read_status(target))
    with suppress(BuddyError):
        list(setup.run_doctor(target, "deployer"))
    readiness.run_audit(target)
    return "read"


def prepare_read(bring: Bring) -> Situation:
    here, target = ready(bring)
    (here.folder / "settings.json").write_text(target.settings.model_dump_json(), "utf-8")
    return here


SAMPLED = ("read", "rollback_promoted", "alarms", "clean_up_versions")


def bring(situation: Bring, name: str) -> Situation:
    return prepare_read(situation) if name == "read" else RUNBOOKS[name].bring(situation)


def drive(name: str) -> Drive:
    return read if name == "read" else RUNBOOKS[name].drive


@pytest.mark.parametrize("name", SAMPLED)
def test_some_members_are_missing(situation: Bring, name: str) -> None:
    """A tenth of all optional members at once, drawn by their names."""
    here = bring(situation, name)
    assert run_without(here, drive(name), lambda path: random.Random(f"{name} {path}").random() < 0.1)


@pytest.mark.whole
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["read", *RUNBOOKS])
def test_one_member_is_missing(situation: Bring, name: str) -> None:
    """Each optional member by itself."""
    for path in sorted(run_without(bring(situation, name), drive(name), lambda path: False)):
        run_without(bring(situation, name), drive(name), path.__eq__)
