"""Hooks: questions to a Lambda function, a webhook or a notebook, which may hold or refuse a rollout.

A hook gets an event in JSON and answers ``{"decision": "go" | "hold" | "refuse", "reason": "..."}``. Whatever else it
does holds the rollout: an error, another answer, none in time. It is asked in a thread, and the rollout polls on
meanwhile: no hook delays a rollback, and none is asked before or during one.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.client import HTTPException
from typing import IO, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from buddy_ops.aws.notifications import read_secret
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import ask_function
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import BuddyError, Refused
from buddy_ops.core.redaction import FILE
from buddy_ops.core.settings import Hook, HookPoint
from buddy_ops.core.text import MINUTE, shorten, show_controls
from buddy_ops.deployment.observation import Observation, Polls, next_poll

Decision = Literal["go", "hold", "refuse"]
Event = Mapping[str, object]

PATIENCE_S = 2.0
"""How long a poll waits for an answer, in seconds: most hooks answer at once, and a person's abort waits no longer."""

# Enough for any decision with its reason. An answer is another system's, and is not read into memory without a limit.
ANSWER_BYTES = 64 * 1024
REASON_CHARACTERS = 300
EXIT_CODES: Mapping[int, Decision] = {0: "go", Refused.exit_code: "refuse"}
"""What a notebook's exit code means; any other one holds."""

NOTEBOOK_PARAMETERS = ("environment", "settings", "event")
"""What the parameters cell of a notebook that is a hook declares."""

OF_THIS_RUN = ("BUDDY_OPS_RUN", "BUDDY_OPS_RUN_FOLDER", FILE)
"""Environment variables that a notebook does not inherit."""


@dataclass(frozen=True)
class Answer:
    """What one hook, or all hooks of a point, answered.

    Attributes:
        says: a sentence for each hook that holds or refuses.
    """

    decision: Decision
    says: str = ""


GO = Answer("go")


@dataclass
class _Question:
    """A hook that is being asked."""

    hook: Hook
    event: Event
    thread: threading.Thread
    until: datetime
    answers: list[Answer] = field(default_factory=list)


class Hooks:
    """The hooks of one rollout.

    Attributes:
        follows: the mark of the deployment record that the rollout comes after: with the version it makes an event's
            ID, which a resumed run repeats.
    """

    def __init__(self, target: Target, *, stable: str, follows: str) -> None:
        self.follows = follows
        self._target = target
        self._stable = stable
        self._asked: dict[str, _Question] = {}
        self._passed: set[str] = set()

    def ask(self, point: HookPoint, new: str, weight: float) -> Answer:
        """The answer of a point's hooks, as far as there is one now; 'hold' while one is waited for.

        A hook that said 'go' is not asked again. One that held is asked again by the next call.

        AWS: lambda:InvokeFunction, ssm:GetParameter.

        Args:
            new: the new version.
            weight: its share after the next shift, 0..1.
        """
        asked = [self._question(hook, point, new, weight) for hook in self._hooks_of(point)]
        waiting = [question for question in asked if question is not None]
        answers = [self._take(question) for question in waiting]
        # One that refuses outweighs any number that hold or wait: it decides at once.
        for decision in ("refuse", "hold"):
            said = [answer.says for answer in answers if answer.decision == decision]
            if said:
                return Answer(decision, " ".join(said))
        return GO

    def announce_rollback(self, new: str) -> tuple[str, ...]:
        """Notify the hooks that the traffic went back; what failed, a sentence each.

        Their answers change nothing, and each is waited for briefly.

        AWS: as ``ask``.
        """
        questions = [self._begin(hook, self._event(hook, "rolled_back", new, 0.0)) for hook in self._hooks_of(AFTER)]
        failures = []
        # All are asked first, then waited for: the waits overlap.
        for question in questions:
            question.thread.join(PATIENCE_S)
            if not question.answers:
                failures.append(f"Hook {question.hook.name} did not answer to the announcement of the rollback.")
        return tuple(failures)

    def _hooks_of(self, point: HookPoint) -> list[Hook]:
        return [hook for hook in self._target.settings.hooks if point in hook.when]

    def _question(self, hook: Hook, point: HookPoint, new: str, weight: float) -> _Question | None:
        """The question to a hook, which is asked now unless it is already; None where it said 'go'."""
        event = self._event(hook, point, new, weight)
        key = str(event["id"])
        if key in self._passed:
            return None
        if key not in self._asked:
            self._asked[key] = self._begin(hook, event)
        return self._asked[key]

    def _begin(self, hook: Hook, event: Event) -> _Question:
        until = self._target.clock.now() + timedelta(seconds=hook.timeout_s)
        answers: list[Answer] = []
        # A daemon: a process that is to end does not wait for a hook that hangs.
        thread = threading.Thread(target=lambda: answers.append(_ask(self._target, hook, event)), daemon=True)
        thread.start()
        return _Question(hook, event, thread=thread, until=until, answers=answers)

    def _take(self, question: _Question) -> Answer:
        """The answer, if there is one by now."""
        key = str(question.event["id"])
        question.thread.join(PATIENCE_S)
        name = question.hook.name
        if question.answers:
            answer = question.answers[0]
        elif self._target.clock.now() < question.until:
            return Answer("hold", f"Waiting for the answer of hook {name}.")
        else:
            answer = Answer("hold", f"Hook {name} did not answer within {question.hook.timeout_s:g} s.")
        # A hook that held, or never answered, is asked again by the next poll.
        del self._asked[key]
        if answer.decision == "go":
            self._passed.add(key)
        asked = {"hook": name, "point": question.event["point"], "id": key}
        self._target.journal.append("hook", **asked, answer=answer.decision, says=answer.says)
        return answer

    def _event(self, hook: Hook, point: str, new: str, weight: float) -> Event:
        """What a hook is sent. The ID is the same whenever the same is asked, by a resumed run, too."""
        target = self._target
        asked = (target.region, target.resource, self.follows, new, point, f"{weight:g}", hook.name)
        return {
            "id": hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32],
            "hook": hook.name,
            "point": point,
            "environment": target.environment,
            "region": target.region,
            "function": target.settings.function,
            "alias": target.settings.alias,
            "run": target.run,
            "stable_version": self._stable,
            "new_version": new,
            "weight": weight,
        }


