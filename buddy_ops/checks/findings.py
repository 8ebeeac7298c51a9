"""Checks and their findings: the framework of setup, status, checklists and readiness.

A check is a function that takes a ``CheckContext`` and returns a ``Finding``, made with ``ok``, ``info``, ``warning``,
``problem`` or ``unknown``. ``run_checks`` runs a list of them: a check that raises becomes an UNKNOWN finding, and the
others still run. A finding carries fields; the functions at the end of this module turn findings into text, Markdown
and HTML.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property

from buddy_ops.aws import aliases, freezes, isolation, versions
from buddy_ops.aws.aliases import Alias, RolloutState
from buddy_ops.aws.freezes import Freeze
from buddy_ops.aws.function_log import default_group
from buddy_ops.aws.isolation import Isolation
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import Version
from buddy_ops.checks.result_words import JUST_DEPLOYED
from buddy_ops.core import palette, text
from buddy_ops.core.errors import AwsFailed, BuddyError
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.roles import Role
from buddy_ops.deployment import rollback
from buddy_ops.deployment.rollback import RollbackPlan
from buddy_ops.health import alarms, metrics, serving
from buddy_ops.health.alarms import Alarm
from buddy_ops.health.serving import ServedReading
from buddy_ops.runs import archive
from buddy_ops.runs.manifest import ManifestEntry

QUOTED = 160
"""Characters of an AWS error that are quoted: an emulator without the call may answer with a whole page."""


class State(StrEnum):
    """The result of a check, the worst first."""

    PROBLEM = "problem"
    UNKNOWN = "unknown"
    """The check could not be made. It never counts as OK."""
    WARNING = "warning"
    INFO = "info"
    """Nothing is wrong, but an operator should see it: a rollout in progress, a freeze, an open rollback window."""
    OK = "ok"

    @property
    def label(self) -> str:
        """The result word, in capitals."""
        return self.value.upper()

    @property
    def colour(self) -> str:
        """As the archive's pages colour the class of this name."""
        return TONES[self].text


