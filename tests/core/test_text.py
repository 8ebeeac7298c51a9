"""How numbers, times and tables read."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from buddy_ops.core import text

NOW = datetime(2026, 11, 29, 3, 3, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "0 %"), (0.0478, "4.8 %"), (0.5, "50 %"), (1, "100 %"), (0.9996, "100 %"), (0.00041, "0.041 %")],
)
def test_a_measured_share_has_two_significant_digits(share: float, words: str) -> None:
    assert text.percent(share) == words


@pytest.mark.parametrize(("share", "words"), [(0.125, "12.5 %"), (0.01, "1 %"), (1, "100 %"), (0.29, "29 %")])
def test_a_configured_share_is_shown_as_it_was_set(share: float, words: str) -> None:
    assert text.exact_percent(share) == words


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 problems"), (1, "1 problem"), (2, "2 problems"), (18310, "18,310 problems")]
)
def test_a_count_agrees_with_its_noun(number: int, words: str) -> None:
    assert text.count(number, "problem") == words


def test_a_noun_may_have_a_plural_of_its_own() -> None:
    assert text.count(2, "alias", "aliases") == "2 aliases"


def test_words_are_joined_as_in_a_sentence() -> None:
    assert [text.join_words(each) for each in ([], ["v1"], ["v1", "v2"], ["v1", "v2", "v3"])] == [
        "",
        "v1",
        "v1 and v2",
        "v1, v2 and v3",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.38, "380 ms"),
        (6, "6 s"),
        (45, "45 s"),
        (60, "1 min"),
        (75, "75 s"),
        (180, "3 min"),
        (3600, "60 min"),
        (9000, "2.5 h"),
        (86400, "24 h"),
        (5 * 86400, "5 days"),
        (float("inf"), "unlimited time"),
    ],
)
def test_a_duration_is_told_in_the_unit_that_reads_best(seconds: float, words: str) -> None:
    assert text.duration(seconds) == words


def test_a_duration_may_be_a_timedelta() -> None:
    assert text.duration(timedelta(minutes=3)) == "3 min"


def test_a_time_of_today_is_told_without_its_date() -> None:
    moment = NOW - timedelta(minutes=5)
    assert text.time_of_day(moment, NOW) == "02:58 UTC"
    assert text.time_of_day(moment, NOW, ago=True) == "02:58 UTC (5 min ago)"
    assert text.time_of_day(NOW - timedelta(days=1), NOW) == "2026-11-28 03:03 UTC"


def test_a_time_to_come_is_not_ago() -> None:
    assert text.time_of_day(NOW + timedelta(minutes=5), NOW, ago=True) == "03:08 UTC"


def test_every_time_is_told_in_utc() -> None:
    abroad = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert text.time_of_day(abroad, NOW) == "03:03 UTC"
    assert text.date_and_time(abroad) == "2026-11-29 03:03 UTC"


@pytest.mark.parametrize(
    "written",
    ["2026-11-29T03:03:40Z", "2026-11-29T03:03:40.000+0000", "2026-11-29T04:03:40+01:00", "2026-11-29T03:03:40"],
)
def test_a_time_is_read_as_aws_and_records_write_it(written: str) -> None:
    assert text.parse_utc(written) == NOW
    assert text.parse_utc(written).tzinfo is UTC


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(ValueError):
        text.parse_utc("yesterday")


def test_a_minute_begins_at_its_zeroth_second() -> None:
    assert text.floor_minute(NOW) == datetime(2026, 11, 29, 3, 3, tzinfo=UTC)


def test_markup_is_shown_and_not_obeyed() -> None:
    assert text.escape_html('<b a="1">&') == "&lt;b a=&quot;1&quot;&gt;&amp;"
    assert text.escape_markdown("a <b> |\n & `c`") == "a &lt;b> \\| &amp; `c`"
    assert text.escape_markdown("`c`", keep_code=False) == "'c'"


def test_a_table_has_a_head_and_a_line_a_row() -> None:
    assert text.markdown_table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_utc_does_not_have_is_none(moment: str) -> None:
    """A ValueError as for every other text that is no time: a record with it must not end what reads it."""
    with pytest.raises(ValueError, match="no time in UTC"):
        text.parse_utc(moment)


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 kB"), (12_300, "12 kB"), (104_857, "102 kB"), (104_858, "0.1 MB"), (52_428_800, "50.0 MB")],
)
def test_a_size_is_in_the_unit_that_reads_best(number: int, shown: str) -> None:
    """Bytes as kB and MB of 1,024."""
    assert text.size(number) == shown
