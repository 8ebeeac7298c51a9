"""One region of one account: what the sandbox serves itself there. Nothing of it is shared with another.

Knows what belongs to a region, and passes time on to it. What moto serves, moto keeps apart by account and region.
"""

import zlib
from collections.abc import Callable, Iterable
from functools import cache
from operator import attrgetter
from typing import Annotated, Any

from botocore.exceptions import ClientError
from botocore.loaders import create_loader
from pydantic import Field

from buddy_sandbox.access import ACCOUNT
from buddy_sandbox.alarms import Transition
from buddy_sandbox.clock import Clock
from buddy_sandbox.cloudwatch import CloudWatch
from buddy_sandbox.conditions import OF_ALL_REGIONS, PLACES, Conditions
from buddy_sandbox.lambda_api import Lambda
from buddy_sandbox.logs import Logs, LogStore
from buddy_sandbox.metrics_store import MetricStore
from buddy_sandbox.publication import Lateness
from buddy_sandbox.runtime import Runtime
from buddy_sandbox.scheduler import Scheduler
from buddy_sandbox.telemetry import Telemetry
from buddy_sandbox.traffic import People
from buddy_sandbox.wire import Params, Service

RegionName = Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
AccountNumber = Annotated[str, Field(pattern=r"^\d{12}$")]

HOME = "us-east-1"
"""Where scenarios are, and what their draws are of."""


class Region:
    """A region's functions, metrics, logs, alarms and schedules, and the people who use them.

    Args:
        name: for example us-east-1.
        account: whose it is.
        clock: the sandbox's.
        runtime: runs handlers.
        seed: of the draws; each region of each account has draws of its own.
        invoke: calls (service, operation, parameters) in this region and account as any client would.
    """

    def __init__(
        self,
        name: str,
        account: str,
        clock: Clock,
        runtime: Runtime,
        seed: int,
        invoke: Callable[[str, str, Params], Any],
    ) -> None:
        self.name, self.account = name, account
        self.conditions = Conditions()
        self._clock, self._invoke = clock, invoke
        self.metrics, self.log_store = MetricStore(clock), LogStore(clock, account=account)
        telemetry = Telemetry(self.metrics, self.log_store, self._weighted)
        self.functions = Lambda(
            clock,
            runtime,
            telemetry,
            region=name,
            account=account,
            seed=seed ^ (salt(account, name) or 0),
            fetch_s3=self._fetch_s3,
        )
        self.scheduler = Scheduler(clock.now, invoke, name, account)
        self.cloudwatch = CloudWatch(self.metrics, clock, name, account)
        self.cloudwatch.on_transition = self._notify
        self.people = People(seed, self.functions, telemetry)
        logs = Logs(self.log_store, clock, name)
        own: tuple[Service, ...] = (self.functions, self.scheduler, self.cloudwatch, logs)
        self.services = {each.name: each for each in own}

    def evaluate_alarms(self) -> None:
        """Evaluate every alarm at the present minute, and deliver what changed."""
        for transition in self.cloudwatch.evaluate(self._clock.now()):
            self._notify(transition)

    def _notify(self, transition: Transition) -> None:
        """Deliver an alarm's actions; one that fails is noted in the alarm's history, as on AWS."""
        subject = f'{transition.new}: "{transition.alarm}" in {place(self.name)}'[:100]
        for action in transition.actions:
            try:
                if ":sns:" in action:
                    message = {"TopicArn": action, "Subject": subject, "Message": transition.message}
                    self._invoke("sns", "publish", message)
                elif ":lambda:" in action:
                    event = {"FunctionName": action, "InvocationType": "Event", "Payload": transition.message.encode()}
                    self._invoke("lambda", "invoke", event)
            except Exception as failure:
                self.cloudwatch.acted(transition, action, str(failure))
            else:
                self.cloudwatch.acted(transition, action)

    def hold(self, conditions: Conditions, names: Iterable[str]) -> None:
        """Let conditions hold here from now on; only what is named takes effect: a throttle that runs is left alone."""
        chosen = set(names)
        self.conditions = conditions
        for name in chosen & PLACES.keys():
            place = PLACES[name]
            if not place.owner.startswith(OF_ALL_REGIONS):
                setattr(attrgetter(place.owner)(self), place.attribute, getattr(conditions, name))
        if any(name.startswith("metrics_") for name in chosen):
            self.metrics.publication.change(
                Lateness(
                    delay_s=conditions.metrics_delay_s,
                    delays_s=conditions.metrics_delays_s,
                    revised_rate=conditions.metrics_revised_rate,
                    revised_s=conditions.metrics_revised_s,
                )
            )
        self.cloudwatch.outage = conditions.outage
        if "requests_per_minute" in chosen:
            for traffic in self.people.traffic:
                traffic.requests_per_minute = conditions.requests_per_minute

    def _weighted(self, function: str, alias: str) -> bool:
        routing = self.functions.routing(function, alias)
        return routing is not None and routing.second is not None

    def _fetch_s3(self, bucket: str, key: str, version: str | None) -> bytes:
        which = {"VersionId": version} if version else {}
        try:
            reply = self._invoke("s3", "get_object", {"Bucket": bucket, "Key": key, **which})
        except ClientError as error:
            bucket_missing = error.response["Error"]["Code"] == "NoSuchBucket"
            raise LookupError("NoSuchBucket" if bucket_missing else "NoSuchKey") from error
        body: bytes = reply["Body"].read()
        return body


def salt(account: str, region: str, name: str = "") -> int | None:
    """What draws of a region, or of something in it, depend on beside the seed; None where scenarios are."""
    parts = [] if account == ACCOUNT else [account]
    if (account, region, name) == (ACCOUNT, HOME, ""):
        return None
    return zlib.crc32(":".join(filter(None, (*parts, region, name))).encode())


@cache
def place(region: str) -> str:
    """A region as CloudWatch's mails name it; one that is not known by its code."""
    for partition in create_loader().load_data("endpoints")["partitions"]:
        if region in partition["regions"]:
            return str(partition["regions"][region]["description"])
    return region
