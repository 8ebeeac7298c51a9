"""The current status: what is live, whether it is healthy, and which runbook to open. The first page of an incident.

It checks the deployment guide's four metrics, whether requests arrive at all, the alarms, freezes and the rollout on
the alias. It writes nothing. What cannot be read is UNKNOWN, never OK, and so is a version without requests.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from buddy_ops.aws import aliases
from buddy_ops.aws.aliases import Alias, RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.checks import findings as findings_
from buddy_ops.checks._shared import (
    Measure,
    VersionRate,
    alarm_states,
    describe_freezes,
    missing_alias,
    rollout_state,
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
from buddy_ops.core import text
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.front_end import parameter
from buddy_ops.deployment.rollback import version_before
from buddy_ops.health import logs

WINDOW = timedelta(minutes=15)
"""How much of the latest traffic is checked."""

PAST_WINDOW = f"in the last {text.duration(WINDOW)}"

EXIT_CODES = {State.PROBLEM: 6, State.UNKNOWN: 1}
"""What ``buddy-ops status`` exits with, so that a script need not read its words; else 0."""

HEADLINES = {
    "alias": "ALIAS MISSING",
    "rollout": "TRAFFIC SPLIT UNKNOWN",
    "error rate": "ERROR RATE HIGH",
    "latency": "LATENCY HIGH",
    "throttles": "REQUESTS THROTTLED",
    "alarms": "ALARM",
}
"""The result words of the checks that can fail."""


@dataclass(frozen=True)
class NextStep:
    """A runbook to open, with the parameters that are known.

    Attributes:
        why: what it is for now.
    """

    why: str
    runbook: str
    parameters: dict[str, str]

    @property
    def command(self) -> str:
        """The command that runs it in a terminal."""
        given = {name: value for name, value in self.parameters.items() if name != "environment"}
        pairs = "".join(f" -p '{name}={value}'" for name, value in given.items())
        return f"buddy-ops run {self.runbook} -e {self.parameters['environment']}{pairs}"

    @property
    def cell(self) -> str:
        """The lines to paste below the runbook's parameters."""
        return "\n".join(f"{name} = {value!r}" for name, value in self.parameters.items())


@dataclass(frozen=True)
class StatusReport:
    """What was found.

    Attributes:
        live: what the alias says, in sentences.
        steps: what to do, the most urgent first.
    """

    live: str
    findings: tuple[Finding, ...]
    steps: tuple[NextStep, ...]

    @property
    def state(self) -> State:
        """PROBLEM, else UNKNOWN, else OK: warnings do not change it."""
        return findings_.overall_state(self.findings)

    @property
    def exit_code(self) -> int:
        """0 for OK, 1 for UNKNOWN, 6 where action is needed."""
        return EXIT_CODES.get(self.state, 0)

    @property
    def verdict(self) -> str:
        """The first line: the first problem with its figures, then the names of other problems and unknown checks."""
        unknowns = [finding.check for finding in findings_.in_state(self.findings, State.UNKNOWN)]
        match self.state:
            case State.PROBLEM:
                first, *others = findings_.in_state(self.findings, State.PROBLEM)
                line = f"{_headline(first)}: {first.message}"
                line += _listing(". Also: ", [_headline(other) for other in others])
                return line + _listing(". Unknown: ", unknowns)
            case State.UNKNOWN:
                reason = findings_.in_state(self.findings, State.UNKNOWN)[0].message
                return f"UNKNOWN: {text.join_words(unknowns)} could not be read ({reason})."
            case _:
                warnings = [finding.message for finding in findings_.in_state(self.findings, State.WARNING)]
                return f"OK{_listing(', with warnings: ', warnings)}." if warnings else "All checks OK."

    def __str__(self) -> str:
        findings = [findings_.text_row(finding) for finding in self.findings]
        steps = [f"{step.why}\n  {step.command}" for step in self.steps]
        return "\n".join([self.verdict, "", self.live, "", *findings, "", *steps])

    def _repr_html_(self) -> str:
        live = text.escape_html(self.live).replace("\n", "<br>")
        return (
            f'<p class="verdict" style="font-size:130%">{findings_.html_label(self.state, self.verdict)}</p>'
            f"<p>{live}</p>{_html_steps(self.steps)}{findings_.html_findings(self.findings)}"
        )


def _headline(finding: Finding) -> str:
    return HEADLINES.get(finding.check, finding.check.upper())


