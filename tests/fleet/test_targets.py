"""Targets of one place: what the first answers says something of the others, or nothing."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buddy_ops.core.errors import AccessDenied, AwsFailed, BuddyError, Throttled, TimedOut, Unreachable
from buddy_ops.fleet.targets import Member, Place, attempt_each, read_members
from tests.fleet.conftest import write_project


@pytest.fixture
def members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Member, ...]:
    """The fleet's targets of one function, of which no call is sent."""
    monkeypatch.chdir(write_project(tmp_path, "http://127.0.0.1:1", {"pay": "payments"}))
    return read_members({})


@pytest.mark.parametrize(
    ("kind", "all_are_tried"),
    [(Unreachable, False), (TimedOut, False), (Throttled, True), (AccessDenied, True), (AwsFailed, True)],
)
def test_only_a_place_without_an_answer_is_left_after_its_first_target(
    members: tuple[Member, ...], kind: type[AwsFailed], all_are_tried: bool
) -> None:
    """A throttled or refused call of one target must not leave the others of its region without their rollback."""
    tried = []

    def read(member: Member) -> str:
        tried.append(member.name)
        if member is members[0]:
            raise kind("reference", "It failed.", next="Wait.", code="code")
        return member.name

    with ThreadPoolExecutor(1) as pool:
        found = attempt_each(Place(members, None), members, read, pool)
    assert list(found) == [member.name for member in members]
    assert (len(tried) == len(members)) == all_are_tried
    failed = [name for name, each in found.items() if isinstance(each, BuddyError)]
    assert failed == ([members[0].name] if all_are_tried else list(found))


def test_a_place_without_a_session_is_not_tried(members: tuple[Member, ...]) -> None:
    trouble = BuddyError("reference", "No session.", next="Connect.")
    with ThreadPoolExecutor(1) as pool:
        found = attempt_each(Place(members, None, trouble), members, lambda member: member.name, pool)
    assert found == dict.fromkeys((member.name for member in members), trouble)
