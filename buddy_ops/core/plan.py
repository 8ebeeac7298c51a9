"""What will be done, before it is done: a frozen Plan with a hash, and who approved that hash.

It has a plan's text, and what its hash covers. Never touches AWS; gates approve plans, actions run them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from typing import Any

from buddy_ops.core.errors import UNCHANGED, Refused
from buddy_ops.core.text import escape_markdown, join_words, markdown_table

HASH_LENGTH = 12
NOBODY = ("not required: nothing will be changed",)
"""Who approves a plan without a call: it is not asked for."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One change to AWS, as it will be made.

    ``covers`` is what the hash covers: environment, function, alias, from-version, the artifact's CodeSha256,
    stages, bakes and policy, but no run id, time, RevisionId or version number that AWS has yet to give. So a person
    or CI can approve a hash that was computed an hour ago, and the same intention always has the same hash.

    Attributes:
        title: one line.
        now: the current state, a sentence each.
        then: the state after it, a sentence each; every alias state that the run may produce.
        calls: the AWS calls that write, in order, as 'service:Operation what'.
        undo: how to undo it, a sentence each.
        reasons: the reasons for this plan (rules, warnings), a sentence each.
        approvals: how many different people must approve it.
        demand_hash: whether an approval by parameters must name the hash.
    """

    title: str
    now: tuple[str, ...]
    then: tuple[str, ...]
    calls: tuple[str, ...]
    undo: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    covers: Mapping[str, Any]
    approvals: int = 1
    demand_hash: bool = False

    @property
    def hash(self) -> str:
        """'p' and the first 12 hexadecimal digits of the SHA-256 of ``covers`` in canonical JSON.

        The letter keeps YAML and papermill from taking a hash of digits for a number.
        """
        canonical = json.dumps(dict(self.covers), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return "p" + hashlib.sha256(canonical.encode()).hexdigest()[:HASH_LENGTH]

    @property
    def under_way(self) -> bool:
        """Whether this resumes a change that is in progress, which can be aborted instead."""
        return False

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
    names it. ``order`` is the first action on a rollout that is in progress: 'abort', or nothing.
    """

    plan_hash: str
    by: tuple[str, ...]
    at: datetime
    principal: str
    order: str = ""

    def must_cover(self, plan: Plan) -> None:
        """Refuse to go on unless this approves exactly ``plan``.

        Raises:
            Refused: ``approval-void``.
        """
        if self.plan_hash != plan.hash:
            raise Refused(
                "approval-void",
                f"The approval is for plan {self.plan_hash}. This is plan {plan.hash}.",
                next="Approve this plan, then run again.",
            )

    def __str__(self) -> str:
        verb = "aborted" if self.order else "approved"
        return f"Plan {self.plan_hash} is {verb} by {join_words(self.by)}, as {self.principal}, at {self.at:%H:%M} UTC."

    def _repr_markdown_(self) -> str:
        return escape_markdown(str(self)).replace(self.plan_hash, f"`{self.plan_hash}`", 1)
