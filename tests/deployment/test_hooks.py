"""Hooks: what a function, a webhook or a notebook answers, and what a rollout does with it."""

import io
import json
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.core import settings
from buddy_ops.core.errors import InvalidInput, Refused
from buddy_ops.core.text import parse_utc
from buddy_ops.deployment import hooks, rollout
from buddy_ops.deployment.observation import Observation, Order
from tests.conftest import ROOT, Situation, approve, begun, follow, sampled

Bring = Callable[..., Situation]
BUSY = {"requests_per_minute": 6000, "history_minutes": 12}
QUIET = {"requests_per_minute": 0, "history_minutes": 0}
GO = {"decision": "go"}
HOLD = {"decision": "hold", "reason": "the load test runs"}
REFUSE = {"decision": "refuse", "reason": "the load test failed"}
HELD = "Hook gate holds: the load test runs."


class Webhook(ThreadingHTTPServer):
    """Answers what is in ``answers``, the last of them again and again, and keeps each event with what served then.

    An answer is JSON, bytes, a status, or 'hang' until the test has ended.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.answers: list[Any] = [GO]
        self.events: list[dict[str, Any]] = []
        self.over = threading.Event()
        self.look: Callable[[], Any] = lambda: None
        self.seen: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Asked(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        self.server.events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.seen.append(self.server.look())
        answer = self.server.answers[0]
        if len(self.server.answers) > 1:
            del self.server.answers[0]
        if answer == "hang":
            self.server.over.wait()
            return
        self.send_response(answer if isinstance(answer, int) else 200)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.end_headers()
        self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    # A redirect that is followed arrives as GET.
    def do_GET(self) -> None:
        self.server.answers = [GO]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(GO).encode())

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """A webhook on this machine, which the environment variable HOOK names."""
    with Webhook() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HOOK", server.url)
        yield server
        server.over.set()
        server.shutdown()


def hooked(here: Situation, hook: dict[str, Any] | None = None, **rules: Any) -> Target:
    """A target with one hook, asked at each point, short stages, and at most 3 minutes of holding."""
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    points = ["before_traffic", "before_stage", "after_traffic"]
    values["hooks"] = [{"name": "gate", "when": points, **(hook or {"url": "env:HOOK"})}]
    values["rollout"] |= {"stages_percent": [50, 100], "bake_minutes": 2, "stretch_minutes": 3, **rules}
    return here.connect(values=values)


def asked(mine: Target) -> hooks.Hooks:
    return hooks.Hooks(mine, stable="1", follows="")


def drive(mine: Target, artifact: str, act: Callable[[Observation], Order | None]) -> rollout.Outcome:
    """A rollout with an order at each poll."""
    return follow(mine, begun(mine, artifact), act)


# One answer


@pytest.mark.parametrize(
    ("answer", "decision", "says"),
    [
        (GO, "go", ""),
        (HOLD, "hold", HELD),
        (REFUSE, "refuse", "Hook gate refused: the load test failed."),
        ({"decision": "hold"}, "hold", "Hook gate holds: no reason given."),
        ({"decision": "hold", "reason": "x\x1b[1m" + "y" * 400}, "hold", "Hook gate holds: x\\x1b[1myyy"),
        ({"decision": "Go"}, "hold", "no decision (go, hold or refuse)"),
        ({}, "hold", "no decision"),
        ([], "hold", "no decision"),
        (b"<html>", "hold", "Hook gate failed: "),
        (b"", "hold", "Hook gate failed: "),
        (b'{"decision": "go", "pad": "' + b"x" * hooks.ANSWER_BYTES + b'"}', "hold", "more than 65,536 bytes"),
        (b"[" * 50_000, "hold", "Hook gate failed: "),
        (500, "hold", "Hook gate failed: it answered 500."),
        (404, "hold", "Hook gate failed: it answered 404."),
        (302, "hold", "Hook gate failed: it answered 302."),
        (307, "hold", "Hook gate failed: it answered 307."),
        ("hang", "hold", "Hook gate failed: TimeoutError."),
    ],
    ids=lambda value: str(value)[:30],
)
def test_whatever_is_no_answer_holds(situation: Bring, webhook: Webhook, answer: Any, decision: str, says: str) -> None:
    """Only a clear 'go' lets a rollout go on, and only a clear 'refuse' ends it; no address is shown or followed."""
    webhook.answers = [answer]
    mine = hooked(situation("first_deployment"), {"url": "env:HOOK", "timeout_s": 1})
    found = asked(mine).ask("before_traffic", "2", 0.0)
    assert found.decision == decision and says in found.says and len(found.says) < 400
    assert webhook.url not in json.dumps(mine.journal.records) + found.says
    (entry,) = (record for record in mine.journal.records if record["kind"] == "hook")
    assert (entry["hook"], entry["point"], entry["answer"]) == ("gate", "before_traffic", decision)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("http://hooks.example.com/x", "its address does not begin with https://"),
        ("file:///etc/passwd", "its address does not begin with https://"),
        ("https://127.0.0.1:1/x", "Hook gate failed: URLError."),
        ("nonsense", "its address does not begin with https://"),
        ("", "The environment variable HOOK is not set"),
    ],
)
def test_an_address_must_be_https(situation: Bring, monkeypatch: pytest.MonkeyPatch, value: str, says: str) -> None:
    """The events and answers of a hook cross no network in the clear; nothing is sent elsewhere."""
    monkeypatch.setenv("HOOK", value)
    found = asked(hooked(situation("first_deployment"))).ask("before_traffic", "2", 0.0)
    assert found.decision == "hold" and says in found.says


def test_a_hook_that_hangs_is_given_up_while_polls_go_on(
    situation: Bring, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll does not wait for it; after its time-out it counts as failed, and is asked again with the same ID."""
    monkeypatch.setattr(hooks, "PATIENCE_S", 0.2)
    webhook.answers = ["hang"]
    mine = hooked(situation("first_deployment"), {"url": "env:HOOK", "timeout_s": 120})
    one = asked(mine)
    assert one.ask("before_stage", "2", 0.5).says == "Waiting for the answer of hook gate."
    assert one.ask("before_stage", "2", 0.5).says == "Waiting for the answer of hook gate."
    assert len(webhook.events) == 1
    mine.clock.sleep_until(mine.clock.now() + 2 * hooks.MINUTE)
    assert one.ask("before_stage", "2", 0.5).says == "Hook gate did not answer within 120 s."
    webhook.answers = [GO]
    assert one.ask("before_stage", "2", 0.5) == hooks.GO
    assert len(webhook.events) == 2 and webhook.events[0]["id"] == webhook.events[1]["id"]
    mine.close()


