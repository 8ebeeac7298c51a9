"""Telling people: against a real local HTTP receiver, and a topic that a queue hears."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from buddy_ops.aws import notifications
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import Refused
from buddy_ops.deployment import announcements, rollout
from buddy_ops.runs import archive, supervisor, verification
from tests.conftest import Situation, approve, sampled
from tests.resilience.harness import QUIET
from tests.system.runbooks.test_incidents import begun
from tests.system.runbooks.test_runbooks import run

Bring = Callable[..., Situation]


class Receiver(BaseHTTPRequestHandler):
    """Keeps what it is sent, and answers as its server says."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(self.server.look())  # type: ignore[attr-defined]
        self.server.heard.append((self.path, dict(self.headers), json.loads(body)))  # type: ignore[attr-defined]
        answers = self.server.answers  # type: ignore[attr-defined]
        status, headers = answers.pop(0) if answers else (self.server.status, {})  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    server.heard, server.status = [], 200  # type: ignore[attr-defined]
    server.answers = []  # type: ignore[attr-defined]
    server.seen, server.look = [], lambda: None  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def telling(here: Situation, watch_minutes: int = 0, policy: dict[str, Any] | None = None, **settings: Any) -> Target:
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["notify"], values["policy"] = settings, policy or {}
    values["rollout"]["watch_minutes"] = watch_minutes
    return here.connect(values=values)


