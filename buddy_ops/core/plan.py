"""What will be done, before it is done: a frozen Plan with a hash, and who approved that hash.

It has a plan's text, what its hash covers, and for how long a hash can be approved. Never touches AWS; gates approve
plans, actions run them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

from buddy_ops.core.errors import UNCHANGED, Refused
from buddy_ops.core.text import escape_markdown, join_words, markdown_table, time_of_day

HASH_LENGTH = 24
"""Digits of a plan's ID. With 12, two builds with the same ID are found within minutes: one is shown for approval, the
other deployed. With 24 that takes 2^48 attempts."""

PERIODS = 2
"""How many periods a plan's hash is accepted in: the one it was made in, and the next."""

LOOK_BACK = timedelta(days=60)
"""How far back a hash is recognized: as expired, or as that of a rollout which is still in progress."""

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far the clock may have been set back since the approval."""

FINGERPRINT_LENGTH = 4
"""Digits of a fingerprint: they show that a value changed, and are too few to find out a secret by trying."""

PART_NAMES = {
    "action": "the kind of change",
    "from": "the version that serves",
    "after": "the last deployment",
    "code": "the code",
    "version": "the version to deploy",
    "doomed": "the versions to delete",
    "strategy": "the strategy",
    "glass": "the emergency override",
    "policy": "setting rollout",
    "rules": "setting policy",
    "failsafe": "the failsafe's settings",
    "smoke_tests": "setting smoke_tests",
    "failure_metrics": "setting failure_metrics",
    "streams": "setting streams",
    "hooks": "setting hooks",
}
"""The parts of ``covers`` as operators name them; others have their own name."""

NOBODY = ("not required: nothing will be changed",)
"""Who approves a plan without a call: it is not asked for."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One change to AWS, as it will be made.

    ``covers`` is what the hash covers: environment, function, alias, from-version, the artifact's CodeSha256, the
    configuration, stages, bakes and policy, but no run id, RevisionId or version number that AWS has yet to give. So
    CI can approve a hash that was computed an hour ago.

    A plan with ``made_at`` has another hash in each period of half of ``valid_hours``, as the codes of RFC 6238 have.
    A hash is accepted in its own period and in the next: so it expires although nothing is stored anywhere.

    Attributes:
        title: one line.
        now: the current state, a sentence each.
        then: the state after it, a sentence each; every alias state that the run may produce.
        calls: the AWS calls that write, in order, as 'service:Operation what'.
        undo: how to undo it, a sentence each.
        reasons: the reasons for this plan (rules, warnings), a sentence each.
        approvals: how many different people must approve it.
        demand_hash: whether an approval by parameters must name the hash.
        made_at: when it was made; None: its hash does not expire.
        valid_hours: for how long its hash can be approved, at most.
        former: what the hash of this plan covered before the last deployment of this same change, and a sentence on
            that deployment: an approval is for one use.
    """

    title: str
    now: tuple[str, ...]
    then: tuple[str, ...]
    calls: tuple[str, ...]
    undo: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    covers: Mapping[str, Any]  # each action reads its own parts of it
    approvals: int = 1
    demand_hash: bool = False
    made_at: datetime | None = None
    valid_hours: float = 0.0
    former: tuple[Mapping[str, Any], str] | None = None

    @property
    def hash(self) -> str:
        """'p' and the first 24 hexadecimal digits of the SHA-256 of ``covers`` in canonical JSON, and of the period.

        The letter keeps YAML and papermill from taking a hash of digits for a number.
        """
        return next(self._hashes(self.covers, 1))

    def accepts(self, plan_hash: str) -> bool:
        """Whether an approval of this hash is one of this plan. A rollout in progress is resumed at any age."""
        periods = PERIODS
        if self.under_way:
            periods = self._all_periods
        return plan_hash in self._hashes(self.covers, periods)

    def why_void(self, plan_hash: str) -> str:
        """Why an approval of this hash is not one of this plan, a sentence; empty if it was another plan's."""
        if plan_hash in self._hashes(self.covers, self._all_periods):
            return (
                f"The approval of plan {plan_hash} has expired: a plan ID is valid for {self.valid_hours:g} h at most."
            )
        if self.former is not None:
            covers, use = self.former
            if plan_hash in self._hashes(covers, self._all_periods):
                return f"The approval of plan {plan_hash} was used: an approval is for one deployment. {use}"
        return ""

    def fingerprints(self) -> dict[str, str]:
        """A few digits for each part of what the hash covers, by the part's name for operators."""
        return _fingerprints(self.covers)

    @property
    def _period_s(self) -> float:
        return self.valid_hours * 3600 / PERIODS

    @property
    def _all_periods(self) -> int:
        if self.made_at is None:
            return 1
        return int(LOOK_BACK.total_seconds() // self._period_s)

    def _hashes(self, covers: Mapping[str, object], periods: int) -> Iterator[str]:
        """The hash in this period, and in those before it."""
        # Hashed once: a rollout in progress is compared with all periods of 60 days.
        digest = hashlib.sha256(_canonical(covers).encode())
        if self.made_at is None:
            yield _identify(digest.hexdigest())
            return
        now = int(self.made_at.timestamp() // self._period_s)
        for period in range(now, now - periods, -1):
            dated = digest.copy()
            dated.update(f"\n{self.valid_hours:g} h, period {period}".encode())
            yield _identify(dated.hexdigest())

    @property
    def under_way(self) -> bool:
        """Whether this resumes a change that is in progress, which can be aborted instead."""
        return False

    @property
    def abort_scope(self) -> str:
        """What an abort rolls back in place of an approval."""
        return "all traffic"

    @property
    def unapproved(self) -> str:
        """The state until it is approved."""
        return UNCHANGED

    def parts(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Its rows, each with its label and lines, without those that are empty."""
        labelled = (
            ("Current state", self.now),
            ("After", self.then),
            ("API calls", self.calls),
            ("To undo", self.undo),
            ("Reason", self.reasons),
        )
        return tuple((label, lines) for label, lines in labelled if lines)

    def __str__(self) -> str:
        text = [self.title]
        for label, lines in (*self.parts(), ("Plan ID", (self.hash,))):
            # The first line stands behind its label, the others below it.
            text += [f"{mark:<15}{line}" for mark, line in zip_longest((f"{label}:",), lines, fillvalue="")]
        return "\n".join(text)

    def _repr_markdown_(self) -> str:
        rows = [(f"**{label}**", "<br>".join(escape_markdown(line) for line in lines)) for label, lines in self.parts()]
        table = markdown_table(("", ""), [*rows, ("**Plan ID**", f"`{self.hash}`")])
        return f"**{escape_markdown(self.title)}**\n\n{table}"


@dataclass(frozen=True)
class Approval:
    """Who approved which plan, and when.

    ``by`` is claimed: names that a person typed or a parameter gave. ``principal`` is verified: the caller as AWS STS
    names it. ``order`` is the first action on a rollout that is in progress: 'abort', or nothing. ``verified`` are the
    different people whose part in it is verified.
    """

    plan_hash: str
    by: tuple[str, ...]
    at: datetime
    principal: str
    order: str = ""
    verified: tuple[str, ...] = field(default=(), compare=False)

    def must_cover(self, plan: Plan, now: datetime) -> None:
        """Refuse to go on unless this approves exactly ``plan``, and was given recently where the plan's ID expires.

        A rollout in progress is resumed at any age: left alone, its traffic stays split.

        Raises:
            Refused: ``approval-void``.
        """
        if not plan.accepts(self.plan_hash):
            raise Refused(
                "approval-void",
                plan.why_void(self.plan_hash)
                or f"The approval is for plan {self.plan_hash}. This is plan {plan.hash}.",
                next="Approve this plan, then run again.",
            )
        if plan.made_at is None or plan.under_way or not plan.calls:
            return
        # The hash proves only that the plan is at most two periods old: the approval's own age counts as well.
        given = f"it was given at {time_of_day(self.at, now)}"
        problem = ""
        if self.at > now + CLOCK_TOLERANCE:
            problem = f"is dated in the future: {given}, and it is {time_of_day(now, now)} now"
        elif now > self.at + timedelta(hours=plan.valid_hours):
            problem = f"has expired: {given}, and an approval is valid for {plan.valid_hours:g} h"
        if problem:
            raise Refused(
                "approval-void",
                f"The approval of plan {plan.hash} {problem}.",
                next="Make the plan again, review it and approve it again.",
            )

    def facts(self, title: str) -> dict[str, object]:
        """The fields of the journal's record ``approved``.

        Args:
            title: the plan's, as reviews show it.
        """
        facts: dict[str, object] = {"plan": self.plan_hash, "by": self.by, "principal": self.principal, "title": title}
        facts["verified"] = self.verified
        if self.order:
            facts["order"] = self.order
        return facts

    def __str__(self) -> str:
        if self.by == NOBODY:
            return f"Plan {self.plan_hash} needs no approval: nothing will be changed."
        verb = "aborted" if self.order else "approved"
        return f"Plan {self.plan_hash} is {verb} by {join_words(self.by)}, as {self.principal}, at {self.at:%H:%M} UTC."


def differing_names(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """The names whose values differ, in order; never the values, which may be secrets."""
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def changed_parts(covers: Mapping[str, object], approved: Mapping[str, object]) -> list[str]:
    """What a plan covers otherwise than the one that was approved: its parts by their names for operators."""
    return differing_names(_fingerprints(covers), _fingerprints(approved))


def _fingerprints(covers: Mapping[str, object]) -> dict[str, str]:
    parts: dict[str, str] = {}
    for key, value in covers.items():
        name = PART_NAMES.get(key, key)
        if not isinstance(value, Mapping):
            parts[name] = _fingerprint(value)
        elif key == "configuration":
            parts |= {part: _fingerprint(inner) for part, inner in value.items()}
        else:
            parts |= {f"{name}.{part}": _fingerprint(inner) for part, inner in value.items()}
    return parts


def _canonical(value: object) -> str:
    # ``dict`` for mappings of other types, which JSON does not take.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=dict)


def _fingerprint(value: object) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:FINGERPRINT_LENGTH]


def _identify(digest: str) -> str:
    return "p" + digest[:HASH_LENGTH]
