"""Logs Insights: a subset of its query language, over log events.

Knows ``fields`` (with ``coalesce``), ``filter``, ``parse``, ``stats``, ``sort`` and ``limit``, and the fields that
Insights discovers in Lambda's lines, as text or as JSON. Never answers a query that it does not wholly understand, or
that names a field it does not know: that is ``Malformed``.

Source: CloudWatch Logs user guide, 'CloudWatch Logs Insights language query syntax'.
"""

import hashlib
import json
import math
import operator
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

Value = str | float
Row = dict[str, Value]
Test = Callable[[Row], bool]
Step = Callable[[list[Row]], list[Row]]

MAX_ROWS = 10_000
SYSTEM = ("@timestamp", "@ingestionTime", "@message", "@logStream", "@log", "@type", "@requestId")
REPORT = {
    "Duration": ("@duration", 1.0),
    "Billed Duration": ("@billedDuration", 1.0),
    "Init Duration": ("@initDuration", 1.0),
    "Memory Size": ("@memorySize", 1e6),
    "Max Memory Used": ("@maxMemoryUsed", 1e6),
}
"""The parts of a REPORT line: the field that each becomes, and what its number is multiplied by (MB to bytes)."""
JSON_FIELDS = {
    *("time", "type", "timestamp", "level", "log_level", "message", "requestId", "errorType", "errorMessage"),
    *("record.requestId", "record.status", "record.errorType", "record.version", "record.functionVersion"),
    *("record.metrics.durationMs", "record.metrics.billedDurationMs", "record.metrics.initDurationMs"),
    *("record.metrics.memorySizeMB", "record.metrics.maxMemoryUsedMB"),
}
"""What a query may name of JSON lines: Insights discovers every member, by its path."""
_PLATFORM = re.compile(r"(START|END|REPORT) RequestId: (\S+)")
_REQUEST = re.compile(r"(?:(?:\S+\s){0,2}|.*\bRequestId: )([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")
_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)|(?P<regex>/(?:\\.|[^/\\\n])+/)|(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
    r"""|(?P<number>-?\d+(?:\.\d+)?(?![\w.]))|(?P<name>[@\w][@\w.]*)|(?P<op>!=|<=|>=|=~|[=<>(),|*])"""
)
_SPANS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Malformed(ValueError):
    """A query outside the subset, and why."""


class Event(NamedTuple):
    """A log event. Times are milliseconds since the epoch."""

    time_ms: int
    stream: str
    message: str
    ingested_ms: int
    log: str

    def row(self) -> Row:
        """Its fields, those included that Insights discovers, and its time as ``time_ms``."""
        stamps = clock(self.time_ms), clock(self.ingested_ms)
        row: Row = dict(zip(SYSTEM, (*stamps, self.message, self.stream, self.log), strict=False))
        row["time_ms"] = self.time_ms
        if platform := _PLATFORM.match(self.message):
            row |= {"@type": platform[1], "@requestId": platform[2]}
            for part in self.message.split("\t")[1:] if platform[1] == "REPORT" else ():
                name, _, value = part.partition(": ")
                if name in REPORT and (number := _number(value.split(" ")[0])) is not None:
                    row[REPORT[name][0]] = number * REPORT[name][1]
        elif self.message.startswith("{"):
            row |= _members(self.message)
        elif request := _REQUEST.match(self.message):
            row["@requestId"] = request[1]
        return row


def _members(message: str) -> Row:
    """The members of a JSON line, by their paths; of any other line, none."""
    try:
        whole = json.loads(message)
    except ValueError:
        return {}
    found: Row = {}
    rest = [("", whole)]
    while rest:
        path, value = rest.pop()
        if isinstance(value, dict):
            rest += [(f"{path}.{name}".lstrip("."), inner) for name, inner in value.items()]
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            found[path] = value
    return found


class Query(NamedTuple):
    """A query, ready to run. ``matching`` of its steps choose events; ``columns`` are the fields that it shows."""

    steps: list[Step]
    matching: int
    columns: list[str]
    grouped: bool

    def run(self, events: Iterable[Event]) -> tuple[list[dict[str, str]], int]:
        """What events, newest first, come to, and how many matched. A row lacks the fields without a value."""
        rows = [event.row() for event in events]
        matched = len(rows)
        for number, step in enumerate(self.steps, 1):
            rows = step(rows)
            matched = len(rows) if number <= self.matching else matched
        results = [{name: shown(row[name]) for name in self.columns if name in row} for row in rows[:MAX_ROWS]]
        if not self.grouped:
            for row, result in zip(rows, results, strict=False):
                result["@ptr"] = pointer(int(row["time_ms"]), str(row["@logStream"]), str(row["@message"]))
        return results, matched


def pointer(time_ms: int, stream: str, message: str) -> str:
    """An event's own name."""
    digest = hashlib.sha256(f"{stream} {message}".encode()).hexdigest()
    return f"{time_ms:014d}{int(digest, 16) % 10**42:042d}"


