"""Deployment windows: several, over midnight, across a change of the clock, and holidays."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buddy_ops.core import documents, settings, windows
from buddy_ops.core.settings import DeploymentRules

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
OFFICE = {"days": ["Mon", "Tue", "Wed", "Thu"], "start": "09:00", "end": "16:00"}
NIGHT = {"days": ["Fri"], "start": "22:00", "end": "04:00", "zone": "Europe/Vienna"}


def rules(*several: dict[str, Any], holidays: tuple[str, ...] = ()) -> DeploymentRules:
    return DeploymentRules.model_validate({"window": list(several), "holidays": list(holidays)})


def at(moment: str) -> datetime:
    return datetime.fromisoformat(moment)


@pytest.mark.parametrize(
    ("moment", "open_"),
    [
        ("2026-11-27T20:59:59Z", False),
        ("2026-11-27T21:00:00Z", True),
        ("2026-11-28T02:59:59Z", True),
        ("2026-11-28T03:00:00Z", False),
        ("2026-11-28T21:30:00Z", False),
        ("2026-11-27T01:00:00Z", False),
    ],
)
def test_a_window_over_midnight_ends_on_the_next_day(moment: str, open_: bool) -> None:
    """22:00 to 04:00 in Vienna, on Fridays only: 21:00 to 03:00 UTC in winter."""
    obstacle = windows.find_obstacle(rules(NIGHT), at(moment))
    assert (obstacle == "") is open_, obstacle


def test_a_window_is_as_long_as_the_clock_says_when_it_is_changed() -> None:
    """In the night to 25 October 2026, Vienna's clock goes back: the window over it lasts seven hours, not six."""
    night = rules({**NIGHT, "days": ["Sat"]})
    begins = at("2026-10-24T20:00:00Z")
    open_hours = [hours for hours in range(24) if not windows.find_obstacle(night, begins + timedelta(hours=hours))]
    assert open_hours == list(range(7))


def test_one_of_several_windows_is_enough() -> None:
    """Each in its own zone; the refusal names all of them, the time in each zone, and when the next one opens."""
    both = rules(OFFICE, NIGHT)
    assert windows.find_obstacle(both, at("2026-11-26T15:59:00Z")) == ""
    assert windows.find_obstacle(both, at("2026-11-27T23:00:00Z")) == ""
    assert windows.find_obstacle(both, at("2026-11-27T12:00:00Z")) == (
        "the time there is Fri 12:00 (UTC), Fri 13:00 (Europe/Vienna) (next: Fri 27 Nov 21:00 UTC)"
    )
    assert windows.describe_windows(both.window) == (
        "Mon, Tue, Wed, Thu from 09:00 to 16:00 (UTC) or Fri from 22:00 to 04:00 of the next day (Europe/Vienna)"
    )


def test_no_deployment_begins_on_a_holiday() -> None:
    """Single days and intervals, as days of the window's zone; a holiday ends a window that began the day before."""
    closed = rules(OFFICE, {**NIGHT, "days": ["Wed"]}, holidays=("2026-12-24/2026-12-27", "2027-01-01"))
    assert windows.find_obstacle(closed, at("2026-12-23T22:59:00Z")) == ""
    assert windows.find_obstacle(closed, at("2026-12-23T23:00:00Z")) == (
        "24 Dec (Europe/Vienna) is a holiday (next: Mon 28 Dec 09:00 UTC)"
    )
    anytime = rules(holidays=("2026-12-24",))
    assert windows.find_obstacle(anytime, at("2026-12-24T12:00:00Z")) == "24 Dec (UTC) is a holiday"
    assert windows.find_obstacle(anytime, at("2026-12-25T00:00:00Z")) == ""
    never = rules(OFFICE, holidays=("2026-01-01/2036-01-01",))
    assert windows.find_obstacle(never, at("2026-12-21T12:00:00Z")) == "21 Dec (UTC) is a holiday"


def test_settings_keep_one_window_and_several() -> None:
    """As a mapping or as a list, and dates as YAML 1.1 reads them: what is written out is read again as the same."""
    one = documents.parse_yaml("{window: {days: [Mon], start: 09:00, end: 16:00}, holidays: [2026-12-24]}")
    for values in (one, {**one, "window": [one["window"]], "holidays": [at("2026-12-24").date()]}):
        found = DeploymentRules.model_validate(values)
        assert found == rules({"days": ["Mon"], "start": "09:00", "end": "16:00"}, holidays=("2026-12-24",))
        assert DeploymentRules.model_validate(found.model_dump(mode="json")) == found
    assert settings.DeploymentRules.model_validate({"window": None}).window == ()


MINUTES = st.integers(0, 24 * 60 - 1)


@given(
    day=st.sampled_from(DAYS),
    start=MINUTES,
    end=MINUTES,
    zone=st.sampled_from(["UTC", "Europe/Vienna", "Asia/Kolkata", "America/St_Johns"]),
    holiday=st.integers(0, 20),
    minutes=st.integers(0, 60 * 24 * 14),
)
def test_what_is_said_to_be_next_is_when_it_opens(
    day: str, start: int, end: int, zone: str, holiday: int, minutes: int
) -> None:
    """A window is closed until the time that is named, and open at it."""
    if start == end:
        return
    closed_on = (at("2026-10-19").date() + timedelta(days=holiday)).isoformat()
    one = rules({"days": [day], "start": start, "end": end, "zone": zone}, holidays=(closed_on,))
    now = datetime(2026, 10, 19, tzinfo=UTC) + timedelta(minutes=minutes)
    obstacle = windows.find_obstacle(one, now)
    if not obstacle:
        there = now.astimezone(ZoneInfo(zone))
        assert there.date().isoformat() != closed_on
        return
    named = obstacle.rpartition("(next: ")[2].removesuffix(" UTC)")
    opens = datetime.strptime(f"2026 {named}", "%Y %a %d %b %H:%M").replace(tzinfo=UTC)
    assert windows.find_obstacle(one, opens) == ""
    assert opens > now
    assert all(windows.find_obstacle(one, now + (opens - now) * part / 40) for part in range(40))
