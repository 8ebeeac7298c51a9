"""Metric samples and their statistics, as CloudWatch publishes them.

Knows every sample, when it becomes visible, and how CloudWatch defines its statistics. Never knows where samples come
from, what an alarm is, or how anything travels over HTTP.
"""

import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from buddy_sandbox.publication import USUAL_DELAY_S, Clock, Horizon, Publication

Floats = NDArray[np.float64]
Kept = tuple[Floats, Floats | None]
"""Values, ascending, and how often each was seen (None: once)."""

MINUTE_S = 60
LATEST_S = 3600.0
"""How far back a source is asked which metrics it has."""


class UnknownStatistic(ValueError):
    """A statistic that CloudWatch does not define."""


class Metric(NamedTuple):
    """A metric's identity."""

    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "Metric":
        """What Namespace, MetricName and Dimensions of a request name."""
        pairs = ((each["Name"], each["Value"]) for each in params.get("Dimensions", []))
        return cls(params["Namespace"], params["MetricName"], frozenset(pairs))


class StatisticSet(NamedTuple):
    """Samples of which only an aggregate was published."""

    samples: float
    total: float
    low: float
    high: float


class Summary:
    """The visible samples of one period, sorted, so that every result is a function of the samples alone."""

    __slots__ = ("kept", "known", "sets")

    def __init__(self, parts: Sequence[Kept], sets: Sequence[StatisticSet]) -> None:
        values = np.concatenate([values for values, _ in parts]) if parts else np.empty(0)
        if all(weights is None for _, weights in parts):
            self.kept: Kept = np.sort(values), None
        else:
            weights = np.concatenate([np.ones(len(values)) if each is None else each for values, each in parts])
            order = np.lexsort((weights, values))
            self.kept = values[order], weights[order]
        self.sets = sorted(sets)
        self.known: dict[str, float | None] = {}

    def count(self) -> float:
        return _size(self.kept) + sum(each.samples for each in self.sets)

    def total(self) -> float:
        return _sum(self.kept) + sum(each.total for each in self.sets)

    def low(self) -> float:
        return float(min([*self.kept[0][:1], *(each.low for each in self.sets)]))

    def high(self) -> float:
        return float(max([*self.kept[0][-1:], *(each.high for each in self.sets)]))

    def statistic(self, name: str) -> float | None:
        """One statistic, or None where it has no value. Raises UnknownStatistic."""
        if name not in self.known:
            self.known[name] = statistic(name)(self)
        return self.known[name]

    def between(self, low: float, high: float) -> Kept:
        """The samples in (low, high]."""
        values, weights = self.kept
        first, last = np.searchsorted(values, (low, high), side="right").tolist()
        return values[first:last], None if weights is None else weights[first:last]

    def ranked(self, low: float, high: float) -> Kept:
        """The samples without the lowest ``low`` percent and without those above the ``high``-th."""
        values, weights = self.kept
        size = _size(self.kept)
        first, last = math.floor(size * low / 100 + 1e-9), math.ceil(size * high / 100 - 1e-9)
        if weights is None:
            return values[first:last], None
        upto = np.cumsum(weights)
        return values, np.clip(upto, first, last) - np.clip(upto - weights, first, last)

    def percentile(self, percent: float) -> float:
        """The highest value among the lowest ``percent`` (the lowest of all for 0)."""
        values, weights = self.ranked(0, percent)
        values = values if weights is None else values[weights > 0]
        return float(values[-1]) if len(values) else self.low()


def _sum(kept: Kept) -> float:
    values, weights = kept
    return float(values.sum() if weights is None else (values * weights).sum())


def _size(kept: Kept) -> float:
    values, weights = kept
    return float(len(values) if weights is None else weights.sum())


BASIC: dict[str, Callable[[Summary], float]] = {
    "SampleCount": Summary.count,
    "Sum": Summary.total,
    "Average": lambda summary: summary.total() / summary.count(),
    "Minimum": Summary.low,
    "Maximum": Summary.high,
}
_SHORT = re.compile(r"(p|tm|wm|tc|ts)(\d{1,2}(?:\.\d{1,10})?|100(?:\.0{1,10})?)")
_RANGE = re.compile(r"(TM|WM|TC|TS|PR)\((\d*\.?\d+%?|):(\d*\.?\d+%?|)\)")


