"""The current status: what is live, whether it is healthy, and which runbook to open. The first page of an incident.

It checks the deployment guide's four metrics, whether requests arrive at all, the alarms, freezes, an isolation and the
rollout on the alias. It writes nothing. What cannot be read is UNKNOWN, never OK, and so is a version without requests.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from buddy_ops.aws import aliases
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.checks import findings as findings_
from buddy_ops.checks import limits, next_steps, result_words
from buddy_ops.checks._shared import (
    PAST_WINDOW,
    WINDOW,
    Measure,
    VersionRate,
    alarm_states,
    callers_state,
    describe_freezes,
    describe_period,
    describe_unguarded,
    missing_alias,
    serving_rates,
    traffic_state,
    version_rates,
)
from buddy_ops.checks.findings import (
    Check,
    CheckContext,
    Finding,
    State,
    info,
    ok,
    problem,
    run_checks,
    unknown,
    warning,
)
from buddy_ops.checks.next_steps import NextStep
from buddy_ops.checks.rollouts import rolled_back_recently, rolled_back_version, rollout_state
from buddy_ops.core import palette, text
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.journal import iso_utc
from buddy_ops.deployment import rollback
from buddy_ops.health import logs, serving
from buddy_ops.health.serving import name_version

__all__ = ["NextStep", "StatusReport", "read_status"]

EXIT_CODES = {State.PROBLEM: result_words.ACT, State.UNKNOWN: result_words.UNKNOWN_CODE}
"""What ``buddy-ops status`` exits with, so that a script need not read its words; else 0."""

WORDS = {
    "alias": result_words.ALIAS_MISSING,
    "isolation": result_words.ISOLATED,
    "rollout": result_words.SPLIT_UNKNOWN,
    "error rate": result_words.ERRORS_HIGH,
    "latency": result_words.LATENCY_HIGH,
    "throttles": result_words.THROTTLED,
    "alarms": result_words.ALARM,
}
"""The result words of the checks that can fail, where the finding has none of its own."""

LEADING = (
    result_words.ROLLING_OUT,
    result_words.ROLLING_BACK,
    result_words.ROLLED_BACK,
    result_words.ALIAS_MOVED,
    result_words.NOT_DEPLOYED,
    result_words.FROZEN,
)
"""The words that lead where nothing is wrong. A gap in the alarms is a warning beside OK: the metrics themselves were
read."""

MOVING = (result_words.ROLLING_OUT, result_words.ROLLING_BACK, result_words.ROLLED_BACK)
"""The words that also lead where the rates are not known yet."""

COMPARABLE = timedelta(hours=3)
"""How long ago another version may have served for its failures to say something about a fault of now."""


@dataclass(frozen=True)
class Subject:
    """What a status is of, and when. ``versions`` has the share (0..1) of each version that serves."""

    environment: str
    function: str
    alias: str
    region: str
    at: datetime
    versions: dict[str, float] = field(default_factory=dict)
    production: bool = False

    @property
    def html(self) -> str:
        """One line of HTML above the verdict, in production a red one."""
        where = f"{self.environment}: {self.function}:{self.alias}, {self.region}, {self.at:%Y-%m-%d %H:%M} UTC"
        shown = text.escape_html(where)
        if not self.production:
            return f'<p style="margin:0 0 4px">{shown}</p>'
        red = palette.PROBLEM.banner
        label = f'<b class="problem" style="{red}">PRODUCTION</b>'
        return f'<p style="margin:0 0 4px;padding:0 12px;{red}">{label} {shown}</p>'


@dataclass(frozen=True)
class ReportPart:
    """A part of the report, as a notebook shows it: HTML, and the same as plain text."""

    html: str
    plain: str

    def __repr__(self) -> str:
        return self.plain

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class StatusReport:
    """What was found.

    Attributes:
        live: what the alias says, in sentences.
        steps: what to do, the most urgent first.
        subject: None in a report that was made from findings alone.
    """

    live: str
    findings: tuple[Finding, ...]
    steps: tuple[NextStep, ...]
    subject: Subject | None = None

    @property
    def state(self) -> State:
        """PROBLEM, else UNKNOWN, else OK: warnings do not change it."""
        return findings_.overall_state(self.findings)

    @property
    def exit_code(self) -> int:
        """0 for OK, 1 for UNKNOWN, 6 where action is needed."""
        return EXIT_CODES.get(self.state, result_words.FINE)

    @property
    def word(self) -> str:
        """The result word, one of ``result_words.RESULT_WORDS``."""
        if self._deciding is None:
            return result_words.OK
        return _word(self._deciding)

    @property
    def verdict(self) -> str:
        """The first line: the result word with its figures, then the names of whatever else was found."""
        match self.state:
            case State.PROBLEM:
                return self._describe_problem()
            case State.UNKNOWN:
                return self._describe_unknown()
            case _:
                return self._describe_ok()

    @property
    def _deciding(self) -> Finding | None:
        """The finding that gives the result word; None: OK."""
        severe = findings_.in_state(self.findings, self.state)
        if self.state is State.OK:
            return _first(finding for finding in self.findings if finding.word in LEADING)
        first = _first(severe)
        if self.state is State.UNKNOWN and first is not None and not first.word:
            # What moves the traffic explains why nothing is known of it yet.
            return _first(finding for finding in self.findings if finding.word in MOVING) or first
        return first

    def _describe_problem(self) -> str:
        first = self._deciding
        assert first is not None
        problems = [finding for finding in findings_.in_state(self.findings, State.PROBLEM) if finding is not first]
        others = [_word(finding) for finding in problems] + self._notes(first)
        line = f"{_word(first)}: {first.message}{_listing('. Also: ', others)}"
        return line + _listing(". Unknown: ", self._unknowns)

    def _describe_unknown(self) -> str:
        first = self._deciding
        assert first is not None
        also = _listing(". Also: ", self._notes(first))
        unread = text.join_words(self._unknowns)
        reason = findings_.in_state(self.findings, State.UNKNOWN)[0].message
        if not first.word:
            return f"UNKNOWN: {unread} could not be read ({reason}){also}."
        if first.state is State.INFO:
            return f"{first.word}: {first.message}{also}. Unknown: {unread} ({reason})"
        return f"{first.word}: {first.message}{also}. Unknown: {unread}"

    def _describe_ok(self) -> str:
        first = self._deciding
        rates = [finding for finding in self.findings if finding.check == "error rate"]
        evidence = "".join(f" Error rate: {finding.message}." for finding in rates)
        if first is not None:
            others = self._warnings(first)
            return f"{_word(first)}: {first.message}.{evidence}{_listing(' Warnings: ', others, end='.')}"
        warnings = self._warnings(None)
        if warnings:
            return f"OK, with warnings: {', '.join(warnings)}.{evidence}"
        return f"OK:{evidence or ' all checks passed.'}"

    @property
    def _unknowns(self) -> list[str]:
        return [finding.check for finding in findings_.in_state(self.findings, State.UNKNOWN)]

    def _warnings(self, but: Finding | None) -> list[str]:
        warnings = findings_.in_state(self.findings, State.WARNING)
        return [finding.message for finding in warnings if finding is not but]

    def _notes(self, but: Finding) -> list[str]:
        """The result words of less severe findings: they explain, and none is left out."""
        less = (State.WARNING, State.INFO)
        return [
            finding.word for finding in self.findings if finding.state in less and finding.word and finding is not but
        ]

    def __str__(self) -> str:
        first, *others = [_text_step(step) for step in self.steps] or [""]
        return "\n".join([self.verdict, first, "", *self._check_lines(), "", *others]).rstrip()

    def _check_lines(self) -> list[str]:
        return [self.live, "", *map(findings_.text_row, self.findings)]

    def _repr_html_(self) -> str:
        return self._html_first_lines() + self._html_checks()

    @property
    def first_lines(self) -> ReportPart:
        """The verdict and the steps; the whole report where the alias is unreadable, since the next cell then fails."""
        if self.word == result_words.ALIAS_UNREADABLE:
            return ReportPart(self._repr_html_(), str(self))
        return ReportPart(self._html_first_lines(), "\n".join([self.verdict, *map(_text_step, self.steps)]))

    @property
    def checks(self) -> ReportPart:
        """What is live, and every check."""
        return ReportPart(self._html_checks(), "\n".join(self._check_lines()))

    def _html_first_lines(self) -> str:
        subject = ""
        if self.subject is not None:
            subject = self.subject.html
        tone = findings_.TONES[self._shown_state].banner
        # The styles are for JupyterLab, in both of its themes. An archived page has colours of its own for the classes.
        word = f'<b class="{self._shown_state.value}" style="{tone}">{text.escape_html(self.word)}</b>'
        figures = text.escape_html(self.verdict.removeprefix(self.word))
        style = f"font-size:115%;line-height:1.3;margin:0;padding:6px 12px;{tone}"
        verdict = f'<p class="verdict" style="{style}">{word}{figures}</p>'
        first, others = self.steps[:1], self.steps[1:]
        return f"{subject}{verdict}{''.join(map(_html_step, first))}{_html_steps(others)}"

    def _html_checks(self) -> str:
        live = text.escape_html(self.live).replace("\n", "<br>")
        return f"<p>{live}</p>{findings_.html_findings(self.findings)}"

    @property
    def _shown_state(self) -> State:
        """The state that colours the first line: green only where there is no warning."""
        if self.state is State.OK and findings_.in_state(self.findings, State.WARNING):
            return State.WARNING
        return self.state

    def to_json(self) -> dict[str, object]:
        """The report as JSON values. Times are ISO 8601 in UTC, rates and shares 0..1, latencies in ms."""
        subject: dict[str, object] = {}
        if self.subject is not None:
            subject = {
                "at": iso_utc(self.subject.at),
                "environment": self.subject.environment,
                "function": self.subject.function,
                "alias": self.subject.alias,
                "region": self.subject.region,
                "versions": [{"version": version, "weight": share} for version, share in self.subject.versions.items()],
            }
        return {
            **subject,
            "state": self.state.value,
            "word": self.word,
            "exit_code": self.exit_code,
            "verdict": self.verdict,
            **self._figures(),
            "next": [step.to_json() for step in self.steps],
            "findings": [
                {
                    "check": finding.check,
                    "state": finding.state.value,
                    "word": _word(finding) if finding.state is State.PROBLEM else finding.word,
                    "message": finding.message,
                    "detail": finding.detail,
                    "remedy": finding.remedy,
                    "runbook": finding.runbook,
                }
                for finding in self.findings
            ],
        }

    def _figures(self) -> dict[str, object]:
        """Of the deciding finding, or else of the error rate: its check, version, since when, number and limit."""
        rates = [finding for finding in self.findings if finding.check == "error rate"]
        found = self._deciding or next(iter(rates), None)
        check = ""
        facts: Mapping[str, object] = {}
        if found is not None:
            check = found.check
            facts = found.facts
        since = facts.get("since")
        return {
            "check": check,
            "version": facts.get("version"),
            "since": iso_utc(since) if isinstance(since, datetime) else None,
            "number": facts.get("number"),
            "limit": facts.get("limit"),
        }


def _word(finding: Finding) -> str:
    """The result word of a finding."""
    if finding.word:
        return finding.word
    if finding.state is State.UNKNOWN:
        return result_words.UNKNOWN
    return WORDS.get(finding.check, finding.check.upper())


def _first(found: Iterable[Finding]) -> Finding | None:
    """The finding whose word comes first in ``result_words.RESULT_WORDS``; None: there are none."""
    last = len(result_words.PRECEDENCE)
    return min(found, key=lambda finding: result_words.PRECEDENCE.get(_word(finding), last), default=None)


def _listing(before: str, names: list[str], end: str = "") -> str:
    """The names after ``before``; nothing if there are none."""
    if not names:
        return ""
    return f"{before}{', '.join(names)}{end}"


def _text_step(step: NextStep) -> str:
    """A step in a terminal: the command on a line of its own, or the notebook that asks."""
    if step.command:
        return f"{step.why}\n  {step.command}"
    values = ", ".join(f"{name} = {value!r}" for name, value in step.parameters.items())
    return f"{step.why}\n  Open notebooks/{step.runbook}.ipynb in JupyterLab (buddy-ops lab), with {values}"


def _html_step(step: NextStep) -> str:
    """The next step, below the verdict."""
    # The reader of this page is in start_here already.
    link = ""
    if step.runbook not in ("", next_steps.GUIDE):
        link = f" Open {_html_link(step)}"
    code = _html_code(step.command, ' style="margin:4px 0"')
    # Without further values the notebook's own form or default is enough; a link may carry them.
    if len(step.parameters) > 1 and not step.link:
        code += _html_code(step.cell, ' style="margin:4px 0"')
    return f'<p class="next" style="margin:8px 0 0"><b>Next:</b> {text.escape_html(step.why)}{link}</p>{code}'


def _html_code(lines: str, style: str = "") -> str:
    """Lines to copy; nothing if there are none."""
    if not lines:
        return ""
    return f'<pre class="code"{style}>{text.escape_html(lines)}</pre>'


def _html_link(step: NextStep) -> str:
    """A link to a step's notebook; nothing if it has none."""
    if not step.runbook:
        return ""
    target = step.link or f"{step.runbook}.ipynb"
    filled = ""
    if step.link:
        filled = " with these parameters"
    return f'<a href="{text.escape_html(target)}">{text.escape_html(step.runbook)}</a>{filled}'


