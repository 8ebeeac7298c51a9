"""Metric math: what a set of metric queries evaluates to.

Knows CloudWatch's expression language, by reading Python's syntax tree of an expression. Never runs one as Python, and
never answers what it does not understand: that is a ``MathError``.

Source: CloudWatch user guide, 'Using metric math'.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from buddy_sandbox.metrics_store import Floats

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


class Sheet:
    """Metric queries, as GetMetricData and PutMetricAlarm take them; ``read`` answers a MetricStat."""

    def __init__(self, queries: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], Stored]) -> None:
        ids = [query["Id"] for query in queries]
        if wrong := [each for each in ids if ids.count(each) > 1 or not ID.fullmatch(each)]:
            raise MathError(f"The value {wrong[0]} for parameter Id is not unique, or begins with no lowercase letter.")
        if wrong := [query["Id"] for query in queries if ("MetricStat" in query) == ("Expression" in query)]:
            raise MathError(f"Exactly one of MetricStat and Expression must be specified for {wrong[0]}.")
        self.metrics = {query["Id"]: read(query["MetricStat"]) for query in queries if "MetricStat" in query}
        self._expressions = {query["Id"]: query["Expression"] for query in queries if "Expression" in query}
        self._values: dict[str, Value] = {}
        self._open: set[str] = set()

    def series(self, query_id: str) -> list[Stored]:
        """What a query returns: one series, or several for an expression that makes an array. Raises MathError."""
        if query_id in self.metrics:
            return [self.metrics[query_id]]
        grid, value = self._grid(), self._value(query_id)
        if isinstance(value, float):
            raise MathError(f"Error in expression '{query_id}': the result must be a time series, not a scalar")
        rows = value if isinstance(value, list) else [value]
        return [Stored(grid.start, grid.period_s, np.where(np.isfinite(row), row, np.nan)) for row in rows]

    def _grid(self) -> Stored:
        """Any metric: in the sandbox all that are asked for together with an expression have one period."""
        if len({each.period_s for each in self.metrics.values()}) != 1:
            raise MathError("the sandbox needs metrics, all of one period, beside an expression")
        return next(iter(self.metrics.values()))

    def _value(self, query_id: str) -> Value:
        if query_id in self.metrics:
            return self.metrics[query_id].values
        if query_id not in self._expressions or query_id in self._open:
            raise MathError(f"Undefined or circular reference to '{query_id}'")
        if query_id not in self._values:
            self._open.add(query_id)
            try:
                with np.errstate(all="ignore"):
                    self._values[query_id] = self._eval(parse(self._expressions[query_id]))
            except MathError as error:
                raise MathError(f"Error in expression '{query_id}': {error}") from None
            self._open.remove(query_id)
        return self._values[query_id]

    def _eval(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return float(number)
            case ast.Name(id=name) if name.startswith("_"):
                return self._value(name[1:])
            case ast.List(elts=items):
                return [row for item in items for row in _rows(self._eval(item))]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _binary(operator.sub, 0.0, self._eval(operand))
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
                return [each.values for each in self.metrics.values()]
            case "METRICS", [ast.Constant(value=str(part))]:
                return [each.values for name, each in self.metrics.items() if part in name]
            case "PERIOD", [ast.Name(id=each)] if each[1:] in self.metrics:
                return float(self.metrics[each[1:]].period_s)
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
            case "RATE" | "DIFF", [series]:
                unit_s = self._grid().period_s if name == "RATE" else None
                return _each(lambda row: _steps(row, unit_s), self._eval(series))
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


def _rows(value: Value) -> list[Floats]:
    if isinstance(value, float):
        raise MathError("a time series is needed here, not a scalar")
    return value if isinstance(value, list) else [value]


def _each(function: Callable[[Floats], Floats], value: Value) -> Value:
    return [function(row) for row in _rows(value)] if isinstance(value, list) else function(*_rows(value))


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


def _steps(row: Floats, period_s: int | None) -> Floats:
    """Each point against the one before it, per second if ``period_s`` is given."""
    there = np.flatnonzero(~np.isnan(row))
    result = np.full(len(row), np.nan)
    result[there[1:]] = np.diff(row[there]) / (np.diff(there) * period_s if period_s else 1)
    return result


_EACH: dict[str, Callable[[Floats], Floats]] = {
    "ABS": np.abs,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "RUNNING_SUM": lambda row: np.where(np.isnan(row), np.nan, np.nancumsum(row)),
}
_OVER: dict[str, Callable[[Floats], Any]] = {
    "MAX": np.max,
    "MIN": np.min,
    "SUM": np.sum,
    "AVG": np.mean,
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
