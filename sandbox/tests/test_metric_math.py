"""Metric math keeps AWS's rules: one test each, through GetMetricData."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError
from serving import START, Crank, client_of

from buddy_sandbox.cloudwatch import CloudWatch
from buddy_sandbox.metrics_store import MetricStore

_: float | None = None
"""A minute without a point."""


@dataclass
class Sheet:
    """Evaluates expressions through GetMetricData."""

    client: Any
    store: MetricStore

    def __call__(self, expression: str, *more: dict[str, Any], **series: list[float | None]) -> list[float | None]:
        """An expression's value in each minute, over series of one value a minute."""
        (row,) = self.rows(expression, *more, **series)
        return row

    def rows(self, expression: str, *more: dict[str, Any], **series: list[float | None]) -> list[list[float | None]]:
        for name, values in series.items():
            for at, value in enumerate(values):
                if value is not None:
                    self.store.add("N", name, {}, np.array([START + 60 * at]), value)
        queries = [
            {
                "Id": name,
                "MetricStat": {"Metric": {"Namespace": "N", "MetricName": name}, "Period": 60, "Stat": "Sum"},
                "ReturnData": False,
            }
            for name in series
        ]
        length = max(len(values) for values in series.values())
        results = self.client.get_metric_data(
            MetricDataQueries=[*queries, *more, {"Id": "result", "Expression": expression}],
            StartTime=START,
            EndTime=START + 60 * length,
        )["MetricDataResults"]
        found = [
            {(at.timestamp() - START) / 60: value for at, value in zip(each["Timestamps"], each["Values"], strict=True)}
            for each in results
        ]
        return [[points.get(at) for at in range(length)] for points in found]


@pytest.fixture
def sheet() -> Iterator[Sheet]:
    """One for each test."""
    clock = Crank(START + 3_600)
    store = MetricStore(clock)
    with client_of(CloudWatch(store, clock)) as client:
        yield Sheet(client, store)


def test_missing_values_are_zero_where_the_other_has_one(sheet: Sheet) -> None:
    """Arithmetic treats a missing value as 0; a minute missing in both stays so. Source: user guide, metric math."""
    assert sheet("a - b", a=[5, _, 7, _], b=[1, 2, _, _]) == [4, -2, 7, _]


def test_scalars_make_no_points(sheet: Sheet) -> None:
    """A scalar is combined with the points that there are. Source: user guide, metric math."""
    assert sheet("a + 1", a=[5, _]) == [6, _]


def test_division_by_zero_drops_the_point(sheet: Sheet) -> None:
    """A division by zero drops the point. Source: user guide, metric math, arithmetic."""
    assert sheet("100 * err / inv", err=[1, 2, _, 3], inv=[10, 0, 5, _]) == [10, _, 0, _]


def test_precedence_and_powers(sheet: Sheet) -> None:
    """Operators bind as in arithmetic, and ^ is the power. Source: user guide, metric math, arithmetic."""
    assert sheet("-a + 2 * a ^ 2 / (1 + 1)", a=[3, 4]) == [6, 12]


def test_comparisons_are_zero_or_one(sheet: Sheet) -> None:
    """Comparisons give 1 or 0, with 0 for what is missing. Source: user guide, metric math, the example given there."""
    series: dict[str, list[float | None]] = {"m": [30, 20, 0, 0], "n": [20, _, 20, _]}
    assert sheet("m < n", **series) == [0, 0, 1, 0]


def test_logic(sheet: Sheet) -> None:
    """AND and OR, also as && and ||. Source: user guide, metric math, the example given there."""
    series: dict[str, list[float | None]] = {"m": [30, 20, 0, 0], "n": [20, _, 20, _]}
    assert sheet("m > 15 AND n > 15", **series) == [1, 0, 0, 0]


@pytest.mark.parametrize(("expression", "expected"), [("a && b", [0, 1]), ("a || b", [1, 1]), ("a OR b", [1, 1])])
def test_logical_operators(sheet: Sheet, expression: str, expected: list[float]) -> None:
    """Any value but 0 is true. Source: user guide, metric math, logical operators."""
    assert sheet(expression, a=[0, 5], b=[-1, 1]) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("IF(c, t, f)", [30, 0, 20, _, _]),
        ("IF(c, 5, f)", [5, 5, 20, _, _]),
        ("IF(c, t, 5)", [30, 0, 5, 5, _]),
        ("IF(c, t)", [30, 0, _, _, _]),
        ("IF(1, t, f)", [30, _, 0, 0, 30]),
        ("IF(0, t, f)", [0, 0, 20, _, 20]),
    ],
)
def test_if(sheet: Sheet, expression: str, expected: list[float | None]) -> None:
    """IF chooses at each time; the tables of the guide. Source: user guide, 'Using IF expressions'."""
    assert sheet(expression, c=[1, 1, 0, 0, _], t=[30, _, 0, 0, 30], f=[0, 0, 20, _, 20]) == expected


