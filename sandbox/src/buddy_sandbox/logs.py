"""CloudWatch Logs: groups, streams, events and filter patterns; queries are the module ``insights``.

Knows which lines exist and from when they can be read. Never guesses at a pattern: one that it does not understand is
refused.
"""

import json
import math
import re
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from moto.core.model import OperationModel
from werkzeug.wrappers import Response

from buddy_sandbox import functions
from buddy_sandbox.access import ACCOUNT
from buddy_sandbox.insights import COMPARE, Event, Malformed, Parser, pointer
from buddy_sandbox.publication import Clock
from buddy_sandbox.wire import AwsError, Params, Service, Throttle

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
PAGE_EVENTS = 10_000
PAGE_BYTES = 1_048_576
EVENT_OVERHEAD = 26
PAGE_NAMES = 50
NAME_LIMIT = 512
SEQUENCE_TOKEN = "49" + "0" * 54
"""What PutLogEvents answers for older clients; it needs none. Source: its API reference."""

RETENTIONS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653)


_MISSING_FOR_QUERY = (
    "Log group '{name}' does not exist for account ID '{account}' (Service: AWSLogs; Status Code: 400; "
    "Error Code: ResourceNotFoundException; Request ID: {request}; Proxy: null)"
)


class LogSource(Protocol):
    """Something that can say what was logged, without having stored it."""

    def lines(self, start_s: float, end_s: float) -> Iterable[tuple[float, str, str]]:
        """Time, stream and message of the lines from ``start_s`` until before ``end_s``, the same at every call."""