def _html_steps(steps: Sequence[NextStep]) -> str:
    if not steps:
        return ""
    rows = [
        (
            text.escape_html(step.why),
            _html_link(step),
            _html_code(step.cell) if step.runbook and not step.link else "",
            _html_code(step.command),
        )
        for step in steps
    ]
    head = ("Then, or instead", "Notebook", "Its parameters", "Or in a terminal")
    # A column that says nothing takes room from the others.
    filled = [column for column in range(len(head)) if any(row[column] for row in rows)]
    shown = [tuple(row[column] for column in filled) for row in rows]
    return findings_.html_table(shown, tuple(head[column] for column in filled))


def read_status(target: Target) -> StatusReport:
    """Run every check once.

    AWS: lambda:GetAlias, GetFunctionConfiguration, GetPolicy, cloudwatch:GetMetricData, ListMetrics, DescribeAlarms,
    ssm:GetParametersByPath, GetParameter, logs:StartQuery, GetQueryResults; where something is to be explained
    lambda:GetFunctionConcurrency, GetAccountSettings, ListVersionsByFunction, scheduler:GetSchedule. Reads only.
    """
    context = CheckContext(target)
    try:
        alias = context.alias
    except BuddyError as error:
        # Alarms and freezes are read without the alias, and may say what is wrong.
        findings = (unreadable_alias(error), *run_checks(OTHER_CHECKS, context))
        steps = next_steps.steps_without_alias(target, findings, error)
        return StatusReport(
            f"What is live is unknown: {error.what}", findings, steps, subject=status_subject(target, None)
        )
    checks = [Check("rollout", rollout_state), *TRAFFIC_CHECKS]
    if target.settings.uncounted_failures:
        checks.append(Check("failure metrics", lambda context: describe_unguarded(context.target)))
    if alias is None:
        checks = [Check("alias", missing_alias)]
    findings = tuple(run_checks([*checks, *OTHER_CHECKS], context))
    steps = next_steps.plan_steps(context, findings)
    return StatusReport(aliases.describe(target, alias), findings, steps, subject=status_subject(target, alias))


