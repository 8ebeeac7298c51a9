"""How numbers, times and tables read in every sentence for operators.

Every function here is pure: nothing reads a clock or a setting.
"""

import html
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from math import isfinite

MINUTE = timedelta(minutes=1)


def percent(share: float) -> str:
    """A measured share (0..1) with two significant digits: '4.8 %', '0.041 %', '100 %'."""
    # '.2g' alone writes 100 as 1e+02, so the rounded number is formatted a second time.
    return f"{float(f'{100 * share:.2g}'):g} %"


def figure(value: float) -> str:
    """A figure that is measured, not counted: '1,240', or with two digits below ten, '2.4'."""
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.2g}"


def exact_percent(share: float) -> str:
    """A configured share (0..1), a traffic weight or a limit, as it was set: '12.5 %', '1 %'."""
    return f"{100 * share:g} %"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: '1 problem', '2 problems', '18,310 requests'. ``plural`` where it is not noun + 's'."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {plural or noun + 's'}"


def join_words(words: Iterable[str], last: str = "and") -> str:
    """A list in a sentence: 'v1', 'v1 and v2', 'v1, v2 and v3'."""
    *others, final = list(words) or [""]
    if not others:
        return final
    return f"{', '.join(others)} {last} {final}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence to add that names what was probably meant; empty if nothing known is like it."""
    # Imported where a name is wrong only.
    import difflib

    names = {candidate.lower(): candidate for candidate in known}
    # 'canary' means 'strategies/canary'.
    names |= {candidate.rpartition("/")[2]: names[candidate] for candidate in names if "/" in candidate}
    close = difflib.get_close_matches(name.lower(), names, n=1)
    if not close:
        return ""
    return f" Did you mean {names[close[0]]}?"


def duration(span: timedelta | float) -> str:
    """A time span in the largest unit that is easy to read: '380 ms', '6 s', '3 min', '24 h'. A number is seconds."""
    if isinstance(span, timedelta):
        span = span.total_seconds()
    seconds = span
    if not isfinite(seconds):
        return "unlimited time"
    if 0 < seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    # A whole minute is a minute, and 75 s stay seconds.
    if seconds < 90 and seconds != 60:
        return f"{seconds:.0f} s"
    if seconds < 120 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 72 * 3600:
        return f"{round(seconds / 3600, 1):g} h"
    return f"{seconds / 86400:.0f} days"


def capitalised(text: str) -> str:
    """A text with a capital letter at its beginning; the rest as it is."""
    return text[:1].upper() + text[1:]


def shorten(text: str, length: int) -> str:
    """A text of at most ``length`` characters; '…' at its end shows that it was cut."""
    if len(text) <= length:
        return text
    return f"{text[: length - 1]}…"


def time_of_day(moment: datetime, now: datetime, *, ago: bool = False) -> str:
    """A time in UTC: '02:58 UTC' on the day of ``now``, '2026-11-29 02:58 UTC' else.

    Args:
        ago: add how long ago it was: '02:58 UTC (5 min ago)'.
    """
    moment = moment.astimezone(UTC)
    text = date_and_time(moment)
    if moment.date() == now.astimezone(UTC).date():
        text = f"{moment:%H:%M} UTC"
    if ago and moment <= now:
        text += f" ({duration(now - moment)} ago)"
    return text


def date_and_time(moment: datetime) -> str:
    """A time in UTC with its date: '2026-11-29 02:58 UTC'."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def parse_utc(text: str) -> datetime:
    """An ISO 8601 time, as AWS and our own records write it, in UTC. A time without an offset is in UTC.

    Raises:
        ValueError: it is not a time.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # in UTC it is before the year 1, or after 9999
        raise ValueError(f"no time in UTC: {shorten(text, 40)!r}") from None


def floor_minute(moment: datetime) -> datetime:
    """The full minute at or before a time: CloudWatch's metrics begin on full minutes."""
    return moment.replace(second=0, microsecond=0)


NOT_FOR_TERMINALS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\r(?!\n)"
)
"""Characters that a terminal obeys instead of showing: control characters, and those that turn or hide text."""

GITHUB_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#\[)", re.MULTILINE)
"""What GitHub reads as a command in a step's log: '::name::' where a line begins, '##[name]' anywhere."""


def show_controls(text: str) -> str:
    """A text whose control characters, and those that turn or hide text, are written out: '\\x1b'. Line ends stay."""
    return NOT_FOR_TERMINALS.sub(_visible, text)


def escape_html(text: str) -> str:
    """A text that HTML shows as it is, in an element or in an attribute's quotes."""
    return html.escape(show_controls(text))


def escape_terminal(text: str, *, github: bool | None = None) -> str:
    """A text that a terminal shows and does not obey: '\\x1b' for an escape character. Lines and tabs stay.

    Args:
        github: also show GitHub's workflow commands as texts; None: where the process runs in GitHub Actions.
    """
    shown = show_controls(text)
    if github or (github is None and os.environ.get("GITHUB_ACTIONS") == "true"):
        # '::error::no build' becomes '\u003a:error::no build'.
        shown = GITHUB_COMMAND.sub(lambda match: match[0][:-1] + f"\\u{ord(match[0][-1]):04x}", shown)
    return shown


def _visible(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < 0x20:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}"


def escape_markdown(text: str, *, keep_code: bool = True) -> str:
    """A text as one line of Markdown that breaks neither a table's cell nor the page.

    Args:
        keep_code: leave `code` in backticks; False for what came from a log.
    """
    line = show_controls(" ".join(text.split()))
    # The ampersand first: those of the entities that follow are meant.
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    line = line.replace("](", "]\\(").replace("][", "]\\[")  # no link, and no picture that is fetched
    if keep_code:
        return line
    return line.replace("`", "'")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. The cells are Markdown: what came from outside must be escaped already."""
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines for a terminal, the first of them its head: columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]


def tally(words: Iterable[str]) -> str:
    """How often each word is there, in the sequence of their first: '1 ERROR RATE HIGH, 11 OK'."""
    return ", ".join(f"{number} {word}" for word, number in Counter(words).items())


def size(number: int) -> str:
    """A number of bytes in the unit that reads best: '12 kB' below a tenth of a megabyte, else '1.4 MB'."""
    if number < 0.1 * 1024**2:
        return f"{number / 1024:,.0f} kB"
    return f"{number / 1024**2:,.1f} MB"
