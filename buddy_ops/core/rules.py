"""An environment's rules for deployments, decided on facts.

Pure: the facts come in, and every violated rule goes out at once. AWS, the clock and people are asked elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from buddy_ops.core import windows
from buddy_ops.core.checklist import ITEMS, ChecklistResult
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.front_end import parameter
from buddy_ops.core.people import require_readable
from buddy_ops.core.settings import Settings
from buddy_ops.core.text import date_and_time, join_words


@dataclass(frozen=True)
class DeploymentFacts:
    """What is known when a deployment is to begin.

    Attributes:
        ci: which CI run this is, by its environment variables; empty: none.
        principal: the caller as AWS names it.
        replaced: the settings of ``rollout`` for which this run's parameters have another value.
        serving: the version that serves, where it is the last rollout's and stayed; empty otherwise.
        since: when that version was deployed.
        records: the newest record of each checklist that is demanded, or None.
        resumes: whether this resumes a rollout that is in progress: its beginning was permitted.
    """

    strategy: str
    now: datetime
    ci: str = ""
    principal: str = ""
    replaced: tuple[str, ...] = ()
    serving: str = ""
    since: datetime | None = None
    records: Mapping[str, ChecklistResult | None] = field(default_factory=dict)
    resumes: bool = False


@dataclass(frozen=True)
class BreakGlass:
    """Who overrides the rules in an emergency, and why."""

    who: str
    why: str

    def __str__(self) -> str:
        return f"{self.who} used emergency override (break-glass): {self.why}"


def parse_break_glass(given: Mapping[str, str]) -> BreakGlass | None:
    """The parameter ``break_glass`` of a runbook; None where it is empty.

    Raises:
        InvalidInput: ``break-glass-incomplete``: it needs a name and a reason; ``invalid-name``.
    """
    if not given:
        return None
    who, why = given.get("who", "").strip(), given.get("why", "").strip()
    if not who or not why or set(given) != {"who", "why"}:
        raise InvalidInput(
            "break-glass-incomplete",
            f"{parameter('break_glass')} needs who and why, and nothing else; it has {', '.join(given)}.",
            next=f"For example: {parameter('break_glass', {'who': 'Ada', 'why': 'payments fail'})}.",
        )
    require_readable((who,), parameter("break_glass"))
    return BreakGlass(who, why)


def violations(environment: str, settings: Settings, facts: DeploymentFacts) -> tuple[str, ...]:
    """Every rule that this deployment violates, a sentence each; none: it may begin."""
    rules = settings.policy
    found: list[str] = []
    if not rules.by_hand:
        # Who may deploy holds for a resumption as well. Everything below was permitted when the rollout began.
        found = _hand(environment, settings, facts)
    # A rollout in progress may be finished at any time: waiting would leave its traffic split.
    if facts.resumes:
        return tuple(found)
    allowed = settings.rollout.strategies
    if facts.strategy not in allowed:
        found.append(f"{environment} allows {', '.join(allowed)}, not {facts.strategy}")
    if facts.strategy in settings.rollout.smoke_tested and not settings.smoke_tests:
        found.append(f"{environment} requires smoke tests before {facts.strategy}, and smoke_tests is empty")
    if rules.demand_failure_metric and settings.uncounted_failures:
        found.append(
            f"{environment} requires a metric of failures, and failure_metrics is empty: {settings.uncounted_failures} "
            "would not count"
        )
    found += [
        f"{environment} fixes {name}, but a parameter changes it" for name in facts.replaced if name in rules.fixed
    ]
    if obstacle := windows.find_obstacle(rules, facts.now):
        allows = windows.describe_windows(rules.window) or "on any day but holidays"
        found.append(f"{environment} allows deployments {allows}; {obstacle}")
    if rules.hours_between and facts.serving and facts.since:
        until = facts.since + timedelta(hours=rules.hours_between)
        if facts.now < until:
            found.append(
                f"v{facts.serving} was deployed at {date_and_time(facts.since)}; {environment} requires "
                f"{rules.hours_between:g} h between deployments (next: {date_and_time(until)})"
            )
    for checklist, hours in rules.records.items():
        expected = ITEMS[checklist]
        if checklist == "pre_deployment":
            expected = (*rules.testing, *expected)
        found += _record(checklist, hours, facts.records.get(checklist), expected=expected, now=facts.now)
    return tuple(found)


def _hand(environment: str, settings: Settings, facts: DeploymentFacts) -> list[str]:
    known = settings.policy.ci_principals
    # An environment variable can be set by any person; the caller as AWS names it cannot.
    if known and not any(fnmatchcase(facts.principal, each) for each in known):
        return [f"{environment} allows deployments by CI only; {facts.principal} is none of {', '.join(known)}"]
    if not known and not facts.ci:
        return [f"{environment} allows deployments by CI only, and this is not a CI run"]
    return []


def _record(
    checklist: str, hours: float, record: ChecklistResult | None, *, expected: tuple[str, ...], now: datetime
) -> list[str]:
    # A missing or old result first: what it says does not matter then.
    if record is None:
        return [f"no result of {checklist} for this deployment; run operations/{checklist}"]
    if now - record.at > timedelta(hours=hours):
        return [f"the result of {checklist} is from {date_and_time(record.at)} (valid for {hours:g} h)"]
    # An item that is open refuses in any case, and says what to do.
    if problems := record.problems(() if record.open else expected, now):
        return [f"the result of {checklist} {join_words(problems)}; run operations/{checklist} again"]
    return [f"{checklist}: '{item.name}' is {item.state}" for item in record.open]