AFTER: HookPoint = "after_traffic"


def require_before_traffic(target: Target, version: str, *, stable: str, follows: str) -> Polls[None]:
    """Wait until the hooks before the traffic say 'go', for ``stretch_minutes`` at most. AWS: as ``Hooks.ask``.

    Raises:
        Refused: ``hook-refused``; ``hook-held`` where one held for too long, or a person aborted meanwhile.
    """
    hooks = Hooks(target, stable=stable, follows=follows)
    until = target.clock.now() + target.settings.rollout.stretch_minutes * MINUTE
    while True:
        answer = hooks.ask("before_traffic", version, 0.0)
        if answer.decision == "go":
            return
        says = answer.says
        reference = "hook-refused"
        if answer.decision == "hold":
            reference = "hook-held"
            now = target.clock.now()
            if now < until:
                order = yield Observation(now, "publish", 0.0, wake_at=next_poll(now), says=says)
                if order != "abort":
                    continue
                says = f"A person aborted the rollout. {says}"
        raise Refused(
            reference,
            says,
            now=f"v{version} is published and receives no traffic; {target.resource} is untouched.",
            next="Do what the hook's reason says, or correct the hook. Then deploy the build again.",
        )


def describe_hooks(target: Target) -> list[str]:
    """A sentence for the plan on each hook that will be asked."""
    points: dict[HookPoint, str] = {
        "before_traffic": "before traffic",
        "before_stage": "before each later stage",
        "after_traffic": "after the monitoring at 100 %",
    }
    return [
        f"Hook {hook.name} ({hook.kind}) is asked {' and '.join(points[point] for point in hook.when)}. It may hold "
        f"for up to {target.settings.rollout.stretch_minutes:g} min, or refuse."
        for hook in target.settings.hooks
    ]


# Asking


