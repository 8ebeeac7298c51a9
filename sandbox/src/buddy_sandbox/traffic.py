"""Simulated people talking to Buddy: requests to an alias, minute by minute, from a seed.

Everything random about a minute is drawn at once, from the seed and the minute's number; each request then meets the
alias as it is at its own moment. So figures depend on the seed and on what was done when, never on how often anybody
looked. A build's fault profile says how its requests end. Those to a build without one, under a
function of the user's own, really invoke its handler (``handlers``).

Traffic of an alias that is left alone may be quiet: it is drawn by the hour, when its metrics or its log are read.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from buddy_sandbox import events
from buddy_sandbox.faults import APOLOGY, ERROR, OK, PROFILES, TIMEOUT, FaultProfile
from buddy_sandbox.functions import Routing
from buddy_sandbox.handlers import Ended, Handler, HandlerTraffic
from buddy_sandbox.lambda_api import UNPROFILED_INIT_MS, Lambda
from buddy_sandbox.log_lines import Invocation, LogConfig, stream, write_timed
from buddy_sandbox.metrics_store import MetricStore
from buddy_sandbox.sources import Caller, source
from buddy_sandbox.telemetry import Telemetry, embedded_metrics
from buddy_sandbox.wire import AwsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from buddy_sandbox.faults import Codes, Floats

MINUTE_S = 60.0
HOUR_S = 3600.0
HOURS_KEPT = 16
"""Hours of quiet traffic of a region that are kept, once drawn. A reader asks for one metric after another."""

ALL_WARM = 1_000_000
"""More environments than any traffic needs."""

LINES_KEPT_S = 6 * 3600.0
"""For how long the log lines of simulated requests can be read."""

LONGEST_REQUEST_S = 1000.0
"""So long before, and no longer, began what still writes lines: a request lasts 900 s at most."""

ENVIRONMENT_AGE_S = 3600.0
"""The age of a warm environment, or its version's if that is less: it writes to the stream of the day it started on."""


@dataclass(frozen=True)
class Trouble:
    """Something that happens to requests whichever version serves them, from ``start`` to ``end`` (epoch seconds)."""

    start: float
    end: float
    error_rate: float = 0.0
    throttle_rate: float = 0.0


@dataclass
class Traffic:
    """How people use one alias."""

    function: str
    alias: str
    requests_per_minute: float
    troubles: list[Trouble] = field(default_factory=list)
    handler: HandlerTraffic | None = None
    """What its requests are where they really invoke the handler; None: a scenario's, which never do."""
    salt: int | None = None
    """What its draws depend on beside the seed; None: on nothing."""


class _Minute(NamedTuple):
    """What is random about a minute's requests, drawn before it is known which version serves them."""

    number: int
    times: "Floats"
    route: "Floats"
    outcome: "Floats"
    spread: "Floats"
    slow: "Floats"
    trouble: "Floats"
    escalation: "Floats"
    cold: "Floats"
    cold_slow: "Floats"


TimedLine = tuple[float, str, str]
"""A log line: seconds since the epoch, stream, message."""


class _Served(NamedTuple):
    """Requests of one version that ended, kept until their log lines are too old to be asked for."""

    function: str
    version: str
    arn: str
    log: LogConfig
    memory_mb: int
    first_at: float
    """When the version served for the first time."""
    times: "Floats"
    durations_ms: "Floats"
    outcomes: "Codes"
    cold: "NDArray[np.bool_]"
    init_ms: float
    ended: "Sequence[Ended]"
    """How each request ended, where a handler ran; else empty."""
    written: dict[int, tuple[TimedLine, ...]]
    """The lines of each request that were asked for: a log is read again and again, page by page."""

    @property
    def longest_s(self) -> float:
        """How long after its call a request may still write lines."""
        return float(self.durations_ms.max() + self.init_ms) / 1000


class _Ran(NamedTuple):
    """How the requests of one version ended."""

    durations_ms: "Floats"
    outcomes: "Codes"
    cold: "NDArray[np.bool_]"
    profile: FaultProfile
    ended: "Sequence[Ended]" = ()


class _Alias:
    """What one alias's traffic remembers from one step of time to the next."""

    def __init__(self, traffic: Traffic, region: str, account: str) -> None:
        self.traffic = traffic
        self.source: Caller | None = None
        if (what := traffic.handler) is not None:
            names = {"function": traffic.function, "alias": traffic.alias, "region": region, "account": account}
            self.source = source(what.kind, what.event, **names)
        self.minute: _Minute | None = None
        self.warm: dict[str, int] = {}
        self.handlers: dict[str, Handler] = {}


