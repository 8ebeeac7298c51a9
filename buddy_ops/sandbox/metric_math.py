"""Metric math: what a set of metric queries evaluates to.

Knows CloudWatch's expression language, by reading Python's syntax tree of an expression. Never runs one as Python, and
never answers what it does not understand: that is a ``MathError``.

Source: CloudWatch user guide, 'Using metric math'.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from buddy_ops.sandbox.metrics_store import Floats

Value = float | Floats | list[Floats]
"""A scalar (S), a time series (TS) with NaN where it has no point, or an array of series (TS[])."""

ID = re.compile(r"[a-z][a-zA-Z0-9_]*")
MAX_LENGTH = 2048
_TOKENS = re.compile(r"""("[^"]*"|'[^']*')|(\*\*|//|\b_)|(\^)|(&&|\bAND\b)|(\|\||\bOR\b)|(\b[a-z]\w*)""")
_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: np.divide(a, np.where(np.equal(b, 0), np.nan, b)),
    ast.Pow: np.float_power,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.And: np.logical_and,
    ast.Or: np.logical_or,
}


class MathError(ValueError):
    """An expression that cannot be evaluated, and why."""


class Stored(NamedTuple):
    """A metric's series: its first period's begin, the periods' length, and a value each (NaN: none)."""

    start: float
    period_s: int
    values: Floats


def check(queries: Sequence[Mapping[str, Any]]) -> None:
    """Whether metric queries make sense together. Raises MathError."""
    ids = [query["Id"] for query in queries]
    if duplicates := sorted({each for each in ids if ids.count(each) > 1}):
        raise MathError(f"The values for parameter Id are not unique: {', '.join(duplicates)}")
    for query in queries:
        if not ID.fullmatch(query["Id"]):
            raise MathError(f"The value {query['Id']} for parameter Id must start with a lowercase letter.")
        if ("MetricStat" in query) == ("Expression" in query):
            raise MathError(f"Exactly one of MetricStat and Expression must be specified for {query['Id']}.")