def _listing(before: str, names: list[str]) -> str:
    """The names after ``before``; nothing if there are none."""
    return before + ", ".join(names) if names else ""


def _html_steps(steps: tuple[NextStep, ...]) -> str:
    rows = (
        (
            text.escape_html(step.why),
            f'<a href="{text.escape_html(step.runbook)}.ipynb">{text.escape_html(step.runbook)}</a>',
            f'<pre class="code">{text.escape_html(step.cell)}</pre>',
            f'<pre class="code">{text.escape_html(step.command)}</pre>',
        )
        for step in steps
    )
    return findings_.html_table(rows, ("Next step", "Runbook", "Add below its parameters", "Or in a terminal"))


def read_status(target: Target) -> StatusReport:
    """Run every check once.

    AWS: lambda:GetAlias, GetFunctionConfiguration, cloudwatch:GetMetricData, DescribeAlarms, ssm:GetParametersByPath,
    logs:StartQuery, GetQueryResults, reads only.
    """
    context = CheckContext(target)
    try:
        alias = context.alias
    except BuddyError as error:
        # Alarms and freezes are read without the alias, and may say what is wrong.
        unreadable = unknown(error.what, error.next)
        findings = tuple(run_checks([Check("alias", lambda _: unreadable), *OTHER_CHECKS], context))
        steps = tuple(_check_again(target, findings))
        return StatusReport(f"What is live is unknown: {error.what}", findings, steps)
    checks = [Check("rollout", rollout_state), *TRAFFIC_CHECKS]
    if alias is None:
        checks = [Check("alias", missing_alias)]
    findings = tuple(run_checks([*checks, *OTHER_CHECKS], context))
    return StatusReport(aliases.describe(target, alias), findings, _next_steps(context, findings))


def _rate(context: CheckContext, measure: Measure, limit: float, condition: str = "") -> Finding:
    """A problem with the versions over the limit, since when; else every version's rate."""
    rates = serving_rates(context.deployed, version_rates(context.traffic(WINDOW), measure, limit))
    # One failed request of a handful is no outage: more than one must be over the limit.
    high = [rate for rate in rates if rate.count > 1 and rate.over_limit]
    if high:
        now = context.target.clock.now()
        return problem("; ".join(_describe_onset(rate, condition, now) for rate in high), rates=high)
    return ok(f"{'; '.join(rate.describe(condition) for rate in rates)} {_period(context)}", rates=rates)


def _period(context: CheckContext) -> str:
    """The time that the rates are of: the window, or less after a rollback."""
    since = context.traffic_since(WINDOW)
    if since > context.metrics_until - WINDOW:
        return f"since {text.time_of_day(since, context.target.clock.now())}"
    return PAST_WINDOW


def _describe_onset(rate: VersionRate, condition: str, now: datetime) -> str:
    """The rate since its first minute over the limit, and since when."""
    onset = rate.onset()
    # Where the window begins over the limit, the problem may be older than the window.
    earlier = " or earlier" if onset == rate.minutes[0][0] else ""
    return f"{rate.starting_at(onset).describe(condition)} since {text.time_of_day(onset, now)}{earlier}"


def _error_rate(context: CheckContext) -> Finding:
    return _rate(context, "errors", context.target.settings.health.error_rate)


def _latency(context: CheckContext) -> Finding:
    health = context.target.settings.health
    finding = _rate(context, "slow", health.slow_rate, f" over {text.duration(health.latency_ms / 1000)}")
    # The last minute with requests: without any, there is no percentile.
    latest = [row.p99_ms for row in context.traffic(WINDOW).rows if row.p99_ms][-1:]
    p99 = [
        f"v{version} {text.duration(by_version[version] / 1000)}"
        for by_version in latest
        for version in context.deployed.serving
        if version in by_version
    ]
    return replace(finding, message=finding.message + _listing(". Latest p99: ", p99))


def _throttles(context: CheckContext) -> Finding:
    # A throttled request runs on no version, so that no error rate includes it.
    rates = version_rates(context.traffic(WINDOW), "throttles")
    throttled = sum(rate.count for rate in rates)
    if throttled:
        message = f"{text.count(throttled, 'request')} throttled {_period(context)}"
        return problem(message, "Raise the function's concurrency limit.", throttled=throttled)
    if not any(rate.requests for rate in rates):
        return unknown(f"no requests {_period(context)}")
    return ok(f"none {_period(context)}")


