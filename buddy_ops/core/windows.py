"""When deployments may begin: windows in their own time zones, over midnight too, and holidays. Pure."""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from buddy_ops.core.settings import DeploymentRules, DeploymentWindow

DAY = timedelta(days=1)
SEARCH_DAYS = 400
"""For so many days the next opening is searched: holidays may cover more than a year's windows."""


def describe_windows(windows: Iterable[DeploymentWindow]) -> str:
    """Windows in words."""
    return " or ".join(f"{', '.join(each.days)} from {_hours(each)} ({each.zone})" for each in windows)


def _hours(window: DeploymentWindow) -> str:
    hours = f"{window.start:%H:%M} to {window.end:%H:%M}"
    if window.over_midnight and window.end != time():
        return f"{hours} of the next day"
    return hours


def local_times(windows: Iterable[DeploymentWindow], now: datetime) -> str:
    """The moment in each zone of the windows."""
    zones = dict.fromkeys(window.zone for window in windows)
    return ", ".join(f"{now.astimezone(ZoneInfo(zone)):%a %H:%M} ({zone})" for zone in zones)


def find_obstacle(rules: DeploymentRules, now: datetime) -> str:
    """Why no deployment may begin now, and when the next one may; '' where one may.

    Args:
        rules: their holidays are days of each window's zone, and of UTC where there is no window.
    """
    if not rules.window:
        if not rules.is_holiday(now.astimezone(UTC).date()):
            return ""
        return f"{now.astimezone(UTC):%d %b} (UTC) is a holiday"
    open_now = [window for window in rules.window if _is_open(window, now)]
    if any(not rules.is_holiday(_date(window, now)) for window in open_now):
        return ""
    if open_now:
        found = f"{_date(open_now[0], now):%d %b} ({open_now[0].zone}) is a holiday"
    else:
        found = f"the time there is {local_times(rules.window, now)}"
    opens = min((opening for window in rules.window for opening in _next_opening(rules, window, now)), default=None)
    if opens is None:
        return found
    return f"{found} (next: {opens.astimezone(UTC):%a %d %b %H:%M} UTC)"


def _date(window: DeploymentWindow, now: datetime) -> date:
    """The day in a window's zone."""
    return now.astimezone(ZoneInfo(window.zone)).date()


def _is_open(window: DeploymentWindow, now: datetime) -> bool:
    """Whether a window is open now, holidays aside: today's, or yesterday's over midnight."""
    today = _date(window, now)
    return any(begins <= now < ends for day in (today - DAY, today) for begins, ends in _on_day(window, day))


def _on_day(window: DeploymentWindow, day: date) -> Iterator[tuple[datetime, datetime]]:
    """Start and end, in UTC, of the window that begins on a day, if one does.

    In UTC, as times of one zone are compared by their clock, which goes back once a year.
    """
    if f"{day:%a}" not in window.days:
        return
    last = day
    if window.over_midnight:
        last += DAY
    zone = ZoneInfo(window.zone)
    yield (
        datetime.combine(day, window.start, zone).astimezone(UTC),
        datetime.combine(last, window.end, zone).astimezone(UTC),
    )


def _next_opening(rules: DeploymentRules, window: DeploymentWindow, now: datetime) -> Iterator[datetime]:
    """When a window next lets a deployment begin, holidays considered, if it ever does."""
    today = _date(window, now)
    zone = ZoneInfo(window.zone)
    for offset in range(-1, SEARCH_DAYS):
        for begins, ends in _on_day(window, today + offset * DAY):
            # A holiday within a window over midnight cuts it: it may open at that midnight.
            midnight = datetime.combine(begins.astimezone(zone).date() + DAY, time(), zone).astimezone(UTC)
            for opening in (begins, midnight):
                if opening > now and opening < ends and not rules.is_holiday(opening.astimezone(zone).date()):
                    yield opening
                    return