@lru_cache(maxsize=1024)
def statistic(name: str) -> Callable[[Summary], float | None]:
    """How a statistic is computed. Raises UnknownStatistic.

    Value bounds are exclusive below and inclusive above. Percentiles are nearest-rank: p99 is the highest value left
    when the top 1 % is ignored. None of these can be had of aggregates or of negative values.

    Source: CloudWatch user guide, 'CloudWatch statistics definitions'.
    """
    if name in BASIC:
        return BASIC[name]
    kind, low, high, percents = _bounds(name)

    def winsorized(summary: Summary) -> float:
        edges = (summary.percentile(low), summary.percentile(high)) if percents else (low, high)
        return _sum((np.clip(summary.kept[0], *edges), summary.kept[1])) / summary.count()

    def compute(summary: Summary) -> float | None:
        if summary.sets or summary.low() < 0:
            return None
        kept = summary.ranked(low, high) if percents else summary.between(low, high)
        results: dict[str, Callable[[], float | None]] = {
            "P": lambda: summary.percentile(high),
            "WM": lambda: winsorized(summary),
            "TC": lambda: _size(kept),
            "TS": lambda: _sum(kept),
            "TM": lambda: _sum(kept) / _size(kept) if _size(kept) else None,
            "PR": lambda: 100 * _size(kept) / summary.count(),
        }
        return results[kind]()

    return compute


def _bounds(name: str) -> tuple[str, float, float, bool]:
    """A statistic's kind, its two bounds, and whether these are percentages."""
    if short := _SHORT.fullmatch(name):
        return short[1].upper(), 0.0, float(short[2]), True
    ranged = _RANGE.fullmatch("TM(25%:75%)" if name == "IQM" else name)
    if ranged and (ranged[2] or ranged[3]):
        percents = "%" in (ranged[2] or ranged[3])
        low = float(ranged[2].rstrip("%") or (0 if percents else -math.inf))
        high = float(ranged[3].rstrip("%") or (100 if percents else math.inf))
        alike = all(("%" in bound) == percents for bound in ranged.groups()[1:] if bound)
        if alike and low < high and not (percents and (high > 100 or ranged[1] == "PR")):
            return ranged[1], low, high, percents
    raise UnknownStatistic(name)


