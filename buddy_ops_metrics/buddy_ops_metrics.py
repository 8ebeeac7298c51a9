"""Counts the requests of a Lambda function that fail without an error, for each version behind an alias.

    metrics = Metrics(namespace="Shop", kind="http")

    @metrics.log_metrics
    def handler(event, context): ...

Each request prints one line in CloudWatch's embedded metric format, whose names are those of Powertools for AWS Lambda.
Nothing that goes wrong here reaches the handler or its caller. This file needs nothing else: copy it, if you like.

Source: CloudWatch user guide, 'Specification: Embedded metric format'.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

__all__ = ["Metrics"]

Kind = Literal["alexa", "http", "sqs", "stream", "async", "custom"]
Handler = TypeVar("Handler", bound=Callable[..., Any])
Rule = Callable[[Any, Any], bool]
"""Whether a request failed, by its event and the handler's answer."""

DIMENSIONS = [["FunctionName", "Resource"], ["FunctionName", "Resource", "ExecutedVersion"]]
MOST_METRICS = 100
"""CloudWatch takes no more of one line."""


class Metrics:
    """The counters of a function. Make one for each module, and decorate the handler with ``log_metrics``.

    ``Requests`` is 1 with each request. ``Failures`` is 1 where the answer is a failure, and else 0. A handler that
    raises or times out is an error that Lambda counts itself: it is none of ``Failures``.

    Args:
        namespace: of the metrics. Default: POWERTOOLS_METRICS_NAMESPACE, or 'BuddyOps'.
        kind: which answers are failures. 'http': a status of 500 or more. 'sqs' and 'stream': a partial batch response
            that reports a failed record; ``FailedItems`` is their number. The others: none.
        failed: a rule of your own, which decides instead: ``failed(event, response)``.
        counters: names of your own counters, which are 0 in requests that do not add to them.
    """

    def __init__(
        self,
        namespace: str = "",
        kind: Kind = "custom",
        failed: Rule | None = None,
        counters: Iterable[str] = (),
    ) -> None:
        self._namespace = namespace or os.environ.get("POWERTOOLS_METRICS_NAMESPACE") or "BuddyOps"
        self._kind = kind
        self._failed = failed
        self._counters = tuple(counters)
        self._values: dict[str, float] = {}
        self._units: dict[str, str] = {}

    def add_metric(self, name: str, unit: str = "Count", value: float = 1) -> None:
        """Add to a counter of this request. A value that is no number is left out."""
        try:
            number = float(value)
        except (TypeError, ValueError):
            return
        if math.isfinite(number):
            self._values[name] = self._values.get(name, 0) + number
            self._units[name] = unit

    def log_metrics(self, handler: Handler) -> Handler:
        """Decorate a handler: its answer and its errors stay as they are, and its metrics are printed at its end."""

        @functools.wraps(handler)
        def counted(event: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
            # A request that timed out in this environment before has left its counters.
            self._values = {}
            self._units = {}
            try:
                response = handler(event, context, *args, **kwargs)
            except BaseException:
                self._emit(context, failures=0, items=0)
                raise
            failures, items = self._judge(event, response)
            self._emit(context, failures, items)
            return response

        return counted  # type: ignore[return-value]

    def _judge(self, event: Any, response: Any) -> tuple[int, int]:
        """Whether a request failed, 0 or 1, and how many of its records did."""
        try:
            if self._failed is not None:
                return int(bool(self._failed(event, response))), 0
            if self._kind == "http":
                return int(_is_http_failure(event, response)), 0
            if self._kind in ("sqs", "stream"):
                items = _count_failed_items(event, response)
                return int(items > 0), items
        except Exception as error:
            # An answer that the rule cannot read is none that its caller expects.
            _say(f"buddy_ops_metrics: the answer counts as a failure: {type(error).__name__}: {error}")
            return 1, 0
        return 0, 0

    def _emit(self, context: Any, failures: int, items: int) -> None:
        """Print the line. Never raises."""
        try:
            values: dict[str, float] = {"Requests": 1, "Failures": failures}
            if self._kind in ("sqs", "stream"):
                values["FailedItems"] = items
            for name in self._counters:
                values.setdefault(name, 0)
            for name, value in self._values.items():
                if len(values) < MOST_METRICS or name in values:
                    values[name] = value
            metrics = [{"Name": name, "Unit": self._units.get(name, "Count")} for name in values]
            directive = {"Namespace": self._namespace, "Dimensions": DIMENSIONS, "Metrics": metrics}
            line = {
                **values,
                "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]},
                "FunctionName": context.function_name,
                # NAME, NAME:ALIAS or NAME:VERSION, as in the metrics of Lambda itself.
                "Resource": context.invoked_function_arn.split(":function:", 1)[1],
                "ExecutedVersion": context.function_version,
            }
            _say(json.dumps(line, separators=(",", ":")))
        except Exception as error:
            _say(f"buddy_ops_metrics: no metrics: {type(error).__name__}: {error}")


def _is_http_failure(event: Any, response: Any) -> bool:
    """Whether the caller sees a status of 500 or more.

    With payload format 2.0 an answer without a statusCode is one of 200; API Gateway and load balancers answer 502 for
    others. Source: API Gateway developer guide, 'Create AWS Lambda proxy integrations for HTTP APIs'; 'Handle Lambda
    errors in API Gateway'.
    """
    if not isinstance(response, dict) or "statusCode" not in response:
        return not (isinstance(event, dict) and event.get("version") == "2.0")
    return int(response["statusCode"]) >= 500


def _count_failed_items(event: Any, response: Any) -> int:
    """How many records of a batch failed, by the handler's partial batch response.

    An identifier that is empty or missing fails the whole batch, as does a list that is none; of a stream, the records
    after the first failed one are tried again, too, and count only if they are named. Source: Lambda developer guide,
    'Implementing partial batch responses'.
    """
    if not isinstance(response, dict) or response.get("batchItemFailures") is None:
        return 0
    failures = response["batchItemFailures"]
    whole = max(1, len(event.get("Records", ())) if isinstance(event, dict) else 1)
    if not isinstance(failures, list):
        return whole
    if any(not isinstance(each, dict) or not each.get("itemIdentifier") for each in failures):
        return whole
    return len(failures)


def _say(line: str) -> None:
    """Print one line in one piece, since other threads may print, too."""
    with contextlib.suppress(Exception):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
