"""Invoke on the sandbox: it really runs the build's handler, and tells of it what Lambda would."""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError
from lambda_serving import Served, create, package, serve

from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES, FaultProfile

LAUNCH: dict[str, Any] = {
    "version": "1.0",
    "session": {"new": True, "sessionId": "s", "application": {"applicationId": "skill"}, "user": {"userId": "smoke"}},
    "context": {"System": {"application": {"applicationId": "skill"}}},
    "request": {"type": "LaunchRequest", "requestId": "r", "timestamp": "2026-11-22T03:00:00Z", "locale": "en-US"},
}


@pytest.fixture
def served() -> Iterator[Served]:
    """A Lambda of the test's own."""
    with serve() as served:
        yield served


def put(served: Served, source: str, name: str = "f", **config: Any) -> str:
    """Deploy a module as ``app.py`` and give its version."""
    return served.deploy(name, package(source), **config)


def invoke(served: Served, name: str = "f", payload: Any = None, **more: Any) -> tuple[Any, dict[str, Any]]:
    """(decoded payload, response) of an invocation."""
    response = served.lam.invoke(FunctionName=name, Payload=json.dumps(payload), **more)
    return json.loads(response["Payload"].read() or b"null"), response


def intent(name: str, **slots: str) -> dict[str, Any]:
    """An Alexa request for an intent."""
    filled = {slot: {"name": slot, "value": value} for slot, value in slots.items()}
    request = {**LAUNCH["request"], "type": "IntentRequest", "intent": {"name": name, "slots": filled}}
    return {**LAUNCH, "request": request}


def speech(answer: dict[str, Any]) -> str:
    """What an answer says."""
    return str(answer["response"]["outputSpeech"]["ssml"])


# Which version runs


def test_a_split_alias_draws_by_weight_and_seed() -> None:
    """A quarter of the requests go to the second version, the same ones for the same seed, and each says which."""

    def run() -> list[str]:
        with serve(seed=7) as served:
            for number in "ab":
                put(served, f"def handler(event, context): return '{number}' + context.function_version")
            served.lam.create_alias(
                FunctionName="f",
                Name="live",
                FunctionVersion="1",
                RoutingConfig={"AdditionalVersionWeights": {"2": 0.25}},
            )
            executed = []
            for _ in range(200):
                answer, response = invoke(served, Qualifier="live")
                assert answer == {"1": "a1", "2": "b2"}[response["ExecutedVersion"]]
                executed.append(response["ExecutedVersion"])
            assert [each["resource"] for each in served.telemetry.invocations] == ["f:live"] * 200
            assert [each["version"] for each in served.telemetry.invocations] == executed
            return executed

    first = run()
    assert 30 <= Counter(first)["2"] <= 70
    assert run() == first


def test_a_version_alias_or_arn_may_be_named(served: Served) -> None:
    """The context's ARN carries the qualifier as invoked; function_version is what runs."""
    put(served, "def handler(event, context): return [context.invoked_function_arn, context.function_version]")
    served.lam.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    arn = "arn:aws:lambda:us-east-1:123456789012:function:f"
    assert invoke(served)[0] == [arn, "$LATEST"]
    assert invoke(served, Qualifier="1")[0] == [f"{arn}:1", "1"]
    assert invoke(served, Qualifier="live")[0] == [f"{arn}:live", "1"]
    assert invoke(served, name=f"{arn}:live")[0] == [f"{arn}:live", "1"]
    assert [each["resource"] for each in served.telemetry.invocations] == ["f", "f:1", "f:live", "f:live"]


def test_latest_serves_the_old_code_until_an_update_has_settled(served: Served) -> None:
    """Invocations during an update still run the previous code."""
    put(served, "def handler(event, context): return 'old'")
    served.lam.update_function_code(FunctionName="f", ZipFile=package("def handler(event, context): return 'new'"))
    assert invoke(served)[0] == "old"
    served.settle()
    assert invoke(served)[0] == "new"


