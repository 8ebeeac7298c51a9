"""Everything the sandbox simulates, moved through virtual time together.

Knows the order in which things happen as time passes. Never speaks HTTP: ``server`` does.
"""

import threading
from datetime import UTC, datetime
from typing import Any

import boto3
import time_machine
from botocore.config import Config
from botocore.exceptions import ClientError

from buddy_sandbox import dynamodb, keys, parameters
from buddy_sandbox.alarms import Transition
from buddy_sandbox.clock import Clock
from buddy_sandbox.cloudwatch import CloudWatch
from buddy_sandbox.conditions import Conditions
from buddy_sandbox.lambda_api import Lambda
from buddy_sandbox.logs import Logs, LogStore
from buddy_sandbox.metrics_store import MetricStore
from buddy_sandbox.runtime import Runtime
from buddy_sandbox.scheduler import Scheduler
from buddy_sandbox.telemetry import Telemetry
from buddy_sandbox.traffic import People
from buddy_sandbox.wire import Params, Service

MINUTE_S = 60.0
REGION = "us-east-1"
STEPPED_START = datetime(2026, 11, 2, 0, 0, tzinfo=UTC).timestamp()
"""Where stepped time begins: always the same, so that a run can be repeated to the second."""


class World:
    """One AWS account in one region.

    Args:
        endpoint: the sandbox's own URL, for whatever calls back.
        seed: random seed.
        speed: clock speed (10 = 10x real time); 0 is stepped.
        start: where time begins, epoch seconds.
    """

    def __init__(self, endpoint: str, seed: int, speed: float, start: float) -> None:
        dynamodb.install()
        parameters.install()
        keys.install()
        self.endpoint, self.seed = endpoint, seed
        self.clock = Clock(start, self._advance, speed)
        # moto reads the time itself, all over; it shall read ours.
        self._travel = time_machine.travel(datetime.fromtimestamp(start, UTC), tick=False)
        self._traveller = self._travel.start()
        self._clients: dict[str, Any] = {}
        self.calls: list[dict[str, Any]] = []
        self._build()

    def _build(self) -> None:
        self.tables, self.parameters = dynamodb.TABLES, parameters.PARAMETERS
        self.tables.reset()
        self.parameters.reset()
        self.metrics, self.log_store = MetricStore(self.clock), LogStore(self.clock)
        self.runtime = Runtime(self.endpoint)
        telemetry = Telemetry(self.metrics, self.log_store, self._weighted)
        self.functions = Lambda(self.clock, self.runtime, telemetry, seed=self.seed, fetch_s3=self._fetch_s3)
        self.scheduler = Scheduler(self.clock.now, self.invoke)
        self.cloudwatch = CloudWatch(self.metrics, self.clock)
        self.cloudwatch.on_transition = self._notify
        self.people = People(self.seed, self.functions, telemetry)
        self.conditions = Conditions()
        own: tuple[Service, ...] = (self.functions, self.scheduler, self.cloudwatch, Logs(self.log_store, self.clock))
        self.services = {each.name: each for each in own}

    def reset(self, seed: int | None = None, start: float | None = None) -> None:
        """An empty account again, with the same or another seed; time goes on unless ``start`` is given."""
        self.runtime.close()
        self.seed = self.seed if seed is None else seed
        self.calls.clear()
        if start is not None:
            self.clock.stop()
            self.clock = Clock(start, self._advance, self.clock.speed)
            self._traveller.move_to(datetime.fromtimestamp(start, UTC), tick=False)
        self._build()

    def invoke(self, service: str, operation: str, parameters: Params) -> Any:
        """Call the sandbox as any client would: for schedules, and for setting scenarios up."""
        return getattr(self.client(service), operation)(**parameters)

    def client(self, service: str) -> Any:
        """An SDK client of this sandbox."""
        if service not in self._clients:
            session = boto3.Session(aws_access_key_id="sandbox", aws_secret_access_key="sandbox", region_name=REGION)
            config = Config(retries={"total_max_attempts": 1}, user_agent_appid="sandbox")  # type: ignore[call-arg]
            self._clients[service] = session.client(service, endpoint_url=self.endpoint, config=config)
        return self._clients[service]

    def close(self) -> None:
        """End what was started: workers, and the hold on this process's time."""
        self.runtime.close()
        self._travel.stop()

    def _advance(self, until: float) -> None:
        """Move through every minute boundary and every schedule on the way to ``until``."""
        while (now := self.clock.now()) < until:
            boundary = (now // MINUTE_S + 1) * MINUTE_S
            due = self.scheduler.next_due()
            step = min(until, boundary, max(due, now) if due is not None else until)
            self.people.advance(now, step)
            self._traveller.move_to(datetime.fromtimestamp(step, UTC), tick=False)
            self.clock.set(step)
            if due is not None and due <= step:
                self.scheduler.fire()
            if step == boundary:
                self._evaluate_alarms()

    def _evaluate_alarms(self) -> None:
        for transition in self.cloudwatch.evaluate(self.clock.now()):
            self._notify(transition)

    def _notify(self, transition: Transition) -> None:
        """Deliver an alarm's actions; one that fails is noted in the alarm's history, as on AWS."""
        subject = f'{transition.new}: "{transition.alarm}" in US East (N. Virginia)'[:100]
        for action in transition.actions:
            try:
                if ":sns:" in action:
                    message = {"TopicArn": action, "Subject": subject, "Message": transition.message}
                    self.invoke("sns", "publish", message)
                elif ":lambda:" in action:
                    event = {"FunctionName": action, "InvocationType": "Event", "Payload": transition.message.encode()}
                    self.invoke("lambda", "invoke", event)
            except Exception as failure:
                self.cloudwatch.acted(transition, action, str(failure))
            else:
                self.cloudwatch.acted(transition, action)

    def _weighted(self, function: str, alias: str) -> bool:
        routing = self.functions.routing(function, alias)
        return routing is not None and routing.second is not None

    def _fetch_s3(self, bucket: str, key: str, version: str | None) -> bytes:
        which = {"VersionId": version} if version else {}
        try:
            reply = self.invoke("s3", "get_object", {"Bucket": bucket, "Key": key, **which})
        except ClientError as error:
            bucket_missing = error.response["Error"]["Code"] == "NoSuchBucket"
            raise LookupError("NoSuchBucket" if bucket_missing else "NoSuchKey") from error
        body: bytes = reply["Body"].read()
        return body


class LiveTicker:
    """Lets time run by itself in live mode."""

    EVERY_S = 0.1

    def __init__(self, world: World) -> None:
        self._world, self._stop = world, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self.EVERY_S):
            self._world.clock.tick(self.EVERY_S)

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()