class _Chunk(NamedTuple):
    """Samples as they were added. ``arrived`` is None where each counts from its own time."""

    times: Floats
    values: Floats | float
    counts: Floats | None
    arrived: float | None

    def by_minute(self) -> "Iterator[tuple[int, _Chunk]]":
        """The samples of each minute, with its number."""
        first, last = int(self.times[0] // MINUTE_S), int(self.times[-1] // MINUTE_S)
        if first == last:
            yield first, self
            return
        cuts = np.searchsorted(self.times, np.arange(first, last + 2) * float(MINUTE_S)).tolist()
        for number, (begin, end) in enumerate(pairwise(cuts), first):
            if begin < end:
                values = self.values if isinstance(self.values, float) else self.values[begin:end]
                counts = None if self.counts is None else self.counts[begin:end]
                yield number, _Chunk(self.times[begin:end], values, counts, self.arrived)

    def visible(self, horizon: Horizon) -> Kept:
        if self.arrived is not None:
            seen = len(self.times) if self.arrived <= horizon.until else 0
            shown: NDArray[np.bool_] | slice = slice(None)
        else:
            seen = int(np.searchsorted(self.times, horizon.until, side="right"))
            shown = horizon.unrevised(self.times[:seen])
        values = np.full(seen, self.values) if isinstance(self.values, float) else self.values[:seen]
        return values[shown], None if self.counts is None else self.counts[:seen][shown]


class _Minute:
    """What was added for one minute of a metric. ``whole`` is its summary, once all of it is visible."""

    __slots__ = ("chunks", "last_arrival", "sets", "whole")

    def __init__(self) -> None:
        self.chunks: list[_Chunk] = []
        self.sets: list[tuple[float, StatisticSet]] = []
        self.last_arrival = -math.inf
        self.whole: Summary | None = None

    def changed(self, arrived: float | None) -> None:
        self.whole = None
        self.last_arrival = max(self.last_arrival, -math.inf if arrived is None else arrived)

    def summary(self, horizon: Horizon, end: float) -> Summary | None:
        """What is visible; None if nothing is. ``end``: when the minute ended."""
        ended = max(end, self.last_arrival) <= min(horizon.until, horizon.revised_until)
        if ended and self.whole is not None:
            return self.whole
        parts = [kept for kept in (chunk.visible(horizon) for chunk in self.chunks) if len(kept[0])]
        sets = [published for arrived, published in self.sets if arrived <= horizon.until]
        summary = Summary(parts, sets) if parts or sets else None
        self.whole = summary if ended else None
        return summary


class MetricStore:
    """Every metric's samples.

    A sample is visible some seconds after its own time (or its arrival, if given), as ``publication`` says, so that
    readers of the latest minute see a growing part of it. What is read depends on the samples, the publication and the
    present time only, never on how they were sliced into ``add`` calls or on who read before.
    """

    def __init__(self, clock: Clock, delay_s: float = USUAL_DELAY_S) -> None:
        self.clock = clock
        self.publication = Publication(clock, delay_s)
        self.sources: dict[str, Callable[[float, float], Iterable[MetricStore]]] = {}
        """By a function's name: what makes the samples of a time range when they are read, and stores none of them."""
        self._metrics: dict[Metric, dict[str, dict[int, _Minute]]] = {}
        self._uncut: dict[Metric, list[tuple[str, _Chunk]]] = {}
        self._lock = threading.RLock()

    def add(
        self,
        namespace: str,
        name: str,
        dimensions: Mapping[str, str],
        times: Floats,
        values: Floats | float,
        *,
        counts: Floats | None = None,
        unit: str = "None",
        arrived: float | None = None,
    ) -> None:
        """Add samples: at ``times`` (seconds since the epoch, ascending), with a value each or one for all.

        The arrays are kept, neither copied nor changed, so several metrics may share them. ``counts`` says how often
        each value was seen; ``arrived`` that all were put then, instead of each at its own time.
        """
        if not len(times):
            return
        values = float(values) if isinstance(values, int | float) else values
        metric = Metric(namespace, name, frozenset(dimensions.items()))
        with self._lock:
            self._metrics.setdefault(metric, {}).setdefault(unit, {})
            self._uncut.setdefault(metric, []).append((unit, _Chunk(times, values, counts, arrived)))

    def _units(self, metric: Metric) -> dict[str, dict[int, _Minute]]:
        """A metric's minutes by unit. What was added is cut into minutes here: most metrics are never read."""
        with self._lock:
            for unit, chunk in self._uncut.pop(metric, ()):
                minutes = self._minutes(metric, unit)
                for number, part in chunk.by_minute():
                    if number not in minutes:
                        minutes[number] = _Minute()
                    minutes[number].chunks.append(part)
                    minutes[number].changed(part.arrived)
            return self._metrics.get(metric, {})

    def add_set(self, metric: Metric, time: float, published: StatisticSet, unit: str, arrived: float) -> None:
        """Add samples that were published as an aggregate; one of equal values counts as raw samples.

        Source: CloudWatch user guide, 'Requirements to use percentiles'.
        """
        if published.low == published.high and published.total == published.low * published.samples:
            where = (metric.namespace, metric.name, dict(metric.dimensions), np.array([time]), published.low)
            self.add(*where, counts=np.array([published.samples]), unit=unit, arrived=arrived)
            return
        with self._lock:
            minute = self._minutes(metric, unit).setdefault(int(time // MINUTE_S), _Minute())
            minute.sets.append((arrived, published))
            minute.changed(arrived)

    def read(
        self,
        metric: Metric,
        name: str,
        start: float,
        periods: int,
        period_s: int = MINUTE_S,
        *,
        unit: str | None = None,
        now: float | None = None,
    ) -> Floats:
        """A statistic of consecutive periods from ``start`` on (multiples of 60 s), NaN where it has no value.

        Only samples of ``unit``, if given; as visible at ``now``, or at present. Raises UnknownStatistic.
        """
        if start % MINUTE_S or period_s % MINUTE_S or period_s <= 0:
            raise ValueError("periods are multiples of 60 s")
        statistic(name)
        result = np.full(periods, np.nan)
        horizon = self.publication.horizon(metric.name, now)
        stores = (self, *self._made(metric, start, start + periods * period_s))
        if (made := _uncut_samples(metric, unit, stores)) is not None:
            return _read_at_once(*made, name, start + period_s * np.arange(periods + 1.0), horizon)
        with self._lock:
            found = [item for store in stores for item in store._units(metric).items()]
            chosen = [each for own, each in found if unit in (None, own)]
            for at in range(periods if chosen else 0):
                begin = int(start + at * period_s) // MINUTE_S
                parts = list(_summaries(chosen, range(begin, begin + period_s // MINUTE_S), horizon))
                if len(parts) > 1:
                    parts = [Summary([part.kept for part in parts], [each for part in parts for each in part.sets])]
                if parts and (value := parts[0].statistic(name)) is not None:
                    result[at] = value
        return result

    def units(self, metric: Metric) -> list[str]:
        """The units that a metric's samples came in."""
        now = self.clock.now()
        stores = (self, *self._made(metric, now - LATEST_S, now))
        with self._lock:
            return list({unit: None for store in stores for unit in store._units(metric)})

    def list(self, since: float = -math.inf, function: str | None = None) -> list[Metric]:
        """Every metric with a sample, or with one after ``since`` (to the minute), in a stable order.

        Args:
            function: only metrics with this value of the dimension FunctionName; None: all.
        """
        now = self.clock.now()
        # What sources would make for other functions is not made: each of many targets asks for its own.
        names = list(self.sources) if function is None else [name for name in (function,) if name in self.sources]
        made = [store for name in names for store in self.sources[name](now - LATEST_S, now)]
        latest: dict[Metric, int] = {}
        for store in (*made, self):
            with store._lock:
                for metric in store._metrics:
                    if function is None or ("FunctionName", function) in metric.dimensions:
                        latest[metric] = store._latest_minute(metric)
        fresh = [metric for metric, minute in latest.items() if (minute + 1) * MINUTE_S > since]
        return sorted(fresh, key=lambda metric: (*metric[:2], sorted(metric.dimensions)))

    def _latest_minute(self, metric: Metric) -> int:
        uncut = [int(chunk.times[-1] // MINUTE_S) for _, chunk in self._uncut.get(metric, ())]
        return max(uncut + [max(minutes) for minutes in self._metrics[metric].values() if minutes])

    def _made(self, metric: Metric, start: float, end: float) -> Iterable["MetricStore"]:
        """What a source makes for a metric of its function."""
        function = next((value for name, value in metric.dimensions if name == "FunctionName"), "")
        return self.sources[function](start, end) if function in self.sources else ()

    def _minutes(self, metric: Metric, unit: str) -> dict[int, _Minute]:
        return self._metrics.setdefault(metric, {}).setdefault(unit, {})


def _uncut_samples(metric: Metric, unit: str | None, stores: Sequence[MetricStore]) -> tuple[Floats, Floats] | None:
    """The times and values of a metric that nothing but sources has, and none of them cut; else None."""
    first, *made = stores
    chunks = [chunk for store in made for own, chunk in store._uncut.get(metric, ()) if unit in (None, own)]
    cut = any(metric in store._metrics and metric not in store._uncut for store in made)
    if metric in first._metrics or cut or not chunks:
        return None
    if any(chunk.counts is not None or chunk.arrived is not None for chunk in chunks):
        return None
    values = [np.broadcast_to(np.float64(chunk.values), chunk.times.shape) for chunk in chunks]
    return np.concatenate([chunk.times for chunk in chunks]), np.concatenate(values)


def _read_at_once(times: Floats, values: Floats, name: str, edges: "NDArray[np.float64]", horizon: Horizon) -> Floats:
    """A statistic of the periods between the edges, as ``MetricStore.read``, of samples in the order of time."""
    result = np.full(len(edges) - 1, np.nan)
    seen = int(np.searchsorted(times, horizon.until, side="right"))
    shown = horizon.unrevised(times[:seen])
    times, values = times[:seen][shown], values[:seen][shown]
    bounds = np.searchsorted(times, edges)
    if (parts := _parts_of_a_sum(name, values)) is not None:
        upto = np.concatenate([[0.0], np.cumsum(parts)])[bounds]
        return np.where(np.diff(bounds) > 0, np.diff(upto), np.nan)
    for at, (begin, end) in enumerate(pairwise(bounds.tolist())):
        if begin < end:
            value = Summary([(values[begin:end], None)], []).statistic(name)
            result[at] = np.nan if value is None else value
    return result


def _parts_of_a_sum(name: str, values: Floats) -> Floats | None:
    """What each sample adds to a statistic that is a sum of whole numbers, exact in any order; None for others."""
    if name == "SampleCount":
        return np.ones(len(values))
    if name == "Sum":
        return values if np.array_equal(values, np.rint(values)) else None
    if name in BASIC:
        return None
    kind, low, high, percents = _bounds(name)
    if kind != "TC" or percents or values.min(initial=0.0) < 0:
        return None
    return ((values > low) & (values <= high)).astype(np.float64)


def _summaries(units: Sequence[Mapping[int, _Minute]], numbers: range, horizon: Horizon) -> Iterator[Summary]:
    for minutes in units:
        for number in numbers:
            minute = minutes.get(number)
            summary = minute and minute.summary(horizon, (number + 1) * MINUTE_S)
            if summary:
                yield summary
