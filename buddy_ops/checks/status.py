"""What is live, what burns, and which runbook answers it: the first page at three in the morning.

Knows the guide's four metrics, alarms, freezes, and the rollout on the alias. Never writes, and never raises for what
cannot be read: that is 'unknown', and hides nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from buddy_ops.aws import aliases, freezes
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError
from buddy_ops.health import alarms, metrics
from buddy_ops.health.metrics import MINUTE, MetricsReading

State = Literal["ok", "burns", "unknown", "note"]
Told = tuple[State, str]

WINDOW = timedelta(minutes=15)
MARKS: dict[State, str] = {"ok": "ok", "burns": "BURNS", "unknown": "unknown", "note": "note"}
COLOURS: dict[State, str] = {"ok": "#00705a", "burns": "#b00020", "unknown": "#8a5a00", "note": "#0059a0"}


@dataclass(frozen=True)
class Sign:
    """One thing that was looked at."""

    what: str
    state: State
    says: str


@dataclass(frozen=True)
class NextStep:
    """A runbook that answers what is seen, with its parameters filled in as far as they are known."""

    why: str
    runbook: str
    parameters: dict[str, Any]

    @property
    def command(self) -> str:
        """The same in a terminal."""
        given = {name: value for name, value in self.parameters.items() if name != "environment"}
        pairs = "".join(f" -p '{name}={value}'" for name, value in given.items())
        return f"buddy-ops run {self.runbook} -e {self.parameters['environment']}{pairs}"

    @property
    def cell(self) -> str:
        """The lines to paste below the runbook's parameters."""
        return "\n".join(f"{name} = {value!r}" for name, value in self.parameters.items())


@dataclass(frozen=True)
class StatusReport:
    """What was found, the worst first."""

    live: str
    signs: tuple[Sign, ...]
    steps: tuple[NextStep, ...]

    @property
    def verdict(self) -> str:
        """One line: whether anything burns."""
        burning = [sign.what for sign in self.signs if sign.state == "burns"]
        unknown = [sign.what for sign in self.signs if sign.state == "unknown"]
        doubts = f"; unknown: {', '.join(unknown)}" if unknown else ""
        return (f"BURNS: {', '.join(burning)}" if burning else "Nothing that was read burns") + doubts + "."

    def __str__(self) -> str:
        signs = [f"{MARKS[sign.state]:<8}{sign.what:<16}{sign.says}" for sign in self.signs]
        steps = [f"{step.why}\n  {step.command}" for step in self.steps]
        return "\n".join([self.verdict, "", self.live, "", *signs, "", *steps])

    def _repr_html_(self) -> str:
        from html import escape

        left = "text-align:left;vertical-align:top"
        code = f"{left};font-family:monospace;white-space:pre"
        signs = "".join(
            f'<tr><td style="{left}"><b {_coloured(sign.state)}>{MARKS[sign.state]}</b></td>'
            f'<td style="{left}">{escape(sign.what)}</td><td style="{left}">{escape(sign.says)}</td></tr>'
            for sign in self.signs
        )
        steps = "".join(
            f'<tr><td style="{left}">{escape(step.why)}</td>'
            f'<td style="{left}"><a href="{escape(step.runbook)}.ipynb">{escape(step.runbook)}</a></td>'
            f'<td class="code" style="{code}">{escape(step.cell)}</td>'
            f'<td class="code" style="{code}">{escape(step.command)}</td></tr>'
            for step in self.steps
        )
        head = f'<tr><th style="{left}">' + f'</th><th style="{left}">'.join(
            ("what to do", "open", "put below its parameters", "or in a terminal")
        )
        burns = any(sign.state == "burns" for sign in self.signs)
        return (
            f'<p class="verdict" style="font-size:130%"><b {_coloured("burns" if burns else "ok")}>'
            f"{escape(self.verdict)}</b></p>"
            f"<p>{escape(self.live).replace(chr(10), '<br>')}</p>"
            f"<table>{head}</th></tr>{steps}</table><table>{signs}</table>"
        )


def _coloured(state: State) -> str:
    """Attributes that colour it: a style for JupyterLab, a class for an archived page, which lets no style through."""
    return f'class="{state}" style="color:{COLOURS[state]}"'


def read_status(target: Target) -> StatusReport:
    """Look at everything once.

    AWS: lambda:GetAlias, GetFunctionConfiguration, cloudwatch:GetMetricData, DescribeAlarms, ssm:GetParametersByPath,
    logs:StartQuery, GetQueryResults, reads only.
    """
    try:
        alias = aliases.read_alias(target)
    except BuddyError as error:
        return StatusReport(f"What is live is unknown: {error.what}", (Sign("alias", "unknown", error.what),), ())
    now = target.clock.now()
    until = now.replace(second=0, microsecond=0) - timedelta(seconds=target.settings.health.late_data_s)
    looks: dict[str, Callable[[], Told]] = {"rollout": partial(_rollout, alias, now)}
    if alias is not None:
        reading = _reading(target, alias, until)
        looks["error rate"] = partial(_errors, target, reading)
        looks["latency"] = partial(_latency, target, reading)
        looks["throttles"] = partial(_throttles, reading)
        looks["cold starts"] = partial(_cold_starts, target, until)
    looks |= {"alarms": partial(_alarms, target), "freeze": partial(_freeze, target)}
    signs = tuple(_sign(what, ask) for what, ask in looks.items())
    return StatusReport(aliases.describe(target, alias), signs, _steps(target, alias, signs))


