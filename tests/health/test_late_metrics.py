"""CloudWatch publishes late: silence holds a rollout and never passes it, unless the alias is known to be idle."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from buddy_ops.aws.aliases import decode_rollout_state
from buddy_ops.core.errors import Refused
from buddy_ops.core.outcome import Outcome
from buddy_ops.deployment import rollout
from buddy_ops.health import lateness, metrics
from buddy_ops.health.counts import Counts
from buddy_ops.health.evidence import RolloutEvidence
from buddy_ops.health.metrics import MINUTE, MetricsReading, MinuteRow
from tests.conftest import Situation, drive, intercept, sampled

Bring = Callable[..., Situation]


def ship_and_delay(
    here: Situation, profile: str, strategy: str, delay_s: float, back_to_s: float | None = None
) -> Outcome:
    """A rollout during which CloudWatch becomes late once the new version has traffic, and recovers 5 min later."""
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["rollout"]["smoke_tested"] = []  # a smoke test would find what fails every request before any traffic
    mine = here.connect(values=values)
    plan = rollout.plan_rollout(mine, here.build(profile), strategy)
    late_since = None

    def delay(seen: rollout.Observation) -> None:
        nonlocal late_since
        now = mine.clock.now()
        if late_since is None and seen.weight:
            here.ask("set", metrics_delay_s=delay_s)
            late_since = now
        elif back_to_s is not None and late_since is not None and now - late_since >= 5 * MINUTE:
            here.ask("set", metrics_delay_s=back_to_s)

    return drive(mine, plan, delay)


FAILING = itertools.product(("canary", "all_at_once"), (240, 600, 900), (60, 600))
FAILING_DAILY = {("all_at_once", 600, 60)}


@pytest.mark.parametrize(("strategy", "delay_s", "requests_per_minute"), sampled(FAILING, FAILING_DAILY))
def test_a_build_that_fails_every_request_never_passes(
    situation: Bring, strategy: str, delay_s: float, requests_per_minute: float
) -> None:
    """Whichever strategy ships it and however late CloudWatch becomes, stable serves alone at the end."""
    here = situation("good", requests_per_minute=requests_per_minute)
    outcome = ship_and_delay(here, "total_failure", strategy, delay_s)
    assert outcome.ending in ("held", "rolled-back") and outcome.exit_code in (3, 5)
    assert here.alias()["FunctionVersion"] == "1" and "RoutingConfig" not in here.alias()


@pytest.mark.parametrize("delay_s", sampled([360, 600], {360}))
def test_a_rollout_does_not_begin_while_cloudwatch_is_late(situation: Bring, delay_s: float) -> None:
    """Metrics that are late before the first split are metrics that cannot be read: nothing is shifted."""
    here = situation("total_failure", metrics_delay_s=delay_s)
    before = here.alias()["RevisionId"]
    with pytest.raises(Refused, match="metrics-unreadable") as refused:
        here.ship(here.build("total_failure"))
    assert "CloudWatch is late" in refused.value.what and "requests per minute" in refused.value.what
    assert refused.value.exit_code == 5
    assert here.alias()["RevisionId"] == before


def test_silence_ends_held_and_blames_nobody(situation: Bring) -> None:
    """Past ``unreadable_minutes`` a good build's traffic goes back, exit code 5, with a sentence that names the lag."""
    here = situation("good")
    outcome = ship_and_delay(here, "good", "canary", 900)
    assert (outcome.ending, outcome.exit_code, outcome.stage) == ("held", 5, "1")
    assert "could not be read for 15 min" in outcome.reasons[0] and "CloudWatch is late" in outcome.reasons[0]
    record = decode_rollout_state(here.alias()["Description"])
    assert record is not None and record.rejected_versions == ()


def test_late_minutes_are_judged_when_they_arrive(situation: Bring) -> None:
    """A lag of a few minutes costs time, and no minute: a good build is proved by the same requests."""
    here = situation("good")
    outcome = ship_and_delay(here, "good", "canary", 360, back_to_s=60)
    assert outcome.ending == "proved"
    mine = here.connect()
    asked = metrics.read_minutes(mine, ("1", "2"), lambda _: "2", outcome.began.replace(second=0), outcome.ended).rows
    assert sum(row.counts["2"].requests for row in asked) >= outcome.requests["2"] > 0
    unread = [row for row in asked if row.at < outcome.ended - 3 * MINUTE]
    assert sum(row.counts["2"].requests for row in unread[:20]) <= outcome.requests["2"]
    mine.close()


