"""The checklists before and after a deployment: each item proved by a check, or attested by a person's name.

Knows the items and what proves each. Never takes unknown for yes: what no check could tell and nobody attested is open.
A check that says no is not outvoted.

Source: the deployment guide, 'Checklists'.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal

from buddy_ops.aws import aliases, checklist_store, freezes, tables
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.aws.tables import Watch
from buddy_ops.core import project, rules
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.core.plan import ChecklistItem, ChecklistResult
from buddy_ops.deployment import rollout_plan, smoke_tests
from buddy_ops.health import alarms, metrics
from buddy_ops.health.judge import Counts
from buddy_ops.health.metrics import MINUTE

Found = tuple[Literal["yes", "no", "unknown"], str]
ROLLBACK_WINDOW = timedelta(hours=24)
LOOK_BACK = timedelta(minutes=60)
"""How much of the latest traffic is looked at."""


@dataclass
class _Look:
    """What the checks look at, each part read once. ``reached`` are the channels that were told."""

    target: Target
    reached: tuple[str, ...] = ()
    watch: Watch = tables.ignore_progress

    @cached_property
    def alias(self) -> Alias | None:
        return aliases.read_alias(self.target)

    @cached_property
    def serving(self) -> Counts | str:
        """What the serving version did of late, since it came to serve; or why that is not known."""
        return self._counts(self.target)

    @cached_property
    def without_metrics(self) -> Counts | str:
        """The same, without the failures that only Buddy's own metrics see."""
        bare = self.target.settings.model_copy(update={"failure_metrics": ()})
        return self._counts(replace(self.target, settings=bare))

    def _counts(self, target: Target) -> Counts | str:
        if self.alias is None:
            return "nothing serves yet"
        version, record = self.alias.primary, self.alias.rollout
        until = _floor(target.clock.now() - timedelta(seconds=target.settings.health.late_data_s))
        since = until - LOOK_BACK
        if record is not None and record.new_version == version:
            since = max(since, _floor(datetime.fromisoformat(record.since)) + MINUTE)
        reading = metrics.read_minutes(target, (version,), lambda _: version, since, until)
        if reading.trouble is not None:
            return reading.trouble
        rows = [row.counts[version] for row in reading.rows]
        requests, errors, slow = (sum(getattr(row, name) for row in rows) for name in ("requests", "errors", "slow"))
        return Counts(requests, errors, slow) if requests else f"no request reached v{version} since {since:%H:%M} UTC"


Check = Callable[[_Look], Found]
Seen = Callable[[ChecklistItem], None]
"""Hears of each item as soon as it is checked."""


def no_progress(item: ChecklistItem) -> None:
    """Hears nothing."""


def checklist_subject(target: Target, artifact: str, attested: Collection[str] = ()) -> str:
    """What a record before a deployment is for: the very build, by its content.

    Args:
        attested: the items that somebody answers for.

    Raises:
        InvalidInput: ``artifact-missing``, ``artifact-not-a-zip``, ``unknown-item``.
    """
    _refuse_unknown("pre_deployment", _items_before(target), attested)
    return rollout_plan.describe_build(aliases.code_sha256(project.read_artifact(artifact)))


def check_before(
    target: Target,
    artifact: str,
    attested: Mapping[str, str] | None = None,
    reached: tuple[str, ...] = (),
    seen: Seen = no_progress,
) -> ChecklistResult:
    """Whether a build may be shipped, item by item.

    Args:
        artifact: the build: the record is for it and no other.
        attested: who answers for an item, by the item's name.
        reached: the channels that have just been told of it, as ``notify.announce`` says.
        seen: hears of each item as soon as it is checked.

    AWS: lambda:GetAlias, GetFunctionConfiguration, cloudwatch:GetMetricData, DescribeAlarms, ssm:GetParametersByPath,
    reads only.

    Raises:
        InvalidInput: ``artifact-missing``, ``artifact-not-a-zip``, ``unknown-item``.
    """
    answers, look = attested or {}, _Look(target, reached)
    build = checklist_subject(target, artifact, answers)
    return _record("pre_deployment", build, _items_before(target), answers, look, seen)


