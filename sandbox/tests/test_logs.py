"""The sandbox's CloudWatch Logs keeps AWS's rules: one test each, through boto3."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError
from serving import START, Crank, client_of

from buddy_sandbox.logs import Logs, LogStore

GROUP = "/aws/lambda/f"
STREAM = "2026/11/22/[42]abc"
MS = int(START * 1000)
REQUEST = "3604209a-e9a3-11e6-939a-754dd98c7be3"


@dataclass
class Sandbox:
    """Logs with one group, and a client."""

    client: Any
    store: LogStore
    clock: Crank

    def found(self, **params: Any) -> list[str]:
        """The messages that FilterLogEvents answers."""
        return [e["message"] for e in self.client.filter_log_events(logGroupName=GROUP, **params)["events"]]

    def add(self, *messages: str, stream: str = STREAM) -> None:
        """Lines at consecutive seconds from START on, all visible."""
        self.clock.time = START
        for at, message in enumerate(messages):
            self.store.add(GROUP, stream, START + at, message)
        self.clock.time = START + 1_000

    def query(self, text: str, **params: Any) -> list[dict[str, str]]:
        """The rows that an Insights query comes to, without @ptr."""
        asked = {"logGroupName": GROUP, "startTime": int(START), "endTime": int(START) + 900, **params}
        query_id = self.client.start_query(queryString=text, **asked)["queryId"]
        self.client.get_query_results(queryId=query_id)
        answer = self.client.get_query_results(queryId=query_id)
        assert answer["status"] == "Complete"
        return [{c["field"]: c["value"] for c in row if c["field"] != "@ptr"} for row in answer["results"]]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """One for each test."""
    clock = Crank()
    store = LogStore(clock)
    store.group(GROUP)
    with client_of(Logs(store, clock)) as client:
        yield Sandbox(client, store, clock)


@dataclass
class Traffic:
    """A source: one line a second, made when somebody reads."""

    asked: list[tuple[float, float]] = field(default_factory=list)

    def lines(self, start_s: float, end_s: float) -> Iterable[tuple[float, str, str]]:
        self.asked.append((start_s, end_s))
        for at in range(100):
            if start_s <= START + at < end_s:
                yield START + at, STREAM, f"line {at}"


def code(call: Any, **params: Any) -> str:
    """The error code that a call is refused with."""
    with pytest.raises(ClientError) as refused:
        call(**params)
    return str(refused.value.response["Error"]["Code"])


def report(duration: float, *, version: str = "42", init: float | None = None, at: float = 0, sandbox: Sandbox) -> None:
    """A Lambda REPORT line, as AWS writes it."""
    parts = [
        f"REPORT RequestId: {REQUEST}",
        f"Duration: {duration:.2f} ms",
        f"Billed Duration: {duration + 1:.0f} ms",
        "Memory Size: 256 MB",
        "Max Memory Used: 81 MB",
    ]
    parts += [] if init is None else [f"Init Duration: {init:.2f} ms"]
    sandbox.clock.time = START
    sandbox.store.add(GROUP, f"2026/11/22/[{version}]abc", START + at, "\t".join(parts) + "\t")
    sandbox.clock.time = START + 1_000


class TestGroupsAndStreams:
    """Groups, streams and retention."""

    def test_groups(self, sandbox: Sandbox) -> None:
        """Groups are made once, found by prefix, and keep their retention. Source: API reference, DescribeLogGroups."""
        sandbox.client.create_log_group(logGroupName="/other")
        assert code(sandbox.client.create_log_group, logGroupName="/other") == "ResourceAlreadyExistsException"
        sandbox.client.put_retention_policy(logGroupName="/other", retentionInDays=14)
        (group,) = sandbox.client.describe_log_groups(logGroupNamePrefix="/o")["logGroups"]
        assert (group["logGroupName"], group["retentionInDays"], group["creationTime"]) == ("/other", 14, MS)
        assert group["arn"] == "arn:aws:logs:us-east-1:123456789012:log-group:/other:*"
        bad = {"logGroupName": "/other", "retentionInDays": 15}
        assert code(sandbox.client.put_retention_policy, **bad) == "InvalidParameterException"
        assert (
            code(sandbox.client.put_retention_policy, logGroupName="/no", retentionInDays=1)
            == "ResourceNotFoundException"
        )

    def test_pages_of_groups(self, sandbox: Sandbox) -> None:
        """At most 50 groups come at once. Source: API reference, DescribeLogGroups."""
        for at in range(60):
            sandbox.client.create_log_group(logGroupName=f"g{at:02d}")
        pages = sandbox.client.get_paginator("describe_log_groups").paginate(logGroupNamePrefix="g")
        assert [len(page["logGroups"]) for page in pages] == [50, 10]

    def test_streams(self, sandbox: Sandbox) -> None:
        """Streams are listed by name or by their last event. Source: API reference, DescribeLogStreams."""
        sandbox.client.create_log_stream(logGroupName=GROUP, logStreamName="z")
        assert code(sandbox.client.create_log_stream, logGroupName=GROUP, logStreamName="z").startswith(
            "ResourceAlready"
        )
        sandbox.add("first", "last", stream="a")
        sandbox.store.add_source(GROUP, Traffic())

        def names(**params: Any) -> list[str]:
            return [
                s["logStreamName"]
                for s in sandbox.client.describe_log_streams(logGroupName=GROUP, **params)["logStreams"]
            ]

        assert names() == [STREAM, "a", "z"]
        assert names(orderBy="LastEventTime", descending=True) == [STREAM, "a", "z"]
        assert names(logStreamNamePrefix="a") == ["a"]
        (stream,) = sandbox.client.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix="a")["logStreams"]
        assert (stream["firstEventTimestamp"], stream["lastEventTimestamp"]) == (MS, MS + 1_000)

    def test_retention_hides_old_events(self, sandbox: Sandbox) -> None:
        """Events older than the retention are gone. Source: API reference, PutRetentionPolicy."""
        sandbox.add("old", "young")
        sandbox.client.put_retention_policy(logGroupName=GROUP, retentionInDays=1)
        sandbox.clock.time = START + 86_400.5
        assert sandbox.found() == ["young"]


class TestPutLogEvents:
    """PutLogEvents."""

    def put(self, sandbox: Sandbox, *offsets: int, stream: str = STREAM) -> dict[str, Any]:
        events = [{"timestamp": MS + offset, "message": f"at {offset}"} for offset in offsets]
        return dict(sandbox.client.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=events))

    def test_events_are_kept(self, sandbox: Sandbox) -> None:
        """What is put can be read, once it is published. Source: API reference, PutLogEvents."""
        sandbox.client.create_log_stream(logGroupName=GROUP, logStreamName=STREAM)
        self.put(sandbox, -60_000, 0)
        assert sandbox.found() == []
        sandbox.clock.time += 5
        assert sandbox.found() == ["at -60000", "at 0"]

    def test_the_stream_must_exist(self, sandbox: Sandbox) -> None:
        """Putting creates no stream. Source: API reference, PutLogEvents."""
        with pytest.raises(ClientError, match="ResourceNotFoundException"):
            self.put(sandbox, 0)

    @pytest.mark.parametrize("offsets", [(1, 0), (-90_000_000, 0), tuple([0] * 10_001)])
    def test_batches_that_aws_refuses(self, sandbox: Sandbox, offsets: tuple[int, ...]) -> None:
        """In order, within 24 hours, at most 10,000 at once. Source: API reference, PutLogEvents."""
        sandbox.client.create_log_stream(logGroupName=GROUP, logStreamName=STREAM)
        with pytest.raises(ClientError, match="InvalidParameterException"):
            self.put(sandbox, *offsets)

    def test_too_new_events_are_rejected_one_by_one(self, sandbox: Sandbox) -> None:
        """Events over two hours ahead are named and left out. Source: API reference, RejectedLogEventsInfo."""
        sandbox.client.create_log_stream(logGroupName=GROUP, logStreamName=STREAM)
        assert self.put(sandbox, 0, 3 * 3_600_000)["rejectedLogEventsInfo"] == {"tooNewLogEventStartIndex": 1}
        assert "rejectedLogEventsInfo" not in self.put(sandbox, 0)
        sandbox.clock.time += 4 * 3_600
        assert sandbox.found() == ["at 0", "at 0"]


class TestFilterLogEvents:
    """FilterLogEvents."""

    def test_the_range_includes_both_ends(self, sandbox: Sandbox) -> None:
        """Events before startTime or later than endTime are left out. Source: API reference, FilterLogEvents."""
        sandbox.add("a", "b", "c", "d")
        assert sandbox.found(startTime=MS + 1_000, endTime=MS + 2_000) == ["b", "c"]
        assert sandbox.found(startFromHead=False) == ["d", "c", "b", "a"]

    def test_pages(self, sandbox: Sandbox) -> None:
        """A limit cuts the answer, and nextToken goes on. Source: API reference, FilterLogEvents."""
        sandbox.add(*(f"m{at}" for at in range(25)))
        asked = {"logGroupName": GROUP, "limit": 10}
        pages = list(sandbox.client.get_paginator("filter_log_events").paginate(**asked))
        assert [len(page["events"]) for page in pages] == [10, 10, 5]
        assert len({event["eventId"] for page in pages for event in page["events"]}) == 25
        assert code(sandbox.client.filter_log_events, nextToken="x", **asked) == "InvalidParameterException"

    def test_pages_of_a_megabyte(self, sandbox: Sandbox) -> None:
        """A page holds up to one megabyte. Source: API reference, FilterLogEvents."""
        sandbox.add(*("x" * 400_000 for _ in range(5)))
        pages = sandbox.client.get_paginator("filter_log_events").paginate(logGroupName=GROUP)
        assert [len(page["events"]) for page in pages] == [2, 2, 1]

    def test_streams(self, sandbox: Sandbox) -> None:
        """Streams are chosen by name or by prefix, not both. Source: API reference, FilterLogEvents."""
        sandbox.add("one", stream="s1")
        sandbox.add("two", stream="s2")
        assert sandbox.found(logStreamNames=["s2"]) == ["two"]
        assert sandbox.found(logStreamNamePrefix="s") == ["one", "two"]
        both = {"logStreamNames": ["s1"], "logStreamNamePrefix": "s"}
        assert code(sandbox.client.filter_log_events, logGroupName=GROUP, **both) == "InvalidParameterException"

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("", "0123"),
            ("ERROR", "013"),
            ("ERROR WARN", "0"),
            ("ERROR -WARN", "13"),
            ("-ERROR", "2"),
            ("?refused ?WARN", "023"),
            ('"ERROR message"', "1"),
            ('"[x-y] ERROR"', "3"),
            ("%refused|WARN%", "023"),
            (r"%ERROR\smessage$%", "1"),
        ],
    )
    def test_patterns(self, sandbox: Sandbox, pattern: str, expected: str) -> None:
        """Terms, quoted terms, exclusion, any-of, expressions. Source: user guide, 'Filter pattern syntax'."""
        lines = ["ERROR WARN message", "ERROR message", "WARN message", "[x-y] ERROR refused"]
        sandbox.add(*lines)
        assert sandbox.found(filterPattern=pattern) == [lines[int(at)] for at in expected]

    @pytest.mark.parametrize(
        "pattern",
        [
            "{ $.level IS NULL }",
            '{ $.level > "a" }',
            '{ ($.level = "a" }',
            '{ $.level = "a") }',
            '{ $.level = "a" || }',
            "[ip, user]",
            "x-y",
            "?a b",
            "%(a)%",
            "%[%",
            '"open',
            "a {",
            "%a",
            "?",
        ],
    )
    def test_patterns_that_are_not_understood(self, sandbox: Sandbox, pattern: str) -> None:
        """A pattern that cannot be read is refused, never taken to match all. Source: facts/sandbox.md, 3."""
        sandbox.add("a")
        asked = {"logGroupName": GROUP, "filterPattern": pattern}
        assert code(sandbox.client.filter_log_events, **asked) == "InvalidParameterException"

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ('{ $.type = "platform.report" }', "01"),
            ('{ $.type != "platform.report" }', "2"),
            ("{ $.record.metrics.durationMs > 6000 }", "1"),
            ('{ $.type = "platform.report" && $.record.metrics.durationMs <= 200 }', "0"),
            ('{ $.record.metrics = "x" }', ""),
            ("{ $.type = 1 }", ""),
            ('{ $.type = "platform.start" || $.record.metrics.durationMs > 6000 }', "12"),
            ('{ ($.type = "platform.report" && ($.record.metrics.durationMs > 6000)) || $.type = "x" }', "1"),
            ('{ $.type = "x" && ($.type = "x" || $.type = "platform.start") }', ""),
            ('{ $.type = "platform.start" || $.type = "x" && $.type = "x" }', "2"),
        ],
    )
    def test_patterns_of_json(self, sandbox: Sandbox, pattern: str, expected: str) -> None:
        """Comparisons with texts and numbers; other lines do not match. Source: user guide, 'Filter pattern syntax'."""
        report = '{"type":"platform.report","record":{"metrics":{"durationMs":%s}}}'
        lines = [report % 180.5, report % 6500, '{"type":"platform.start"}', "REPORT platform.report", "[1]"]
        sandbox.add(*lines)
        assert sandbox.found(filterPattern=pattern) == [lines[int(at)] for at in expected]

    def test_lost_and_late_lines_of_a_source(self, sandbox: Sandbox) -> None:
        """A share of the lines never comes, another later; what came once stays."""
        sandbox.store.add_source(GROUP, Traffic())
        sandbox.store.lost_rate = 0.2
        sandbox.store.late_rate = 0.3
        sandbox.store.late_s = 60.0
        sandbox.clock.time = START + 100 + 5
        soon = sandbox.client.filter_log_events(logGroupName=GROUP)["events"]
        sandbox.clock.time += 60
        later = sandbox.client.filter_log_events(logGroupName=GROUP)["events"]
        assert {event["eventId"] for event in soon} < {event["eventId"] for event in later}
        assert 70 <= len(later) < 90
        delays = [event["ingestionTime"] - event["timestamp"] for event in later]
        assert set(delays) == {0, 60_000} and 10 <= delays.count(60_000) < 40

    def test_duplicates_and_order_of_answers(self, sandbox: Sandbox) -> None:
        """Pages may hold an event twice, under the same ID, and in any order; all are there."""
        sandbox.store.add_source(GROUP, Traffic())
        sandbox.clock.time = START + 200
        whole = sandbox.client.filter_log_events(logGroupName=GROUP)["events"]
        sandbox.store.duplicated_rate = 0.5
        sandbox.store.shuffled = True
        sandbox.store.page_events = 7
        pages = list(sandbox.client.get_paginator("filter_log_events").paginate(logGroupName=GROUP))
        found = [event["eventId"] for page in pages for event in page["events"]]
        assert len(pages) > 100 / 7 and all(len(page["events"]) <= 7 for page in pages)
        assert set(found) == {event["eventId"] for event in whole} and 120 < len(found) < 180
        assert found != sorted(found)

    def test_throttled_reads(self, sandbox: Sandbox) -> None:
        """Beyond its quota FilterLogEvents is refused. Source: API reference, common errors."""
        sandbox.store.throttle.for_s = 3600
        assert code(sandbox.client.filter_log_events, logGroupName=GROUP) == "ThrottlingException"
        sandbox.store.throttle.for_s = 0
        assert sandbox.found() == []

    def test_lines_of_a_source(self, sandbox: Sandbox) -> None:
        """A source is asked for the range that is read, and its lines are visible as late as others."""
        source = Traffic()
        sandbox.store.add_source(GROUP, source)
        sandbox.clock.time = START + 25
        found = sandbox.found(startTime=MS + 15_000)
        assert found == [f"line {at}" for at in range(15, 21)]
        ((begin, end),) = source.asked
        assert START + 14.9 < begin <= START + 15
        assert START + 20 < end < START + 20.1

    def test_a_line_belongs_to_one_range_only(self, sandbox: Sandbox) -> None:
        """Times are whole milliseconds, so that adjoining ranges share no line and lose none."""

        class Finely:
            def lines(self, start_s: float, end_s: float) -> Iterable[tuple[float, str, str]]:
                times = [START + at * 0.000_37 for at in range(300)]
                return [(at, STREAM, f"{at!r}") for at in times if start_s <= at < end_s]

        sandbox.store.add_source(GROUP, Finely())
        sandbox.clock.time += 60
        parts = [sandbox.found(startTime=MS + at, endTime=MS + at + 6) for at in range(0, 112, 7)]
        assert [line for part in parts for line in part] == sandbox.found()
        assert len(sandbox.found()) == 300

    def test_a_missing_group(self, sandbox: Sandbox) -> None:
        """A group that does not exist is an error. Source: API reference, FilterLogEvents."""
        assert code(sandbox.client.filter_log_events, logGroupName="/none") == "ResourceNotFoundException"
        assert code(sandbox.client.filter_log_events) == "InvalidParameterException"


class TestGetLogEvents:
    """GetLogEvents."""

    def test_both_directions(self, sandbox: Sandbox) -> None:
        """The newest come first by default; a token at the end comes back. Source: API reference, GetLogEvents."""
        sandbox.add(*"abcdef")

        def page(**params: Any) -> tuple[str, str, str]:
            answer = sandbox.client.get_log_events(logGroupName=GROUP, logStreamName=STREAM, limit=4, **params)
            return (
                "".join(e["message"] for e in answer["events"]),
                answer["nextForwardToken"],
                answer["nextBackwardToken"],
            )

        text, forward, backward = page()
        assert text == "cdef"
        assert page(nextToken=forward)[:2] == ("", forward)
        text, _, start = page(nextToken=backward)
        assert text == "ab"
        assert page(nextToken=start)[::2] == ("", start)
        text, forward, _ = page(startFromHead=True)
        assert (text, page(nextToken=forward, startFromHead=True)[0]) == ("abcd", "ef")

    def test_the_end_is_excluded(self, sandbox: Sandbox) -> None:
        """Unlike FilterLogEvents, endTime itself is left out. Source: API reference, GetLogEvents."""
        sandbox.add("a", "b", "c")
        asked = {"logGroupName": GROUP, "logStreamName": STREAM, "startTime": MS + 1_000, "endTime": MS + 2_000}
        assert [e["message"] for e in sandbox.client.get_log_events(**asked)["events"]] == ["b"]
        assert code(sandbox.client.get_log_events, **{**asked, "logStreamName": "none"}) == "ResourceNotFoundException"


class TestInsights:
    """StartQuery and GetQueryResults."""

    def test_a_query_runs_before_it_is_complete(self, sandbox: Sandbox) -> None:
        """Results are polled for; each event's row has a pointer. Source: API reference, GetQueryResults."""
        sandbox.add("one", "two")
        asked = {
            "logGroupName": GROUP,
            "startTime": int(START),
            "endTime": int(START) + 60,
            "queryString": "filter @message = 'one'",
        }
        query_id = sandbox.client.start_query(**asked)["queryId"]
        answers = [sandbox.client.get_query_results(queryId=query_id) for _ in range(3)]
        assert [answer["status"] for answer in answers] == ["Running", "Complete", "Complete"]
        assert [cell["field"] for cell in answers[1]["results"][0]] == ["@timestamp", "@message", "@ptr"]
        assert {**answers[1]["statistics"]} == {"recordsMatched": 1.0, "recordsScanned": 2.0, "bytesScanned": 6.0}
        assert code(sandbox.client.get_query_results, queryId="none") == "ResourceNotFoundException"

    def test_the_newest_come_first(self, sandbox: Sandbox) -> None:
        """Without sort, the newest come first; both ends are in the range. Source: API reference, StartQuery."""
        sandbox.add("a", "b", "c", "d")
        rows = sandbox.query("fields @timestamp, @message", startTime=int(START) + 1, endTime=int(START) + 2)
        assert rows == [
            {"@timestamp": "2026-11-22 03:00:02.000", "@message": "c"},
            {"@timestamp": "2026-11-22 03:00:01.000", "@message": "b"},
        ]
        assert len(sandbox.query("fields @message", limit=3)) == 3

    def test_fields_of_a_report(self, sandbox: Sandbox) -> None:
        """Insights discovers the fields of Lambda's lines, memory in bytes. Source: user guide, 'Discovered fields'."""
        report(15.74, init=133.61, sandbox=sandbox)
        names = "@type, @requestId, @duration, @billedDuration, @initDuration, @memorySize, @maxMemoryUsed"
        assert sandbox.query(f"fields {names}, @logStream, @log") == [
            {
                "@type": "REPORT",
                "@requestId": REQUEST,
                "@duration": "15.74",
                "@billedDuration": "17",
                "@initDuration": "133.61",
                "@memorySize": "256000000",
                "@maxMemoryUsed": "81000000",
                "@logStream": "2026/11/22/[42]abc",
                "@log": f"123456789012:{GROUP}",
            }
        ]

    def test_request_ids_of_other_lines(self, sandbox: Sandbox) -> None:
        """START, END, a handler's own and time-out lines have one too. Source: user guide, 'Discovered fields'."""
        lines = [
            f"START RequestId: {REQUEST} Version: 42",
            f"[ERROR]\t2026-11-22T03:00:00.000Z\t{REQUEST}\tboom",
            f"2026-11-22T03:00:00.000Z {REQUEST} Task timed out after 8.00 seconds",
            f"[ERROR] ValueError: boom RequestId: {REQUEST}",
            "INIT_START Runtime Version: python:3.13",
        ]
        sandbox.add(*lines)
        assert len(sandbox.query(f'filter @requestId = "{REQUEST}"')) == 4
        assert sandbox.query('filter @type = "START" | fields @message') == [{"@message": lines[0]}]

    def test_cold_starts_by_version(self, sandbox: Sandbox) -> None:
        """The query that counts cold starts by version means what it says. Source: facts/aws.md, 3."""
        for at in range(10):
            report(100 + at, at=at, init=500 if at < 2 else None, sandbox=sandbox)
        report(7_000, version="41", at=20, sandbox=sandbox)
        rows = sandbox.query(
            r'filter @type="REPORT" | parse @logStream /\[(?<version>[^\]]+)\]/'
            " | stats count(*) as n, count(@initDuration) as cold, pct(@initDuration,95), pct(@duration,95) by version"
        )
        assert rows == [
            {"version": "41", "n": "1", "cold": "0", "pct(@duration, 95)": "7000"},
            {"version": "42", "n": "10", "cold": "2", "pct(@initDuration, 95)": "500", "pct(@duration, 95)": "109"},
        ]

    def test_stats_in_bins(self, sandbox: Sandbox) -> None:
        """bin() groups by the time's beginning. Source: user guide, Logs Insights, 'stats'."""
        for at in (0, 299, 300, 301):
            report(at, at=at, sandbox=sandbox)
        total = "sum(@duration) as s, avg(@duration), min(@duration) as low, max(@duration) as high"
        assert sandbox.query(f"stats {total} by bin(5m) | sort s asc | limit 1") == [
            {"bin(5m)": "2026-11-22 03:00:00.000", "s": "299", "avg(@duration)": "149.5", "low": "0", "high": "299"}
        ]

    def test_parse_with_a_glob(self, sandbox: Sandbox) -> None:
        """Each * of a glob becomes a field. Source: user guide, Logs Insights, 'parse'."""
        sandbox.add("user=ann, latency := 12", "user=bob, latency := 7", "other")
        rows = sandbox.query(
            'parse @message "user=*, latency := *" as user, latency | filter latency > 8 | fields user, latency as ms'
        )
        assert rows == [{"user": "ann", "ms": "12"}]

    @pytest.mark.parametrize(
        ("test", "expected"),
        [
            ("@message like 'err'", "ab"),
            ("@message like /(?i)ERR/", "ab"),
            ("@message not like /err/", "c"),
            ('@message = "err 1" or @message = "ok 3"', "ac"),
            ('@message like "err" and not @message like "2"', "a"),
            ('(@message like "1" or @message like "2") and @message != "err 2"', "a"),
            ("@duration > 5", ""),
            ("@message =~ /[13]$/ # a comment\n", "ac"),
        ],
    )
    def test_filter(self, sandbox: Sandbox, test: str, expected: str) -> None:
        """Comparisons, like, and, or, not. Source: user guide, Logs Insights, 'filter'."""
        lines = {"a": "err 1", "b": "err 2", "c": "ok 3"}
        sandbox.add(*lines.values())
        rows = sandbox.query(f"filter {test} | sort @timestamp asc")
        assert [row["@message"] for row in rows] == [lines[each] for each in expected]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "fields",
            "dedup @message",
            "SELECT * FROM x",
            "fields @message | | limit 1",
            "fields unknown",
            "fields @duration / 1000",
            "filter @duration",
            "filter @message not = 'a'",
            "filter severity = 'ERROR'",
            "filter @message like /(/",
            "parse @message 'a*' as x, y",
            "parse @message /(a)/",
            "stats stddev(@duration)",
            "stats sum(*)",
            "stats pct(@duration)",
            "stats count(*) by bin(5)",
            "stats count(*) as n | sort @timestamp desc",
            "stats count(*) as n | stats sum(n)",
            "sort @timestamp",
            "limit 0",
            "limit 20000",
            "fields @message limit 5",
            "fields @message; limit 5",
        ],
    )
    def test_queries_outside_the_subset(self, sandbox: Sandbox, text: str) -> None:
        """What is not wholly understood is refused, never half answered. Source: facts/sandbox.md, 3."""
        with pytest.raises(ClientError) as refused:
            sandbox.query(text)
        assert refused.value.response["Error"]["Code"] == "MalformedQueryException"

    def test_a_query_names_its_groups_in_one_way(self, sandbox: Sandbox) -> None:
        """Exactly one of the three ways to name groups, which exist. Source: API reference, StartQuery."""
        sandbox.add("a")
        asked = {"queryString": "fields @message", "startTime": int(START), "endTime": int(START) + 9}
        assert code(sandbox.client.start_query, **asked) == "InvalidParameterException"
        assert code(sandbox.client.start_query, logGroupName="/none", **asked) == "ResourceNotFoundException"
        arn = f"arn:aws:logs:us-east-1:123456789012:log-group:{GROUP}"
        assert "queryId" in sandbox.client.start_query(logGroupIdentifiers=[arn], **asked)