@pytest.mark.parametrize(
    ("delay_s", "requests_per_minute"),
    sampled(itertools.product((0, 60, 120), (6, 60, 600)), {(120, 60)}),
)
def test_the_usual_delay_stops_nobody(situation: Bring, delay_s: float, requests_per_minute: float) -> None:
    """Up to ``late_data_s`` of delay a good build is promoted, at any traffic."""
    here = situation("good", metrics_delay_s=delay_s, requests_per_minute=requests_per_minute)
    outcome = here.ship(here.build("good"))
    assert outcome.ending in ("proved", "unproven") and outcome.exit_code == 0
    assert here.alias()["FunctionVersion"] == "2"


@pytest.mark.parametrize("requests_per_minute", sampled([0, 0.02, 0.1, 1], {0}))
def test_thin_traffic_passes_by_time(situation: Bring, requests_per_minute: float) -> None:
    """An idle function, or one that is called once in ten minutes, is not held: its health stays unproven."""
    here = situation("good", requests_per_minute=requests_per_minute)
    outcome = here.ship(here.build("good"))
    assert (outcome.ending, outcome.exit_code) == ("unproven", 0)


# One minute after the other, from a CloudWatch of our own


class Published:
    """A CloudWatch that answers with the minutes put into it, and with silence for all others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.minutes: dict[Any, MinuteRow] = {}
        monkeypatch.setattr(metrics, "read_minutes", self.read)

    def read(
        self, _target: Any, versions: tuple[str, ...], _serving: Any, since: Any, until: Any, bounds_ms: Any = None
    ) -> MetricsReading:
        nothing = dict.fromkeys(versions, Counts())
        moments = [since + MINUTE * index for index in range(int((until - since) / MINUTE))]
        return MetricsReading(tuple(self.minutes.get(at, MinuteRow(at, nothing)) for at in moments))

    def put(self, at: Any, stable: int, new: int = 0) -> None:
        self.minutes[at] = MinuteRow(at, {"1": Counts(stable), "2": Counts(new)})


def begin(here: Situation, published: Published, rate: int, minutes: int = 60) -> tuple[RolloutEvidence, Any]:
    """Evidence of a canary at 10 % that was shifted now, after an hour of traffic; and now, at a whole minute."""
    mine = here.connect()
    now = mine.clock.now().replace(second=0, microsecond=0)
    for index in range(1, minutes + 1):
        published.put(now - index * MINUTE, rate)
    found = RolloutEvidence(mine, "1", "2")
    found.shifted(now, 0.1)
    assert found.read(now + 2 * MINUTE) is None
    return found, now


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Published:
    return Published(monkeypatch)


def test_the_other_versions_requests_are_a_witness(two_versions: Situation, published: Published) -> None:
    """At 30 requests per minute, 10 % of them may well be none: where stable's are published, the zero is believed."""
    found, now = begin(two_versions, published, 30)
    published.put(now, 30)
    assert found.read(now + 3 * MINUTE) is None and found.rows[-1].at == now


def test_one_version_alone_may_be_late(two_versions: Situation, published: Published) -> None:
    """Where stable's requests tell that the new version must have some, its silence is a lag; it is judged later."""
    found, now = begin(two_versions, published, 600)
    for index in range(4):
        published.put(now + index * MINUTE, 540, 60 if index < 2 else 0)
    trouble = found.read(now + 6 * MINUTE)
    assert trouble is not None and "CloudWatch is late" in trouble
    assert all(row.at < now + 2 * MINUTE for row in found.rows)
    for index in range(2, 4):
        published.put(now + index * MINUTE, 540, 60)
    assert found.read(now + 6 * MINUTE) is None
    assert sum(row.counts["2"].requests for row in found.rows) == 240