TONES = {
    State.PROBLEM: palette.PROBLEM,
    State.UNKNOWN: palette.UNKNOWN,
    State.WARNING: palette.UNKNOWN,
    State.INFO: palette.INFO,
    State.OK: palette.OK,
}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: the check's name; ``run_checks`` fills it in.
        message: the finding for an operator, one sentence or less; the verdict of the status quotes it.
        detail: more of it, of any length, for lists of findings only.
        remedy: what to do about it; empty where there is nothing to do.
        runbook: the runbook that corrects it, for example 'operations/alarms'; empty if none does.
        facts: the values behind the message, for code.
        word: the status's result word where this finding decides it, one of ``result_words.RESULT_WORDS``; empty: that
            of its check, or of its state.
    """

    check: str
    state: State
    message: str
    remedy: str = ""
    runbook: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    word: str = ""
    detail: str = ""

    @property
    def full_message(self) -> str:
        """The message with its detail."""
        if not self.detail:
            return self.message
        return f"{self.message}. {self.detail}"

    def named(self, word: str) -> "Finding":
        """The same finding with a result word."""
        return replace(self, word=word)

    def detailed(self, detail: str) -> "Finding":
        """The same finding with more than its message."""
        return replace(self, detail=detail)


def ok(message: str, **facts: object) -> Finding:
    """The check passed."""
    return Finding("", State.OK, message, facts=facts)


def info(message: str, remedy: str = "", **facts: object) -> Finding:
    """Nothing is wrong, but an operator should see it."""
    return Finding("", State.INFO, message, remedy, facts=facts)


def warning(message: str, remedy: str = "", **facts: object) -> Finding:
    """A rollout or a rollback works, but something should be corrected."""
    return Finding("", State.WARNING, message, remedy, facts=facts)


def problem(message: str, remedy: str = "", **facts: object) -> Finding:
    """The check failed."""
    return Finding("", State.PROBLEM, message, remedy, facts=facts)


def unknown(message: str, remedy: str = "", **facts: object) -> Finding:
    """The check could not be made."""
    return Finding("", State.UNKNOWN, message, remedy, facts=facts)


def ok_if(passed: bool, message: str) -> Finding:
    """The check passed, or it failed."""
    return ok(message) if passed else problem(message)


class NotMeasured(Exception):
    """A check has no data to decide on; the message says why. The finding is UNKNOWN.

    Attributes:
        word: the finding's result word; empty: that of its check.
    """

    def __init__(self, why: str, word: str = "") -> None:
        super().__init__(why)
        self.word = word


@dataclass
class CheckContext:
    """What checks read: each part is read from AWS at its first use and then kept.

    Attributes:
        role: whose permissions the caller should have.
        archive: where executed runs are; empty: as the environment's settings say.
        notified: the notification channels that accepted a message about this deployment.
        watch: called with the progress of a long check.
        build: a build to find in S3, s3://BUCKET/KEY; empty: none.
    """

    target: Target
    role: Role = "auditor"
    archive: str = ""
    notified: tuple[str, ...] = ()
    watch: Progress = no_progress
    build: str = ""
    _readings: dict[timedelta, ServedReading] = field(default_factory=dict)

    @cached_property
    def alias(self) -> Alias | None:
        """AWS: lambda:GetAlias."""
        return aliases.read_alias(self.target)

    @property
    def deployed(self) -> Alias:
        """The alias, for checks of the version that serves.

        Raises:
            NotMeasured: there is no alias.
        """
        if self.alias is None:
            raise NotMeasured("there is no alias")
        return self.alias

    @property
    def record(self) -> RolloutState | None:
        """The alias's deployment record; None if there is no alias or no record."""
        if self.alias is None:
            return None
        return self.alias.rollout

    @cached_property
    def configuration(self) -> Version:
        """The function's configuration ($LATEST). AWS: lambda:GetFunctionConfiguration."""
        return versions.read_version(self.target)

    @cached_property
    def alarms(self) -> tuple[Alarm, ...]:
        """The function's alarms as CloudWatch holds them. AWS: cloudwatch:DescribeAlarms."""
        return alarms.read_alarms(self.target)

    @cached_property
    def freezes(self) -> tuple[Freeze, ...]:
        """The freezes in force. AWS: ssm:GetParametersByPath."""
        return freezes.active_freezes(self.target)

    @cached_property
    def expired_freezes(self) -> tuple[Freeze, ...]:
        """The freezes that are to be deleted. AWS: ssm:GetParametersByPath."""
        return freezes.expired_freezes(self.target)

    @cached_property
    def archived(self) -> tuple[ManifestEntry, ...]:
        """The archived runs, oldest first. AWS: s3:GetObject, where the archive is in a bucket."""
        store = archive.open_store(self.archive or self.target.settings.archive.where, self.target.environment)
        return archive.list_entries(store)

    @cached_property
    def isolation(self) -> Isolation | None:
        """The isolation of the function or its writes. AWS: ssm:GetParameter."""
        return isolation.read_isolation(self.target)

    @property
    def rollback_plan(self) -> RollbackPlan:
        """The plan that rollback/immediate would make now. AWS, Raises: as ``rollback.plan_rollback``, once."""
        if isinstance(self._rollback_plan, BuddyError):
            raise self._rollback_plan
        return self._rollback_plan

    @cached_property
    def _rollback_plan(self) -> RollbackPlan | BuddyError:
        try:
            # A property that raises is computed again: as a value, the error too is asked of AWS once.
            return rollback.plan_rollback(self.target)
        except BuddyError as error:
            return error

    @property
    def metrics_until(self) -> datetime:
        """The end of the latest minute whose metrics CloudWatch should have published."""
        return metrics.published_until(self.target, self.target.clock.now())

    def traffic_since(self, window: timedelta) -> datetime:
        """The start of a window that holds no minute from before the last switch of the alias, where that is known."""
        since = self.metrics_until - window
        switched = serving.last_switch(self.deployed)
        if switched is None:
            return since
        # The minute of the switch has requests of both versions.
        return max(since, text.floor_minute(switched) + text.MINUTE)

    def measured_since(self, window: timedelta) -> datetime:
        """The same where CloudWatch has published a minute of it.

        Raises:
            NotMeasured: the alias was switched just now.
        """
        since = self.traffic_since(window)
        if since >= self.metrics_until:
            word = JUST_DEPLOYED
            # After a rollback the check of the rollout has the word for it.
            if self.record is not None and self.record.rolled_back:
                word = ""
            raise NotMeasured(f"no complete minute since {self._switch} yet; check again in 3 min", word)
        return since

    def traffic(self, window: timedelta) -> ServedReading:
        """The latest minutes, each request with the version that ran it. AWS: as ``serving.read_served``, once.

        Raises:
            NotMeasured: nothing is deployed, or the alias was switched just now.
        """
        # Several checks share one reading: they then agree with each other, and CloudWatch bills each metric read.
        if window not in self._readings:
            since = self.measured_since(window)
            self._readings[window] = serving.read_served(
                self.target, self.deployed, since=since, until=self.metrics_until
            )
        return self._readings[window]

    @property
    def _switch(self) -> str:
        """The last switch of the alias, in words."""
        record = self.record
        at = serving.last_switch(self.deployed)
        if record is None or at is None:
            return "the last switch"
        what = "the rollback"
        if not record.rolled_back:
            what = f"the switch to v{record.new_version}"
        return f"{what} at {text.time_of_day(at, self.target.clock.now())}"

    @property
    def arn_fields(self) -> dict[str, str]:
        """Partition, account, region and a log group that is not Lambda's default, as ``permissions`` takes them."""
        target = self.target
        fields = {"partition": target.partition, "account": target.account, "region": target.region}
        # The check of the function reports that it cannot be read.
        with suppress(BuddyError):
            group = self.configuration.log.group
            if group != default_group(target.settings.function):
                fields["log_group"] = group
        return fields


