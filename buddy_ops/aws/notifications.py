"""Notifications to Slack, an SNS topic, channels of Apprise and the status page, each where it is configured.

A channel that is down is reported in the result: nothing here raises, and no rollback waits for it. Secrets are never
shown or stored.
"""

import json
import logging
import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Literal
from urllib.error import HTTPError

from buddy_ops.aws.session import Target
from buddy_ops.core import extras
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.settings import AppriseChannel, StatusPage
from buddy_ops.core.text import show_controls

TIMEOUT_S = 5
LONGEST_RETRY_AFTER_S = 5
"""A channel that asks for a longer wait is not sent the message again."""

CHANNEL_NEXT = "Correct the channel's Apprise URL in the place that its setting names."

SUBJECT_LIMIT = 100
"""Characters of a message's Subject. Source: SNS API reference, Publish: fewer than 100 characters, ASCII."""

Impact = Literal["none", "minor", "major", "critical"]
Status = Literal["investigating", "identified", "monitoring", "resolved"]
Send = Callable[[], object]


@dataclass(frozen=True)
class DeliveryReport:
    """Which channels accepted a message, and why others did not."""

    reached: tuple[str, ...]
    failures: tuple[str, ...]

    def __str__(self) -> str:
        lines = list(self.failures)
        if self.reached:
            lines.insert(0, f"Notified: {', '.join(self.reached)}.")
        elif not self.failures:
            lines.append("No notification channel configured.")
        return "\n".join(lines)


def announce(target: Target, text: str) -> DeliveryReport:
    """Notify the team in Slack, by SNS and in ``notify.channels``.

    AWS: sns:Publish, and ssm:GetParameter for the addresses of the others.

    Args:
        text: a sentence or two. Environment and run are added to it.
    """
    settings = target.settings.notify
    text = show_controls(target.redactor.redact_with_shared(text))
    message = f"[{target.environment}] {text} (run {target.run})"
    # Partials: a secret that is missing is a failure of its own channel, and the others are still notified.
    channels: dict[str, Send] = {}
    if settings.slack_webhook:
        channels["Slack"] = partial(_send_to_slack, target, settings.slack_webhook, message)
    if settings.topic_arn:
        channels["SNS"] = partial(
            target.client("sns").publish,
            TopicArn=settings.topic_arn,
            Subject=f"Buddy Ops: {target.settings.function} ({target.environment})"[: SUBJECT_LIMIT - 1],
            Message=message,
        )
    for channel in settings.channels:
        channels[channel.name] = partial(_send_by_apprise, target, channel, message)
    return _send(target, channels, text)


def publish_status(
    target: Target, name: str, body: str, *, status: Status = "investigating", impact: Impact = "minor"
) -> DeliveryReport:
    """Open an incident on the status page, for what users notice. A Statuspage-compatible POST."""
    page = target.settings.notify.status_page
    if page is None:
        return DeliveryReport((), ("Status page not updated: none is configured.",))
    said = {"name": name, "body": body, "status": status, "impact_override": impact}
    incident = {key: show_controls(target.redactor.redact_with_shared(value)) for key, value in said.items()}
    return _send(target, {"status page": partial(_send_to_status_page, target, page, incident)}, incident["name"])


def read_secret(target: Target, where: str) -> str:
    """A secret's value, from SSM ('ssm:/name') or the environment ('env:NAME'). AWS: ssm:GetParameter, decrypted.

    Raises:
        BuddyError: ``secret-missing``. It names the place, never the value.
    """
    kind, _, name = where.partition(":")
    if kind == "ssm":
        value = target.client("ssm").get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    else:
        value = os.environ.get(name, "")
    if not value:
        raise BuddyError(
            "secret-missing",
            f"The environment variable {name} is not set.",
            now="No message was sent by this channel.",
            next=f"Set {name}, or store the secret in SSM and write ssm:/its/name in parameters/.",
        )
    target.redactor.add_secret(value)
    return value


def _send(target: Target, channels: Mapping[str, Send], text: str) -> DeliveryReport:
    reached: list[str] = []
    failures: list[str] = []
    for name, send in channels.items():
        try:
            send()
        except BuddyError as error:
            failures.append(f"{name} was not notified: {error.what}")
        except HTTPError as error:
            failures.append(f"{name} was not notified: it answered {error.code}")
        except Exception as error:
            # Only the error's type is shown: its text may hold the address, which is a secret.
            failures.append(f"{name} was not notified: {type(error).__name__}.")
        else:
            reached.append(name)
    target.journal.append("told", text=text, reached=reached, troubles=failures)
    return DeliveryReport(tuple(reached), tuple(failures))


def _send_to_slack(target: Target, where: str, message: str) -> None:
    # Slack reads <!channel> as a mention of everyone. Source: Slack API, 'Formatting text', escaping.
    escaped = message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    _post(target, read_secret(target, where), {"text": escaped})


def _send_by_apprise(target: Target, channel: AppriseChannel, message: str) -> None:
    apprise = extras.require_apprise()
    # Its log has addresses, which hold keys.
    logging.getLogger("apprise").disabled = True
    one = apprise.Apprise()
    if not one.add(read_secret(target, channel.url)):
        raise BuddyError("channel-unusable", "its address is none that Apprise can read.", next=CHANNEL_NEXT)
    if not one.notify(body=message, title=target.environment, body_format=apprise.NotifyFormat.TEXT):
        raise BuddyError("channel-unusable", "it did not accept the message.", next=CHANNEL_NEXT)


def _send_to_status_page(target: Target, page: StatusPage, incident: dict[str, str]) -> None:
    url = f"{page.url.rstrip('/')}/v1/pages/{page.page_id}/incidents"
    token = read_secret(target, page.token)
    _post(target, url, {"incident": incident}, authorization=f"OAuth {token}")


def _post(target: Target, url: str, content: Mapping[str, object], *, authorization: str = "") -> None:
    """POST JSON; once again where the channel says 429 and that it will take it soon."""
    request = urllib.request.Request(url, data=json.dumps(content).encode())
    request.add_header("Content-Type", "application/json")
    if authorization:
        request.add_header("Authorization", authorization)
    try:
        _open(request)
    except HTTPError as error:
        wait_s = error.headers.get("Retry-After", "")
        if error.code != 429 or not wait_s.isdecimal() or int(wait_s) > LONGEST_RETRY_AFTER_S:
            raise
        target.clock.sleep_until(target.clock.now() + timedelta(seconds=int(wait_s)))
        _open(request)


def _open(request: urllib.request.Request) -> None:
    with urllib.request.urlopen(request, timeout=TIMEOUT_S):
        pass