def test_a_configuration_change_reaches_latest_and_leaves_versions_alone(served: Served) -> None:
    """Variables of $LATEST change in new workers; a published version keeps its own."""
    source = "import os\ndef handler(event, context): return os.environ['COLOUR']"
    put(served, source, Environment={"Variables": {"COLOUR": "red"}})
    assert invoke(served)[0] == "red"
    served.lam.update_function_configuration(FunctionName="f", Environment={"Variables": {"COLOUR": "blue"}})
    served.settle()
    assert (invoke(served)[0], invoke(served, Qualifier="1")[0]) == ("blue", "red")


@pytest.mark.parametrize(("qualifier", "code"), [("9", 404), ("absent", 404)])
def test_unknown_qualifiers_are_not_found(served: Served, qualifier: str, code: int) -> None:
    """Nothing runs for a qualifier that does not exist."""
    put(served, "def handler(event, context): return 1")
    with pytest.raises(ClientError) as refused:
        invoke(served, Qualifier=qualifier)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == code
    assert served.telemetry.invocations == []


def test_a_pending_version_cannot_run_yet(served: Served) -> None:
    """Invoking a version that is still Pending conflicts."""
    create(served.lam, "f", package(), Publish=True)
    with pytest.raises(ClientError, match="currently in the following state: Pending"):
        invoke(served, Qualifier="1")


# What the handler does


def test_an_exception_is_a_function_error(served: Served) -> None:
    """A handler that raises gives 200 with FunctionError, Lambda's payload, and an [ERROR] line; it stays warm."""
    put(served, "def handler(event, context):\n    print('before')\n    raise KeyError('dose')\n")
    payload, response = invoke(served)
    assert (response["StatusCode"], response["FunctionError"], payload["errorType"]) == (200, "Unhandled", "KeyError")
    assert payload["errorMessage"] == "'dose'"
    assert '/var/task/app.py", line 3, in handler' in payload["stackTrace"][0]
    heard = served.telemetry.invocations[0]
    assert (heard["failed"], payload["requestId"]) == (True, heard["request_id"])
    assert heard["lines"][0] == "before"
    assert heard["lines"][1].startswith("[ERROR] KeyError: 'dose'\nTraceback")
    invoke(served)
    assert served.telemetry.invocations[1]["init_ms"] is None