@dataclass(frozen=True)
class Check:
    """One check of a list.

    Attributes:
        run: returns the finding; its ``check`` and ``runbook`` are filled in from here.
        runbook: the runbook that corrects what the check finds.
        required: a missing function, alias or version is a PROBLEM of this check. Elsewhere it is UNKNOWN, so that
            one missing function is reported once.
    """

    name: str
    run: Callable[[CheckContext], Finding]
    runbook: str = ""
    required: bool = False


def run_checks(checks: Iterable[Check], context: CheckContext, watch: Progress = no_progress) -> Iterator[Finding]:
    """Run each check and yield its finding. A check that raises is UNKNOWN and hides no other.

    Args:
        watch: called before each check.
    """
    watch = context.target.side.watch(watch)
    # One finding at a time, so that a notebook shows each as soon as it is there.
    for check in checks:
        watch(f"checking {check.name}")
        finding = _run_check(check, context)
        runbook = check.runbook
        if finding.state is State.OK:
            runbook = ""
        yield replace(finding, check=check.name, runbook=runbook)


def _run_check(check: Check, context: CheckContext) -> Finding:
    try:
        return check.run(context)
    except Exception as error:
        return describe_failure(error, required=check.required)


def describe_failure(error: Exception, *, required: bool = False) -> Finding:
    """The finding of a check that raised. ``required``: as ``Check`` has it."""
    match error:
        case AwsFailed():
            # AWS refused or could not be reached: that says nothing about what was to be checked.
            return unknown(error.what[:QUOTED], error.next)
        case BuddyError():
            # AWS answered, and what the check needs does not exist or cannot be used.
            return Finding("", State.PROBLEM if required else State.UNKNOWN, error.what, error.next)
        case NotMeasured():
            return unknown(str(error)).named(error.word)
    # AWS answered in a form that the check does not expect. The other checks must still run.
    return unknown(f"the check failed unexpectedly ({type(error).__name__}: {error})"[:QUOTED], "Report a bug.")


def in_state(findings: Iterable[Finding], state: State) -> tuple[Finding, ...]:
    """The findings that are in this state."""
    return tuple(finding for finding in findings if finding.state is state)


def overall_state(findings: Iterable[Finding]) -> State:
    """PROBLEM, else UNKNOWN, else OK: warnings do not change it. What is unknown may hide a problem."""
    states = {finding.state for finding in findings}
    return next((state for state in (State.PROBLEM, State.UNKNOWN) if state in states), State.OK)


def names_in_state(findings: Iterable[Finding], state: State) -> str:
    """The names of the checks in this state, as a list in a sentence."""
    return text.join_words(finding.check for finding in in_state(findings, state))


def raise_listing(
    error: type[BuddyError], reference: str, *, title: str, entries: Sequence[str], next_step: str
) -> None:
    """Raise ``error`` with a line for each entry; return if there are none."""
    if entries:
        raise error(reference, "\n  - ".join((title, *entries)), next=next_step)


def count_states(findings: Iterable[Finding]) -> str:
    """How many findings are in each state, the worst first: '1 PROBLEM, 2 WARNING, 9 OK'."""
    tally = Counter(finding.state for finding in findings)
    return ", ".join(f"{tally[state]} {state.label}" for state in State if tally[state])


def text_row(finding: Finding) -> str:
    """A finding in a terminal: one line, and a second one with what to do."""
    # 9 and 19 characters hold the longest state and the longest name of a check; 28 is both.
    line = f"{finding.state.label:<9}{finding.check:<19}{finding.full_message}"
    if not finding.remedy:
        return line
    return f"{line}\n{'':<28}{finding.remedy}"


def markdown_table(findings: Iterable[Finding]) -> str:
    """The findings as a Markdown table, the worst first."""
    escape = text.escape_markdown
    rows = [
        (found.check, found.state.label, escape(found.full_message), escape(found.remedy), found.runbook)
        for found in sorted(findings, key=lambda found: list(State).index(found.state))
    ]
    return text.markdown_table(("Check", "Result", "Finding", "Next step", "Runbook"), rows)


LEFT = "text-align:left;vertical-align:top"


def html_table(rows: Iterable[Iterable[str]], head: Sequence[str] = ()) -> str:
    """An HTML table of cells that are HTML already."""
    lines = ["".join(f'<th style="{LEFT}">{column}</th>' for column in head)]
    lines += ["".join(f'<td style="{LEFT}">{cell}</td>' for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines if line)}</table>"


def html_findings(findings: Iterable[Finding]) -> str:
    """The findings as an HTML table, in the order given."""
    # A message may quote an alarm's reason or a log: it is text, never HTML.
    escape = text.escape_html
    return html_table((html_label(found.state), escape(found.check), escape(found.full_message)) for found in findings)


def html_label(state: State, words: str = "") -> str:
    """The result word, or ``words``, in the state's colour.

    The style colours it in JupyterLab, the class in an archived page, which removes every style.
    """
    return f'<b class="{state.value}" style="{TONES[state].style}">{text.escape_html(words or state.label)}</b>'
