"""The record in an alias's Description: it always fits, it survives, and nothing else is taken for it."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from buddy_ops.aws.aliases import RECORD_LIMIT, REJECTED_KEPT, RolloutState, decode_rollout_state
from buddy_ops.core import settings
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.journal import iso_utc

RECORD = RolloutState(
    "7f3a",
    "41",
    "42",
    "1",
    "2026-11-22T03:12:00Z",
    rejected_versions=("40",),
    fallback_version="39",
    note="release of March",
)
OURS = {"v": 1, "run": "7f3a", "from": "41", "to": "42", "stage": "1", "since": "2026-11-22T03:12:00Z"}

VERSIONS = st.integers(1, 99_999).map(str)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)).map(iso_utc)  # noqa: DTZ001
RECORDS = st.builds(
    RolloutState,
    run=st.text("0123456789abcdef", min_size=4, max_size=4),
    stable_version=st.one_of(st.just(""), VERSIONS),
    new_version=VERSIONS,
    stage=st.sampled_from(["1", "2", "3", "watch", "proved", "unproven", "rolled-back", "held"]),
    since=MOMENTS,
    stage_ages_s=st.lists(st.integers(1, 24 * 3600), max_size=5).map(tuple),
    rejected_versions=st.lists(VERSIONS, max_size=REJECTED_KEPT, unique=True).map(tuple),
    fallback_version=st.one_of(st.just(""), VERSIONS),
    probe=st.booleans(),
    note=st.text(max_size=300),
    accepted=st.lists(st.sampled_from(["errors", "latency", "sales-2"]), max_size=2, unique=True).map(tuple),
)


def test_a_record_is_compact_and_reads_as_contracted() -> None:
    """The JSON has the promised keys, nothing empty, and no blanks."""
    assert RECORD.encode() == (
        '{"v":1,"run":"7f3a","from":"41","to":"42","stage":"1","since":"2026-11-22T03:12:00Z",'
        '"bad":["40"],"prev":"39","note":"release of March"}'
    )


@given(RECORDS)
@example(replace(RECORD, note="\N{PILE OF POO}" * 300))
@example(replace(RECORD, note='"\\' * 300))
def test_a_record_fits_and_survives(record: RolloutState) -> None:
    """At most 256 characters for any note; what comes back is what was written, but for the end of a long note."""
    text = record.encode()
    assert len(text) <= RECORD_LIMIT
    found = decode_rollout_state(text)
    assert found is not None and replace(found, note="") == replace(record, note="")
    assert record.note.startswith(found.note)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=12))
def test_a_share_comes_back_as_it_was_written(parts: list[int]) -> None:
    """To the last bit: a resumed run judges by the same weights."""
    shares = [part / 10_000 for part in parts]
    record = replace(RECORD, stage_ages_s=tuple(range(len(parts) - 1)))
    for share in shares:
        record = record.with_share(share)
    assert list(record.shares) == shares


def test_where_there_is_no_room_a_resumed_run_asks_again() -> None:
    """What a person accepted gives way to the weights of the stages, by which a resumed run judges."""
    fits = replace(RECORD, stage_ages_s=(3600,), shares_percent=(10, 50), note="", accepted=("latency", "errors"))
    assert decode_rollout_state(fits.encode()) == fits
    full = replace(fits, stage_ages_s=tuple(range(10_000, 10_014)), shares_percent=tuple(range(1, 16)))
    assert decode_rollout_state(full.encode()) == replace(full, accepted=())


@given(RECORDS)
def test_only_as_much_of_a_note_is_cut_as_must_be(record: RolloutState) -> None:
    """A note that fits is kept whole, and one that does not loses no more than its end."""
    found = decode_rollout_state(record.encode())
    assert found is not None
    if found.note != record.note:
        more = record.note[: len(found.note) + 1]
        assert len(json.dumps(json.loads(record.encode()) | {"note": more}, separators=(",", ":"))) > RECORD_LIMIT


@given(RECORDS, st.lists(VERSIONS, max_size=6))
def test_only_the_newest_three_bad_versions_are_kept(record: RolloutState, versions: list[str]) -> None:
    """The newest is always there, none is there twice, and there are never more than three."""
    for version in versions:
        record = record.with_rejected(version)
        assert record.rejected_versions[-1] == version
    assert len(record.rejected_versions) <= REJECTED_KEPT and len(set(record.rejected_versions)) == len(
        record.rejected_versions
    )


def test_every_policy_that_is_allowed_fits_into_the_description() -> None:
    """However many stages a policy may have, the record of its last one fits, or a rollout would fail half-way."""
    for count in range(2, 100):
        stages = [*(float(each) for each in range(1, count)), 100.0]
        try:
            settings.validate_settings(
                {"function": "f", "rollout": {"stages_percent": stages, "bake_minutes": 60}}, "test"
            )
        except InvalidInput:
            continue
        ago = tuple(3600 * each for each in range(count - 1, 0, -1))
        last = RolloutState(
            "7f3a", "1041", "1042", str(count), "2026-11-22T03:12:00Z", ago, ("1038", "1039", "1040"), "1037", True
        )
        assert len(last.encode()) <= RECORD_LIMIT, f"{count} stages need {len(last.encode())} characters"


@given(st.text())
@example("")
@example("release of March, by hand")
@example("[" * 256)
@example("null")
@example("1")
@example('"v"')
def test_text_that_is_not_ours_means_no_rollout_known(text: str) -> None:
    """A person's Description is never an error and never a record."""
    assert decode_rollout_state(text) is None


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(JSON)
def test_json_that_is_not_ours_means_no_rollout_known(values: Any) -> None:
    """Somebody else's JSON is never an error and never a record."""
    assert decode_rollout_state(json.dumps(values)) is None


