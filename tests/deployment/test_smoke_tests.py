"""Smoke tests of a version by its number: real invocations of Buddy's handler, before any traffic."""

from collections.abc import Callable

import pytest

from buddy_ops.aws.versions import InvocationResult
from buddy_ops.core.errors import AwsFailed, Refused
from buddy_ops.core.settings import AlexaTest
from buddy_ops.deployment import smoke_tests
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES, FaultProfile
from tests.conftest import Situation

Bring = Callable[..., Situation]


def publish(here: Situation, profile: str | FaultProfile) -> str:
    """A version of this build, without traffic."""
    lam = here.client("lambda")
    code = builds.build(profile if isinstance(profile, FaultProfile) else PROFILES[profile])
    lam.update_function_code(FunctionName=here.function, ZipFile=code)
    here.ask("advance", seconds=5)
    version = str(lam.publish_version(FunctionName=here.function)["Version"])
    here.ask("advance", seconds=5)
    return version


def test_a_good_version_passes_every_test(situation: Bring) -> None:
    """Launch and reminder are answered with speech, the end of a session without; the alias is not touched."""
    here = situation("good", history_minutes=1)
    version = publish(here, "good")
    results = smoke_tests.require_passing(here.connect(), version)
    assert [str(each) for each in results] == ["launch: passed", "reminder: passed", "session end: passed"]
    assert "Welcome to Buddy" in results[0].said
    assert here.alias()["FunctionVersion"] == "1"


@pytest.mark.parametrize(
    ("profile", "trouble"),
    [("total_failure", "it raised"), ("apologises", "it apologised"), ("timeouts", "")],
)
def test_a_broken_version_is_refused_with_what_it_did(situation: Bring, profile: str, trouble: str) -> None:
    """A version that raises or apologises is refused, exit code 4; one that fails now and then is the judge's to catch."""
    here = situation("good", history_minutes=1)
    version = publish(here, profile)
    if not trouble:
        assert all(each.trouble is None for each in smoke_tests.run_smoke_tests(here.connect(), version))
        return
    with pytest.raises(Refused, match="smoke-failed") as refused:
        smoke_tests.require_passing(here.connect(), version)
    assert trouble in refused.value.what and f"v{version}" in refused.value.now
    assert refused.value.exit_code == 4
    assert "deploy it again" in refused.value.next
    assert smoke_tests.require_passing(here.connect(), publish(here, "good"))


def test_an_answer_after_alexas_limit_is_none(situation: Bring) -> None:
    """What takes longer than Alexa waits has failed, by Lambda's own figures; an environment may want less still."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    here.client("lambda").update_function_configuration(FunctionName=here.function, Timeout=30)
    here.ask("advance", seconds=5)
    late = publish(here, FaultProfile("late", slow_rate=1.0, slow_ms=8100.0))
    target = here.connect()
    assert all((each.trouble or "").endswith("8.1 s (limit 8 s)") for each in smoke_tests.run_smoke_tests(target, late))
    in_time = publish(here, FaultProfile("in time", slow_rate=1.0, slow_ms=6500.0))
    assert all(each.trouble is None for each in smoke_tests.run_smoke_tests(target, in_time))
    tests = [{"name": "launch", "request": "LaunchRequest", "within_s": 6}]
    hasty = here.connect(values=target.settings.model_dump(mode="json") | {"smoke_tests": tests})
    assert [each.trouble for each in smoke_tests.run_smoke_tests(hasty, in_time)] == ["it took 6.5 s (limit 6 s)"]


def test_a_version_that_never_answers_has_failed(situation: Bring) -> None:
    """A call without an answer is the version's failure until it is tried again and answers; a refusal by AWS is not."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    version = publish(here, "good")
    target = here.connect()
    here.ask("chaos", kind="closed", operation="Invoke", times=2)
    first, *others = smoke_tests.run_smoke_tests(target, version)
    assert "got no answer" in str(first) and all(each.trouble is None for each in others)
    here.ask("chaos", kind="denied", operation="Invoke")
    with pytest.raises(AwsFailed, match="access-denied"):
        smoke_tests.run_smoke_tests(target, version)


def test_the_users_are_synthetic(situation: Bring) -> None:
    """No smoke test speaks for a person: each request carries a user who does not exist."""
    here = situation("first_deployment")
    target = here.connect()
    for test in target.settings.smoke_tests:
        request = smoke_tests.build_request(target, test)
        assert request["session"]["user"]["userId"] == smoke_tests.SYNTHETIC_USER
        assert request["request"]["type"] == test.request


SPOKEN = {"version": "1.0", "response": {"outputSpeech": {"type": "SSML", "ssml": "<speak>Hello.</speak>"}}}
SILENT = {"version": "1.0", "response": {}}
SORRY = {"version": "1.0", "response": {"outputSpeech": {"type": "PlainText", "text": "Sorry, I am lost."}}}
NO_RESPONSE = "the answer is not an Alexa response: version or response is missing"


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (InvocationResult(SPOKEN, None, "2", 0.1), None),
        (
            InvocationResult({"errorType": "KeyError", "errorMessage": "'x'"}, "Unhandled", "2", 0.1),
            "it raised KeyError: 'x'",
        ),
        (InvocationResult(None, "Unhandled", "2", 0.1), "it raised Unhandled: no message"),
        (InvocationResult(SPOKEN, None, "1", 0.1), "v1 answered instead of v2"),
        (InvocationResult(SPOKEN, None, "", 0.1), "v? answered instead of v2"),
        (InvocationResult(SPOKEN, None, "2", 8.1), "it took 8.1 s (limit 8 s)"),
        (InvocationResult("Hello.", None, "2", 0.1), NO_RESPONSE),
        (InvocationResult({"response": SPOKEN["response"]}, None, "2", 0.1), NO_RESPONSE),
        (InvocationResult({"version": "1.0", "response": "Hello."}, None, "2", 0.1), NO_RESPONSE),
        (InvocationResult(SILENT, None, "2", 0.1), "it said nothing"),
        (InvocationResult(SORRY, None, "2", 0.1), "it apologised: Sorry, I am lost."),
    ],
)
def test_each_wrong_answer_is_told_as_what_it_is(answer: InvocationResult, trouble: str | None) -> None:
    """Another version, late, no Alexa response, silence, an apology: none passes, and each is named."""
    assert smoke_tests._trouble(AlexaTest(name="launch", request="LaunchRequest"), "2", answer) == trouble


def test_silence_passes_where_nothing_is_to_be_said() -> None:
    """The end of a session is answered without speech."""
    test = AlexaTest(name="session end", request="SessionEndedRequest", speaks=False)
    assert smoke_tests._trouble(test, "2", InvocationResult(SILENT, None, "2", 0.1)) is None