@pytest.mark.parametrize(
    ("source", "handler", "kind", "message"),
    [
        ("import absent", "app.handler", "Runtime.ImportModuleError", "Unable to import module 'app': No module named"),
        ("", "missing.handler", "Runtime.ImportModuleError", "Unable to import module 'missing'"),
        ("", "app.handler", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'app'"),
        ("def handler(", "app.handler", "Runtime.UserCodeSyntaxError", "Syntax error in module 'app'"),
        ("raise ValueError('no table')", "app.handler", "ValueError", "no table"),
        ("def handler(e, c): return {1, 2}", "app.handler", "Runtime.MarshalError", "Unable to marshal response"),
    ],
)
def test_a_build_that_cannot_run_says_why(served: Served, source: str, handler: str, kind: str, message: str) -> None:
    """Import errors, a missing handler and an unserialisable result carry Lambda's own error types."""
    put(served, source, Handler=handler)
    payload, response = invoke(served)
    assert (response["FunctionError"], payload["errorType"]) == ("Unhandled", kind)
    assert message in payload["errorMessage"]


@pytest.mark.parametrize(
    ("code", "said"), [("sys.exit(1)", "exit status 1"), ("os._exit(0)", "without providing a reason")]
)
def test_a_handler_that_ends_the_process_is_an_exit_error(served: Served, code: str, said: str) -> None:
    """Runtime.ExitError, and the next request starts cold again."""
    put(served, f"import os, sys\ndef handler(event, context): {code}")
    payload, _ = invoke(served)
    assert payload["errorType"] == "Runtime.ExitError"
    assert said in payload["errorMessage"]
    invoke(served)
    assert [each["init_ms"] for each in served.telemetry.invocations] == [250.0, 250.0]


def test_sleeping_costs_virtual_time_only(served: Served) -> None:
    """Sleep counts towards the duration and moves the handler's clocks, but no real time passes."""
    source = """
    import datetime, time
    def handler(event, context):
        begun, left = time.time(), context.get_remaining_time_in_millis()
        time.sleep(2.5)
        now = datetime.datetime.now(datetime.UTC).timestamp()
        return [begun, now - begun, left - context.get_remaining_time_in_millis()]
    """
    put(served, "\n".join(line[4:] for line in source.splitlines()))
    payload, _ = invoke(served)
    assert payload == [pytest.approx(served.clock.time), pytest.approx(2.5), 2500]
    assert served.telemetry.invocations[0]["duration_ms"] == 2501.0
    assert served.telemetry.invocations[0]["at"] == served.clock.time


def test_sleeping_past_the_timeout_times_out(served: Served) -> None:
    """A virtual timeout ends the request, though the handler catches every Exception, and the environment with it."""
    source = """
    import time
    def handler(event, context):
        try:
            time.sleep(100)
        except Exception:
            return 'caught'
    """
    put(served, "\n".join(line[4:] for line in source.splitlines()), Timeout=7)
    payload, response = invoke(served)
    assert (response["FunctionError"], payload["errorType"]) == ("Unhandled", "Sandbox.Timedout")
    assert payload["errorMessage"].endswith("Task timed out after 7.00 seconds")
    heard = served.telemetry.invocations[0]
    assert (heard["duration_ms"], heard["failed"]) == (7000.0, True)
    assert heard["lines"][-1].endswith(f"{heard['request_id']} Task timed out after 7.00 seconds")
    invoke(served)
    assert served.telemetry.invocations[1]["init_ms"] is not None


def test_burning_real_time_past_the_timeout_is_killed(served: Served) -> None:
    """A handler that never comes back is killed after Timeout real seconds; what it printed is kept."""
    put(served, "def handler(event, context):\n    print('spinning')\n    while True: pass\n", Timeout=1)
    payload, _ = invoke(served)
    assert payload["errorMessage"].endswith("Task timed out after 1.00 seconds")
    assert served.telemetry.invocations[0]["lines"][0] == "spinning"


def test_the_environment_is_lambdas_and_the_sandboxs(served: Served) -> None:
    """Handlers see Lambda's variables, the sandbox's endpoint, and nothing of whoever runs the sandbox."""
    put(served, "import os\ndef handler(event, context): return dict(os.environ)", MemorySize=256)
    seen, _ = invoke(served, Qualifier="1")
    assert seen["AWS_LAMBDA_FUNCTION_NAME"] == "f"
    assert seen["AWS_LAMBDA_FUNCTION_VERSION"] == "1"
    assert seen["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    assert seen["AWS_ENDPOINT_URL"] == served.lam.meta.endpoint_url
    assert seen["AWS_REGION"] == seen["AWS_DEFAULT_REGION"] == "us-east-1"
    assert "PYTEST_CURRENT_TEST" not in seen


def test_a_handler_may_call_aws_back(served: Served) -> None:
    """No lock is held while a handler runs: it can read, and write, the very function that it belongs to."""
    source = """
    import boto3
    def handler(event, context):
        client = boto3.client('lambda')
        return client.update_alias(FunctionName='f', Name='live', Description='from inside')['Description']
    """
    put(served, "\n".join(line[4:] for line in source.splitlines()), Timeout=60)
    served.lam.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    assert invoke(served, Qualifier="live")[0] == "from inside"


def test_everything_printed_is_logged(served: Served) -> None:
    """Output and errors are the request's log lines, an unfinished last one too; an import's go to the first."""
    source = "import sys\nprint('import')\n"
    source += "def handler(event, context):\n    print('out')\n    print(event, file=sys.stderr, end='')\n"
    put(served, source)
    for number in (1, 2):
        invoke(served, payload=number)
    assert [each["lines"] for each in served.telemetry.invocations] == [["import", "out", "1"], ["out", "2"]]


# How it is invoked


def test_a_tail_is_the_log_with_its_report(served: Served) -> None:
    """LogType Tail gives the last 4 KB of the log: START, lines, END and REPORT, with Init Duration if cold."""
    put(served, "def handler(event, context): print('x' * 5000 if event else 'short')")
    _, response = invoke(served, LogType="Tail")
    start, line, end, report = base64.b64decode(response["LogResult"]).decode().splitlines()
    assert (start.split()[0], line, end.split()[0], report.split()[0]) == ("START", "short", "END", "REPORT")
    assert "Duration: 1.00 ms" in report
    assert "Init Duration: 250.00 ms" in report
    _, response = invoke(served, payload=1, LogType="Tail")
    tail = base64.b64decode(response["LogResult"]).decode()
    assert len(tail) == 4096
    assert "Init Duration" not in tail


def test_no_concurrency_no_invocation(served: Served) -> None:
    """With a reservation of 0 every request is refused with 429 and counted as a throttle, and nothing runs."""
    put(served, "def handler(event, context): return 1")
    served.lam.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    served.lam.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    with pytest.raises(served.lam.exceptions.TooManyRequestsException) as refused:
        invoke(served, Qualifier="live")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert refused.value.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert served.telemetry.throttles == [("f", "f:live", served.clock.time)]
    assert served.telemetry.invocations == []
    served.lam.delete_function_concurrency(FunctionName="f")
    assert invoke(served, Qualifier="live")[0] == 1


def test_an_event_runs_later(served: Served) -> None:
    """InvocationType Event is answered with 202 at once, and runs."""
    put(served, "def handler(event, context): print(event)")
    assert invoke(served, payload="later", InvocationType="Event")[1]["StatusCode"] == 202
    assert served.telemetry.heard.wait(30)
    assert served.telemetry.invocations[0]["lines"] == ["later"]


def test_a_dry_run_runs_nothing(served: Served) -> None:
    """InvocationType DryRun is answered with 204, and nothing runs."""
    put(served, "def handler(event, context): return 1")
    assert invoke(served, InvocationType="DryRun")[1]["StatusCode"] == 204
    assert served.telemetry.invocations == []


def test_a_payload_is_json(served: Served) -> None:
    """A payload that is no JSON is refused; an absent one is an empty event."""
    put(served, "def handler(event, context): return event")
    with pytest.raises(served.lam.exceptions.InvalidRequestContentException):
        served.lam.invoke(FunctionName="f", Payload=b"{")
    assert json.loads(served.lam.invoke(FunctionName="f")["Payload"].read()) == {}


def test_requests_run_side_by_side(served: Served) -> None:
    """Concurrent requests each get their own answer; more of them start more environments."""
    put(served, "def handler(event, context): return event")
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: invoke(served, payload=number)[0], range(40)))
    assert answers == list(range(40))
    cold = [each for each in served.telemetry.invocations if each["init_ms"] is not None]
    assert 1 <= len(cold) <= 8


