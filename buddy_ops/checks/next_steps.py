"""What to do about a status: the steps, the most urgent first, each with a command that works as it is copied."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from buddy_ops.aws import aliases, versions
from buddy_ops.aws.session import Target
from buddy_ops.checks import findings as findings_
from buddy_ops.checks import result_words
from buddy_ops.checks._shared import WINDOW, version_rates
from buddy_ops.checks.findings import CheckContext, Finding, NotMeasured, State
from buddy_ops.core import project, text
from buddy_ops.core.errors import BuddyError
from buddy_ops.deployment import rollback
from buddy_ops.runs import archive

SHORT_COMMANDS = {"rollback/immediate": "rollback", "start_here": "status"}
"""Runbooks with a command of their own."""

GUIDE = "start_here"
CORRUPTION = "emergency/data_corruption"
FAILURE = "emergency/deployment_failure"
MONITOR = "operations/monitor"
ALARMS = "operations/alarms"
ROLLBACK = "rollback/immediate"


@dataclass(frozen=True)
class NextStep:
    """A step: a runbook to open with the parameters that are known, or a command.

    Attributes:
        why: what it is for now.
        runbook: empty where only a command does it.
        shell: the command where it is not that of the runbook.
        asks: whether a person must answer in the notebook: it has no command then, unless ``shell`` is one.
        link: a notebook with the parameters written into it, relative to the one that is open; empty: there is none.
    """

    why: str
    runbook: str
    parameters: dict[str, str]
    shell: str = ""
    asks: bool = False
    link: str = ""

    @property
    def command(self) -> str:
        """The command that does it in a terminal, to be copied as it is; empty: open the runbook."""
        if self.shell or self.asks:
            return self.shell
        given = {name: value for name, value in self.parameters.items() if name != "environment"}
        environment = f"-e {shlex.quote(self.parameters['environment'])}"
        if short := SHORT_COMMANDS.get(self.runbook):
            options = (f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in given.items())
            return " ".join(("buddy-ops", short, environment, *options))
        pairs = (f"-p {shlex.quote(f'{name}={value}')}" for name, value in given.items())
        return " ".join(("buddy-ops run", self.runbook, environment, *pairs))

    @property
    def cell(self) -> str:
        """The lines to paste below the runbook's parameters."""
        return "\n".join(f"{name} = {value!r}" for name, value in self.parameters.items())

    def to_json(self) -> dict[str, object]:
        """The step as JSON values."""
        return {"why": self.why, "command": self.command, "runbook": self.runbook, "parameters": dict(self.parameters)}


def check_again(target: Target, why: str) -> NextStep:
    """The status once more."""
    return NextStep(why, GUIDE, {"environment": target.environment})


def steps_without_alias(target: Target, findings: tuple[Finding, ...], error: BuddyError) -> tuple[NextStep, ...]:
    """What to do where the alias could not be read: nothing is known of what serves."""
    here = {"environment": target.environment}
    doctor = f"buddy-ops doctor -e {shlex.quote(target.environment)}"
    problems = [finding.remedy for finding in findings_.in_state(findings, State.PROBLEM) if finding.remedy]
    why = " ".join((f"What serves is unknown. Do not treat this as healthy. {error.next}", *problems))
    return (NextStep(f"{why} The doctor names what is missing:", "", here, shell=doctor), check_again(target, AGAIN))


AGAIN = "Then check again:"


def plan_steps(context: CheckContext, findings: tuple[Finding, ...]) -> tuple[NextStep, ...]:
    """What to do, the most urgent first. AWS: lambda:ListVersionsByFunction where no rollback target is recorded."""
    advice = _Advice(context, findings)
    return tuple(advice.steps())