def test_an_id_names_what_is_asked(situation: Bring, webhook: Webhook) -> None:
    """The same in each run that asks the same; another one for another point, weight, version or deployment."""
    here = situation("first_deployment")
    mine = hooked(here)
    asked(mine).ask("before_stage", "2", 0.5)
    asked(hooked(here)).ask("before_stage", "2", 0.5)
    asked(mine).ask("before_stage", "2", 1.0)
    asked(mine).ask("after_traffic", "2", 1.0)
    asked(mine).ask("before_stage", "3", 0.5)
    hooks.Hooks(mine, stable="1", follows="e063").ask("before_stage", "2", 0.5)
    first, again, *others = (event["id"] for event in webhook.events)
    assert first == again and len({first, *others}) == 5
    event = webhook.events[0]
    assert event == {
        "id": first, "hook": "gate", "point": "before_stage", "environment": "sandbox", "region": mine.region,
        "function": here.function, "alias": "live", "run": mine.run, "stable_version": "1", "new_version": "2",
        "weight": 0.5,
    }  # fmt: skip


def test_a_hook_is_of_one_kind() -> None:
    """None, two, a URL in the clear, and a function's ARN are refused."""
    for wrong in ({}, {"function": "f", "url": "env:X"}, {"url": "https://x"}, {"function": "arn:aws:lambda:x"}):
        with pytest.raises(InvalidInput, match=r"hooks\.0"):
            settings.validate_settings({"function": "f", "hooks": [{"name": "gate", **wrong}]}, "test")


FUNCTION = """
def handler(event, context):
    assert event["point"] == "before_traffic"
    if event["new_version"] == "3":
        raise ValueError("broken")
    return {"decision": "refuse", "reason": "v" + event["new_version"]}
"""


def gate(here: Situation, source: str) -> None:
    """The function 'gate' with the alias 'live', of this source."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", source)
    lam = here.client("lambda")
    given = {"Runtime": "python3.12", "Role": "arn:aws:iam::123456789012:role/x", "Handler": "app.handler"}
    lam.create_function(FunctionName="gate", Code={"ZipFile": packed.getvalue()}, Publish=True, **given)
    here.ask("advance", seconds=60)
    lam.create_alias(FunctionName="gate", Name="live", FunctionVersion="1")


def test_a_function_is_invoked(situation: Bring) -> None:
    """By its name and alias; an exception in it, and a function that was deleted, hold."""
    here = situation("first_deployment")
    gate(here, FUNCTION)
    mine = hooked(here, {"function": "gate:live"})
    found = asked(mine).ask("before_traffic", "2", 0.0)
    assert found == hooks.Answer("refuse", "Hook gate refused: v2.")
    assert asked(mine).ask("before_traffic", "3", 0.0) == hooks.Answer("hold", "Hook gate failed: Unhandled.")
    here.client("lambda").delete_function(FunctionName="gate")
    found = asked(mine).ask("before_traffic", "2", 0.0)
    assert found.decision == "hold" and found.says.startswith("Hook gate failed: ")


NOTEBOOK = """\
from buddy_ops.core.errors import Refused
from buddy_ops.notebook.opening import open_runbook
target = open_runbook("gate", globals())
if event["new_version"] == "3":
    raise Refused("not-approved", "The load test failed.", next="Review it.")