def address(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_slack_hears_with_a_webhook_from_ssm(situation: Bring, receiver: Any) -> None:
    """The webhook's address comes from SSM, decrypted; the message names environment and run; no journal line holds it."""
    here = situation("first_deployment")
    secret = f"{address(receiver)}/services/T0/B0/SECRET"
    here.client("ssm").put_parameter(Name="/buddy/slack", Value=secret, Type="SecureString")
    target = telling(here, slack_webhook="ssm:/buddy/slack")
    told = notifications.announce(target, "v42 was taken back.")
    assert told == notifications.DeliveryReport(("Slack",), ())
    path, _, body = receiver.heard[0]
    assert path.endswith("SECRET") and body["text"] == f"[sandbox] v42 was taken back. (run {target.run})"
    assert "SECRET" not in (here.folder / "run" / "journal.jsonl").read_text()


def test_a_reason_pings_nobody(situation: Bring, receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slack's control characters are escaped, so that a mention in a reason stays text."""
    here = situation("first_deployment")
    monkeypatch.setenv("HOOK", address(receiver))
    target = telling(here, slack_webhook="env:HOOK")
    notifications.announce(target, "<!channel> R&D -> prod")
    text = f"[sandbox] &lt;!channel&gt; R&amp;D -&gt; prod (run {target.run})"
    assert [body["text"] for _, _, body in receiver.heard] == [text]


@pytest.mark.parametrize(
    ("answers", "sent", "reached"),
    [
        ([(429, {"Retry-After": "1"})], 2, True),
        ([(429, {"Retry-After": "1"})] * 2, 2, False),
        ([(429, {"Retry-After": "3600"})], 1, False),
        ([(429, {})], 1, False),
    ],
)
def test_a_busy_channel_is_asked_once_more(
    situation: Bring, receiver: Any, monkeypatch: pytest.MonkeyPatch, answers: list[Any], sent: int, reached: bool
) -> None:
    """429 with a short Retry-After is retried once; a long wait is not waited for."""
    here = situation("first_deployment")
    monkeypatch.setenv("HOOK", address(receiver))
    receiver.answers = list(answers)
    report = notifications.announce(telling(here, slack_webhook="env:HOOK"), "Hello.")
    assert len(receiver.heard) == sent and bool(report.reached) is reached
    assert reached or report.failures == ("Slack was not notified: it answered 429",)


def test_a_queue_hears_by_sns(situation: Bring) -> None:
    """A topic's subscribers hear the message."""
    here = situation("first_deployment")
    topic = here.client("sns").create_topic(Name="deployments")["TopicArn"]
    queue = here.client("sqs").create_queue(QueueName="team")["QueueUrl"]
    here.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:us-east-1:123456789012:team")
    assert notifications.announce(telling(here, topic_arn=topic), "Shipping v2.").reached == ("SNS",)
    (message,) = here.client("sqs").receive_message(QueueUrl=queue)["Messages"]
    assert "Shipping v2." in json.loads(message["Body"])["Message"]


def test_the_status_page_gets_an_incident(situation: Bring, receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incident is posted as Statuspage wants it, with a token from the environment."""
    here = situation("first_deployment")
    monkeypatch.setenv("STATUS_TOKEN", "t0ken")
    page = {"url": address(receiver), "page_id": "p1", "token": "env:STATUS_TOKEN"}
    told = notifications.publish_status(telling(here, status_page=page), "Reminders are late", "We are on it.")
    assert told.reached == ("status page",)
    path, headers, body = receiver.heard[0]
    assert path == "/v1/pages/p1/incidents" and headers["Authorization"] == "OAuth t0ken"
    assert body["incident"]["status"] == "investigating"


def test_a_channel_that_is_down_is_told_and_stops_nothing(
    situation: Bring, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of 500, a refused connection, a missing secret and a missing topic are reported; the others are told."""
    here = situation("first_deployment")
    topic = here.client("sns").create_topic(Name="deployments")["TopicArn"]
    receiver.status = 500
    monkeypatch.setenv("HOOK", f"{address(receiver)}/services/SECRET")
    told = notifications.announce(telling(here, slack_webhook="env:HOOK", topic_arn=topic), "Hello.")
    assert told.reached == ("SNS",) and told.failures == ("Slack was not notified: it answered 500",)
    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/services/SECRET")
    told = notifications.announce(
        telling(here, slack_webhook="env:HOOK", topic_arn="arn:aws:sns:us-east-1:123456789012:no"), "Hello."
    )
    assert told.reached == () and len(told.failures) == 2 and "SECRET" not in str(told)
    monkeypatch.delenv("HOOK")
    assert "HOOK is not set" in str(notifications.announce(telling(here, slack_webhook="env:HOOK"), "Hello."))


def test_a_channel_of_apprise_gets_the_message(
    situation: Bring, receiver: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its URL comes from the environment; an address that is none, or that refuses, is reported without the URL."""
    here = situation("first_deployment")
    monkeypatch.setenv("GOOD", f"json://127.0.0.1:{receiver.server_port}/SECRET")
    monkeypatch.setenv("DOWN", "json://127.0.0.1:9/SECRET")
    monkeypatch.setenv("WRONG", "no-service://SECRET")
    names = {"PagerDuty": "GOOD", "Teams": "DOWN", "mail": "WRONG", "Opsgenie": "MISSING"}
    channels = [{"name": name, "url": f"env:{variable}"} for name, variable in names.items()]
    told = notifications.announce(telling(here, channels=channels), "v42 was rolled back.")
    assert told.reached == ("PagerDuty",)
    assert told.failures == (
        "Teams was not notified: it did not accept the message.",
        "mail was not notified: its address is none that Apprise can read.",
        "Opsgenie was not notified: The environment variable MISSING is not set.",
    )
    ((path, _, body),) = receiver.heard
    assert path == "/SECRET" and body["title"] == "sandbox"
    assert body["message"].startswith("[sandbox] v42 was rolled back. (run ")
    assert "SECRET" not in (here.folder / "run" / "journal.jsonl").read_text() + "".join(capfd.readouterr())


def test_a_channel_without_its_package_stops_nothing(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named, and the other channels are notified."""
    here = situation("first_deployment")
    topic = here.client("sns").create_topic(Name="deployments")["TopicArn"]
    monkeypatch.setitem(sys.modules, "apprise", None)
    channels = [{"name": "PagerDuty", "url": "env:PAGERDUTY"}]
    told = notifications.announce(telling(here, topic_arn=topic, channels=channels), "Hello.")
    assert told.reached == ("SNS",)
    assert "PagerDuty was not notified: settings.notify.channels needs the extra 'notify'" in told.failures[0]


def test_nothing_configured_tells_nobody(situation: Bring) -> None:
    """Every channel is optional."""
    here = situation("first_deployment")
    assert notifications.announce(here.connect(), "Hello.") == notifications.DeliveryReport((), ())


def shipped(
    here: Situation, target: Target, profile: str, glass: dict[str, str] | None = None, label: str = "2.0.0"
) -> rollout.Outcome:
    """A build all at once, and told of."""
    plan = rollout.plan_rollout(target, here.build(profile, label), "all_at_once", break_glass=glass)
    outcome = rollout.drive_rollout(
        target, announcements.announce_rollout(target, plan, rollout.run_rollout(target, plan, approve(target, plan)))
    )
    target.close()
    return outcome


def heard(receiver: Any) -> list[str]:
    return [body["text"] for _, _, body in receiver.heard]


def test_a_deployment_is_told_before_and_after(
    situation: Bring, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once when it begins, once when it has ended; whoever broke the glass is named with the rules and the reason."""
    here = situation("good", **QUIET)
    monkeypatch.setenv("HOOK", f"{address(receiver)}/x")
    rules = {"by_hand": False, "records": {"pre_deployment": 24}}
    target = telling(here, policy=rules, slack_webhook="env:HOOK")
    outcome = shipped(here, target, "good", {"who": "Ada", "why": "reminders are not sent"})
    assert outcome.ending == "unproven"
    before, after = heard(receiver)
    assert (
        "Started: Deploy a new version" in before
        and "Ended: Deploy a new version" in after
        and "v2 receives 100 %" in after
    )
    assert "VIOLATES THE RULES: sandbox allows deployments by CI only, and this is not a CI run" in before
    assert "no result of pre_deployment" in before
    assert "Ada used emergency override (break-glass): reminders are not sent." in before


def test_traffic_is_back_before_anybody_hears_of_it(
    situation: Bring, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the message of a rollback arrives, the alias has been where it says for as long as it takes to write it."""
    here = situation("slow", requests_per_minute=3000, history_minutes=20)
    monkeypatch.setenv("HOOK", f"{address(receiver)}/x")
    receiver.look = lambda: here.alias()["FunctionVersion"]
    outcome = shipped(here, telling(here, 10, slack_webhook="env:HOOK"), "slow")
    assert outcome.ending == "rolled-back"
    assert receiver.seen == ["1", "1", "1"] and "ROLLED BACK at" in heard(receiver)[-1]


def test_a_channel_that_is_down_stops_no_rollout(
    situation: Bring, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ships, and its outcome says who was not told, once."""
    here = situation("good", **QUIET)
    receiver.status = 500
    monkeypatch.setenv("HOOK", f"{address(receiver)}/x")
    outcome = shipped(here, telling(here, slack_webhook="env:HOOK"), "good")
    assert here.alias()["FunctionVersion"] == "2"
    assert [each for each in outcome.reasons if "Slack" in each] == ["Slack was not notified: it answered 500"]


def test_a_refusal_on_the_way_is_told(situation: Bring, receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who heard of the beginning hears of the end, whatever it was; and the error is still an error."""
    here = situation("good", **QUIET)
    monkeypatch.setenv("HOOK", f"{address(receiver)}/x")
    with pytest.raises(Refused, match="smoke-failed"):
        shipped(here, telling(here, slack_webhook="env:HOOK"), "total_failure")
    assert "REFUSED (smoke-failed)" in heard(receiver)[-1]


def test_what_changes_nothing_tells_nobody(situation: Bring, receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that serves already, and a dry run."""
    here = situation("good", **QUIET)
    monkeypatch.setenv("HOOK", f"{address(receiver)}/x")
    serves = telling(here, slack_webhook="env:HOOK")
    assert shipped(here, serves, "good", label="1.0.0").ending == "already-live"
    dry = here.connect(values=serves.settings.model_dump(mode="json"), dry_run=True)
    assert shipped(here, dry, "good").ending == "dry-run"
    assert heard(receiver) == []


def test_an_archived_run_is_announced_with_its_manifests_hash(
    situation: Bring, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose run had people's approval tells how it ended and the hash that verifies it; a dry run tells nobody, and a
    channel that is down changes neither exit code nor archive."""
    here = situation("good", **QUIET)
    monkeypatch.setenv("HOOK", f"{address(receiver)}/x")
    given = {"environment": "sandbox", "approved_by": ["Ada"]}
    given["settings"] = telling(here, slack_webhook="env:HOOK").settings.model_dump(mode="json")
    supervisor.run_notebook("operations/alarms", {**given, "dry_run": True}, folder=here.folder / "runs" / "dry")
    assert heard(receiver) == []
    done = supervisor.run_notebook("operations/alarms", given, folder=here.folder / "runs" / "one")
    assert done.exit_code == 0, done.trouble
    digest = hashlib.sha256((done.folder / "manifest.json").read_bytes()).hexdigest()
    (said,) = (each for each in heard(receiver) if "manifest" in each)
    assert said.startswith(f"[sandbox] operations/alarms ended: SUCCEEDED. Archived as one, manifest {digest}. (run ")
    shelf = archive.open_store(here.folder / "runs")
    assert verification.verify_archive(shelf, digest).problems == ()
    # The test's settings are not those of parameters/, which the archive says.
    (said,) = done.told
    assert said.startswith("DIFFERS FROM THE COMMITTED RUNBOOK") and "setting notify was given as a parameter" in said
    receiver.status = 500
    down = supervisor.run_notebook("operations/alarms", given, folder=here.folder / "runs" / "two")
    assert down.exit_code == 0 and down.told[1:] == ("Slack was not notified: it answered 500",)
    assert verification.verify_archive(shelf, digest).problems == ()


# A person's rollback


def configured(here: Situation, receiver: Any) -> dict[str, Any]:
    """The sandbox's settings, with a webhook that the receiver answers."""
    secret = f"{address(receiver)}/services/T0/B0/SECRET"
    here.client("ssm").put_parameter(Name="/buddy/slack", Value=secret, Type="SecureString", Overwrite=True)
    given = here.connect(quiet=True).settings.model_dump(mode="json")
    return given | {"notify": {"slack_webhook": "ssm:/buddy/slack"}}


def command(here: Situation, given: dict[str, Any], *more: str) -> "subprocess.CompletedProcess[str]":
    """``buddy-ops rollback`` in a project whose file says the same."""
    for name in ("parameters", "notebooks"):
        (here.folder / name).mkdir(exist_ok=True)
    file = here.folder / "parameters" / "sandbox.yaml"
    file.write_text(yaml.safe_dump({"environment": "sandbox", "settings": given}), "utf-8")
    line = [sys.executable, "-m", "buddy_ops.cli.main", "rollback", "--yes", "--approved-by", "Ada", *more]
    return subprocess.run(line, cwd=here.folder, capture_output=True, text=True, timeout=120, check=False)


WAYS: dict[str, Callable[[Situation, dict[str, Any]], "subprocess.CompletedProcess[str]"]] = {
    "rollback/immediate": lambda here, given: run("rollback/immediate", settings=given, approved_by=["Ada"]),
    "rollback/gradual": lambda here, given: run("rollback/gradual", settings=given, steps=[0], approved_by=["Ada"]),
    "buddy-ops rollback": command,
}


@pytest.mark.parametrize("way", sampled(WAYS, slice(1)))
def test_a_persons_rollback_is_told_once_and_after_the_traffic(situation: Bring, receiver: Any, way: str) -> None:
    """When the message arrives, the alias serves the old version alone; it says which one lost its traffic."""
    here = situation("good")
    begun(here)
    given = configured(here, receiver)
    receiver.look = lambda: (here.alias()["FunctionVersion"], here.alias().get("RoutingConfig"))
    done = WAYS[way](here, given)
    assert done.returncode == 0, done.stderr
    about = [body["text"] for _, _, body in receiver.heard if "v2" in body["text"]]
    assert len(about) == 1 and "v1" in about[0]
    assert set(receiver.seen) == {("1", None)}


@pytest.mark.parametrize("way", sampled(WAYS, slice(None, None, 2)))
def test_a_rollback_is_done_whether_or_not_anybody_can_be_told(situation: Bring, receiver: Any, way: str) -> None:
    """Slack answers 500: the traffic is back all the same, exit code 0, and what was not told is in the journal."""
    here = situation("good")
    begun(here)
    receiver.status = 500
    done = WAYS[way](here, configured(here, receiver))
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "1" and "RoutingConfig" not in here.alias()
    journals = [path.read_text("utf-8") for path in Path(here.folder).rglob("journal.jsonl")]
    assert any("Slack was not notified: it answered 500" in each for each in journals)


def test_the_command_notifies_channels_without_slack_and_topic(situation: Bring) -> None:
    """Each kind of channel is enough by itself: here one whose address is missing, and that is said."""
    here = situation("good")
    begun(here)
    given = here.connect(quiet=True).settings.model_dump(mode="json")
    done = command(here, given | {"notify": {"channels": [{"name": "pager", "url": "env:NO_SUCH_PAGER"}]}})
    assert done.returncode == 0 and "pager was not notified" in done.stdout, done.stderr


def test_a_rollback_that_did_nothing_tells_nobody(situation: Bring, receiver: Any) -> None:
    """A dry run moves nothing, and a second rollback finds its work done: no message of either."""
    here = situation("good")
    begun(here)
    given = configured(here, receiver)
    assert command(here, given, "--dry-run").returncode == 0 and receiver.heard == []
    assert command(here, given).returncode == 0 and len(receiver.heard) == 1
    assert command(here, given).returncode == 0 and len(receiver.heard) == 1