def _cold_starts(context: CheckContext) -> Finding:
    until = context.metrics_until
    found = logs.read_cold_starts(context.target, until - WINDOW, until)
    if not found:
        return unknown(f"no invocation logged {PAST_WINDOW}")
    message = "; ".join(map(str, found))
    # A slow cold start affects few requests, and a rollback does not change it.
    slow = any(version.is_slow for version in found)
    return warning(message) if slow else ok(message)


def _freeze(context: CheckContext) -> Finding:
    return info(describe_freezes(context)) if context.freezes else ok("none in force")


TRAFFIC_CHECKS = (
    Check("error rate", _error_rate),
    Check("latency", _latency),
    Check("throttles", _throttles),
    Check("traffic", traffic_state),
    Check("cold starts", _cold_starts),
)
"""The deployment guide's four metrics, and whether there are requests to measure; only where something is deployed."""

OTHER_CHECKS = (Check("alarms", alarm_states), Check("freeze", _freeze))


def _next_steps(context: CheckContext, findings: tuple[Finding, ...]) -> tuple[NextStep, ...]:
    """What to do, the most urgent first."""
    target, alias = context.target, context.alias
    record = context.record
    here = {"environment": target.environment}
    deploy = {**here, "artifact": "build/skill.zip"}
    allowed = target.settings.rollout.strategies
    strategy = f"strategies/{'canary' if 'canary' in allowed else allowed[0]}"
    failed = {finding.check for finding in findings_.in_state(findings, State.PROBLEM)}
    steps: list[NextStep] = []
    # Throttles are not listed here: the old version would be throttled as well.
    if alias is not None and failed & {"error rate", "latency", "rollout"}:
        back = dict(here)
        # Right after a rollback the same again would find it done.
        if before := version_before(alias):
            back["to_version"] = before
        steps.append(NextStep(f"Users are affected: {_rollback_advice(alias)}", "rollback/immediate", back))
    if alias is not None and "throttles" in failed:
        advice = "Requests are throttled: raise the function's concurrency limit, then monitor:"
        steps.append(NextStep(advice, "operations/monitor", here))
    if alias is not None and "alarms" in failed and not steps:
        advice = "An alarm is in ALARM: compare the metrics of the last hour with their limits:"
        steps.append(NextStep(advice, "operations/monitor", here))
    if record is not None and record.open:
        steps.append(NextStep(_resume_advice(record), strategy, deploy))
    if not steps:
        steps += _check_again(target, findings)
    if any(finding.check == "alias" and finding.state is State.WARNING for finding in findings):
        steps.append(NextStep("Nothing is deployed yet. Deploy a first build:", strategy, deploy))
    if any(finding.check == "alarms" and finding.state is State.WARNING for finding in findings):
        advice = "No alarms exist, so on-call would not be paged. Create them:"
        steps.append(NextStep(advice, "operations/alarms", here))
    return tuple(steps) or (NextStep("No action needed. To deploy a build:", strategy, deploy),)


def _check_again(target: Target, findings: tuple[Finding, ...]) -> Iterator[NextStep]:
    """What to do about findings that no runbook corrects, so that none of them reads as if all were well."""
    here = {"environment": target.environment}
    problems = findings_.in_state(findings, State.PROBLEM)
    if problems:
        remedies = " ".join(finding.remedy for finding in problems if finding.remedy)
        yield NextStep(f"{remedies} Then check again:", "start_here", here)
        return
    unknowns = findings_.in_state(findings, State.UNKNOWN)
    if unknowns:
        remedies = " ".join(dict.fromkeys(finding.remedy for finding in unknowns if finding.remedy))
        names = text.join_words(finding.check for finding in unknowns)
        advice = f"Unknown: {names}. Do not treat this as healthy. {remedies}".strip()
        yield NextStep(f"{advice} Check again in 3 min:", "start_here", here)


def _rollback_advice(alias: Alias) -> str:
    if alias.stable is None:
        keeping = f"keep that one ({parameter('to_version')})"
        return f"find out whether v{alias.primary} or v{alias.additional} is healthy, and {keeping}."
    if before := version_before(alias):
        return f"roll back v{alias.primary} to v{before} now."
    if alias.canary is None:
        return f"roll back v{alias.primary} now."
    return f"roll back v{alias.canary} to v{alias.stable} now."


def _resume_advice(record: RolloutState) -> str:
    # The alias does not say whether the run is still alive, so the advice names both cases.
    version = f"v{record.new_version}"
    return (
        f"Run {record.run} of {version} is not closed. If it stopped, resume or close it with the build of {version}:"
    )
