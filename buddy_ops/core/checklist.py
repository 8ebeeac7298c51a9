"""A checklist's result: its items, who attested each, and which of them are open."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from buddy_ops.core.text import date_and_time, escape_markdown, markdown_table


@dataclass(frozen=True)
class ChecklistItem:
    """One line of a checklist. ``by`` is who attested it; empty: a check found it, and ``says`` what."""

    name: str
    state: Literal["yes", "no", "unknown", "pending"]
    says: str
    by: str = ""

    @property
    def verified_by(self) -> str:
        """Who attested it, or whether a check verified it. What is unknown was verified by neither."""
        if self.by:
            return self.by
        return "not verified" if self.state == "unknown" else "checked"


@dataclass(frozen=True)
class ChecklistResult:
    """A checklist's dated result.

    Attributes:
        checklist: 'pre_deployment' or 'post_deployment'.
        subject: what was checked: a build by the beginning of its hash, or a version as 'v42'.
        run: the run that wrote it.
        principal: the caller as AWS names it, where those who attested are claimed.
    """

    checklist: str
    subject: str
    at: datetime
    run: str
    principal: str
    items: tuple[ChecklistItem, ...]

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
            state = item.state if item.state == "yes" else f"**{item.state}**"
            rows.append(
                (escape_markdown(item.name), state, escape_markdown(item.verified_by), escape_markdown(item.says))
            )
        verdict = f"**{len(self.open)} of {len(self.items)} are open**" if self.open else "**passed**"
        table = markdown_table(("item", "state", "by", "finding"), rows)
        return f"{self.checklist} of `{self.subject}`, {date_and_time(self.at)}: {verdict}\n\n{table}"
