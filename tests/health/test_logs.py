"""The function's log in every group and format: cold starts, error lines, durations of smoke tests, what doctor says."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from buddy_ops.aws import function_log, permissions
from buddy_ops.aws.function_log import LogConfig
from buddy_ops.checks import setup
from buddy_ops.checks.findings import CheckContext, State
from buddy_ops.core.errors import AwsFailed, NotFound
from buddy_ops.deployment import smoke_tests
from buddy_ops.health import logs
from buddy_ops.incidents import error_lines
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES, FaultProfile
from tests.conftest import Situation, sampled

Bring = Callable[..., Situation]
REQUEST = "459921b5-681c-4a96-beb0-81e0aa586026"
GROUP = "/skills/shared"
FORMATS: list[dict[str, Any]] = [
    {},
    {"log_group": GROUP},
    {"log_format": "JSON"},
    {"log_group": GROUP, "log_format": "JSON"},
]


def report(**metrics: float) -> str:
    """A report of a JSON log. Source: Telemetry API event schema reference, platform.report."""
    record = {"requestId": REQUEST, "metrics": {"billedDurationMs": 2600, **metrics}, "status": "success"}
    return json.dumps({"time": "2022-10-21T14:05:05.766Z", "type": "platform.report", "record": record})


@pytest.mark.parametrize(
    ("tail", "seconds"),
    [
        (f"END RequestId: {REQUEST}\nREPORT RequestId: {REQUEST}\tDuration: 9200.00 ms\tBilled Duration: 9200 ms", 9.2),
        (f"REPORT RequestId: {REQUEST}\tDuration: 100.00 ms\tBilled Duration: 1 ms\tInit Duration: 250.00 ms", 0.35),
        (f"REPORT RequestId: {REQUEST}\tDuration: 100.00 ms\tRestore Duration: 500.00 ms\tBilled Restore Duration: 9 ms", 0.6),
        (report(durationMs=9200.0), 9.2),
        (report(durationMs=100.0, initDurationMs=250.0), 0.35),
        (report(durationMs=100.0, restoreDurationMs=500.0), 0.6),
        (f"{report(durationMs=1.0)}\n{report(durationMs=9200.0)}", 9.2),
        (f"REPORT RequestId: x\tDuration: 1.00 ms\n{report(durationMs=9200.0)}", 9.2),
        ("", None),
        ("nothing but text", None),
        ("REPORT of the year\n{}\n[]\nnull\n7", None),
        ('{"type": "platform.report", "record": {"metrics": null}}', None),
        ('{"type": "platform.report", "record": {"metrics": {"durationMs": "soon"}}}', None),
    ],
)  # fmt: skip
def test_duration_is_read_in_both_formats(tail: str, seconds: float | None) -> None:
    """The last report counts, with a cold start or a restored snapshot; without a report it is unknown, never 0."""
    found = function_log.reported_s(tail)
    assert found == (None if seconds is None else pytest.approx(seconds))


def publish(here: Situation, profile: FaultProfile, **config: Any) -> str:
    """One more version of this build and configuration, without traffic; its number."""
    lam = here.client("lambda")
    lam.update_function_configuration(FunctionName=here.function, **{"Timeout": 20, **config})
    here.ask("advance", seconds=60)
    return here.publish(str(builds.write(here.folder / f"{profile.name}.zip", profile, "2.0.0")))


def split(here: Situation, version: str) -> None:
    """Half of the traffic to a version."""
    routing = {"AdditionalVersionWeights": {version: 0.5}}
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", RoutingConfig=routing)


@pytest.mark.parametrize("chosen", sampled(FORMATS, slice(None, None, 2)))
def test_slow_build_fails_its_smoke_tests_whatever_the_log(situation: Bring, chosen: dict[str, Any]) -> None:
    """An answer after 9.2 s is over Alexa's limit in a text log and in a JSON log alike."""
    here = situation("good", history_minutes=0, requests_per_minute=0, **chosen)
    version = publish(here, FaultProfile("late", slow_rate=1.0, slow_ms=9200.0))
    results = smoke_tests.run_smoke_tests(here.connect(), version)
    assert {each.trouble for each in results} == {"it took 9.2 s (limit 8 s)"}


def test_smoke_tests_say_that_a_duration_is_unknown(situation: Bring) -> None:
    """Without Lambda's report no duration is known: the test fails, and says what to set; after that it passes."""
    here = situation("good", history_minutes=0, requests_per_minute=0, log_format="JSON", system_log_level="WARN")
    target = here.connect()
    silent = publish(here, PROFILES["good"])
    for result in smoke_tests.run_smoke_tests(target, silent):
        assert result.trouble is not None
        assert result.trouble.startswith("its duration is unknown") and "SystemLogLevel" in result.trouble
    (log,) = [each for each in setup.run_doctor(target, "deployer") if each.check == "log group"]
    assert log.state is State.WARNING and "SystemLogLevel WARN" in log.message and "SystemLogLevel" in log.remedy
    with pytest.raises(AwsFailed, match="reports-not-logged"):
        logs.read_cold_starts(target, target.clock.now() - timedelta(minutes=5), target.clock.now())
    heard = publish(here, PROFILES["good"], LoggingConfig={"LogFormat": "JSON", "SystemLogLevel": "INFO"})
    assert all(each.trouble is None for each in smoke_tests.run_smoke_tests(target, heard))