def test_silence_of_one_version_adds_up(two_versions: Situation, published: Published) -> None:
    """At 30 requests per minute one minute without the new version is chance; five in a row are not."""
    found, now = begin(two_versions, published, 30)
    told = []
    for index in range(6):
        published.put(now + index * MINUTE, 30)
        told.append(found.read(now + (index + 3) * MINUTE))
    assert told[0] is None and told[-1] is not None


def test_a_hole_is_believed_once_later_minutes_are_there(two_versions: Situation, published: Published) -> None:
    """A minute that never comes stops a rollout for a few minutes, not for ever."""
    found, now = begin(two_versions, published, 600)
    told = []
    for index in range(1, 8):
        published.put(now + index * MINUTE, 540, 60)
        told.append(found.read(now + (index + 3) * MINUTE))
    assert told[0] is not None and told[-1] is None and len(found.rows[-8:]) == 8


NIGHT = [(0, 1), (1, 0), (2, 0), (3, 0), (1, 2), (0, 0), (2, 0), (0, 0), (2, 0), (1, 0), (0, 1), (3, 1), (2, 0), (0, 0)]


def test_a_night_is_no_lag(two_versions: Situation, published: Published) -> None:
    """Traffic that falls to two requests a minute stays readable, also where a minute has none, or of one version only."""
    found, now = begin(two_versions, published, 600)
    for index, (stable, new) in enumerate([(540, 60)] * 3 + NIGHT + NIGHT):
        if stable or new:
            published.put(now + index * MINUTE, stable, new)
        found.read(now + (index + 3) * MINUTE)
        assert found.is_readable, (index, found.lateness.trouble(now + (index + 3) * MINUTE, None))
    assert found.rows[-1].at >= now + (index - 4) * MINUTE


def test_an_alias_that_was_idle_for_an_hour_is_idle(two_versions: Situation, published: Published) -> None:
    """Silence after traffic in the last hour is unknown; once the alias had none for an hour it is no traffic."""
    found, now = begin(two_versions, published, 600)
    assert found.read(now + 10 * MINUTE) is not None
    idle = RolloutEvidence(found._target, "1", "2")
    idle.shifted(now + timedelta(hours=5), 0.1)
    assert idle.read(now + timedelta(hours=5, minutes=10)) is None


def test_a_minute_without_all_of_its_metrics_is_unknown(two_versions: Situation, published: Published) -> None:
    """Requests without their errors or durations are published in part: they wait until the rest is there."""
    found, now = begin(two_versions, published, 600)
    published.put(now, 540, 60)
    whole = published.minutes[now]
    partly = {version: replace(counts, unknown=frozenset(["errors"])) for version, counts in whole.counts.items()}
    published.minutes[now] = replace(whole, counts=partly)
    assert found.read(now + 3 * MINUTE) is not None and found.rows[-1].at < now
    published.minutes[now] = whole
    assert found.read(now + 3 * MINUTE) is None and found.rows[-1] == whole


def test_all_of_lambdas_metrics_make_a_minute_complete(situation: Bring) -> None:
    """The sandbox, like Lambda, gives Invocations, Errors and Duration for every minute; without one it is incomplete."""
    here = situation("good", history_minutes=10)
    mine = here.connect()
    until = mine.clock.now().replace(second=0, microsecond=0) - 2 * MINUTE

    def without_duration(send: Any, service: str, operation: str, **fields: Any) -> dict[str, Any]:
        reply = send(service, operation, **fields)
        for result in reply.get("MetricDataResults", ()):
            if result["Id"].startswith("p99"):
                result["Timestamps"], result["Values"] = [], []
        return reply

    rows = metrics.read_minutes(mine, ("1",), lambda _: "1", until - 5 * MINUTE, until).rows
    assert rows and not any(row.incomplete for row in rows)
    intercept(mine, without_duration)
    rows = metrics.read_minutes(mine, ("1",), lambda _: "1", until - 5 * MINUTE, until).rows
    assert rows and all(row.incomplete for row in rows)


def test_the_limits_say_what_they_are() -> None:
    """Seven expected requests are none by chance in less than one case of a thousand."""
    from math import exp

    assert exp(-lateness.IMPLAUSIBLE_REQUESTS) < 0.001