def test_an_error_rate_that_ignores_thin_traffic(sheet: Sheet) -> None:
    """The expression of the error-rate alarm means what it says. Source: facts/aws.md, 4."""
    expression = "IF(inv >= 20, 100*err/inv, 0)"
    assert sheet(expression, inv=[100, 10, _, 20], err=[3, 9, _, _]) == [3, 0, _, 0]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("FILL(a, 0)", [0, 1, 0, 0, 7, 0]),
        ("FILL(a, REPEAT)", [_, 1, 1, 1, 7, 7]),
        ("FILL(a, LINEAR)", [_, 1, 3, 5, 7, _]),
        ("FILL(a, MAX(a))", [7, 1, 7, 7, 7, 7]),
    ],
)
def test_fill(sheet: Sheet, expression: str, expected: list[float | None]) -> None:
    """FILL with a number, the last value, or a line between values. Source: user guide, metric math, FILL."""
    assert sheet(expression, a=[_, 1, _, _, 7, _]) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a - MIN(a)", [2, 0, _, 4]),
        ("a / MAX(a)", [0.6, 0.2, _, 1]),
        ("a - AVG(a)", [0, -2, _, 2]),
        ("a * 0 + SUM(a)", [9, 9, _, 9]),
        ("a * DATAPOINT_COUNT(a)", [9, 3, _, 15]),
        ("a * PERIOD(a)", [180, 60, _, 300]),
        ("DIFF(a)", [_, -2, _, 4]),
        ("RATE(a) * 60", [_, -2, _, 2]),
        ("RUNNING_SUM(a)", [3, 4, _, 9]),
        ("ABS(1 - a)", [2, 0, _, 4]),
        ("CEIL(a / 2) - FLOOR(a / 2)", [1, 1, _, 1]),
    ],
)
def test_functions_of_a_series(sheet: Sheet, expression: str, expected: list[float | None]) -> None:
    """Functions of one series look at the points that it has. Source: user guide, metric math, functions."""
    assert sheet(expression, a=[3, 1, _, 5]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("SUM([a, b])", [4, 2, _]),
        ("SUM(METRICS())", [4, 2, _]),
        ('SUM(METRICS("a"))', [3, _, _]),
        ("MAX([a, b])", [3, 2, _]),
        ("MIN(METRICS())", [1, 2, _]),
        ("AVG([a, b])", [2, 1, _]),
        ("DATAPOINT_COUNT(METRICS())", [2, 1, _]),
        ("SUM(METRICS() / a)", [4 / 3, _, _]),
        ("SUM(-[a, b])", [-4, -2, _]),
        ("SUM([FILL(METRICS(), 1)])", [4, 3, 2]),
    ],
)
def test_functions_of_an_array(sheet: Sheet, expression: str, expected: list[float | None]) -> None:
    """Functions of an array make one series; METRICS() is all metrics asked for. Source: user guide, metric math."""
    assert sheet(expression, a=[3, _, _], b=[1, 2, _]) == pytest.approx(expected)


def test_an_array_makes_several_results(sheet: Sheet) -> None:
    """An expression that is an array of series returns each. Source: user guide, metric math, METRICS."""
    assert sheet.rows("METRICS() * 10", a=[1, _], b=[2, 3]) == [[10, _], [20, 30]]


def test_expressions_may_use_expressions(sheet: Sheet) -> None:
    """An Id may be that of another expression. Source: API reference, MetricDataQuery."""
    other = {"Id": "e1", "Expression": "a * 2", "ReturnData": False}
    assert sheet("e1 + 1", other, a=[1, 2]) == [3, 5]


def test_ids_may_be_words_of_python(sheet: Sheet) -> None:
    """Any lower-case word is an Id. Source: API reference, MetricDataQuery."""
    series: dict[str, list[float | None]] = {"if": [1], "lambda": [2]}
    assert sheet("if + lambda", **series) == [3]


@pytest.mark.parametrize(
    "expression",
    [
        "a +",
        "missing + 1",
        "SELECT SUM(Errors) FROM N",
        "SEARCH('{N} a', 'Sum', 60)",
        "ANOMALY_DETECTION_BAND(a)",
        "fill(a, 0)",
        "FILL(a, TRUE)",
        "SUM(a)",
        "5",
        "RATE(5) * a",
        "ABS(5) * a",
        "SUM(5) * a",
        "FILL(5, 0) * a",
        "a ** 2",
        "a // 2",
        "a % 2",
        "1 < a < 3",
        "a.real",
        "__import__('os')",
        "(lambda: a)()",
        "[x for x in a]",
        "a if a else a",
        "result",
        "IF(METRICS(), 1, 0)",
        "METRICS() + METRICS()",
        "PERIOD(result)",
        "(" * 300 + "a" + ")" * 300,
        "a" + " + a" * 1_000,
    ],
)
def test_what_is_not_understood_is_refused(sheet: Sheet, expression: str) -> None:
    """An unknown function or wrong syntax is a ValidationError, never empty. Source: user guide, metric math."""
    with pytest.raises(ClientError) as refused:
        sheet(expression, a=[1.0])
    assert refused.value.response["Error"]["Code"] == "ValidationError"


def test_circles_are_refused(sheet: Sheet) -> None:
    """Expressions that need one another have no value. Source: API reference, MetricDataQuery."""
    with pytest.raises(ClientError, match="ValidationError"):
        sheet("e1", {"Id": "e1", "Expression": "result", "ReturnData": False}, a=[1.0])
