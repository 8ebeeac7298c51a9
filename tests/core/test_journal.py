"""The journal: one JSON object a line, in order, and never a reason to stop."""

import json
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from buddy_ops.core.journal import Journal, iso_utc, read_journal

START = datetime(2026, 11, 22, 3, 12, tzinfo=UTC)


def test_each_record_is_one_line_with_number_moment_and_kind() -> None:
    """``seq`` counts from 1 without gaps, ``at`` is the run's own clock in UTC, and the fields follow."""
    lines: list[str] = []
    moments = iter([START, START + timedelta(seconds=90)])
    journal = Journal(lines.append, lambda: next(moments))
    journal.append("opened", run="7f3a")
    journal.append("shifted", weight=0.1, to="v42")
    assert [json.loads(line) for line in lines] == [
        {"seq": 1, "at": "2026-11-22T03:12:00Z", "kind": "opened", "run": "7f3a"},
        {"seq": 2, "at": "2026-11-22T03:13:30Z", "kind": "shifted", "weight": 0.1, "to": "v42"},
    ]
    assert journal.records == [json.loads(line) for line in lines]


@given(st.dictionaries(st.sampled_from(["says", "reasons", "by"]), st.one_of(st.text(), st.lists(st.text()))))
def test_no_value_can_break_a_line(fields: dict[str, str | list[str]]) -> None:
    """Line breaks and odd characters in a value stay inside its line: a reader may split the file by lines."""
    lines: list[str] = []
    Journal(lines.append, lambda: START).append("observed", **fields)
    (line,) = lines
    assert len(line.splitlines()) == 1
    assert json.loads(line) == {"seq": 1, "at": iso_utc(START), "kind": "observed", **fields}


def test_a_value_that_json_does_not_know_is_told_in_words() -> None:
    """A moment among an AWS call's parameters is written as text, rather than losing the record."""
    lines: list[str] = []
    Journal(lines.append, lambda: START).append("aws", parameters={"StartTime": START})
    assert json.loads(lines[0])["parameters"] == {"StartTime": "2026-11-22 03:12:00+00:00"}


def test_a_full_disk_is_told_and_stops_nobody() -> None:
    """A line that cannot be written is kept in memory and reported by ``side``; recording goes on."""
    lines: list[str] = []
    full = True

    def write(line: str) -> None:
        if full:
            raise OSError(28, "No space left on device")
        lines.append(line)

    journal = Journal(write, lambda: START)
    assert journal.side.unsaid() == []
    journal.append("shifted", weight=0.1)
    (said,) = journal.side.unsaid()
    assert said.startswith("The journal failed (OSError: [Errno 28] No space left on device).")
    full = False
    journal.append("taken-back")
    assert [each["kind"] for each in journal.records] == ["shifted", "taken-back"]
    assert [json.loads(line)["seq"] for line in lines] == [2]
    assert journal.side.unsaid() == []


def test_moments_are_written_to_the_second_in_utc() -> None:
    """One form everywhere: ISO 8601 with a Z, whatever zone a moment was given in."""
    assert iso_utc(datetime(2026, 1, 2, 3, 4, 5, 999_999, tzinfo=UTC)) == "2026-01-02T03:04:05Z"
    elsewhere = datetime(2026, 1, 2, 8, 4, 5, tzinfo=timezone(timedelta(hours=5)))
    assert iso_utc(elsewhere) == "2026-01-02T03:04:05Z"


def test_a_held_journal_is_written_at_its_release_with_the_times_of_its_records() -> None:
    """By then the redactor knows more secrets, and takes them out."""
    lines: list[str] = []
    times = iter(datetime(2026, 11, 1, 3, minute, tzinfo=UTC) for minute in range(3))
    secrets: set[str] = set()

    def clean(fields: dict[str, str]) -> dict[str, str]:
        return {name: "[redacted]" if value in secrets else value for name, value in fields.items()}

    journal = Journal(lines.append, lambda: next(times), clean, held=True)
    journal.append("one", says="hunter2")
    journal.append("two")
    assert lines == []
    secrets.add("hunter2")
    journal.release()
    journal.append("three")
    assert [(each["seq"], each["at"][11:16], each["kind"]) for each in read_journal("\n".join(lines).encode())] == [
        (1, "03:00", "one"),
        (2, "03:01", "two"),
        (3, "03:02", "three"),
    ]
    assert len(lines) == 2 and "hunter2" not in lines[0] and journal.records[0]["says"] == "[redacted]"