def test_idle_environments_are_capped() -> None:
    """Beyond the cap, the environment that was used longest ago ends."""
    with serve(idle_workers=1) as served:
        put(served, "def handler(event, context): return 1", name="one")
        put(served, "def handler(event, context): return 2", name="two")
        for name in ("one", "one", "two", "one"):
            invoke(served, name=name)
        assert [each["init_ms"] is None for each in served.telemetry.invocations] == [False, True, False, False]


def test_code_may_come_from_s3() -> None:
    """A package is fetched by bucket, key and version; one that is missing is refused as AWS does."""
    stored = {("builds", "skill.zip", "v1"): package("def handler(event, context): return 's3'")}
    with serve(fetch_s3=lambda bucket, key, version: stored[bucket, key, version]) as served:
        put(served, "def handler(event, context): return 'zip'")
        code = {"FunctionName": "f", "S3Bucket": "builds", "S3ObjectVersion": "v1"}
        with pytest.raises(served.lam.exceptions.InvalidParameterValueException, match="NoSuchKey"):
            served.lam.update_function_code(S3Key="absent.zip", **code)
        served.lam.update_function_code(S3Key="skill.zip", **code)
        served.settle()
        assert invoke(served)[0] == "s3"


# What simulated traffic reads


def test_routing_reads_the_alias(served: Served) -> None:
    """The simulator sees versions, weight, revision and reservation as the control plane has them."""
    for profile in ("good", "errors_5_percent"):
        served.deploy("f", builds.build(PROFILES[profile]), Handler="lambda_function.handler", MemorySize=256)
    assert served.service.routing("f", "live") is None
    routing = {"AdditionalVersionWeights": {"2": 0.1}}
    alias = served.lam.create_alias(FunctionName="f", Name="live", FunctionVersion="1", RoutingConfig=routing)
    served.lam.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=5)
    seen = served.service.routing("f", "live")
    assert seen is not None
    assert (seen.primary, seen.second, seen.weight) == ("1", "2", 0.1)
    assert (seen.revision, seen.reserved_concurrency) == (alias["RevisionId"], 5)
    assert served.service.build_profile("f", "2") == PROFILES["errors_5_percent"]
    assert (served.service.version_config("f", "2").timeout_s, served.service.version_config("f", "2").memory_mb) == (
        3,
        256,
    )


