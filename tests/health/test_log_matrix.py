"""Every reader of the function's log, in each format and group: what is there is found, and what is not is unknown.

Cold starts in a rollout are in test_cold_starts.py, minutes of an unknown version in test_serving.py.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from buddy_ops.checks import setup, status
from buddy_ops.checks.findings import Finding, State
from buddy_ops.deployment import smoke_tests
from buddy_ops.health import logs, monitor
from buddy_ops.incidents import error_lines
from tests.conftest import Situation

Bring = Callable[..., Situation]
JSON = {"log_format": "JSON"}
FORMATS: dict[str, dict[str, Any]] = {
    "text": {},
    "JSON": JSON,
    "JSON without reports": JSON | {"system_log_level": "WARN"},
}
GROUPS: dict[str, dict[str, Any]] = {"default group": {}, "own group": {"log_group": "/skills/shared"}}
SAMPLE = (("text", "default group"), ("JSON", "own group"), ("JSON without reports", "own group"))
MATRIX = [
    pytest.param(chosen | group, id=f"{kind}, {where}", marks=[] if (kind, where) in SAMPLE else [pytest.mark.whole])
    for kind, chosen in FORMATS.items()
    for where, group in GROUPS.items()
]
SILENT = "has no reports of successful requests (SystemLogLevel WARN)"


@pytest.mark.parametrize("chosen", MATRIX)
def test_every_reader_of_the_log(situation: Bring, chosen: dict[str, Any]) -> None:
    """Cold starts, durations and requests come from reports; without them they are unknown, never 0 or healthy."""
    here = situation("good", stable="errors_5_percent", history_minutes=5, requests_per_minute=60, **chosen)
    version = here.publish(here.build("good"))
    target = here.connect()
    now = target.clock.now()
    since = now - timedelta(minutes=10)
    reports = "system_log_level" not in chosen

    starts = logs.describe_cold_starts(target, since, now)
    page = monitor.read_window(target, 10)
    cold = found(status.read_status(target).findings, "cold starts")
    again = monitor.read_window(target, 10, before=page)
    assert (starts.trouble is None, again.cold_starts_trouble is None) == (reports, reports)
    assert ("v1 unknown" in str(again)) != reports
    if reports:
        assert [(each.version, each.cold) for each in starts.found] == [("1", 1)]
        assert cold.state is State.OK and "1 cold start" in cold.message
    else:
        assert SILENT in str(starts.trouble) and SILENT in str(again)
        assert cold.state is State.UNKNOWN and SILENT in cold.message

    for result in smoke_tests.run_smoke_tests(target, version):
        assert (result.trouble is None) == reports and (reports or "its duration is unknown" in str(result.trouble))

    kinds, unread = error_lines.read_error_kinds(target, "1", since, lambda _: None)
    assert [kind.name for kind in kinds] == ["InjectedError"] and unread == ""

    doctor = list(setup.run_doctor(target, "deployer"))
    group = found(doctor, "log group")
    feed = found(doctor, "log feed")
    assert group.state is (State.OK if reports else State.WARNING)
    where = chosen.get("log_group", f"/aws/lambda/{here.function}")
    is_json = group.message == f"{where} (JSON)"
    assert is_json == (reports and "log_format" in chosen)
    if is_json:
        assert feed.state is State.OK and feed.message.startswith(f"a rollout reads {where} every 10 s")
    else:
        assert feed.state is State.INFO and "CloudWatch's minutes" in feed.message and feed.remedy

    late(here)
    traffic = found(status.read_status(target).findings, "traffic")
    assert traffic.state is State.UNKNOWN
    said = "the function's log has" if reports else "log does not say whether CloudWatch is only late"
    assert said in traffic.message


def test_error_lines_that_are_not_logged(situation: Bring) -> None:
    """With ApplicationLogLevel FATAL no error line is logged: that there are none is no finding, and doctor warns."""
    here = situation("good", history_minutes=0, requests_per_minute=0, log_format="JSON")
    here.client("lambda").update_function_configuration(
        FunctionName=here.function, LoggingConfig={"LogFormat": "JSON", "ApplicationLogLevel": "FATAL"}
    )
    here.ask("advance", seconds=60)
    version = here.publish(here.build("total_failure"))
    target = here.connect()
    since = target.clock.now() - timedelta(minutes=10)
    here.client("lambda").invoke(FunctionName=here.function, Qualifier=version, Payload=b"{}")
    here.ask("advance", seconds=60)
    kinds, unread = error_lines.read_error_kinds(target, version, since, lambda _: None)
    assert "ApplicationLogLevel FATAL" in unread
    assert [kind.name for kind in kinds] == ["InjectedError"], "Lambda's report of the failure is there"
    group = found(setup.run_doctor(target, "deployer"), "log group")
    assert group.state is State.WARNING and "$LATEST: no error lines" in group.message


def found(findings: Any, check: str) -> Finding:
    (own,) = [each for each in findings if each.check == check]
    return own


def late(here: Situation) -> None:
    """CloudWatch falls an hour behind, while requests go on."""
    here.ask("set", metrics_delay_s=3600)
    here.ask("advance", seconds=1800)