def unreadable_alias(error: BuddyError) -> Finding:
    """What to say of an alias that AWS did not show."""
    return replace(unknown(error.what, error.next).named(result_words.ALIAS_UNREADABLE), check="alias")


def status_subject(target: Target, alias: Alias | None) -> Subject:
    """What a status is of, at this moment."""
    settings = target.settings
    shares: dict[str, float] = {}
    if alias is not None:
        shares = {version: alias.share(version) for version in alias.serving}
    return Subject(
        environment=target.environment,
        function=settings.function,
        alias=settings.alias,
        region=target.region,
        at=target.clock.now(),
        versions=shares,
        production=target.is_production,
    )


def _rate(context: CheckContext, measure: Measure, limit: float, condition: str = "") -> Finding:
    """A problem with the versions over the limit, since when; else every version's rate."""
    rates = serving_rates(context.deployed, version_rates(context.traffic(WINDOW), measure, limit))
    # One failed request of a handful is no outage: more than one must be over the limit.
    high = [rate for rate in rates if rate.count > 1 and rate.over_limit]
    if not high:
        message = f"{'; '.join(rate.describe(condition) for rate in rates)} {describe_period(context)}"
        return ok(message, rates=rates, **_facts(max(rates, key=_share)))
    now = context.target.clock.now()
    described = [_describe_onset(rate, condition, now) for rate in high]
    worst = max(high, key=_share)
    facts: dict[str, object] = {"since": worst.onset(), "failing": tuple(rate.version for rate in high), "rates": high}
    # The figures are those of the sentence: since the onset.
    facts |= _facts(worst.starting_at(worst.onset()))
    other = _failing_target(context, measure, limit, high)
    if other is None:
        return problem("; ".join(described), "", **facts)
    if other not in high:
        described.append(f"{other.describe(condition)} when it last served")
    remedy = "The cause is not the version: check what both depend on (DynamoDB, network, other services)."
    return problem("; ".join(described), remedy, **facts).named(result_words.BOTH_FAIL)