class _Advice:
    """The steps of one status."""

    def __init__(self, context: CheckContext, findings: tuple[Finding, ...]) -> None:
        self.context = context
        self.target = context.target
        self.findings = findings
        self.here = {"environment": context.target.environment}
        self.failed = {finding.check for finding in findings_.in_state(findings, State.PROBLEM)}

    def finding(self, word: str) -> Finding | None:
        """The finding with this result word."""
        return next((finding for finding in self.findings if finding.word == word), None)

    def steps(self) -> Iterator[NextStep]:
        """All of them."""
        # An isolation explains failures and throttles, and a missing alias everything: they are first.
        urgent = [*self._isolated(), *self._alias(), *self._failing(), *self._throttled()]
        # Each kind only where none before it is there: an alarm beside a high error rate asks for nothing else.
        urgent = urgent or [*self._alarm(), *self._unexplained()]
        yield from urgent or self._unknowns()
        quiet = not urgent and findings_.overall_state(self.findings) is State.OK
        yield from self._information(quiet=quiet)
        yield from self._blind()

    def _isolated(self) -> Iterator[NextStep]:
        command = f"buddy-ops reenable -e {shlex.quote(self.target.environment)}"
        for found in self.findings:
            if found.check == "isolation" and found.state in (State.PROBLEM, State.WARNING):
                why = f"Isolated on purpose by {found.facts['by']}: ask before you lift it. To re-enable the function:"
                yield NextStep(why, CORRUPTION, self.here, shell=command, asks=True)

    def _alias(self) -> Iterator[NextStep]:
        """An alias that does not exist, or that serves $LATEST."""
        settings = self.target.settings
        if self.context.alias is None:
            yield from self._missing_alias()
        elif versions.LATEST in self.context.alias.serving:
            environment = shlex.quote(self.target.environment)
            publish = f"aws lambda publish-version --function-name {settings.function} --region {self.target.region}"
            command = f'buddy-ops rollback -e {environment} --to-version "$({publish} --query Version --output text)"'
            why = "The alias serves $LATEST. Publish $LATEST as a version, and point the alias to it:"
            yield NextStep(why, ROLLBACK, self.here, shell=command, asks=True)

    def _missing_alias(self) -> Iterator[NextStep]:
        found = next(finding for finding in self.findings if finding.check == "alias")
        if found.word == result_words.NOT_DEPLOYED:
            yield NextStep("Nothing is deployed yet. Deploy a first build:", self._strategy, self.here, asks=True)
            return
        version = str(found.facts.get("version", ""))
        why = "Create the alias again."
        if version:
            command = aliases.create_command(self.target, version)
            yield NextStep(f"{why} v{version} served last:", "", self.here, shell=command)
        else:
            yield check_again(self.target, f"Do not treat this as healthy. {found.remedy} {AGAIN}")

    def _failing(self) -> Iterator[NextStep]:
        """Errors, slow requests, traffic that is split by no rollout, or a rollout without its run."""
        # First: where both versions fail, a rollback would not help, and is not offered.
        if (both := self.finding(result_words.BOTH_FAIL)) is not None:
            why = f"{both.remedy} Compare the metrics of all versions:"
            yield NextStep(why, MONITOR, self.here)
            why = "Freeze deployments, and group the error lines of the log:"
            yield NextStep(why, FAILURE, self.here, asks=True)
        elif self.failed & {"error rate", "latency"}:
            yield from self._roll_back("Users are affected")
        elif self.failed & {"rollout"} and self.finding(result_words.ALIAS_ON_LATEST) is None:
            stalled = self.finding(result_words.STALLED)
            if stalled is None:
                yield from self._roll_back("Two versions receive traffic")
            else:
                yield from self._roll_back("The run was lost")
                yield self._resume()

    def _roll_back(self, because: str) -> Iterator[NextStep]:
        """The rollback, with the version where the command must name it."""
        alias = self.context.deployed
        away = alias.canary or alias.primary
        if alias.failsafe_triggered and alias.rollout is not None:
            why = f"{because}, and the failsafe moved its traffic to v{alias.primary}. Close the rollout of "
            yield NextStep(f"{why}v{alias.rollout.new_version}:", ROLLBACK, self.here)
            return
        # Two versions serve, and the record does not say which one to keep: a person chooses.
        healthy = self._healthy()
        if alias.additional is not None and (alias.stable is None or self._only_stable_fails()):
            yield from self._choose_of_two(because, healthy)
            return
        version = rollback.rollback_target(self.target, alias)
        # Right after a rollback the same again would find it done.
        named = rollback.version_before(alias) or ("" if version else self._other_version(healthy))
        # No version to return to: only a fix forward is left.
        if not version and not named:
            why = f"{because}, and no other version can be returned to. Deploy a fix:"
            yield NextStep(why, self._strategy, self.here, asks=True)
            yield NextStep("Compare the metrics with their limits:", MONITOR, self.here)
            return
        parameters = self.here
        # Where the record names the version, the command need not: it asks the record again when it runs.
        if named:
            parameters = {**self.here, "to_version": named}
        yield NextStep(f"{because}: roll back v{away} to v{named or version} now.", ROLLBACK, parameters)

    def _choose_of_two(self, because: str, healthy: set[str]) -> Iterator[NextStep]:
        """Traffic is split, and the record does not say which version to keep, or names one that fails."""
        alias = self.context.deployed
        # The healthy one first. Of two alike it is the one with more traffic.
        serving = sorted(alias.serving, key=lambda version: (version not in healthy, -alias.share(version)))
        why = f"{because}: find out whether v{alias.primary} or v{alias.additional} is healthy, and keep that one."
        intro = f"{why} "
        for version in serving:
            shown = ""
            if version in healthy:
                shown = " Its metrics are within the limits."
            parameters = {**self.here, "to_version": version}
            yield NextStep(f"{intro}To keep v{version}:{shown}", ROLLBACK, parameters)
            intro = ""

    def _only_stable_fails(self) -> bool:
        """Whether the version that a rollback would return to fails, and the other one does not."""
        alias = self.context.deployed
        failing = {
            version
            for finding in findings_.in_state(self.findings, State.PROBLEM)
            if isinstance(found := finding.facts.get("failing"), tuple)
            for version in found
        }
        return alias.stable in failing and alias.canary not in failing

    def _healthy(self) -> set[str]:
        """The versions with requests in the window, and with an error rate within its limit."""
        try:
            rates = version_rates(self.context.traffic(WINDOW), "errors", self.target.settings.health.error_rate)
        except (BuddyError, NotMeasured):
            return set()
        return {rate.version for rate in rates if rate.requests and not (rate.count > 1 and rate.over_limit)}

    def _other_version(self, healthy: set[str]) -> str:
        """A version that can be named where no record names one: one that was healthy just now, else the newest.

        AWS: lambda:ListVersionsByFunction, reads only.
        """
        alias = self.context.deployed
        seen = [version for version in healthy if version.isdecimal() and version not in alias.serving]
        if seen:
            return max(seen, key=int)
        try:
            usable = rollback.usable_versions(self.target, alias)
        except BuddyError:
            return ""
        older = [version for version in usable if int(version) < int(alias.primary)]
        return max(older, key=int, default="")

    def _resume(self) -> NextStep:
        """How the rollout goes on: with its artifact, where this machine has its run; else a person names it."""
        record = self.context.record
        assert record is not None
        why = f"Or resume run {record.run} with the build of v{record.new_version}:"
        runbook, artifact = find_artifact(self.target, record.run)
        if artifact:
            return NextStep(why, runbook, {**self.here, "artifact": artifact}, asks=True)
        return NextStep(why, self._strategy, self.here, asks=True)

    def _throttled(self) -> Iterator[NextStep]:
        if "throttles" not in self.failed:
            return
        found = next(finding for finding in self.findings if finding.check == "throttles")
        why = f"Requests are throttled; a rollback would not help. {found.remedy}"
        command = str(found.facts.get("command", ""))
        if command:
            yield NextStep(why, "", self.here, shell=command)
            why = "Compare requests and throttles:"
        yield NextStep(why, MONITOR, self.here)

    def _alarm(self) -> Iterator[NextStep]:
        if "alarms" in self.failed:
            why = "An alarm is in ALARM: compare the metrics of the last hour with their limits:"
            yield NextStep(why, MONITOR, self.here)

    def _unexplained(self) -> Iterator[NextStep]:
        """Problems that no runbook corrects, so that none of them reads as if all were well."""
        problems = findings_.in_state(self.findings, State.PROBLEM)
        if problems and not self.failed & {"alarms"}:
            remedies = " ".join(finding.remedy for finding in problems if finding.remedy)
            yield check_again(self.target, f"{remedies} {AGAIN}")

    def _unknowns(self) -> Iterator[NextStep]:
        unknowns = findings_.in_state(self.findings, State.UNKNOWN)
        if not unknowns:
            return
        remedies = " ".join(dict.fromkeys(finding.remedy for finding in unknowns if finding.remedy))
        names = text.join_words(finding.check for finding in unknowns)
        why = f"Unknown: {names}. Do not treat this as healthy. {remedies}".strip()
        yield check_again(self.target, f"{why} Check again in 3 min:")
        if self.finding(result_words.NO_TRAFFIC) is not None:
            doctor = f"buddy-ops doctor -e {shlex.quote(self.target.environment)}"
            yield NextStep("Check whether callers use the alias:", "", self.here, shell=doctor)

    def _information(self, *, quiet: bool) -> Iterator[NextStep]:
        """A rollout or a freeze, where nothing is wrong.

        Args:
            quiet: whether nothing else is to be done.
        """
        rolling = self.finding(result_words.ROLLING_OUT) or self.finding(result_words.ROLLING_BACK)
        freezes = [*self._freezes(quiet=quiet and rolling is None)]
        if quiet and (rolling is not None or not freezes):
            yield check_again(self.target, self._no_action)
        if rolling is not None and rolling.word == result_words.ROLLING_OUT and not self.failed:
            version = rolling.facts["version"]
            yield NextStep(f"If v{version} is not wanted, roll it back:", ROLLBACK, self.here)
        yield from freezes

    @property
    def _no_action(self) -> str:
        rolling = self.finding(result_words.ROLLING_OUT)
        if rolling is not None:
            return f"No action needed: the rollout of v{rolling.facts['version']} continues. To follow it:"
        if (moved := self.finding(result_words.ALIAS_MOVED)) is not None:
            return f"{moved.remedy} Users are not affected so far. {AGAIN}"
        if (back := self.finding(result_words.ROLLED_BACK)) is not None:
            return f"No action needed: v{back.facts['version']} is healthy since the rollback. To check again:"
        return "No action needed. To check again:"

    def _freezes(self, *, quiet: bool) -> Iterator[NextStep]:
        try:
            freezes = self.context.freezes
        except BuddyError:
            return  # the check of the freezes says so
        for freeze in freezes:
            command = f"buddy-ops unfreeze {shlex.quote(freeze.id)} -e {shlex.quote(self.target.environment)}"
            intro = ""
            if quiet:
                intro = "No action needed for users. "
            why = f"{intro}{freeze.owner} froze deployments ({freeze.reason}). To remove the freeze, ask first:"
            yield NextStep(why, "", self.here, shell=command)

    def _blind(self) -> Iterator[NextStep]:
        blind = self.finding(result_words.ALARMS_BLIND)
        if blind is None or blind.state is not State.WARNING:
            return
        why = f"{text.capitalised(blind.message)}. Create or enable the alarms:"
        if not self.context.alarms:
            why = "No alarms exist, so on-call would not be paged. Create them:"
        yield NextStep(why, ALARMS, self.here, asks=True)

    @property
    def _strategy(self) -> str:
        allowed = self.target.settings.rollout.strategies
        if "canary" in allowed:
            return "strategies/canary"
        return f"strategies/{allowed[0]}"


def find_artifact(target: Target, run: str) -> tuple[str, str]:
    """The runbook and the artifact of a run, where this machine has its files; else empty. Asks nothing of AWS."""
    try:
        store = archive.open_store()
        entries = [entry for entry, _ in archive.list_with_unfinished(store) if entry.run == run]
    except (BuddyError, OSError):
        return "", ""
    # An environment of another name, or a build that is gone from here, gives no command that works as it is.
    for entry in entries:
        artifact = str(entry.parameters.get("artifact") or "")
        here = entry.environment == target.environment
        if here and artifact and (project.project_root() / artifact).exists():
            return entry.runbook, artifact
    return "", ""