class _Hour(NamedTuple):
    """An hour of quiet traffic, as it was drawn to be read."""

    store: MetricStore
    people: "People"


@dataclass(eq=False)
class _Quiet:
    """Traffic of one alias from ``since`` until ``until``, for as long as nothing about it changes."""

    people: "People"
    traffic: Traffic
    routing: Routing
    rate: float
    log: LogConfig
    since: float
    until: float = math.inf

    def stores(self, start: float, end: float) -> list[MetricStore]:
        """The metrics of each hour that a time range touches."""
        return [hour.store for hour in self._hours(start, end)]

    def lines(self, start_s: float, end_s: float) -> Iterable[TimedLine]:
        """The lines of its log, as ``People.lines``."""
        for hour in self._hours(start_s - LONGEST_REQUEST_S, end_s):
            yield from hour.people.lines(self.log.group, start_s, end_s)

    def _hours(self, start: float, end: float) -> list[_Hour]:
        first, last = max(start, self.since), min(end, self.until)
        numbers = range(int(first // HOUR_S), math.ceil(last / HOUR_S)) if first < last else ()
        return [self.people.hour(self, number) for number in numbers]


class People:
    """Drives the traffic of one region's functions through time.

    Args:
        seed: the same seed and the same actions at the same times give the same requests.

    Attributes:
        cold_starts_per_minute: environments that each version starts, beside those that its traffic needs. So a
            version with little traffic has more cold starts for each request.
        real_per_minute: how many requests a minute of each version really invoke its handler.
    """

    def __init__(self, seed: int, functions: Lambda, telemetry: Telemetry) -> None:
        self.seed = seed
        self.cold_starts_per_minute = 0.0
        self.real_per_minute = 1000.0
        self._functions, self._telemetry = functions, telemetry
        self._aliases: list[_Alias] = []
        self._quiet: list[_Quiet] = []
        self._served: deque[_Served] = deque()
        self.hour = lru_cache(maxsize=HOURS_KEPT)(self._draw_hour)

    @property
    def traffic(self) -> list[Traffic]:
        """How people use each alias, in the order in which they began; those that are quiet come last."""
        return [each.traffic for each in self._aliases] + [each.traffic for each in self._quiet]

    def use(self, traffic: Traffic) -> None:
        """Let people use an alias from now on."""
        self._aliases.append(_Alias(traffic, self._functions.region, self._functions.account))

    def use_quietly(self, traffic: Traffic, since: float) -> None:
        """Let people use an alias without a second version, drawn only when it is read, until anything changes."""
        routing = self._functions.routing(traffic.function, traffic.alias)
        assert routing is not None and routing.second is None
        config = self._functions.version_config(traffic.function, routing.primary)
        self._functions.age_s(traffic.function, routing.primary, since)
        quiet = _Quiet(self, traffic, routing, traffic.requests_per_minute, config.log, since)
        self._quiet.append(quiet)
        self._telemetry.made_of(traffic.function, quiet.stores)
        self._telemetry.logs_of(config.log.group, quiet)

    def _wake(self, now: float) -> None:
        """Draw from now on by the minute what is quiet no longer: its alias, or its traffic, has changed."""
        for each in list(self._quiet):
            traffic = each.traffic
            routing = self._functions.routing(traffic.function, traffic.alias)
            if (routing, traffic.requests_per_minute) != (each.routing, each.rate):
                each.until = now
                self.hour.cache_clear()
                self._quiet.remove(each)
                self._aliases.append(self._warm(traffic, each.routing.primary))

    def _warm(self, traffic: Traffic, version: str) -> _Alias:
        """An alias whose version has every environment that it needs."""
        alias = _Alias(traffic, self._functions.region, self._functions.account)
        alias.warm[version] = ALL_WARM
        return alias

    def _draw_hour(self, quiet: _Quiet, number: int) -> _Hour:
        """The metrics and the requests of an hour of quiet traffic."""
        telemetry, store = self._telemetry.apart()
        people = People(self.seed, self._functions, telemetry)
        people.cold_starts_per_minute = self.cold_starts_per_minute
        drawn = self._draw_requests(replace(quiet.traffic, requests_per_minute=quiet.rate), number, HOUR_S)
        first, last = np.searchsorted(drawn.times, (quiet.since, quiet.until), side="left")
        version = quiet.routing.primary
        # A function that was deleted tells nothing any more.
        with suppress(AwsError):
            if first < last:
                part = _Minute(number, *(each[first:last] for each in drawn[1:]))
                people._serve(self._warm(quiet.traffic, version), version, 1.0, part, [])
        return _Hour(store, people)

    def invoked(self, traffic: Traffic) -> dict[str, int]:
        """How many requests really invoked the handler, and how many took the outcome of one that did."""
        handlers = [handler for each in self._aliases if each.traffic is traffic for handler in each.handlers.values()]
        return {
            "real": sum(handler.real for handler in handlers),
            "copied": sum(handler.copied for handler in handlers),
        }

    def advance(self, start: float, end: float) -> None:
        """All requests in [start, end), which must lie within one minute."""
        if end <= start:
            return
        self._wake(start)
        for each in self._aliases:
            self._advance(each, start, end)
            if each.source is not None and end % MINUTE_S == 0:
                # A second before the minute ends: it is of this one.
                self._telemetry.told(each.source.counts(end), end - 1.0)

    def _advance(self, alias: _Alias, start: float, end: float) -> None:
        traffic = alias.traffic
        if traffic.requests_per_minute <= 0:
            return
        routing = self._functions.routing(traffic.function, traffic.alias)
        if routing is None:
            return
        minute = self._draw(alias, int(start // MINUTE_S))
        first, last = np.searchsorted(minute.times, (start, end), side="left")
        if first == last:
            return
        part = _Minute(minute.number, *(each[first:last] for each in minute[1:]))
        part = self._refuse(alias, routing, part)
        second = part.route < routing.weight if routing.second is not None else np.zeros(len(part.times), dtype=bool)
        ended = self._invoke(alias, routing, part, second)
        for version, chosen in ((routing.primary, ~second), (routing.second, second)):
            if version is not None and chosen.any():
                share = routing.weight if version == routing.second else 1.0 - routing.weight
                own = [one for index in np.flatnonzero(chosen) if (one := ended[index]) is not None] if ended else []
                self._serve(alias, version, share, _Minute(part.number, *(each[chosen] for each in part[1:])), own)

    def _draw(self, alias: _Alias, number: int) -> _Minute:
        if alias.minute is None or alias.minute.number != number:
            alias.minute = self._draw_requests(alias.traffic, number, MINUTE_S)
        return alias.minute

    def _draw_requests(self, traffic: Traffic, number: int, span_s: float) -> _Minute:
        """The requests of the ``number``-th minute, or of the hour, by its length in seconds."""
        salt = traffic.salt
        random = np.random.default_rng((self.seed, number) if salt is None else (self.seed, number, salt))
        count = int(random.poisson(traffic.requests_per_minute * (span_s / MINUTE_S)))
        times = np.sort(number * span_s + random.random(count) * span_s)
        draws = [random.random(count) for _ in range(5)]
        spread = random.standard_normal(count)
        # Drawn last, so that what a seed gave before there were such cold starts stays.
        cold = [random.random(count) for _ in range(2)]
        return _Minute(number, times, draws[0], draws[1], spread, *draws[2:], *cold)

    def _refuse(self, alias: _Alias, routing: Routing, part: _Minute) -> _Minute:
        """Leave out the requests that Lambda throttles; they run on no version."""
        traffic = alias.traffic
        refused = np.zeros(len(part.times), dtype=bool)
        if routing.reserved_concurrency == 0:
            refused[:] = True
        for trouble in traffic.troubles:
            during = (part.times >= trouble.start) & (part.times < trouble.end)
            refused |= during & (part.trouble < trouble.throttle_rate)
        if not refused.any():
            return part
        self._telemetry.refused(traffic.function, f"{traffic.function}:{traffic.alias}", part.times[refused])
        if alias.source is not None:
            for at in part.times[refused].tolist():
                alias.source.refuse(self._request_id(traffic, at), at)
        return _Minute(part.number, *(each[~refused] for each in part[1:]))

    def _serve(self, alias: _Alias, version: str, share: float, part: _Minute, ended: "Sequence[Ended]") -> None:
        traffic = alias.traffic
        name, resource = traffic.function, f"{traffic.function}:{traffic.alias}"
        config = self._functions.version_config(name, version)
        ages = self._functions.age_s(name, version, float(part.times[0])) + (part.times - part.times[0])
        if ended:
            ran = self._read(alias, version, share, part, ended)
        else:
            ran = self._simulate(alias, version, share, part, ages, config.timeout_s * 1000.0)
        failed = ((ran.outcomes == ERROR) | (ran.outcomes == TIMEOUT)).astype(np.float64)
        self._telemetry.served(name, resource, version, part.times, ran.durations_ms, failed)
        # A request that raised printed no EMF line.
        answered = failed == 0
        if ran.ended:
            self._telemetry.printed(part.times, [each.done.lines for each in ran.ended])
            kind = traffic.handler.kind if traffic.handler is not None else ""
            if kind == "stream":
                ages_ms = np.array([each.age_ms for each in ran.ended], dtype=np.float64)
                self._telemetry.read(name, resource, version, part.times, ages_ms)
            elif kind == "http":
                statuses = [events.http_status(None if each.done.failed else each.done.payload) for each in ran.ended]
                latencies = ran.durations_ms + np.where(ran.cold, ran.profile.init_ms, 0.0)
                self._telemetry.answered(name, resource, part.times, latencies, np.array(statuses, dtype=np.float64))
        elif answered.any():
            apologies = (ran.outcomes[answered] == APOLOGY).astype(np.float64)
            escalations = (part.escalation[answered] < ran.profile.escalation_rate).astype(np.float64)
            asked = part.escalation[answered] > 1.0 - ran.profile.reminder_rate
            reminders = asked.astype(np.float64) * (1.0 - apologies)
            counts = {"Apologies": apologies, "SafetyEscalations": escalations, "RemindersSet": reminders}
            self._telemetry.counted(name, resource, version, part.times[answered], counts)
        served = _Served(
            function=name,
            version=version,
            arn=self._functions.alias_arn(name, traffic.alias),
            log=config.log,
            memory_mb=config.memory_mb,
            first_at=float(part.times[0] - ages[0]),
            times=part.times,
            durations_ms=ran.durations_ms,
            outcomes=ran.outcomes,
            cold=ran.cold,
            init_ms=ran.profile.init_ms,
            ended=ran.ended,
            written={},
        )
        self._served.append(served)
        self._telemetry.logs_of(config.log.group, GroupLines(self, config.log.group))
        while self._served and self._served[0].times[-1] < part.times[-1] - LINES_KEPT_S:
            self._served.popleft()

    def _simulate(
        self, alias: _Alias, version: str, share: float, part: _Minute, ages: "Floats", limit_ms: float
    ) -> _Ran:
        """Requests that end as the build's fault profile says."""
        traffic = alias.traffic
        profile = self._functions.build_profile(traffic.function, version)
        outcomes = profile.outcomes(ages, part.outcome)
        for trouble in traffic.troubles:
            during = (part.times >= trouble.start) & (part.times < trouble.end)
            outcomes[during & (1.0 - part.trouble < trouble.error_rate)] = ERROR
        cold = self._cold_starts(alias, version, share, part, profile)
        durations = profile.durations_ms(part.spread, part.slow, ages)
        durations = np.where(cold & (part.cold_slow < profile.cold_slow_rate), profile.slow_ms, durations)
        outcomes[(durations >= limit_ms) & (outcomes == OK)] = TIMEOUT
        capped: Floats = np.where(outcomes == TIMEOUT, limit_ms, np.minimum(durations, limit_ms))
        return _Ran(np.round(capped, 2).astype(np.float64), outcomes, cold, profile)

    def _invoke(
        self, alias: _Alias, routing: Routing, part: _Minute, second: "NDArray[np.bool_]"
    ) -> "list[Ended | None]":
        """Let the handlers of both versions run, in the order of time; None for requests of a build with a profile."""
        traffic = alias.traffic
        if alias.source is None:
            return []
        runners: list[tuple[Handler, float] | None] = []
        for version, share in ((routing.primary, 1.0 - routing.weight), (routing.second, routing.weight)):
            if version is None or self._functions.has_profile(traffic.function, version):
                runners.append(None)
                continue
            if version not in alias.handlers:
                made = Handler(alias.source, self._functions, traffic.function, traffic.alias, version)
                alias.handlers[version] = made
            runners.append(
                (alias.handlers[version], self.real_per_minute / max(share * traffic.requests_per_minute, 1e-9))
            )
        ended: list[Ended | None] = []
        # These two draws are of no use where a handler decides.
        draws = zip(part.times.tolist(), second.tolist(), part.outcome.tolist(), part.slow.tolist(), strict=True)
        for at, is_second, choice, draw in draws:
            runner = runners[is_second]
            if runner is None:
                ended.append(None)
                continue
            handler, real_share = runner
            ended.append(handler.run(self._request_id(traffic, at), at, chosen=choice < real_share, draw=draw))
        return ended

    def _read(self, alias: _Alias, version: str, share: float, part: _Minute, ended: "Sequence[Ended]") -> _Ran:
        """How requests of one version ended in its handler."""
        durations = np.array([each.done.duration_ms for each in ended])
        codes = {"success": OK, "error": ERROR, "timeout": TIMEOUT}
        outcomes = np.array([codes[each.done.status] for each in ended], dtype=np.int8)
        profile = replace(PROFILES["good"], init_ms=UNPROFILED_INIT_MS, median_ms=float(np.median(durations)))
        return _Ran(durations, outcomes, self._cold_starts(alias, version, share, part, profile), profile, ended)

    def _request_id(self, traffic: Traffic, at: float) -> str:
        return _request_id(self.seed + (traffic.salt or 0), at)

    def _cold_starts(
        self, alias: _Alias, version: str, share: float, part: _Minute, profile: FaultProfile
    ) -> "NDArray[np.bool_]":
        """Which requests start an environment.

        The first ones: as many as concurrency has grown by (Little's law). Of the others, ``cold_starts_per_minute``.
        """
        rate = share * alias.traffic.requests_per_minute
        requests = len(part.times)
        needed = 1 + int(rate / MINUTE_S * profile.median_ms / 1000.0 * 2.0)
        growth = max(0, min(requests, needed - alias.warm.get(version, 0)))
        alias.warm[version] = alias.warm.get(version, 0) + growth
        cold: NDArray[np.bool_] = part.cold < self.cold_starts_per_minute / max(rate, 1e-9)
        cold[:growth] = True
        return cold

    def lines(self, group: str, start: float, end: float) -> Iterable[TimedLine]:
        """Log lines with start <= time < end: (time, stream, message), made when asked for."""
        for served in reversed(list(self._served)):
            if served.times[-1] < start - LONGEST_REQUEST_S:
                break
            if served.log.group != group:
                continue
            # A request that began before may end, and write its report, within.
            first, last = np.searchsorted(served.times, (start - served.longest_s - 1.0, end), side="left")
            for index in range(first, last):
                if index not in served.written:
                    served.written[index] = self._write(served, index)
                for line in served.written[index]:
                    if start <= line[0] < end:
                        yield line

    def _write(self, served: _Served, index: int) -> tuple[TimedLine, ...]:
        """The lines of one request."""
        invocation = self._invocation(served, index)
        begun = invocation.begun
        if not served.cold[index]:
            begun = max(begun - ENVIRONMENT_AGE_S, min(begun, served.first_at))
        name = stream(served.log, served.function, served.version, begun)
        return tuple((at, name, line) for at, line in write_timed(served.log, invocation))

    def _invocation(self, served: _Served, index: int) -> Invocation:
        """What the log tells of one simulated request."""
        at = float(served.times[index])
        request_id = served.ended[index].request_id if served.ended else _request_id(self.seed, at)
        duration_ms = float(served.durations_ms[index])
        told = Invocation(
            function=served.function,
            version=served.version,
            arn=served.arn,
            request_id=request_id,
            at=at,
            duration_ms=duration_ms,
            init_ms=served.init_ms if served.cold[index] else None,
            memory_mb=served.memory_mb,
        )
        if served.ended:
            return replace(told, **served.ended[index].told())
        outcome = int(served.outcomes[index])
        if outcome == ERROR:
            message = "the build's fault profile failed this request"
            text = f"[ERROR] InjectedError: {message} RequestId: {request_id}"
            error = {"errorMessage": message, "errorType": "InjectedError"}
            return replace(told, status="error", text=text, error=error)
        if outcome == TIMEOUT:
            text = f"{request_id} Task timed out after {duration_ms / 1000:.2f} seconds"
            return replace(told, status="timeout", text=text)
        if outcome == APOLOGY:
            line = f"[WARNING] {request_id} apologised after InjectedApology"
            return replace(told, own=(line, embedded_metrics(told, {"Apologies": 1})))
        return told


@dataclass(frozen=True)
class GroupLines:
    """The simulated requests whose lines are in one log group."""

    people: People
    group: str

    def lines(self, start_s: float, end_s: float) -> Iterable[tuple[float, str, str]]:
        """As ``People.lines``."""
        return self.people.lines(self.group, start_s, end_s)


def _request_id(seed: int, at: float) -> str:
    digits = f"{seed & 0xFFFF:04x}{round(at * 1e6):016x}".rjust(32, "0")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