def _share(rate: VersionRate) -> float:
    if not rate.requests:
        return 0.0
    return rate.count / rate.requests


def _facts(rate: VersionRate) -> dict[str, object]:
    return {"version": rate.version, "number": _share(rate), "limit": rate.limit}


def _failing_target(
    context: CheckContext, measure: Measure, limit: float, high: list[VersionRate]
) -> VersionRate | None:
    """The rate of the version that a rollback would return to, or that was rolled back just now, if it fails, too.

    AWS: as ``serving.read_served`` where it served before, within ``COMPARABLE``. Reads only.
    """
    target, alias = context.target, context.deployed
    failing = {rate.version: rate for rate in high}
    if alias.additional is not None:
        # Both receive traffic now, so their own rates decide.
        if set(alias.serving) <= failing.keys():
            return failing[alias.primary]
        return None
    now = target.clock.now()
    other = rollback.rollback_target(target, alias)
    if rolled_back_recently(alias, now):
        other = rolled_back_version(alias)
    switched = serving.last_switch(alias)
    if not other or switched is None or now - switched > COMPARABLE or alias.primary not in failing:
        return None
    # Of the minutes before the switch: since then it has no requests.
    until = text.floor_minute(switched)
    reading = serving.read_served(target, alias, until - WINDOW, until, also=(other,))
    if reading.trouble is not None:
        return None
    rates = version_rates(reading, measure, limit)
    return next((rate for rate in rates if rate.version == other and rate.count > 1 and rate.over_limit), None)