@dataclass
class Group:
    """A log group. ``streams`` are those made by name, with their creation; sources bring more."""

    name: str
    created_ms: int
    retention_days: int | None = None
    streams: dict[str, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    sources: list[LogSource] = field(default_factory=list)


class LogStore:
    """Every log line. One is visible ``delay_s`` after it was written (or put, if later).

    Args:
        clock: what time it is.
        delay_s: seconds between a line and its publication.
        account: whose they are.

    Attributes:
        late_rate: the share of a source's lines that come ``late_s`` later.
        lost_rate: the share of them that never come.
        duplicated_rate: the share of events that FilterLogEvents answers twice.
        shuffled: whether it answers them in any order.
        page_events: the most events of one of its pages.
        throttle.for_s: virtual seconds, from when it is set, for which it is throttled.
    """

    def __init__(self, clock: Clock, delay_s: float = 5.0, account: str = ACCOUNT) -> None:
        self.clock = clock
        self.account = account
        self.delay_s = delay_s
        self.late_rate = 0.0
        self.late_s = 0.0
        self.lost_rate = 0.0
        self.duplicated_rate = 0.0
        self.shuffled = False
        self.page_events = PAGE_EVENTS
        self.throttle = Throttle()
        self.groups: dict[str, Group] = {}
        self.lock = threading.RLock()

    def add(self, group: str, stream: str, time_s: float, message: str) -> None:
        """Store a line; its group and stream are created with the first."""
        with self.lock:
            now_ms = int(self.clock.now() * 1000)
            own = self.group(group)
            own.streams.setdefault(stream, now_ms)
            time_ms = round(time_s * 1000)
            own.events.append(Event(time_ms, stream, message, max(time_ms, now_ms), f"{self.account}:{group}"))

    def add_source(self, group: str, source: LogSource) -> None:
        """Let ``source`` say what a group holds besides, from now on, whenever it is read."""
        with self.lock:
            own = self.group(group)
            if source not in own.sources:
                own.sources.append(source)

    def group(self, name: str) -> Group:
        """A group, created if there is none."""
        return self.groups.setdefault(name, Group(name, int(self.clock.now() * 1000)))

    def read(self, group: Group, start_ms: float, end_ms: float) -> list[Event]:
        """The visible events from ``start_ms`` until before ``end_ms``, oldest first."""
        seen_ms = (self.clock.now() - self.delay_s) * 1000
        if group.retention_days:
            start_ms = max(start_ms, self.clock.now() * 1000 - group.retention_days * DAY_MS)
        start_ms, end_ms = max(0.0, start_ms), min(end_ms, seen_ms + 1)
        with self.lock:
            found = [each for each in group.events if start_ms <= each.time_ms < end_ms and each.ingested_ms <= seen_ms]
            sources = list(group.sources)
        # A group that was deleted and made again holds nothing of before.
        start_ms = max(start_ms, group.created_ms)
        for source in sources if start_ms < end_ms else ():
            # A millisecond more on both sides: which lines belong is decided on rounded times.
            for time_s, stream, message in source.lines((start_ms - 1) / 1000, (end_ms + 1) / 1000):
                time_ms = round(time_s * 1000)
                if not start_ms <= time_ms < end_ms or _draw(message, time_ms, "lost") < self.lost_rate:
                    continue
                ingested_ms = time_ms
                if _draw(message, time_ms, "late") < self.late_rate:
                    ingested_ms += round(self.late_s * 1000)
                if ingested_ms <= seen_ms:
                    found.append(Event(time_ms, stream, message, ingested_ms, f"{self.account}:{group.name}"))
        return sorted(found, key=lambda event: event[:2])

    def as_answered(self, found: list[Event]) -> list[Event]:
        """Events as FilterLogEvents answers them: some twice, and in any order, if that was set."""
        found = found + [
            event for event in found if _draw(event.message, event.time_ms, "twice") < self.duplicated_rate
        ]
        if self.shuffled:
            found.sort(key=lambda event: _draw(event.message, event.time_ms, "order"))
        return found


def _draw(message: str, time_ms: int, what: str) -> float:
    """A number in [0, 1) that is always the same for a line."""
    return zlib.crc32(f"{what} {time_ms} {message}".encode()) / 2**32


class Logs(Service):
    """CloudWatch Logs over a LogStore."""

    name = "logs"

    def __init__(self, store: LogStore, clock: Clock, region: str = "us-east-1") -> None:
        super().__init__()
        self.store = store
        self.clock = clock
        self.arn_prefix = f"arn:aws:logs:{region}:{store.account}:log-group:"
        self._answers: dict[str, list[Params]] = {}

    def call(self, operation: OperationModel, params: Params) -> Response:
        names = (params.get("logGroupName", ""), params.get("logStreamName", ""))
        problem = functions.violation(operation.input_shape, params)
        if any(len(name) > NAME_LIMIT for name in names):
            problem = f"Invalid LogGroup or LogStream, both must have length less than or equal to {NAME_LIMIT}."
        if problem:
            return self._answer(operation, wrong(problem), str(uuid.uuid4()), 400)
        return super().call(operation, params)

    def create_log_group(self, params: Params) -> None:
        with self.store.lock:
            if params["logGroupName"] in self.store.groups:
                raise AwsError("ResourceAlreadyExistsException", "The specified log group already exists")
            self.store.group(params["logGroupName"])

    def delete_log_group(self, params: Params) -> None:
        with self.store.lock:
            del self.store.groups[self._group(params).name]

    def create_log_stream(self, params: Params) -> None:
        with self.store.lock:
            streams = self._group(params).streams
            if params["logStreamName"] in streams:
                raise AwsError("ResourceAlreadyExistsException", "The specified log stream already exists")
            streams[params["logStreamName"]] = int(self.clock.now() * 1000)

    def put_retention_policy(self, params: Params) -> None:
        if params["retentionInDays"] not in RETENTIONS:
            raise wrong(f"retentionInDays is one of {RETENTIONS}")
        self._group(params).retention_days = params["retentionInDays"]

    def put_log_events(self, params: Params) -> Params:
        group, stream, events = self._group(params), params["logStreamName"], params["logEvents"]
        times = [event["timestamp"] for event in events]
        if stream not in group.streams:
            raise AwsError("ResourceNotFoundException", "The specified log stream does not exist.")
        if times != sorted(times):
            raise wrong("Log events in a single PutLogEvents request must be in chronological order.")
        if times and times[-1] - times[0] > DAY_MS:
            raise wrong("Log events in a single PutLogEvents request must span at most 24 hours.")
        size = sum(len(event["message"].encode()) + EVENT_OVERHEAD for event in events)
        if len(events) > PAGE_EVENTS or size > PAGE_BYTES:
            raise wrong(f"Upload too large: {size} bytes exceeds limit of {PAGE_BYTES}, or {len(events)} events")
        now_ms = self.clock.now() * 1000
        old = sum(time < now_ms - min(14, group.retention_days or 14) * DAY_MS for time in times)
        fresh = sum(time <= now_ms + 2 * HOUR_MS for time in times)
        for event in events[old:fresh]:
            self.store.add(group.name, stream, event["timestamp"] / 1000, event["message"])
        rejected = {"tooOldLogEventEndIndex": old} if old else {}
        rejected |= {"tooNewLogEventStartIndex": fresh} if fresh < len(times) else {}
        return {"rejectedLogEventsInfo": rejected or None, "nextSequenceToken": SEQUENCE_TOKEN}

    def describe_log_groups(self, params: Params) -> Params:
        prefix, part = params.get("logGroupNamePrefix", ""), params.get("logGroupNamePattern", "")
        if prefix and part:
            raise wrong("LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters.")
        found = []
        for name, group in sorted(self.store.groups.items()):
            if name.startswith(prefix) and part.lower() in name.lower():
                arn = f"{self.arn_prefix}{name}"
                names = {"logGroupName": name, "arn": f"{arn}:*", "logGroupArn": arn, "logGroupClass": "STANDARD"}
                unused = {"storedBytes": 0, "metricFilterCount": 0, "deletionProtectionEnabled": False}
                times = {"creationTime": group.created_ms, "retentionInDays": group.retention_days}
                found.append({**names, **unused, **times})
        return _names_page(params, "logGroups", found)

    def describe_log_streams(self, params: Params) -> Params:
        """The streams of a group. Those of its sources are found by reading all that is visible."""
        group, prefix = self._group(params), params.get("logStreamNamePrefix", "")
        by_time = params.get("orderBy") == "LastEventTime"
        if by_time and prefix:
            raise wrong("Cannot order by LastEventTime with a logStreamNamePrefix.")
        streams: dict[str, Params] = {name: {"creationTime": made} for name, made in group.streams.items()}
        for event in self.store.read(group, 0, math.inf):
            stream = streams.setdefault(event.stream, {"creationTime": event.time_ms})
            stream.setdefault("firstEventTimestamp", event.time_ms)
            stream |= {"lastEventTimestamp": event.time_ms, "lastIngestionTime": event.ingested_ms}
        arn = f"{self.arn_prefix}{group.name}:log-stream:"
        found = [
            {"logStreamName": name, "arn": arn + name, "storedBytes": 0, **streams[name]}
            for name in sorted(streams, key=lambda name: (by_time * streams[name].get("lastEventTimestamp", 0), name))
            if name.startswith(prefix)
        ]
        return _names_page(params, "logStreams", found[::-1] if params.get("descending") else found)

    def filter_log_events(self, params: Params) -> Params:
        if self.store.throttle.active():
            raise AwsError("ThrottlingException", "Rate exceeded")
        group, names, prefix = self._group(params), params.get("logStreamNames"), params.get("logStreamNamePrefix", "")
        if names and prefix:
            raise wrong("logStreamNames and logStreamNamePrefix are mutually exclusive.")
        matches = pattern(params.get("filterPattern", ""))
        events = self.store.read(group, params.get("startTime", 0), params.get("endTime", math.inf) + 1)
        found = [
            event
            for event in events
            if (not names or event.stream in names) and event.stream.startswith(prefix) and matches(event.message)
        ]
        found = self.store.as_answered(found)
        begin = _offset(params)
        most = min(params.get("limit", PAGE_EVENTS), self.store.page_events)
        page = _page(found if params.get("startFromHead", True) else found[::-1], begin, {**params, "limit": most})
        rows = [
            {
                "logStreamName": event.stream,
                "timestamp": event.time_ms,
                "message": event.message,
                "ingestionTime": event.ingested_ms,
                "eventId": pointer(event.time_ms, event.stream, event.message),
            }
            for event in page
        ]
        end = begin + len(page)
        return {"events": rows, "searchedLogStreams": [], "nextToken": str(end) if end < len(found) else None}

    def get_log_events(self, params: Params) -> Params:
        group, stream = self._group(params), params["logStreamName"]
        events = self.store.read(group, params.get("startTime", 0), params.get("endTime", math.inf))
        found = [event for event in events if event.stream == stream]
        if not found and stream not in group.streams | {e.stream: 0 for e in self.store.read(group, 0, math.inf)}:
            raise AwsError("ResourceNotFoundException", "The specified log stream does not exist.")
        # A token is a direction and a position; at the end of the stream, the same one comes back.
        direction, _, position = params.get("nextToken", "").partition("/")
        if direction not in ("", "f", "b") or (direction and not position.isdigit()):
            raise wrong("The specified nextToken is invalid.")
        if direction == "f" or (not direction and params.get("startFromHead")):
            begin = int(position or 0)
            page = _page(found, begin, params)
            end = begin + len(page)
        else:
            end = int(position or len(found))
            page = _page(found[:end][::-1], 0, params)[::-1]
            begin = end - len(page)
        rows = [{"timestamp": e.time_ms, "message": e.message, "ingestionTime": e.ingested_ms} for e in page]
        return {"events": rows, "nextForwardToken": f"f/{end}", "nextBackwardToken": f"b/{begin}"}

    def start_query(self, params: Params) -> Params:
        chosen = [params[each] for each in ("logGroupName", "logGroupNames", "logGroupIdentifiers") if each in params]
        if len(chosen) != 1 or params.get("queryLanguage", "CWLI") != "CWLI" or params["startTime"] > params["endTime"]:
            raise wrong("A query takes one way of naming its log groups, Logs Insights' language, and a time range.")
        named = [chosen[0]] if isinstance(chosen[0], str) else chosen[0]
        groups = [self._named(name, _MISSING_FOR_QUERY) for name in named]
        try:
            query = Parser(params["queryString"]).query()
        except Malformed as error:
            raise AwsError("MalformedQueryException", str(error), queryCompileError={"message": str(error)}) from None
        span = params["startTime"] * 1000, params["endTime"] * 1000 + 1
        events = [event for group in groups for event in self.store.read(group, *span)]
        events.sort(key=lambda event: event.time_ms, reverse=True)
        rows, matched = query.run(events)
        scanned = {"recordsScanned": float(len(events)), "bytesScanned": float(sum(len(e.message) for e in events))}
        results = [
            [{"field": name, "value": value} for name, value in row.items()] for row in rows[: params.get("limit")]
        ]
        done = {"status": "Complete", "results": results, "statistics": {"recordsMatched": float(matched), **scanned}}
        query_id = str(uuid.uuid4())
        # Like AWS, still running when first asked, so that nobody forgets to ask again.
        self._answers[query_id] = [done, {"status": "Running", "results": [], "statistics": {}}]
        return {"queryId": query_id}

    def get_query_results(self, params: Params) -> Params:
        answers = self._answers.get(params["queryId"])
        if not answers:
            raise AwsError("ResourceNotFoundException", f"Query {params['queryId']} does not exist.")
        return answers.pop() if len(answers) > 1 else answers[0]

    def _group(self, params: Params) -> Group:
        if "logGroupName" in params and "logGroupIdentifier" in params:
            raise AwsError("ValidationException", "LogGroup name and LogGroup ARN are mutually exclusive parameters.")
        if "logGroupName" not in params and "logGroupIdentifier" not in params:
            raise wrong("Specify either logGroupName or logGroupIdentifier.")
        return self._named(params.get("logGroupName") or params["logGroupIdentifier"])

    def _named(self, name: str, missing: str = "The specified log group does not exist.") -> Group:
        group = self.store.groups.get(name.removeprefix(self.arn_prefix).removesuffix(":*"))
        if group is None:
            raise AwsError(
                "ResourceNotFoundException", missing.format(name=name, account=self.store.account, request=uuid.uuid4())
            )
        return group


_TERM = re.compile(r"""([-?]?)(?:"((?:\\.|[^"\\])*)"|(%[^%]*%)|(\w+))(?=\s|$)\s*""", re.ASCII)
_REGEX_BODY = re.compile(r"[A-Za-z0-9:_#=@/;,\-^$?\[\]{}|\\*+.]+")


def pattern(text: str) -> Callable[[str], bool]:
    """Which messages a filter pattern matches: terms, quoted terms, ``?any``, ``-not``, ``%regex%`` and JSON.

    Raises:
        AwsError: it is wrong, or of a kind that the sandbox does not support (space-delimited ones, and of JSON all but
            comparisons with a text or a number that are joined by ``&&``, ``||`` and parentheses).

    Source: CloudWatch Logs user guide, 'Filter pattern syntax'.
    """
    tests: dict[str, list[Callable[[str], object]]] = {"": [], "?": [], "-": []}
    position, text = 0, text.strip()
    if text.startswith("{") and text.endswith("}"):
        return _json_pattern(text)
    while position < len(text):
        found = _TERM.match(text, position)
        if not found or text[0] in "{[":
            raise wrong(f"Invalid filter pattern, or one that the sandbox does not support: {text}")
        position = found.end()
        sign, quoted, regex, word = found.groups()
        term = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else word
        tests[sign].append(_searcher(regex[1:-1]) if regex else _container(term))
    if tests["?"] and (tests[""] or tests["-"]):
        raise wrong(f"?terms do not combine with others: {text}")
    return lambda message: (
        all(test(message) for test in tests[""])
        and not any(test(message) for test in tests["-"])
        and (not tests["?"] or any(test(message) for test in tests["?"]))
    )


_COMPARISON = re.compile(r'\s*\$((?:\.\w+)+)\s*(=|!=|<=|>=|<|>)\s*(?:"([^"\\]*)"|(-?\d+(?:\.\d+)?))\s*', re.ASCII)
_JOINT = re.compile(r"\s*(\(|\)|&&|\|\|)\s*")

Condition = Callable[[object], bool]


class _JsonConditions:
    """A reader of conditions: ``()`` binds closer than ``&&``, and that closer than ``||``."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def read(self) -> Condition:
        """The whole text as one condition."""
        condition = self._any()
        if self._position != len(self._text):
            raise _unsupported(self._text)
        return condition

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._takes("||"):
            parts.append(self._all())
        return lambda document: any(part(document) for part in parts)

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._takes("&&"):
            parts.append(self._one())
        return lambda document: all(part(document) for part in parts)

    def _one(self) -> Condition:
        if self._takes("("):
            condition = self._any()
            if not self._takes(")"):
                raise _unsupported(self._text)
            return condition
        found = _COMPARISON.match(self._text, self._position)
        if found is None or not (found[4] or found[2] in ("=", "!=")):
            raise _unsupported(self._text)
        self._position = found.end()
        return lambda document: _holds(document, found)

    def _takes(self, joint: str) -> bool:
        found = _JOINT.match(self._text, self._position)
        if found is None or found[1] != joint:
            return False
        self._position = found.end()
        return True


def _unsupported(text: str) -> AwsError:
    return wrong(f"Invalid filter pattern, or one that the sandbox does not support: {{{text}}}")


def _json_pattern(text: str) -> Callable[[str], bool]:
    condition = _JsonConditions(text[1:-1]).read()

    def matches(message: str) -> bool:
        # Most lines of a log are of another kind: this saves reading them.
        if not message.startswith("{"):
            return False
        try:
            document = json.loads(message)
        except ValueError:
            return False
        return condition(document)

    return matches


def _holds(document: object, comparison: re.Match[str]) -> bool:
    """Whether a comparison holds. A selector that selects nothing, or a value of another kind, does not match."""
    path, sign, word, number = comparison.groups()
    for name in path[1:].split("."):
        if not isinstance(document, dict) or name not in document:
            return False
        document = document[name]
    if number is None:
        return isinstance(document, str) and COMPARE[sign](document, word)
    if isinstance(document, bool) or not isinstance(document, int | float):
        return False
    return COMPARE[sign](document, float(number))


def wrong(message: str) -> AwsError:
    """A parameter that CloudWatch Logs does not take."""
    return AwsError("InvalidParameterException", message)


def _container(term: str) -> Callable[[str], object]:
    return lambda message: term in message


def _searcher(body: str) -> Callable[[str], object]:
    try:
        if not _REGEX_BODY.fullmatch(body):
            raise re.error("unsupported character")
        return re.compile(body).search
    except re.error as error:
        raise wrong(f"Invalid filter pattern: {body}: {error}") from None


def _offset(params: Params) -> int:
    token = params.get("nextToken", "0")
    if not token.isdigit():
        raise wrong("The specified nextToken is invalid.")
    return int(token)


def _page(events: Sequence[Event], begin: int, params: Params) -> list[Event]:
    """The events from ``begin`` on that one answer holds: as many as asked for, and one megabyte at most."""
    page: list[Event] = []
    size = 0
    for event in events[begin : begin + params.get("limit", PAGE_EVENTS)]:
        size += len(event.message.encode()) + EVENT_OVERHEAD
        if page and size > PAGE_BYTES:
            break
        page.append(event)
    return page


def _names_page(params: Params, name: str, found: Sequence[Params]) -> Params:
    begin = _offset(params)
    end = begin + params.get("limit", PAGE_NAMES)
    return {name: found[begin:end], "nextToken": str(end) if len(found) > end else None}