def check_after(
    target: Target,
    attested: Mapping[str, str] | None = None,
    seen: Seen = no_progress,
    watch: Watch = tables.ignore_progress,
) -> ChecklistResult:
    """Whether the version that serves is well, item by item; it is invoked by its smoke tests.

    Args:
        attested: who answers for an item, by the item's name.
        seen: hears of each item as soon as it is checked.
        watch: hears of each smoke test before it is sent.

    AWS: lambda:GetAlias, cloudwatch:GetMetricData, reads only; lambda:InvokeFunction, runs the skill's code.

    Raises:
        InvalidInput: ``alias-missing``, ``unknown-item``.
    """
    look = _Look(target, watch=watch)
    if look.alias is None:
        raise InvalidInput(
            "alias-missing",
            f"There is no alias {target.resource}: nothing was deployed yet.",
            now="Nothing was changed.",
            next="Deploy a first build with strategies/all_at_once: it creates the alias.",
        )
    return _record("post_deployment", f"v{look.alias.primary}", dict(AFTER), attested or {}, look, seen)


def store_result(target: Target, record: ChecklistResult) -> str:
    """Write the record where the strategies look for it, and say where. AWS: ssm:PutParameter, writes."""
    return (
        "Dry run: no record was written."
        if target.dry_run
        else f"Kept as {checklist_store.write_result(target, record)}."
    )


def raise_for_failed_items(record: ChecklistResult) -> None:
    """The last cell: nothing if every item is 'yes'.

    Raises:
        Refused: ``checklist-open``, with every item that is not.
    """
    if not record.open:
        return
    listed = "\n".join(f"  - {item.name}: {item.state}: {item.says}" for item in record.open)
    raise Refused(
        "checklist-open",
        f"{record.checklist} of {record.subject}: {len(record.open)} of {len(record.items)} items are open:\n{listed}",
        now="Nothing was changed; the record says so, and no rollout counts it as passed.",
        next="Mend what is 'no'. Whoever answers for what no check can tell is named: attested={ITEM: NAME}.",
    )


def _items_before(target: Target) -> dict[str, Check | None]:
    """The tests that the environment's file names, which somebody answers for, then what is asked everywhere."""
    return {**dict.fromkeys(target.settings.policy.testing), **BEFORE}


def _record(
    checklist: str,
    subject: str,
    items: Mapping[str, Check | None],
    attested: Mapping[str, str],
    look: _Look,
    seen: Seen,
) -> ChecklistResult:
    _refuse_unknown(checklist, items, attested)
    found = []
    for name, check in items.items():
        found.append(_item(name, check, attested.get(name, "").strip(), look))
        seen(found[-1])
    target = look.target
    return ChecklistResult(checklist, subject, target.clock.now(), target.run, target.principal, tuple(found))


def _refuse_unknown(checklist: str, items: Collection[str], attested: Collection[str]) -> None:
    if strange := sorted(set(attested) - set(items)):
        raise InvalidInput(
            "unknown-item",
            f"{checklist} has no item {', '.join(map(repr, strange))}.",
            now="Nothing was changed.",
            next=f"Attest one of: {', '.join(items)}.",
        )


def _item(name: str, check: Check | None, by: str, look: _Look) -> ChecklistItem:
    """What a check says; where it cannot tell, or there is none, what a person answers for."""
    try:
        state, says = check(look) if check else ("unknown", "nobody answers for it yet")
    except BuddyError as error:
        state, says = "unknown", error.what
    if state == "unknown" and by:
        return ChecklistItem(name, "yes", f"attested; no check could tell: {says}" if check else "attested", by)
    return ChecklistItem(name, state, says)


# Before


def _way_back(look: _Look) -> Found:
    """After it has shipped, a rollback returns to what serves now: that must be able to serve."""
    alias = look.alias
    if alias is None:
        return "yes", "a first deployment: there is nothing to return to"
    name = f"v{alias.primary}"
    if alias.rollout is not None and alias.primary in alias.rollout.rejected_versions:
        return "no", f"a rollback would return to {name}, which was taken back before"
    state = aliases.get_configuration(look.target, alias.primary).get("State", "Active")
    if state not in ("Active", "Inactive"):
        return "no", f"a rollback would return to {name}, which is {state}"
    state_, says = _rate(look, "errors", look.target.settings.health.error_rate, "failed")
    return ("no", says) if state_ == "no" else ("yes", f"a rollback returns to {name}: it is {state}; {says}")


