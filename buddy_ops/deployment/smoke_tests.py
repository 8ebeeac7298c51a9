"""Smoke tests of one version before it receives traffic: events, sent by the version's number.

The tests are in the environment's parameters/ file: an event with what its answer must be, or an Alexa request. The
alias is never touched here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from buddy_ops.aws import versions
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import InvocationResult
from buddy_ops.core.errors import Refused, TimedOut
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.settings import AlexaTest, SmokeTest, invalid
from buddy_ops.deployment import _answers

# No person has this ID: a test changes no user's data.
SYNTHETIC_USER = "amzn1.ask.account.BUDDY-OPS-SMOKE-TEST"
ATTEMPTS = 2
"""A test that fails is sent once more: a healthy version may fail one request in a hundred."""


@dataclass(frozen=True)
class SmokeTestResult:
    """How one smoke test ended.

    Attributes:
        trouble: what was wrong; None where it passed.
        said: what an Alexa response says; empty for other answers, and where it failed.
    """

    name: str
    version: str
    trouble: str | None
    said: str

    def __str__(self) -> str:
        return f"{self.name}: {self.trouble or 'passed'}"


def run_smoke_tests(target: Target, version: str, watch: Progress = no_progress) -> tuple[SmokeTestResult, ...]:
    """Send every smoke test to a version by its number. AWS: lambda:InvokeFunction; runs the function's code.

    Args:
        watch: receives a line about each test before it is sent.

    Raises:
        AwsFailed: the call itself failed; the version's own failures are results.
    """
    watch = target.side.watch(watch)
    results: list[SmokeTestResult] = []
    for test in target.settings.smoke_tests:
        watch(f"smoke test {len(results) + 1} of {len(target.settings.smoke_tests)} of v{version}: {test.name}")
        results.append(_attempt(target, version, test))
    for result in results:
        target.journal.append("smoke", test=result.name, version=version, trouble=result.trouble)
    return tuple(results)


def require_passing(target: Target, version: str) -> tuple[SmokeTestResult, ...]:
    """The results, if all passed.

    Raises:
        Refused: ``smoke-failed``, with every test that failed.
    """
    results = run_smoke_tests(target, version)
    failed = [result for result in results if result.trouble]
    if failed:
        raise Refused(
            "smoke-failed",
            f"v{version} of {target.settings.function} failed {len(failed)} of {len(results)} smoke tests: "
            f"{'; '.join(map(str, failed))}.",
            now=f"v{version} is published and receives no traffic; {target.resource} is untouched.",
            next=f"Review the error log of v{version}, fix the build and deploy it again.",
        )
    return results


def _attempt(target: Target, version: str, test: SmokeTest) -> SmokeTestResult:
    trouble: str | None = None
    for _ in range(ATTEMPTS):
        try:
            answer = versions.invoke(target, version, event_of(target, test), test.within_s)
        except TimedOut as failure:
            # No answer in time is the version's fault; every other failure is AWS's or ours.
            trouble = failure.what.rstrip(".")
            continue
        trouble = _trouble(test, version, answer)
        if trouble is None:
            return SmokeTestResult(test.name, version, None, _speech(answer.payload))
    return SmokeTestResult(test.name, version, trouble, "")


REPORT_MISSING = (
    "Lambda's report of the request is not in its log. Set SystemLogLevel in the function's LoggingConfig to INFO"
)


def _trouble(test: SmokeTest, version: str, answer: InvocationResult) -> str | None:
    """What is wrong with an answer, or None."""
    said = answer.payload
    if answer.failure is not None:
        error = said if isinstance(said, dict) else {}
        return f"it raised {error.get('errorType', answer.failure)}: {error.get('errorMessage', 'no message')}"
    # An alias or a wrong qualifier would test another version than the one that gets traffic.
    if answer.version != version:
        return f"v{answer.version or '?'} answered instead of v{version}"
    # The time limit is part of the test: without Lambda's own duration it cannot be passed.
    if answer.took_s is None:
        return f"its duration is unknown: {REPORT_MISSING}"
    if answer.took_s > test.within_s:
        return f"it took {answer.took_s:.1f} s (limit {test.within_s:g} s)"
    if isinstance(test, AlexaTest):
        return _alexa_trouble(test, said)
    return _answers.trouble(test, said)


def _alexa_trouble(test: AlexaTest, said: object) -> str | None:
    if not isinstance(said, dict) or "version" not in said or not isinstance(said.get("response"), dict):
        return "the answer is not an Alexa response: version or response is missing"
    speech = _speech(said)
    if test.speaks and not speech:
        return "it said nothing"
    # A handler that catches everything raises nothing: its apology is the only sign of a failure.
    if any(apology.casefold() in speech.casefold() for apology in test.never_says):
        return f"it apologised: {speech}"
    return None


def _speech(answer: object) -> str:
    """What an Alexa response says, as SSML or as text; empty where it says nothing or is no such response."""
    match answer:
        case {"response": {"outputSpeech": dict(spoken)}}:
            return str(spoken.get("ssml") or spoken.get("text") or "")
    return ""


def event_of(target: Target, test: SmokeTest) -> Mapping[str, object]:
    """The event that a test sends."""
    if isinstance(test, AlexaTest):
        return build_request(target, test)
    # ``project.read_settings`` has read the file by now.
    if isinstance(test.event, str):
        raise invalid("settings.smoke_tests", [f"{test.name}: the event is a file's name, not its content"])
    return test.event


def build_request(target: Target, test: AlexaTest) -> Mapping[str, object]:
    """The Alexa request of a test, from a user who does not exist.

    Source: Alexa Skills Kit, 'Request and response JSON reference'.
    """
    now = target.clock.now()
    body: dict[str, object] = {
        "type": test.request,
        "requestId": f"amzn1.echo-api.request.{target.run}-{test.name.replace(' ', '-')}",
        "timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "locale": "en-US",
    }
    if test.intent:
        slots = {name: {"name": name, "value": value} for name, value in test.slots.items()}
        body["intent"] = {"name": test.intent, "confirmationStatus": "NONE", "slots": slots}
    application = {"applicationId": test.application_id}
    user = {"userId": SYNTHETIC_USER}
    session = {"new": True, "sessionId": f"session-{target.run}", "application": application, "user": user}
    return {
        "version": "1.0",
        "session": session,
        "context": {"System": {"application": application, "user": user}},
        "request": body,
    }