class Sheet:
    """Metric queries, evaluated on demand.

    Args:
        queries: as GetMetricData and PutMetricAlarm take them, checked.
        read: answers a MetricStat.
    """

    def __init__(self, queries: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], Stored]) -> None:
        self.queries = {query["Id"]: query for query in queries}
        self.metrics = [each for each, query in self.queries.items() if "MetricStat" in query]
        self._read = read
        self._stored: dict[str, Stored] = {}
        self._values: dict[str, Value] = {}
        self._open: list[str] = []

    def series(self, query_id: str) -> list[Stored]:
        """What a query returns: one series, or several for an expression that makes an array. Raises MathError."""
        value = self.value(query_id)
        if isinstance(value, float):
            raise MathError(f"Error in expression '{query_id}': the result must be a time series, not a scalar")
        grid = self.stored(self._grid(query_id))
        rows = value if isinstance(value, list) else [value]
        return [Stored(grid.start, grid.period_s, np.where(np.isfinite(row), row, np.nan)) for row in rows]

    def stored(self, query_id: str) -> Stored:
        """The series behind a metric's Id."""
        if query_id not in self._stored:
            self._stored[query_id] = self._read(self.queries[query_id]["MetricStat"])
        return self._stored[query_id]

    def value(self, query_id: str) -> Value:
        """The value behind an Id. Raises MathError."""
        if query_id not in self.queries:
            raise MathError(f"Undefined variable '{query_id}'")
        if query_id in self.metrics:
            return self.stored(query_id).values
        if query_id in self._open:
            raise MathError(f"Circular reference through '{query_id}'")
        if query_id not in self._values:
            self._open.append(query_id)
            try:
                self._grid(query_id)
                with np.errstate(all="ignore"):
                    self._values[query_id] = self._eval(parse(self.queries[query_id]["Expression"]))
            except MathError as error:
                raise MathError(f"Error in expression '{query_id}': {error}") from None
            finally:
                self._open.pop()
        return self._values[query_id]

    def uses(self, query_id: str) -> set[str]:
        """The metrics that a query is computed from. Raises MathError."""
        found: set[str] = set()
        todo, seen = [query_id], {query_id}
        while todo:
            each = todo.pop()
            if each in self.metrics:
                found.add(each)
            elif each in self.queries:
                for name in _names(parse(self.queries[each]["Expression"]), self.metrics):
                    if name not in seen:
                        seen.add(name)
                        todo.append(name)
        return found

    def _grid(self, query_id: str) -> str:
        """Any of the metrics that a query is computed from; they must share a period."""
        used = self.uses(query_id)
        periods = {self.stored(each).period_s for each in used}
        if len(periods) != 1:
            raise MathError("the sandbox needs metrics of one period in an expression" if periods else "no metric")
        return min(used)

    def _eval(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return float(number)
            case ast.Name(id=name) if name.startswith("_"):
                return self.value(name[1:])
            case ast.List(elts=items):
                return [row for item in items for row in _rows(self._eval(item))]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _each(operator.neg, self._eval(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _binary(_OPERATORS[type(op)], self._eval(left), self._eval(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
                return _binary(_OPERATORS[type(op)], self._eval(left), self._eval(right))
            case ast.BoolOp(op=op, values=[first, *others]):
                value = self._eval(first)
                for other in others:
                    value = _binary(_OPERATORS[type(op)], value, self._eval(other))
                return value
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self._call(name, args)
        raise MathError(f"unsupported syntax: {ast.unparse(node).replace('_', '')}")

    def _call(self, name: str, args: Sequence[ast.expr]) -> Value:
        match name, args:
            case "METRICS", []:
                return [self.stored(each).values for each in self.metrics]
            case "METRICS", [ast.Constant(value=str(part))]:
                return [self.stored(each).values for each in self.metrics if part in each]
            case "PERIOD", [ast.Name(id=each)] if each[1:] in self.metrics:
                return float(self.stored(each[1:]).period_s)
            case "IF", [condition, chosen]:
                return _if(self._eval(condition), self._eval(chosen), np.nan)
            case "IF", [condition, chosen, other]:
                return _if(self._eval(condition), self._eval(chosen), self._eval(other))
            case "FILL", [series, ast.Name(id="REPEAT")]:
                return _each(_repeat, self._eval(series))
            case "FILL", [series, ast.Name(id="LINEAR")]:
                return _each(_linear, self._eval(series))
            case "FILL", [series, filler]:
                filling = self._eval(filler)
                if isinstance(filling, list):
                    raise MathError("FILL takes a scalar or one time series to fill with")
                return _each(lambda row: np.where(np.isnan(row), filling, row), self._eval(series))
            case "RATE" | "DIFF" | "DIFF_TIME", [series]:
                period_s = self.stored(self._grid(self._open[-1])).period_s
                return _each(lambda row: _steps(name, row, period_s), self._eval(series))
            case "METRIC_COUNT", [series]:
                return float(len(_rows(self._eval(series))))
            case _, [series] if name in _EACH:
                return _each(_EACH[name], self._eval(series))
            case _, [series] if name in _OVER:
                return _over(name, self._eval(series))
        raise MathError(f"unsupported function or arguments: {name} of {len(args)}")


def parse(expression: str) -> ast.expr:
    """An expression's syntax tree. Raises MathError."""
    if len(expression) > MAX_LENGTH:
        raise MathError(f"an expression has at most {MAX_LENGTH} characters")

    def token(found: re.Match[str]) -> str:
        text, foreign, power, both, either, name = found.groups()
        if foreign:
            raise MathError(f"Syntax error at '{foreign}'")
        # An Id may be one of Python's keywords, which an underscore hides.
        return text or (power and "**") or (both and " and ") or (either and " or ") or f"_{name}"

    try:
        return ast.parse(_TOKENS.sub(token, expression).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise error if isinstance(error, MathError) else MathError(f"Syntax error in '{expression}'") from None


def _names(tree: ast.expr, metrics: Sequence[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield from metrics if node.id == "METRICS" else [node.id.removeprefix("_")]


def _rows(value: Value) -> list[Floats]:
    if isinstance(value, float):
        raise MathError("a time series is needed here, not a scalar")
    return value if isinstance(value, list) else [value]


def _each(function: Callable[[Any], Any], value: Value) -> Value:
    if isinstance(value, list):
        return [function(row) for row in value]
    return float(function(value)) if isinstance(value, float) else function(value)


def _binary(function: Callable[[Any, Any], Any], a: Value, b: Value) -> Value:
    """An operator. Between two series a missing point counts as 0 where the other has one."""
    if isinstance(a, list) and isinstance(b, list):
        raise MathError("an operator takes at most one array of time series")
    if isinstance(a, list):
        return [_plain(_binary(function, row, b)) for row in a]
    if isinstance(b, list):
        return [_plain(_binary(function, a, row)) for row in b]
    if isinstance(a, float) and isinstance(b, float):
        return float(function(a, b))
    missing = np.isnan(a) & np.isnan(b)
    if isinstance(a, float) or isinstance(b, float):
        missing = np.isnan(a) | np.isnan(b)
    else:
        a, b = np.nan_to_num(a, nan=0.0), np.nan_to_num(b, nan=0.0)
    return np.where(missing, np.nan, function(a, b))


def _plain(value: Value) -> Floats:
    return np.asarray(value, dtype=np.float64)


def _if(condition: Value, chosen: Value, other: Value) -> Value:
    """IF: dropped where the condition has no point, 0 where it holds and the chosen series has none."""
    if any(isinstance(each, list) for each in (condition, chosen, other)):
        raise MathError("IF takes time series and scalars, not arrays")
    if isinstance(condition, float):
        if isinstance(chosen, float):
            raise MathError("IF of a scalar condition chooses a time series")
        return chosen if condition else _plain(other) + np.zeros_like(chosen)
    filled = np.nan_to_num(_plain(chosen), nan=0.0)
    return np.where(np.isnan(condition), np.nan, np.where(_plain(condition) != 0, filled, _plain(other)))


def _repeat(row: Floats) -> Floats:
    last = np.maximum.accumulate(np.where(np.isnan(row), -1, np.arange(len(row))))
    return np.where(last >= 0, row[last], np.nan)


def _linear(row: Floats) -> Floats:
    there = np.flatnonzero(~np.isnan(row))
    if not len(there):
        return row
    return np.interp(np.arange(len(row)), there, row[there], left=np.nan, right=np.nan)


def _steps(name: str, row: Floats, period_s: int) -> Floats:
    """Each point against the one before it."""
    there = np.flatnonzero(~np.isnan(row))
    result = np.full(len(row), np.nan)
    values, seconds = np.diff(row[there]), np.diff(there) * float(period_s)
    result[there[1:]] = {"DIFF": values, "DIFF_TIME": seconds, "RATE": values / seconds}[name]
    return result


def _running(row: Floats) -> Floats:
    return np.where(np.isnan(row), np.nan, np.nancumsum(row))


_EACH: dict[str, Callable[[Floats], Floats]] = {
    "ABS": np.abs,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "LOG": np.log,
    "LOG10": np.log10,
    "RUNNING_SUM": _running,
}
_OVER: dict[str, Callable[[Floats], Any]] = {
    "MAX": np.max,
    "MIN": np.min,
    "SUM": np.sum,
    "AVG": np.mean,
    "STDDEV": np.std,
    "DATAPOINT_COUNT": len,
}


def _over(name: str, value: Value) -> Value:
    """A scalar of one series' points, or one series made of an array's points at each time."""
    if isinstance(value, float):
        raise MathError(f"{name} takes time series, not a scalar")
    if not isinstance(value, list):
        points = value[~np.isnan(value)]
        return float(_OVER[name](points)) if len(points) else np.nan
    columns = np.array(value).T
    # AVG of an array counts a missing point as 0; the others look at what is there.
    columns = np.nan_to_num(columns, nan=0.0) if name == "AVG" else columns
    result = [_OVER[name](column[~np.isnan(column)]) if (~np.isnan(column)).any() else np.nan for column in columns]
    return np.where(np.isnan(value).all(axis=0), np.nan, np.array(result, dtype=np.float64))