def _sign(what: str, ask: Callable[[], Told]) -> Sign:
    try:
        return Sign(what, *ask())
    except BuddyError as error:
        return Sign(what, "unknown", error.what)


def _reading(target: Target, alias: Alias, until: datetime) -> MetricsReading:
    versions = [alias.primary] if alias.additional is None else [alias.primary, alias.additional]
    return metrics.read_minutes(target, versions, lambda _: alias.primary, until - WINDOW, until)


def _counted(reading: MetricsReading, what: str) -> list[tuple[str, int, int]]:
    """By version: how many of ``what``, of how many requests."""
    versions = sorted({version for row in reading.rows for version in row.counts}, key=int)
    return [
        (
            version,
            sum(getattr(row.counts[version], what) for row in reading.rows if version in row.counts),
            sum(row.counts[version].requests for row in reading.rows if version in row.counts),
        )
        for version in versions
    ]


def _share(reading: MetricsReading, what: str, bound: float, says: str) -> Told:
    if reading.trouble:
        return "unknown", reading.trouble
    found = _counted(reading, what)
    told = "; ".join(
        f"v{version}: {100 * count / requests:.2g} % of {requests:,} {says}" if requests else f"v{version}: no requests"
        for version, count, requests in found
    )
    # Two of a handful are no outage: what is over the bound must be over it beyond one request.
    over = any(count > 1 and count > bound * requests for _, count, requests in found)
    return ("burns" if over else "ok"), f"{told} in {WINDOW / MINUTE:g} minutes; {100 * bound:g} % is allowed"


def _errors(target: Target, reading: MetricsReading) -> Told:
    return _share(reading, "errors", target.settings.health.error_rate, "failed")


def _latency(target: Target, reading: MetricsReading) -> Told:
    bound_s = target.settings.health.latency_ms / 1000
    state, told = _share(reading, "slow", target.settings.health.slow_rate, f"took over {bound_s:g} s")
    latest = [row.p99_ms for row in reading.rows if row.p99_ms][-1:]
    p99 = ", ".join(f"v{version} {ms / 1000:.2f} s" for each in latest for version, ms in each.items())
    return state, f"{told}; latest p99: {p99}" if p99 else told


def _throttles(reading: MetricsReading) -> Told:
    if reading.trouble:
        return "unknown", reading.trouble
    count = sum(each[1] for each in _counted(reading, "throttles"))
    if count:
        return "burns", f"{count:,} requests were turned away: raise the function's concurrency limit"
    return "ok", f"none in {WINDOW / MINUTE:g} minutes"


def _cold_starts(target: Target, until: datetime) -> Told:
    found = metrics.read_cold_starts(target, until - WINDOW, until)
    slow = any((each.p95_init_ms or 0) >= metrics.INIT_BOUND_MS for each in found)
    return ("note" if slow else "ok"), "; ".join(map(str, found)) or "no invocation was logged"


def _alarms(target: Target) -> Told:
    there = alarms.read_alarms(target)
    burning = [alarm for alarm in there if alarm.state == "ALARM"]
    if burning:
        return "burns", "; ".join(f"{alarm.name}: {alarm.reason}" for alarm in burning)
    return ("ok" if there else "note"), f"{len(there)}, none burns" if there else "there are none"


def _freeze(target: Target) -> Told:
    standing = freezes.active_freezes(target)
    return ("note", "; ".join(map(str, standing))) if standing else ("ok", "none")


def _rollout(alias: Alias | None, now: datetime) -> Told:
    record = alias.rollout if alias else None
    if alias is not None and alias.additional is not None and (record is None or not record.open):
        return "burns", f"{alias}, and no rollout of ours put these weights there"
    if alias is None or record is None or not record.open:
        return "ok", "none under way"
    minutes = (now - datetime.fromisoformat(record.since)) / MINUTE
    stage = "watched at 100 %" if record.stage == "watch" else f"at stage {record.stage}"
    if alias.failsafe_triggered:
        return (
            "note",
            f"run {record.run} died at stage {record.stage}; its lease took v{record.new_version}'s traffic away",
        )
    return "note", f"run {record.run} ships v{record.new_version}: {stage} for {minutes:.0f} minutes"


def _steps(target: Target, alias: Alias | None, signs: tuple[Sign, ...]) -> tuple[NextStep, ...]:
    """What to do about it, the most urgent first."""
    here = {"environment": target.environment}
    ship, allowed = {**here, "artifact": "build/skill.zip"}, target.settings.rollout.strategies
    strategy = f"strategies/{'canary' if 'canary' in allowed else allowed[0]}"
    state = {sign.what: sign.state for sign in signs}
    record = alias.rollout if alias else None
    found: list[NextStep] = []
    if alias is not None and "burns" in (state["error rate"], state["latency"], state["rollout"]):
        what = f"take v{alias.canary}'s share away" if alias.canary else f"take v{alias.primary} back"
        if alias.stable is None:
            what = f"find out which of v{alias.primary} and v{alias.additional} is good, and keep it (to_version)"
        found.append(NextStep(f"People are hurt: {what}, now.", "rollback/immediate", here))
    if record is not None and record.open:
        build = f"the build of v{record.new_version}"
        resume = f"A rollout that was interrupted: with {build} this goes on with it, or closes it."
        found.append(NextStep(resume, strategy, ship))
    if alias is None:
        found.append(NextStep("Nothing is deployed yet.", strategy, ship))
    if state["alarms"] == "note":
        found.append(NextStep("Nobody would be called: write the alarms.", "operations/alarms", here))
    return tuple(found) or (NextStep("Nothing to do. To ship a build:", strategy, ship),)
