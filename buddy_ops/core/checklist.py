"""A checklist's result: its items, who attested each, and which of them are open."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from buddy_ops.core.text import date_and_time, escape_markdown, join_words, markdown_table

State = Literal["yes", "no", "unknown", "pending"]
STATES: tuple[State, ...] = get_args(State)

ITEMS = {
    "pre_deployment": (
        *("smoke tests are ready", "code reviewed", "documentation updated", "rollback target healthy"),
        *("alarms in place", "on-call notified", "deployment window open"),
    ),
    "post_deployment": (
        *("smoke tests pass", "error rate normal", "latency within bounds", "business metrics healthy"),
        "rollback window closed",
    ),
}
"""The items of each checklist in every environment. The environment's own tests come before them."""

TOLERANCE = timedelta(minutes=5)
"""How far the clock of the machine that wrote a result may be ahead."""


@dataclass(frozen=True)
class ChecklistItem:
    """One line of a checklist. ``by`` is who attested it; empty: a check found it, and ``says`` what."""

    name: str
    state: State
    says: str
    by: str = ""

    @property
    def verified_by(self) -> str:
        """Who attested it, or whether a check verified it. What is unknown was verified by neither."""
        if self.by:
            return self.by
        if self.state == "unknown":
            return "not verified"
        return "checked"


@dataclass(frozen=True)
class ChecklistResult:
    """A checklist's dated result.

    Attributes:
        checklist: 'pre_deployment' or 'post_deployment'.
        subject: what was checked: a build by the beginning of its hash, or a version as 'v42'.
        run: the run that wrote it.
        principal: the caller as AWS names it, where those who attested are claimed.
        overwritten: whether its parameter was written more than once. Each result is written once.
        copied: whether it says that it is of another build, version or environment than where it was found.
        postdated: whether it is dated after AWS stored it.
    """

    checklist: str
    subject: str
    at: datetime
    run: str
    principal: str
    items: tuple[ChecklistItem, ...]
    overwritten: bool = False
    copied: bool = False
    postdated: bool = False

    def problems(self, expected: Sequence[str], now: datetime) -> tuple[str, ...]:
        """Why this cannot be a result of the checklist, a phrase each; none: it can.

        Args:
            expected: the checklist's items by name; empty: they are not compared.
        """
        found = []
        names = [item.name for item in self.items]
        if self.at > now + TOLERANCE:
            found.append(f"is dated {date_and_time(self.at)}, in the future")
        if self.overwritten:
            found.append("was overwritten after it was written")
        if self.copied:
            found.append("was copied from another build, version or environment")
        if self.postdated:
            found.append(f"is dated {date_and_time(self.at)}, after AWS stored it")
        if missing := [name for name in expected if name not in names]:
            found.append(f"lacks {join_words(repr(name) for name in missing)}")
        # Their names come from outside, and are not repeated.
        if expected and (set(names) - set(expected) or len(names) > len(set(names))):
            found.append("has items that the checklist does not have")
        return tuple(found)

    @property
    def open(self) -> tuple[ChecklistItem, ...]:
        """The items that are not 'yes'; unknown is not yes."""
        return tuple(item for item in self.items if item.state != "yes")

    def __str__(self) -> str:
        missing = ", ".join(f"{item.name}: {item.state}" for item in self.open)
        return f"{self.checklist} of {self.subject}, {date_and_time(self.at)}: {missing or 'passed'} (run {self.run})"

    def _repr_markdown_(self) -> str:
        rows = []
        for item in self.items:
            state = "yes"
            if item.state != "yes":
                state = f"**{item.state}**"
            rows.append(
                (escape_markdown(item.name), state, escape_markdown(item.verified_by), escape_markdown(item.says))
            )
        verdict = "**passed**"
        if self.open:
            verdict = f"**{len(self.open)} of {len(self.items)} are open**"
        table = markdown_table(("item", "state", "by", "finding"), rows)
        subject = escape_markdown(self.subject, keep_code=False)
        return f"{self.checklist} of `{subject}`, {date_and_time(self.at)}: {verdict}\n\n{table}"
