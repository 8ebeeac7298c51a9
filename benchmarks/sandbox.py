"""How fast the sandbox is: virtual minutes a second at 6,000 requests a minute, and CloudWatch reads over 1 M samples.

Run it with ``python -m benchmarks.sandbox``; it starts a sandbox of its own.
"""

import statistics
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3

from buddy_ops.cli import sandbox

REQUESTS_PER_MINUTE = 6000
HOURS = 3
READS = 5


def main() -> None:
    """Measure and print."""
    with sandbox.running_sandbox() as url:
        sandbox.call_sandbox(
            url, "scenario", name="good", overrides={"requests_per_minute": REQUESTS_PER_MINUTE, "history_minutes": 0}
        )
        began = time.perf_counter()
        sandbox.call_sandbox(url, "advance", seconds=3600 * HOURS)
        took = time.perf_counter() - began
        speed = 60 * HOURS / took
        print(f"traffic: {60 * HOURS} virtual minutes at {REQUESTS_PER_MINUTE:,} requests a minute in {took:.2f} s")
        print(f"         {speed:.0f} virtual minutes a second (aim: at least 60)")
        sandbox.call_sandbox(url, "advance", seconds=120)
        reads = [read(url) for _ in range(READS)]
        samples = int(reads[0][1])
        cold, warm = reads[0][0], statistics.median(took for took, _ in reads[1:])
        print(f"reads:   {HOURS} h of 7 queries at 60 s over {samples:,} samples, through the SDK")
        print(f"         {cold:.2f} s the first time, {warm:.2f} s after (aim: at most 0.3)")


def read(url: str) -> tuple[float, float]:
    """One GetMetricData as a rollout makes it; seconds, and the requests it counted."""
    keys = {"aws_access_key_id": "bench", "aws_secret_access_key": "bench", "region_name": "us-east-1"}
    cloudwatch = boto3.client("cloudwatch", endpoint_url=url, **keys)
    cloudwatch.list_metrics(Namespace="none")  # the client's own first-call costs are not the sandbox's
    end = datetime.fromtimestamp(sandbox.call_sandbox(url, "clock")["now"], UTC)
    wanted = [
        ("invocations", "Invocations", "Sum"),
        ("errors", "Errors", "Sum"),
        ("p50", "Duration", "p50"),
        ("p90", "Duration", "p90"),
        ("p99", "Duration", "p99"),
        ("slow", "Duration", "TC(6000:)"),
    ]
    queries: list[dict[str, Any]] = [query(*each) for each in wanted]
    queries.append({"Id": "rate", "Expression": "100 * errors / invocations"})
    began = time.perf_counter()
    reply = cloudwatch.get_metric_data(MetricDataQueries=queries, StartTime=end - timedelta(hours=HOURS), EndTime=end)
    took = time.perf_counter() - began
    return took, sum(next(each for each in reply["MetricDataResults"] if each["Id"] == "invocations")["Values"])


def query(name: str, metric: str, stat: str) -> dict[str, Any]:
    """One query over the function as a whole."""
    dimensions = [{"Name": "FunctionName", "Value": "buddy-alexa-skill-sandbox"}]
    named = {"Namespace": "AWS/Lambda", "MetricName": metric, "Dimensions": dimensions}
    return {"Id": name, "MetricStat": {"Metric": named, "Period": 60, "Stat": stat}}


if __name__ == "__main__":
    main()