def test_a_versions_age_starts_with_its_first_request(served: Served) -> None:
    """Real and simulated requests share a version's first request, from which onset is counted."""
    late = FaultProfile("late", error_rate=1.0, onset_s=720.0)
    served.deploy("f", builds.build(late), Handler="lambda_function.handler")
    assert "FunctionError" not in invoke(served, payload=LAUNCH, Qualifier="1")[1]
    served.clock.time += 719.0
    assert served.service.age_s("f", "1", served.clock.time) == 719.0
    assert "FunctionError" not in invoke(served, payload=LAUNCH, Qualifier="1")[1]
    served.clock.time += 1.0
    assert invoke(served, payload=LAUNCH, Qualifier="1")[1]["FunctionError"] == "Unhandled"


# Buddy


def buddy(served: Served, profile: str = "good", **variables: str) -> None:
    """Deploy the skill with a profile."""
    config: dict[str, Any] = {"Environment": {"Variables": variables}} if variables else {}
    served.deploy("f", builds.build(PROFILES[profile]), Handler="lambda_function.handler", Timeout=7, **config)


def metrics(served: Served) -> dict[str, Any]:
    """The last EMF record that was printed."""
    return dict(json.loads(served.telemetry.invocations[-1]["lines"][-1]))


def test_buddy_answers_an_alexa_request(served: Served) -> None:
    """Launch speaks and keeps the session open; the end of a session gets an empty response."""
    buddy(served)
    answer, response = invoke(served, payload=LAUNCH, Qualifier="1")
    assert "FunctionError" not in response
    assert (answer["version"], answer["userAgent"], answer["sessionAttributes"]) == ("1.0", "buddy/1.0.0", {})
    assert "Welcome to Buddy" in speech(answer)
    assert answer["response"]["shouldEndSession"] is False
    ended = {**LAUNCH, "request": {**LAUNCH["request"], "type": "SessionEndedRequest", "reason": "USER_INITIATED"}}
    assert invoke(served, payload=ended)[0]["response"] == {}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (intent("SetReminderIntent", medication="aspirin", time="08:00"), "remind you to take aspirin at 08:00"),
        (intent("MedicationTakenIntent", medication="aspirin"), "you took aspirin"),
        (intent("ReadRemindersIntent"), "You have no reminders"),
        (intent("SafetyEscalationIntent"), "emergency contact"),
        (intent("AMAZON.HelpIntent"), "You can say"),
        (intent("AMAZON.StopIntent"), "Goodbye"),
    ],
)
def test_buddy_knows_its_intents(served: Served, asked: dict[str, Any], said: str) -> None:
    """Each intent has its answer; reminders and escalations are counted."""
    buddy(served)
    assert said in speech(invoke(served, payload=asked)[0])
    name = asked["request"]["intent"]["name"]
    counts = metrics(served)
    assert counts["RemindersSet"] == (name == "SetReminderIntent")
    assert counts["SafetyEscalations"] == (name == "SafetyEscalationIntent")