def _alarms(look: _Look) -> Found:
    wanted, missing = len(alarms.wanted_alarms(look.target)), len(alarms.plan_alarms(look.target).wanted)
    if missing:
        return "no", f"{missing} of {wanted} alarms are missing or changed: operations/alarms writes them"
    burning = [each.name for each in alarms.alarms_in_alarm(look.target)]
    return "yes", f"{wanted} alarms as they should be; {', '.join(burning) or 'none'} in ALARM"


def _on_call(look: _Look) -> Found:
    return ("yes", f"told by {', '.join(look.reached)}") if look.reached else ("unknown", "no channel took a message")


def _window(look: _Look) -> Found:
    frozen = freezes.active_freezes(look.target)
    if frozen:
        return "no", f"frozen: {'; '.join(map(str, frozen))}"
    window = look.target.settings.policy.window
    if window is None:
        return "yes", "deployments may begin at any time"
    now = look.target.clock.now()
    says = f"{rules.describe_rules(window)}; there it is {rules.to_local_time(window, now)}"
    return ("yes" if rules.is_window_open(window, now) else "no"), says


def _suite(look: _Look) -> Found:
    settings = look.target.settings
    by = [each for each in settings.rollout.strategies if each in settings.rollout.smoke_tested]
    if not settings.smoke_tests or not by:
        return "unknown", "no strategy of this environment runs any before traffic"
    return "yes", f"{len(settings.smoke_tests)} run before traffic, by {', '.join(by)}"


BEFORE: Mapping[str, Check | None] = {
    "smoke tests are ready": _suite,
    "code reviewed": None,
    "documentation updated": None,
    "rollback target healthy": _way_back,
    "alarms in place": _alarms,
    "on-call notified": _on_call,
    "deployment window open": _window,
}


# After


def _smoke(look: _Look) -> Found:
    assert look.alias is not None
    results = smoke_tests.run_smoke_tests(look.target, look.alias.primary, look.watch)
    failed = [str(each) for each in results if each.trouble]
    if not results:
        return "unknown", "the environment has no smoke tests"
    return ("no", "; ".join(failed)) if failed else ("yes", f"{len(results)} of {len(results)} passed")


def _rate(look: _Look, what: str, bound: float, verb: str) -> Found:
    seen = look.serving
    if isinstance(seen, str):
        return "unknown", seen
    count = getattr(seen, what)
    share = 100 * count / seen.requests
    says = f"{count:,} of {seen.requests:,} requests {verb} ({share:.2f} %; at most {100 * bound:g} %)"
    return ("yes" if count <= bound * seen.requests else "no"), says


def _errors(look: _Look) -> Found:
    return _rate(look, "errors", look.target.settings.health.error_rate, "failed")


def _latency(look: _Look) -> Found:
    health = look.target.settings.health
    return _rate(look, "slow", health.slow_rate, f"took over {health.latency_ms / 1000:g} s")


def _business(look: _Look) -> Found:
    """Requests that Lambda calls answered, and Buddy itself counts as failed."""
    if not look.target.settings.failure_metrics:
        return "unknown", "failure_metrics names none"
    whole, bare = look.serving, look.without_metrics
    if isinstance(whole, str) or isinstance(bare, str):
        return "unknown", str(whole if isinstance(whole, str) else bare)
    failed, bound = whole.errors - bare.errors, look.target.settings.health.error_rate
    names = ", ".join(each.name for each in look.target.settings.failure_metrics)
    return ("yes" if failed <= bound * whole.requests else "no"), f"{names}: {failed:,} in {whole.requests:,} requests"


def _closed(look: _Look) -> Found:
    """Nobody has returned from it in 24 hours at 100 %."""
    record = look.alias.rollout if look.alias else None
    if look.alias is None or record is None:
        return "unknown", "no rollout of ours is recorded"
    if record.new_version != look.alias.primary or record.stage not in ("proved", "unproven"):
        return (
            "no",
            f"v{record.new_version} is "
            f"{aliases.ENDED.get(record.stage, f'at stage {record.stage}')} since {record.since}",
        )
    closes = datetime.fromisoformat(record.since) + ROLLBACK_WINDOW
    closed = look.target.clock.now() >= closes
    return (
        "yes" if closed else "no"
    ), f"it closes {closes:%Y-%m-%d %H:%M} UTC, 24 hours after v{record.new_version} came to 100 %"


AFTER: Mapping[str, Check | None] = {
    "smoke tests pass": _smoke,
    "error rate normal": _errors,
    "latency within bounds": _latency,
    "business metrics healthy": _business,
    "rollback window closed": _closed,
}


def _floor(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)
