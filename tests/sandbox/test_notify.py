"""Telling people: against a real local HTTP receiver, and a topic that a queue hears."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from buddy_ops import notify
from buddy_ops.target import Target
from tests.conftest import Situation

Bring = Callable[..., Situation]


class Receiver(BaseHTTPRequestHandler):
    """Keeps what it is sent, and answers as its server says."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, dict(self.headers), json.loads(body)))  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    server.heard, server.status = [], 200  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def telling(here: Situation, **settings: Any) -> Target:
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["notify"] = settings
    return here.connect(values=values)


def address(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_slack_hears_with_a_webhook_from_ssm(situation: Bring, receiver: Any) -> None:
    """The webhook's address comes from SSM, decrypted; the message names environment and run; no journal line holds it."""
    here = situation("first_deployment")
    secret = f"{address(receiver)}/services/T0/B0/SECRET"
    here.client("ssm").put_parameter(Name="/buddy/slack", Value=secret, Type="SecureString")
    target = telling(here, slack_webhook="ssm:/buddy/slack")
    told = notify.announce(target, "v42 was taken back.")
    assert told == notify.Told(("Slack",), ())
    path, _, body = receiver.heard[0]
    assert path.endswith("SECRET") and body["text"] == f"[sandbox] v42 was taken back. (run {target.run})"
    assert "SECRET" not in (here.folder / "run" / "journal.jsonl").read_text()


def test_a_queue_hears_by_sns(situation: Bring) -> None:
    """A topic's subscribers hear the message."""
    here = situation("first_deployment")
    topic = here.client("sns").create_topic(Name="deployments")["TopicArn"]
    queue = here.client("sqs").create_queue(QueueName="team")["QueueUrl"]
    here.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:us-east-1:123456789012:team")
    assert notify.announce(telling(here, topic_arn=topic), "Shipping v2.").reached == ("SNS",)
    (message,) = here.client("sqs").receive_message(QueueUrl=queue)["Messages"]
    assert "Shipping v2." in json.loads(message["Body"])["Message"]


def test_the_status_page_gets_an_incident(situation: Bring, receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incident is posted as Statuspage wants it, with a token from the environment."""
    here = situation("first_deployment")
    monkeypatch.setenv("STATUS_TOKEN", "t0ken")
    page = {"url": address(receiver), "page_id": "p1", "token": "env:STATUS_TOKEN"}
    told = notify.publish_status(telling(here, status_page=page), "Reminders are late", "We are on it.")
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
    told = notify.announce(telling(here, slack_webhook="env:HOOK", topic_arn=topic), "Hello.")
    assert told.reached == ("SNS",) and told.troubles == ("Slack was not told: it answered 500",)
    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/services/SECRET")
    told = notify.announce(
        telling(here, slack_webhook="env:HOOK", topic_arn="arn:aws:sns:us-east-1:123456789012:no"), "Hello."
    )
    assert told.reached == () and len(told.troubles) == 2 and "SECRET" not in str(told)
    monkeypatch.delenv("HOOK")
    assert "HOOK is not set" in str(notify.announce(telling(here, slack_webhook="env:HOOK"), "Hello."))


def test_nothing_configured_tells_nobody(situation: Bring) -> None:
    """Every channel is optional."""
    here = situation("first_deployment")
    assert notify.announce(here.connect(), "Hello.") == notify.Told((), ())