def _ask(target: Target, hook: Hook, event: Event) -> Answer:
    """One hook's answer; whatever goes wrong is a 'hold'. It never raises."""
    asking: Callable[[Target, Hook, Event], Answer] = _ask_webhook
    if hook.function:
        asking = _ask_function
    elif hook.notebook:
        asking = _ask_notebook
    try:
        return asking(target, hook, event)
    except HTTPError as error:
        problem = f"it answered {error.code}"
    except BuddyError as error:
        problem = error.what
    except subprocess.TimeoutExpired:
        problem = f"it did not end within {hook.timeout_s:g} s"
    except (OSError, URLError, HTTPException, ValueError) as error:
        # Only the error's type is shown: its text may hold the address, which is a secret.
        problem = type(error).__name__
    except Exception as error:
        # An exception that ended the thread would leave the rollout to wait for the hook's whole timeout.
        problem = f"unexpected {type(error).__name__}"
    return Answer("hold", f"Hook {hook.name} failed: {problem.rstrip('.')}.")


def _ask_function(target: Target, hook: Hook, event: Event) -> Answer:
    """Invoke a function once, and wait for its answer. AWS: lambda:InvokeFunction; runs its code."""
    # A byte more than is taken, so that a longer answer is recognised as one.
    content, failure = ask_function(target, hook.function, event, within_s=hook.timeout_s, limit=ANSWER_BYTES + 1)
    if failure:
        return Answer("hold", f"Hook {hook.name} failed: {failure}.")
    return _parse(target, hook, content)


def _ask_webhook(target: Target, hook: Hook, event: Event) -> Answer:
    """POST the event. AWS: ssm:GetParameter, for the address."""
    url = read_secret(target, str(hook.url))
    if not is_allowed_address(url):
        return Answer("hold", f"Hook {hook.name} failed: its address does not begin with https://.")
    request = urllib.request.Request(url, data=json.dumps(event).encode(), method="POST")
    request.add_header("Content-Type", "application/json")
    with urllib.request.build_opener(_NoRedirects).open(request, timeout=hook.timeout_s) as answered:
        return _parse(target, hook, answered.read(ANSWER_BYTES + 1))


def is_allowed_address(url: str) -> bool:
    """Whether a webhook may have this address: https, or on this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    # Over a network, plain HTTP would show the address, which is a secret.
    on_this_machine = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    return parts.scheme == "https" or on_this_machine


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to an address that no one has approved, and turns POST into GET."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: object, newurl: str
    ) -> None:
        """None: the redirect is an error."""


def _ask_notebook(target: Target, hook: Hook, event: Event) -> Answer:
    """Run a notebook of the project in a process of its own, with the event as its parameter ``event``."""
    command = [sys.executable, "-m", "buddy_ops.cli.main", "run", hook.notebook, "-e", target.environment, "--json"]
    given = ["-p", f"event={json.dumps(event)}"]
    # It is a run of its own, with a folder and a journal of its own.
    own = {name: value for name, value in os.environ.items() if name not in OF_THIS_RUN}
    ended = subprocess.run([*command, *given], capture_output=True, timeout=hook.timeout_s, check=False, env=own)
    reason = f"the notebook ended with exit code {ended.returncode}"
    # With ``--json`` the command prints one document, also for an error that came before any cell ran.
    match parse_json(ended.stdout):
        case {"error": {"what": what}} if what:
            reason = str(what)
    return _answer(target, hook, EXIT_CODES.get(ended.returncode, "hold"), reason)


def _parse(target: Target, hook: Hook, content: bytes) -> Answer:
    """An answer in JSON. Raises ValueError where it is none."""
    if len(content) > ANSWER_BYTES:
        return Answer("hold", f"Hook {hook.name} failed: its answer has more than {ANSWER_BYTES:,} bytes.")
    said = parse_json(content)
    if not isinstance(said, dict) or said.get("decision") not in ("go", "hold", "refuse"):
        return Answer("hold", f"Hook {hook.name} failed: its answer has no decision (go, hold or refuse).")
    return _answer(target, hook, said["decision"], str(said.get("reason") or "no reason given"))


def _answer(target: Target, hook: Hook, decision: Decision, reason: str) -> Answer:
    if decision == "go":
        return GO
    verb = "holds"
    if decision == "refuse":
        verb = "refused"
    # Its text goes to terminals, pages and messages, and is another system's.
    shown = show_controls(target.redactor.redact(shorten(reason, REASON_CHARACTERS)))
    return Answer(decision, f"Hook {hook.name} {verb}: {shown.rstrip('.')}.")