@pytest.mark.parametrize("chosen", sampled(FORMATS, slice(None, None, 2)))
def test_cold_starts_are_read_whatever_the_log(situation: Bring, chosen: dict[str, Any]) -> None:
    """The same requests give the same cold starts in each group and format, and the doctor finds the group."""
    here = situation("good", history_minutes=5, requests_per_minute=60, **chosen)
    target = here.connect()
    split(here, publish(here, PROFILES["cold_starts"]))
    here.ask("advance", seconds=600)
    now = target.clock.now()
    found = logs.read_cold_starts(target, now - timedelta(minutes=30), now)
    assert [(each.version, each.cold) for each in found] == [("1", 1), ("2", 1)]
    assert all(each.invocations > 200 for each in found)
    assert [each.p95_init_ms for each in found] == [650.0, 2600.0] and found[1].is_slow
    (log,) = [each for each in setup.run_doctor(target, "deployer") if each.check == "log group"]
    assert log.state is State.OK and chosen.get("log_group", f"/aws/lambda/{here.function}") in log.message
    assert ("JSON" in log.message) == ("log_format" in chosen)


def test_each_version_is_read_in_its_own_log(situation: Bring) -> None:
    """v1 logs text to the usual group, v2 JSON to another one, which other functions share."""
    here = situation("good", history_minutes=5, requests_per_minute=60)
    target = here.connect()
    version = publish(here, PROFILES["errors_5_percent"], LoggingConfig={"LogFormat": "JSON", "LogGroup": GROUP})
    split(here, version)
    here.ask("advance", seconds=600)
    here.client("logs").create_log_stream(logGroupName=GROUP, logStreamName="2026/11/02/another[2]1")
    now = target.clock.now()
    lines = [report(durationMs=1.0, initDurationMs=9000.0), '{"log_level": "ERROR", "errorType": "Foreign"}']
    events = [{"timestamp": int(now.timestamp() * 1000) - 60_000, "message": line} for line in lines]
    here.client("logs").put_log_events(logGroupName=GROUP, logStreamName="2026/11/02/another[2]1", logEvents=events)
    here.ask("advance", seconds=60)
    now = target.clock.now()
    first, second = logs.read_cold_starts(target, now - timedelta(minutes=30), now)
    assert (first.version, second.version) == ("1", "2") and first.invocations > 200 and second.invocations > 200
    assert second.cold == 1 and not second.is_slow
    kinds, unread = error_lines.read_error_kinds(target, "2", now - timedelta(minutes=30), lambda _: None)
    assert [kind.name for kind in kinds] == ["InjectedError"] and unread == ""


@pytest.mark.parametrize("profile", ["errors_5_percent", "timeouts", "apologises_5_percent"])
def test_error_lines_are_the_same_in_both_formats(situation: Bring, profile: str) -> None:
    """A failed request is one line of the same kind, as text and as JSON."""
    found = []
    for chosen in (FORMATS[0], FORMATS[-1]):
        here = situation("good", stable=profile, history_minutes=4, **chosen)
        target = here.connect()
        since = target.clock.now() - timedelta(minutes=30)
        kinds, unread = error_lines.read_error_kinds(target, "1", since, lambda _: None)
        found.append([(kind.name, kind.lines) for kind in kinds])
        assert unread == ""
    assert found[0] and found[0] == found[1]


def test_group_that_does_not_exist_yet_hides_no_other(situation: Bring) -> None:
    """A version that has logged nothing has no group on AWS; where no group exists, that is what is said."""
    here = situation("good", history_minutes=5, requests_per_minute=60)
    target = here.connect()
    now = target.clock.now()
    window = (now - timedelta(minutes=5), now - timedelta(minutes=1))
    query = f"{logs.OWN_LINES}| stats count(*) as lines by version"
    usual = f"/aws/lambda/{here.function}"
    assert logs.query_log(target, query, *window, groups=["/none", usual]) == logs.query_log(target, query, *window)
    with pytest.raises(NotFound):
        logs.query_log(target, query, *window, groups=["/none"])
    assert logs.read_log_configs(target, ["7"]) == {"7": LogConfig(usual)}


def test_log_of_latest_is_read_where_no_version_serves(situation: Bring) -> None:
    """Without an alias, and with one that points at $LATEST, the log is the one that $LATEST writes."""
    here = situation("first_deployment", log_group=GROUP, log_format="JSON", requests_per_minute=0)
    target = here.connect()
    assert logs.served_versions(target) == ("$LATEST",)
    here.client("lambda").create_alias(FunctionName=here.function, Name="live", FunctionVersion="$LATEST")
    assert logs.served_versions(target) == ("$LATEST",)
    here.client("lambda").invoke(FunctionName=here.function, Payload=b'{"request": {"type": "LaunchRequest"}}')
    here.ask("advance", seconds=60)
    now = target.clock.now()
    (found,) = logs.read_cold_starts(target, now - timedelta(minutes=5), now)
    assert (found.version, found.invocations, found.cold) == ("$LATEST", 1, 1)


def test_role_may_read_the_functions_own_log_group(situation: Bring) -> None:
    """The doctor compares the caller with the template's grant for another log group than the usual one."""
    here = situation("good", history_minutes=0, log_group=GROUP)
    target = here.connect()
    context = CheckContext(target, "reader")
    where = context.arn_fields
    needed = permissions.required_actions("reader", "sandbox", target.settings, where)
    granted = [resource for resource in needed if ":log-group:" in resource]
    prefix = f"arn:aws:logs:us-east-1:{where['account']}:log-group:"
    assert granted == [f"{prefix}/aws/lambda/{here.function}:*", f"{prefix}{GROUP}:*"]