def test_feature_flags_change_what_buddy_says(served: Served) -> None:
    """Flags are the function's environment."""
    buddy(served, ENABLE_NEW_MEDICATION_FLOW="true", ENABLE_ENHANCED_SAFETY="true")
    assert "remind your carer" in speech(invoke(served, payload=intent("SetReminderIntent", medication="aspirin"))[0])
    assert "I am with you" in speech(invoke(served, payload=intent("SafetyEscalationIntent"))[0])


def test_buddy_refuses_another_skills_requests(served: Served) -> None:
    """With SKILL_ID set, a request of another skill raises."""
    buddy(served, SKILL_ID="another")
    assert invoke(served, payload=LAUNCH)[0]["errorMessage"] == "Skill ID Verification failed!!"


def test_buddy_counts_in_embedded_metric_format(served: Served) -> None:
    """One EMF line a request: namespace Buddy, by alias, and by alias and executed version."""
    buddy(served)
    served.lam.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    invoke(served, payload=LAUNCH, Qualifier="live")
    record = metrics(served)
    [directive] = record["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Buddy"
    sets = [["FunctionName", "Resource"], ["FunctionName", "Resource", "ExecutedVersion"]]
    assert directive["Dimensions"] == sets
    assert [record[name] for name in sets[1]] == ["f", "f:live", "1"]
    assert (record["Apologies"], record["RemindersSet"], record["SafetyEscalations"]) == (0, 0, 0)
    assert record["_aws"]["Timestamp"] == pytest.approx(served.clock.time * 1000, abs=5000)


def test_an_apologising_build_fails_without_an_error(served: Served) -> None:
    """'Sorry' is a good answer to Lambda; only the Apologies metric tells."""
    buddy(served, "apologises")
    answer, response = invoke(served, payload=LAUNCH)
    assert "FunctionError" not in response
    assert "Sorry, I had trouble" in speech(answer)
    assert metrics(served)["Apologies"] == 1
    assert served.telemetry.invocations[0]["failed"] is False


def test_a_failing_build_fails_as_its_profile_says(served: Served) -> None:
    """Errors and timeouts of a profile are Lambda errors, and cold starts take the profile's time."""
    buddy(served, "total_failure")
    assert invoke(served, payload=LAUNCH)[0]["errorType"] == "InjectedError"
    served.deploy(
        "t", builds.build(FaultProfile("t", timeout_rate=1.0, init_ms=2600.0)), Handler="lambda_function.handler"
    )
    assert invoke(served, name="t", payload=LAUNCH)[0]["errorType"] == "Sandbox.Timedout"
    assert [each["init_ms"] for each in served.telemetry.invocations] == [650.0, 2600.0]


def test_durations_follow_the_profile_and_the_seed() -> None:
    """The same seed gives the same durations, spread around the profile's median."""

    def run() -> list[float]:
        with serve(seed=3) as served:
            buddy(served)
            for _ in range(40):
                invoke(served, payload=LAUNCH)
            return [each["duration_ms"] for each in served.telemetry.invocations]

    durations = run()
    assert durations == run()
    assert 140 < sorted(durations)[20] < 230