"""


@pytest.mark.kernel
def test_a_notebook_is_run(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exit code decides: 0 goes on, a refusal refuses with its reason, everything else holds."""
    here = situation("first_deployment")
    folder = here.folder / "project"
    shutil.copytree(ROOT / "parameters", folder / "parameters")
    (folder / "notebooks/hooks").mkdir(parents=True)
    declared = 'environment: str = ""\nsettings: dict = {}\nevent: dict = {}\n'
    cells = [
        {"cell_type": "code", "id": name, "metadata": tags, "source": source, "outputs": [], "execution_count": None}
        for name, tags, source in (("a", {"tags": ["parameters"]}, declared), ("b", {}, NOTEBOOK))
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    document = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / "notebooks/hooks/gate.ipynb").write_text(json.dumps(document))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(hooks, "PATIENCE_S", 120)
    mine = hooked(here, {"notebook": "hooks/gate", "timeout_s": 120})
    found = asked(mine).ask("before_traffic", "3", 0.0)
    assert found == hooks.Answer("refuse", "Hook gate refused: The load test failed.")
    assert asked(mine).ask("before_traffic", "2", 0.0) == hooks.GO
    assert asked(hooked(here, {"notebook": "hooks/none"})).ask("before_traffic", "2", 0.0).decision == "hold"
    assert len(list((folder / "runs").glob("*-gate-sandbox-*"))) == 2


# Rollouts


def test_a_refusal_before_traffic_shifts_nothing(situation: Bring, webhook: Webhook) -> None:
    """The version is published and tested by then; the plan named the hook."""
    webhook.answers = [REFUSE]
    here = situation("good", **QUIET)
    mine = hooked(here)
    plan = rollout.plan_rollout(mine, here.build("good"))
    assert any("Hook gate (webhook) is asked before traffic and before each later stage" in why for why in plan.reasons)
    with pytest.raises(Refused, match="the load test failed") as refused:
        rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    assert refused.value.reference == "hook-refused" and "untouched" in refused.value.now
    assert here.alias()["FunctionVersion"] == "1" and here.calls("UpdateAlias") == []
    assert [event["new_version"] for event in webhook.events] == ["2"]
    mine.close()


@pytest.mark.parametrize("order", [None, "abort"])
def test_a_hold_before_traffic_expires(situation: Bring, webhook: Webhook, order: Order | None) -> None:
    """It is asked each minute, for stretch_minutes; a person ends it at once."""
    webhook.answers = [HOLD]
    here = situation("good", **QUIET)
    mine = hooked(here)
    shown: list[str] = []

    def act(seen: Observation) -> Order | None:
        shown.append(seen.says)
        return order if seen.says == HELD else None

    with pytest.raises(Refused) as refused:
        drive(mine, here.build("good"), act)
    assert refused.value.reference == "hook-held" and HELD in refused.value.what and HELD in shown
    assert here.calls("UpdateAlias") == []
    assert len({event["id"] for event in webhook.events}) == 1
    assert len(webhook.events) in ((1,) if order else (4, 5))


@pytest.mark.parametrize("strategy", sampled(["canary", "all_at_once"], {"all_at_once"}))
@pytest.mark.parametrize(
    ("answers", "reference"),
    [([GO], ""), ([HOLD, GO], ""), ([HOLD], "hook-held"), ([REFUSE], "hook-refused")],
    ids=["go", "hold, then go", "hold", "refuse"],
)
def test_a_first_deployment_waits_for_its_hook(
    situation: Bring, webhook: Webhook, answers: list[Any], reference: str, strategy: str
) -> None:
    """The alias, with which the traffic begins, is created after 'go' only, and not at all after another answer."""
    webhook.answers = list(answers)
    here = situation("first_deployment")
    mine = hooked(here, {"url": "env:HOOK", "when": ["before_traffic"]})
    webhook.look = lambda: here.calls("CreateAlias")
    began = begun(mine, here.build("good"), strategy=strategy)
    if reference:
        with pytest.raises(Refused) as refused:
            follow(mine, began, lambda _: None)
        assert refused.value.reference == reference and here.calls("CreateAlias") == []
    else:
        follow(mine, began, lambda _: None)
        assert here.alias()["FunctionVersion"] == webhook.events[0]["new_version"]
    assert {event["stable_version"] for event in webhook.events} == {""}
    assert webhook.seen == [[]] * len(webhook.events) and len(webhook.events) >= len(answers)