def clock(time_ms: int) -> str:
    """A time as Insights writes it."""
    return f"{_second(time_ms // 1000)}.{time_ms % 1000:03d}"


@lru_cache(maxsize=4096)
def _second(time_s: int) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S}"


def shown(value: Value) -> str:
    """A value as Insights writes it."""
    return value if isinstance(value, str) else f"{value:.10g}"


class Parser:
    """Recursive descent over a query's tokens. Raises Malformed."""

    def __init__(self, text: str) -> None:
        self.known = {*SYSTEM, *JSON_FIELDS, *(name for name, _ in REPORT.values())}
        self.columns: list[str] = []
        self.grouped = False
        self._tokens: list[tuple[str, str]] = [("end", "the end")]
        position = 0
        while position < len(text):
            found = _TOKEN.match(text, position)
            if not found or not found.lastgroup:
                raise Malformed(f"unexpected {text[position : position + 20]}")
            position = found.end()
            if found.lastgroup != "skip":
                self._tokens.insert(1, (found.lastgroup, found[0]))

    def query(self) -> Query:
        """All of it."""
        names = ("fields", "filter", "parse", "stats", "sort", "limit")
        commands: dict[str, Callable[[], Step]] = {name: getattr(self, f"_{name}") for name in names}
        steps: list[Step] = []
        matching = 0
        while not steps or self._accept("|"):
            name = self._take("name")
            if name not in commands:
                raise Malformed(f"the sandbox does not support the command {name}")
            steps.append(commands[name]())
            matching = len(steps) if name == "filter" and not self.grouped else matching
        self._take("end")
        return Query(steps, matching, self.columns or ["@timestamp", "@message"], self.grouped)

    def _accept(self, text: str) -> bool:
        kind, value = self._tokens[-1]
        hit = kind in ("op", "name") and value == text
        if hit:
            self._tokens.pop()
        return hit

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise Malformed(f"expected {text}, not {self._tokens[-1][1]}")

    def _take(self, kind: str) -> str:
        found, value = self._tokens[-1]
        if found != kind:
            raise Malformed(f"expected a {kind}, not {value}")
        self._tokens.pop()
        return re.sub(r"\\(.)", r"\1", value[1:-1]) if kind == "text" else value

    def _several(self, item: Callable[[], Any]) -> list[Any]:
        items = [item()]
        while self._accept(","):
            items.append(item())
        return items

    def _field(self) -> str:
        name = self._take("name")
        if name not in self.known:
            raise Malformed(f"the sandbox does not support the field {name}")
        return name

    def _alias(self, default: str) -> str:
        return self._take("name") if self._accept("as") else default

    def _regex(self) -> re.Pattern[str]:
        try:
            return re.compile(re.sub(r"\(\?<(?=[A-Za-z_])", "(?P<", self._take("regex")[1:-1]))
        except re.error as error:
            raise Malformed(f"regular expression: {error}") from None

    def _fields(self) -> Step:
        pairs = self._several(lambda: (names := self._names(), self._alias(names[0])))
        self.columns += [alias for _, alias in pairs if alias not in self.columns]
        self.known |= {alias for _, alias in pairs}

        def step(rows: list[Row]) -> list[Row]:
            for row in rows:
                found = ((alias, next((name for name in names if name in row), None)) for names, alias in pairs)
                row.update({alias: row[name] for alias, name in found if name is not None})
            return rows

        return step

    def _names(self) -> list[str]:
        """A field, or the fields of a ``coalesce``, whose first one with a value counts."""
        if not self._accept("coalesce"):
            return [self._field()]
        self._expect("(")
        names = self._several(self._field)
        self._expect(")")
        return names

    def _filter(self) -> Step:
        test = self._either()
        return lambda rows: [row for row in rows if test(row)]

    def _either(self) -> Test:
        tests = [self._both()]
        while self._accept("or"):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda row: any(test(row) for test in tests)

    def _both(self) -> Test:
        tests = [self._condition()]
        while self._accept("and"):
            tests.append(self._condition())
        return tests[0] if len(tests) == 1 else lambda row: all(test(row) for test in tests)

    def _condition(self) -> Test:
        if self._accept("("):
            inner = self._either()
            self._expect(")")
            return inner
        if self._accept("not"):
            inner = self._condition()
            return lambda row: not inner(row)
        name = self._field()
        negative = self._accept("not")
        if self._accept("like") or (not negative and self._accept("=~")):
            is_regex = self._tokens[-1][0] == "regex"
            pattern = self._regex() if is_regex else re.compile(re.escape(self._take("text")))
            return lambda row: name in row and negative != bool(pattern.search(shown(row[name])))
        sign = self._take("op")
        if negative or sign not in COMPARE:
            raise Malformed(f"unexpected {sign} after {name}")
        other: Value = self._take("text") if self._tokens[-1][0] == "text" else float(self._take("number"))
        return lambda row: name in row and _compare(COMPARE[sign], row[name], other)

    def _parse(self) -> Step:
        name = self._field()
        if self._tokens[-1][0] == "regex":
            pattern = self._regex()
            names = dict(pattern.groupindex)
        else:
            parts = self._take("text").split("*")
            self._expect("as")
            names = {alias: at for at, alias in enumerate(self._several(lambda: self._take("name")), 1)}
            # A * takes as little as it can, but the last one, at the end, all that is left.
            glob = "(.*?)".join(re.escape(part) for part in parts)
            pattern = re.compile(glob if parts[-1] else glob.removesuffix("?)") + ")", re.DOTALL)
        if not names or pattern.groups != len(names):
            raise Malformed("parse needs a name for each group or *")
        self.known |= set(names)

        def step(rows: list[Row]) -> list[Row]:
            for row in rows:
                if hit := pattern.search(shown(row.get(name, ""))):
                    row.update({each: hit[at] for each, at in names.items() if hit[at] is not None})
            return rows

        return step

    def _stats(self) -> Step:
        totals = self._several(self._aggregate)
        keys = self._several(self._key) if self._accept("by") else []
        if self.grouped:
            raise Malformed("the sandbox takes one stats command")
        self.columns, self.grouped = [name for name, _ in [*keys, *totals]], True
        self.known = set(self.columns)

        def step(rows: list[Row]) -> list[Row]:
            groups: dict[tuple[Value | None, ...], list[Row]] = {}
            for row in rows:
                groups.setdefault(tuple(key(row) for _, key in keys), []).append(row)
            cells = [
                [*zip((name for name, _ in keys), values, strict=True), *((name, total(own)) for name, total in totals)]
                for values, own in groups.items()
            ]
            return [{name: value for name, value in row if value is not None} for row in cells]

        return step

    def _aggregate(self) -> tuple[str, Callable[[list[Row]], Value | None]]:
        kind = self._take("name")
        self._expect("(")
        name = "*" if kind == "count" and self._accept("*") else self._field()
        percent = float(self._take("number")) if kind == "pct" and self._accept(",") else -1.0
        self._expect(")")
        if kind not in _TOTALS or (kind == "pct" and not 0 <= percent <= 100):
            raise Malformed(f"the sandbox does not support {kind} of this")
        label = self._alias(f"{kind}({name}, {shown(percent)})" if kind == "pct" else f"{kind}({name})")
        if kind == "count":
            return label, lambda rows: float(sum(name == "*" or name in row for row in rows))

        def total(rows: list[Row]) -> Value | None:
            numbers = [number for row in rows if (number := _number(row.get(name))) is not None]
            return _TOTALS[kind](sorted(numbers), percent) if numbers else None

        return label, total

    def _key(self) -> tuple[str, Callable[[Row], Value | None]]:
        if not self._accept("bin"):
            name = self._field()
            return self._alias(name), lambda row: row.get(name)
        self._expect("(")
        span = re.fullmatch(r"([1-9]\d*)([smhd])", self._take("name"))
        self._expect(")")
        if not span:
            raise Malformed("bin takes a span such as 5m")
        width_ms = int(span[1]) * _SPANS_MS[span[2]]
        return self._alias(f"bin({span[0]})"), lambda row: clock(int(row["time_ms"]) // width_ms * width_ms)

    def _sort(self) -> Step:
        def item() -> tuple[str, bool]:
            name, descending = self._field(), self._accept("desc")
            if not descending:
                self._expect("asc")
            return name, descending

        keys = self._several(item)

        def step(rows: list[Row]) -> list[Row]:
            for name, descending in reversed(keys):
                rows = sorted(rows, key=lambda row: _order(row.get(name)), reverse=descending)
            return rows

        return step

    def _limit(self) -> Step:
        count = self._take("number")
        if not count.isdigit() or not 1 <= int(count) <= MAX_ROWS:
            raise Malformed(f"limit must be between 1 and {MAX_ROWS}")
        return lambda rows: rows[: int(count)]


_TOTALS: dict[str, Callable[[list[float], float], float]] = {
    "count": lambda numbers, _: len(numbers),
    "sum": lambda numbers, _: math.fsum(numbers),
    "avg": lambda numbers, _: math.fsum(numbers) / len(numbers),
    "min": lambda numbers, _: numbers[0],
    "max": lambda numbers, _: numbers[-1],
    "pct": lambda numbers, percent: numbers[max(0, math.ceil(len(numbers) * percent / 100 - 1e-9) - 1)],
}
"""Aggregates of ascending numbers."""


def _number(value: Value | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _compare(test: Callable[[Any, Any], bool], value: Value, other: Value) -> bool:
    """A comparison, as numbers where both are."""
    numbers = _number(value), _number(other)
    return test(shown(value), shown(other)) if None in numbers else test(*numbers)


def _order(value: Value | None) -> tuple[int, float, str]:
    """Insights sorts what is missing first, then text, then numbers."""
    number = _number(value)
    return (0 if value is None else 1 if number is None else 2, number or 0.0, str(value))