@given(st.dictionaries(st.sampled_from([*OURS, "ago", "bad", "ok", "prev", "probe", "note", "other"]), JSON))
@example({"ago": [float("inf")]})
@example({"ago": "12"})
@example({"bad": 7})
@example({"stage": "²"})
def test_what_is_almost_ours_is_never_an_error(changes: dict[str, Any]) -> None:
    """A record with any of its values changed by hand is a record that can be used, or none."""
    found = decode_rollout_state(json.dumps(OURS | changes))
    if found is not None:
        assert not found.open or found.stage == "watch" or int(found.stage) >= 0
        datetime.fromisoformat(found.since)
        assert decode_rollout_state(found.encode()) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"from": 41},
        {"to": None},
        {"stage": 1},
        {"since": "yesterday"},
        {"since": ""},
        {"ago": ["soon"]},
        {"bad": 40},
        {"probe": "yes"},
        {"surprise": 1},
    ],
)
def test_a_damaged_record_means_no_rollout_known(changes: dict[str, Any]) -> None:
    """Another format's number, a wrong type, a key that we never write or a moment that is none: not a record."""
    assert decode_rollout_state(json.dumps(OURS)) is not None
    assert decode_rollout_state(json.dumps(OURS | changes)) is None


@pytest.mark.parametrize("missing", sorted(set(OURS) - {"from"}))
def test_a_record_without_one_of_its_parts_means_no_rollout_known(missing: str) -> None:
    """Every promised key must be there, but for the version before a first deployment, of which there was none."""
    assert decode_rollout_state(json.dumps({key: value for key, value in OURS.items() if key != missing})) is None


@pytest.mark.parametrize(
    ("stage", "is_open"),
    [
        ("1", True),
        ("12", True),
        ("watch", True),
        ("proved", False),
        ("unproven", False),
        ("rolled-back", False),
        ("held", False),
    ],
)
def test_a_rollout_is_under_way_until_it_ended(stage: str, is_open: bool) -> None:
    """Numbered stages and the watch are under way; every ending is not."""
    assert replace(RECORD, stage=stage).open is is_open