def test_a_rollout_goes_on_once_its_hooks_let_it(situation: Bring, webhook: Webhook) -> None:
    """Each point is asked until it says 'go', and then not again; the traffic is where the event says."""
    webhook.answers = [HOLD, GO]
    here = situation("good", **BUSY)
    webhook.look = lambda: here.alias().get("RoutingConfig", {}).get("AdditionalVersionWeights")
    outcome = drive(hooked(here), here.build("good"), lambda _: None)
    assert outcome.ending == "proved"
    points = [(event["point"], event["weight"]) for event in webhook.events]
    assert points == [("before_traffic", 0.0)] * 2 + [("before_stage", 1.0), ("after_traffic", 1.0)]
    assert webhook.seen == [None, None, {"2": 0.5}, {"2": 1.0}]


@pytest.mark.parametrize(
    ("answers", "ending", "weight"),
    sampled(
        [
            ([GO, REFUSE], "rolled-back", 0.5),
            ([GO, HOLD], "held", 0.5),
            ([GO, GO, REFUSE], "rolled-back", 1.0),
            ([GO, GO, HOLD], "held", 1.0),
        ],
        slice(None, None, 3),
    ),
)
def test_a_hook_ends_a_rollout_under_way(
    situation: Bring, webhook: Webhook, answers: list[Any], ending: str, weight: float
) -> None:
    """A refusal rolls back and marks the version bad. A hold expires with the stage's stretch, and marks nothing.

    The hook hears of the rollback once, after the traffic is back.
    """
    webhook.answers = [*answers, answers[-1]]
    here = situation("good", **BUSY)
    webhook.look = lambda: here.alias().get("RoutingConfig", {}).get("AdditionalVersionWeights")
    outcome = drive(hooked(here, watch_minutes=4), here.build("good"), lambda _: None)
    assert (outcome.ending, outcome.weight) == (ending, weight)
    assert outcome.reasons[0].startswith("Hook gate ")
    assert here.record().rejected_versions == (("2",) if ending == "rolled-back" else ())
    assert [event["point"] for event in webhook.events].count("rolled_back") == 1
    assert (webhook.events[-1]["point"], webhook.seen[-1]) == ("rolled_back", None)


def test_no_hook_delays_a_rollback(situation: Bring, webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a hook hangs, a version that begins to fail is rolled back in the minute in which it is during a pause."""
    monkeypatch.setattr(hooks, "PATIENCE_S", 0.05)
    rolled_back = {}
    for gate in ("person", "hook"):
        here = situation("good", **BUSY)
        webhook.answers = [GO, "hang"] if gate == "hook" else [GO]
        webhook.look = lambda: here.alias().get("RoutingConfig", {}).get("AdditionalVersionWeights")  # noqa: B023
        order: Order | None = "hold" if gate == "person" else None
        mine = hooked(here, {"url": "env:HOOK", "timeout_s": 900, "when": ["before_traffic", "before_stage"]},
                      stretch_minutes=60)  # fmt: skip
        outcome = drive(mine, here.build("slow_to_fail"), lambda seen, order=order: order if seen.weight else None)
        assert outcome.ending == "rolled-back" and "Hook" not in " ".join(outcome.reasons), gate
        (back,) = (each["at"] for each in mine.journal.records if each["kind"] == "taken-back")
        (begun_at,) = (each["at"] for each in mine.journal.records if each["kind"] == "shifted" and each["weight"])
        rolled_back[gate] = (parse_utc(back) - parse_utc(begun_at)).total_seconds()
    assert webhook.events[-1]["point"] == "before_stage"
    # Within a poll: the two rollouts do not shift at the same second of a minute.
    assert abs(rolled_back["hook"] - rolled_back["person"]) < 60


def test_a_resumed_run_asks_again_with_the_same_id(situation: Bring, webhook: Webhook) -> None:
    """The receiver can tell that it was asked before."""
    webhook.answers = [GO, HOLD, GO]
    here = situation("good", **BUSY)
    artifact = here.build("good")
    first = hooked(here, {"url": "env:HOOK", "when": ["before_stage"]}, stretch_minutes=30)
    webhook.answers = [HOLD]
    steps = begun(first, artifact)
    seen = next(steps)
    while seen.says != HELD:
        first.clock.sleep_until(seen.wake_at)
        seen = next(steps)
    steps.close()
    first.close()
    webhook.answers = [GO]
    again = hooked(here, {"url": "env:HOOK", "when": ["before_stage"]}, stretch_minutes=30)
    assert drive(again, artifact, lambda _: None).ending == "proved"
    assert len(webhook.events) >= 2 and len({event["id"] for event in webhook.events}) == 1
