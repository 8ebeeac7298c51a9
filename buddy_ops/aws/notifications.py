"""Telling people: Slack, SNS and the status page, each where it is configured.

Knows channels and where their secrets are. A channel that is down is reported and passed over: nothing here raises,
and no rollback ever waits for it. Never keeps or shows a secret.
"""

import json
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.settings import StatusPage

TIMEOUT_S = 5
Impact = Literal["none", "minor", "major", "critical"]
Status = Literal["investigating", "identified", "monitoring", "resolved"]


@dataclass(frozen=True)
class DeliveryReport:
    """Which channels took a message, and why others did not."""

    reached: tuple[str, ...]
    failures: tuple[str, ...]

    def __str__(self) -> str:
        reached = f"Told: {', '.join(self.reached)}." if self.reached else "Nobody was told."
        return "\n".join((reached, *self.failures))


def announce(target: Target, text: str) -> DeliveryReport:
    """Tell the team, in Slack and by SNS. AWS: sns:Publish, ssm:GetParameter for the webhook's address.

    Args:
        text: a sentence or two; environment and run are put in front of it.
    """
    settings = target.settings.notify
    said = f"[{target.environment}] {text} (run {target.run})"
    channels: list[tuple[str, Callable[[], None]]] = []
    if settings.slack_webhook:
        where = settings.slack_webhook
        channels.append(("Slack", lambda: _slack(read_secret(target, where), said)))
    if settings.topic_arn:
        topic = settings.topic_arn
        channels.append(("SNS", lambda: _publish(target, topic, said)))
    return _tell(target, channels, text)


def publish_status(
    target: Target, name: str, body: str, status: Status = "investigating", impact: Impact = "minor"
) -> DeliveryReport:
    """Open an incident on the status page: for what users notice. A Statuspage-compatible POST."""
    page = target.settings.notify.status_page
    if page is None:
        return DeliveryReport((), ("No status page is configured.",))
    incident = {"name": name, "body": body, "status": status, "impact_override": impact}
    return _tell(target, [("status page", lambda: _post_status(page, read_secret(target, page.token), incident))], name)


def read_secret(target: Target, where: str) -> str:
    """A secret's value, from SSM ('ssm:/name') or the environment ('env:NAME'). AWS: ssm:GetParameter, decrypted.

    Raises:
        BuddyError: ``secret-missing``; names where it was looked for, never what it holds.
    """
    kind, _, name = where.partition(":")
    if kind == "ssm":
        found = str(target.client("ssm").get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])
        target.redactor.add_secret(found)
        return found
    value = os.environ.get(name)
    if not value:
        raise BuddyError(
            "secret-missing",
            f"The environment variable {name} is not set.",
            now="Nobody was told by this channel.",
            next=f"Set {name}, or keep the secret in SSM and write ssm:/its/name in parameters/.",
        )
    target.redactor.add_secret(value)
    return value


def _tell(target: Target, channels: list[tuple[str, Callable[[], None]]], text: str) -> DeliveryReport:
    reached, troubles = [], []
    for name, send in channels:
        try:
            send()
        except BuddyError as error:
            troubles.append(f"{name} was not told: {error.what}")
        except Exception as error:
            # The address is a secret, and an exception's text may hold it: only its kind is told.
            troubles.append(f"{name} was not told: {type(error).__name__}.")
        else:
            reached.append(name)
    target.journal.append("told", text=text, reached=reached, troubles=troubles)
    return DeliveryReport(tuple(reached), tuple(troubles))


def _slack(address: str, text: str) -> None:
    from slack_sdk.webhook import WebhookClient

    reply = WebhookClient(address, timeout=TIMEOUT_S).send(text=text)
    if reply.status_code != 200:
        raise BuddyError(
            "channel-down", f"it answered {reply.status_code}", now="It was not told.", next="Tell it by hand."
        )


def _publish(target: Target, topic: str, text: str) -> None:
    target.client("sns").publish(TopicArn=topic, Subject=f"Buddy {target.environment}", Message=text)


def _post_status(page: StatusPage, token: str, incident: dict[str, str]) -> None:
    request = urllib.request.Request(
        f"{page.url.rstrip('/')}/v1/pages/{page.page_id}/incidents",
        data=json.dumps({"incident": incident}).encode(),
        headers={"Authorization": f"OAuth {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S):
        pass