def _describe_onset(rate: VersionRate, condition: str, now: datetime) -> str:
    """The rate since its first minute over the limit, and since when."""
    onset = rate.onset()
    # Where the window begins over the limit, the problem may be older than the window.
    earlier = ""
    if onset == rate.minutes[0][0]:
        earlier = " or earlier"
    return f"{rate.starting_at(onset).describe(condition)} since {text.time_of_day(onset, now)}{earlier}"


def _error_rate(context: CheckContext) -> Finding:
    return _rate(context, "errors", context.target.settings.health.error_rate)


def _latency(context: CheckContext) -> Finding:
    health = context.target.settings.health
    finding = _rate(context, "slow", health.slow_rate, f" over {text.duration(health.latency_ms / 1000)}")
    # The last minute with requests: without any, there is no percentile.
    latest = [row.p99_ms for row in context.traffic(WINDOW).rows if row.p99_ms][-1:]
    p99 = [
        f"{name_version(version)} {text.duration(by_version[version] / 1000)}"
        for by_version in latest
        for version in context.deployed.serving
        if version in by_version
    ]
    return replace(finding, message=finding.message + _listing(". Latest p99: ", p99))


def _cold_starts(context: CheckContext) -> Finding:
    until = context.metrics_until
    found = logs.read_cold_starts(context.target, until - WINDOW, until)
    if not found:
        return unknown(f"no invocation logged {PAST_WINDOW}")
    message = "; ".join(map(str, found))
    # A slow cold start affects few requests, and a rollback does not change it.
    slow = any(version.is_slow for version in found)
    if slow:
        return warning(message)
    return ok(message)


def _callers(context: CheckContext) -> Finding:
    """As the doctor's, but it decides nothing here: the other checks say how the alias's own requests are."""
    finding = callers_state(context)
    state = {State.PROBLEM: State.WARNING, State.UNKNOWN: State.INFO}.get(finding.state, finding.state)
    return replace(finding, state=state)


def _freeze(context: CheckContext) -> Finding:
    if not context.freezes:
        return ok("none in force")
    owners = text.join_words(dict.fromkeys(freeze.owner for freeze in context.freezes))
    message = f"{owners} froze deployments{_describe_end(context)}. Rollbacks are not frozen"
    return info(message).named(result_words.FROZEN).detailed(describe_freezes(context))


def _describe_end(context: CheckContext) -> str:
    """Until when the last freeze lasts; empty where one of them does not say it."""
    freezes = context.freezes
    if not all(freeze.readable for freeze in freezes):
        return ""
    end = max(text.parse_utc(freeze.expires) for freeze in freezes)
    return f" until {text.time_of_day(end, context.target.clock.now())}"


TRAFFIC_CHECKS = (
    Check("error rate", _error_rate),
    Check("latency", _latency),
    Check("throttles", limits.throttles),
    Check("traffic", traffic_state),
    Check("cold starts", _cold_starts),
    Check("callers", _callers),
)
"""The deployment guide's four metrics, and whether there are requests to measure, by the alias or past it; only where
something is deployed."""

ISOLATION = Check("isolation", limits.isolation_state)
ALARMS = Check("alarms", alarm_states)
FREEZE = Check("freeze", _freeze)
OTHER_CHECKS = (ISOLATION, ALARMS, FREEZE)
