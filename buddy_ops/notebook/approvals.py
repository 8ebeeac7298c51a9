"""Approval of a plan: asked for where a person can answer, else taken from parameters.

Without a person and without parameters the answer is a refusal, at once. Nothing here runs what it approves.
"""

import os
from collections.abc import Iterator, Mapping, Sequence

from buddy_ops.aws import aliases
from buddy_ops.aws.session import Target
from buddy_ops.core import people as people_
from buddy_ops.core import project
from buddy_ops.core.errors import AwsFailed, BuddyError, Refused
from buddy_ops.core.front_end import again, option, parameter
from buddy_ops.core.journal import read_journal
from buddy_ops.core.people import describe_problem, distinct_names, verified_identities
from buddy_ops.core.plan import NOBODY, Approval, Plan, differing_names
from buddy_ops.core.text import count, escape_html, join_words, show_controls
from buddy_ops.notebook import _widgets
from buddy_ops.notebook._widgets import ClickQueue, Widget, WidgetPanel, alert
from buddy_ops.notebook.interrupts import stopped_with
from buddy_ops.notebook.printing import print_escaped

JOURNALS = 50
"""In how many of the newest runs' journals a plan is searched for."""

ABORT = "abort"
"""What a person types or clicks to roll back a deployment in progress instead of resuming it."""

CELL_STYLE = "text-align:left;vertical-align:top;padding:1px 12px 1px 0;line-height:1.4"


async def request_approval(
    target: Target, plan: Plan, approved_by: Sequence[str] = (), approved_plan: str = ""
) -> Approval:
    """An approval of exactly this plan, or a refusal. The cell's output says it once.

    Where a person can answer, the names in the parameters cell count only together with the plan's ID: they may be from
    an earlier run. Missing approvers are asked for.

    Args:
        target: whose environment's rules say how many different people must approve.
        plan: what is to be approved; ``plan.approvals`` people are needed.
        approved_by: the names of those who approved.
        approved_plan: the ID of the plan that they approved; compared wherever it is given.

    AWS: sts:GetCallerIdentity, reads only; lambda:GetAlias where a person was asked.

    Raises:
        Refused: ``approval-missing``, ``approval-refused``, ``approval-unverified`` or ``approval-void``; exit code 4.
        InvalidInput: ``invalid-name``.
        Stopped: the cell was interrupted.
    """
    # No rollback is refused for how a name is written.
    if not _is_rollback(plan):
        people_.require_readable(approved_by, parameter("approved_by"))
    named: tuple[str, ...] = ()
    if approved_plan:
        named = distinct_names(approved_by)
    # Where no question is needed or can be answered, the parameters decide; else a person, by text or with widgets.
    if target.dry_run or not _widgets.is_attended() or len(named) >= plan.approvals:
        return _shown(target, from_parameters(target, plan, approved_by, approved_plan))
    if plan.calls:
        _require_this_plan(target, plan, approved_plan)
    # A plan that changes nothing needs no approval: it is recorded as such without a question.
    if _widgets.load_ipywidgets() is None or not plan.calls:
        return _shown(target, in_terminal(target, plan, named))
    return await _with_widgets(target, plan, named)


def _shown(target: Target, approval: Approval) -> Approval:
    """The approval, printed where no widgets say it: an archived run has it, too."""
    with target.side.contained("showing the approval"):
        print_escaped(approval)
    return approval


def from_parameters(target: Target, plan: Plan, approved_by: Sequence[str] = (), approved_plan: str = "") -> Approval:
    """The approval that parameters give; a missing one is a refusal.

    AWS, Raises: as ``request_approval``.
    """
    people = distinct_names(approved_by)
    if not _is_rollback(plan):
        people_.require_readable(approved_by, parameter("approved_by"))
    if target.dry_run:
        return _record(target, plan, ("dry run",))
    # The given ID is that of a plan which has been carried out since; nothing is left to change.
    if not plan.calls and approved_plan and not plan.accepts(approved_plan):
        return _record(target, plan, NOBODY)
    _require_this_plan(target, plan, approved_plan)
    if plan.demand_hash and not approved_plan:
        raise Refused(
            "approval-missing",
            f"Approvals in {target.environment} must include the plan ID ({parameter('approved_plan')}).",
            now=plan.unapproved,
            next=f"Review the plan above. To approve it, set {parameter('approved_plan', plan.hash)}.",
        )
    if len(people) < plan.approvals:
        raise _missing(target, plan, people)
    return _record(target, plan, people or ("the environment's policy",))


def for_command(target: Target, plan: Plan, approved_by: Sequence[str], *, ask: bool) -> Approval:
    """The approval of a command: asked for in its terminal, or by the names in its options.

    AWS, Raises: as ``from_parameters`` and ``in_terminal``.
    """
    if ask:
        return in_terminal(target, plan)
    return from_parameters(target, plan, approved_by)


def in_terminal(target: Target, plan: Plan, agreed: Sequence[str] = ()) -> Approval:
    """Ask in a terminal, or in a notebook without widgets. The caller has shown the plan.

    AWS: as ``request_approval``.

    Raises:
        Refused: ``approval-refused``, ``approval-missing`` where no person can answer, or ``approval-void``.
    """
    if not plan.calls:
        return _record(target, plan, NOBODY)
    people = distinct_names(agreed)
    word = confirmation(target)
    choice = ""
    if plan.under_way:
        choice = f'"{ABORT}" to roll back {plan.abort_scope}, '
    while len(people) < plan.approvals:
        try:
            typed = input(f'Type "{word}" to approve plan {plan.hash} ({choice}Enter to cancel): ').strip()
            aborts = plan.under_way and typed == ABORT
            if typed != word and not aborts:
                raise _refusal(target, plan, "")
            name = input("Your name: ")
        # stdin is closed: no person is there, as in CI.
        except EOFError:
            raise _missing(target, plan, people) from None
        if aborts:
            return _record(target, plan, distinct_names((name,)) or ("a person without a name",), order="abort")
        problem = describe_problem(name)
        with_name = people
        if not problem:
            with_name = distinct_names((*people, name))
        # The same person twice is one approver.
        if with_name == people:
            print_escaped(problem or "Enter the name of a different approver.")
        people = with_name
    _require_unmoved(target, plan)
    return _record(target, plan, people)


def confirmation(target: Target) -> str:
    """The word to type: the function's name in prod and where the plan's ID is required, else the environment."""
    if target.environment == "prod" or target.settings.rollout.demand_plan_hash:
        return target.settings.function
    return target.environment


async def _with_widgets(target: Target, plan: Plan, people: tuple[str, ...]) -> Approval:
    """Ask with widgets, and wait: 'Run All' stops here."""
    form = _ApprovalForm(target, plan, people)
    # Below it stands the error, or the sentence of an interrupt.
    last_line = f"Not approved: {plan.title}."
    stopped = f"Stopped. Plan {plan.hash} is not approved. {plan.unapproved} To be asked again, run this cell again."
    try:
        approval = None
        with stopped_with(lambda: stopped):
            while approval is None:
                approval = form.answer(await form.clicks.take())
        last_line = f"{approval}{_what_follows(plan)}"
        return approval
    finally:
        form.panel.replace(last_line)


def _what_follows(plan: Plan) -> str:
    """What is still to be done after the approval of a change to the traffic. "Run All" does it at once."""
    if not ("from" in plan.covers and "alias" in plan.covers):
        return ""
    return " Traffic has not moved yet: the next cell moves it."


class _ApprovalForm:
    """The plan, two fields and the buttons; ``people`` are those who approved so far."""

    def __init__(self, target: Target, plan: Plan, people: tuple[str, ...]) -> None:
        widgets = _widgets.load_ipywidgets()
        self._target = target
        self._plan = plan
        self._people = people
        self._word = confirmation(target)
        self.clicks = ClickQueue()
        self._typed = _widgets.input_field("Type", placeholder=self._word)
        self._name = _widgets.input_field("Your name")
        self._message = widgets.HTML(self._request())
        fields = widgets.HBox([self._typed, self._name])
        self.clicks.enter([self._typed, self._name], "approve")
        rows = (widgets.HTML(_as_html(plan)), self._message, fields, widgets.HBox(self._buttons()))
        self.panel = WidgetPanel(*rows, first=self._typed)

    def answer(self, click: str | None) -> Approval | None:
        """The approval that a click completes; None while something is missing, which the form then says."""
        name = self._name.value.strip()
        if click is None:
            return None
        if click == "cancel":
            raise _refusal(self._target, self._plan, name)
        with_name = distinct_names((*self._people, name))
        problem = ""
        asked = self._name
        if click == "approve" and self._typed.value.strip() != self._word:
            problem = f'type "{self._word}" exactly.'
            asked = self._typed
        elif not name:
            problem = "enter your name."
        elif described := describe_problem(name):
            problem = described
        elif click == "approve" and with_name == self._people:
            problem = f"{name} has approved already. Enter the name of a different approver."
        if problem:
            self._message.value = alert(f"Not approved: {problem}")
            asked.focus()
            return None
        if click == ABORT:
            return _record(self._target, self._plan, (name,), order="abort")
        self._people = with_name
        if len(with_name) >= self._plan.approvals:
            _require_unmoved(self._target, self._plan)
            return _record(self._target, self._plan, with_name)
        # The next person types the word as well, and finds no name to confirm.
        self._typed.value = ""
        self._name.value = ""
        self._message.value = self._request()
        self._typed.focus()
        return None

    def _buttons(self) -> list[Widget]:
        """Each says its effect and its target: a plan's title has both."""
        title = show_controls(self._plan.title)
        cancel = self.clicks.button("Cancel", "cancel")
        if not self._plan.under_way:
            return [self.clicks.button(f"Approve: {title}", "approve", "primary"), cancel]
        resume = self.clicks.button(title, "approve", "primary")
        stable = self._plan.covers.get("from")
        to = ""
        if isinstance(stable, str) and stable:
            to = f" to v{stable}"
        return [resume, self.clicks.button(f"Roll back: {self._plan.abort_scope}{to}", ABORT, "danger"), cancel]

    def _request(self) -> str:
        """What the form asks for, with who has approved so far, as HTML."""
        still = self._plan.approvals - len(self._people)
        request = f"To approve, type <code>{escape_html(self._word)}</code> and your name."
        if self._people:
            return f"Approved by {escape_html(join_words(self._people))}; {still} more needed. {request}"
        return f"{count(still, 'person must', 'different people must')} approve. {request}"


def _as_html(plan: Plan) -> str:
    rows = "".join(
        f'<tr><th style="{CELL_STYLE}">{name}</th>'
        f'<td style="{CELL_STYLE}">{"<br>".join(map(escape_html, lines))}</td></tr>'
        for name, lines in (*plan.parts(), ("Plan ID", (plan.hash,)))
    )
    return f"<b>{escape_html(plan.title)}</b><table>{rows}</table>"


def _require_this_plan(target: Target, plan: Plan, approved_plan: str) -> None:
    if not approved_plan or plan.accepts(approved_plan):
        return
    what = plan.why_void(approved_plan)
    if not what:
        what = f"Plan {approved_plan} was approved, but the current plan is {plan.hash}. "
        changed = _changed_since(target, plan, approved_plan)
        if changed:
            what += f"Since that plan was made, these have changed: {join_words(changed)}."
        else:
            what += "The artifact, the live version, its configuration, the rules or the stages have changed since."
    raise Refused(
        "approval-void",
        what,
        now=plan.unapproved,
        next=f"Review this plan. To approve it, set {parameter('approved_plan', plan.hash)}.",
    )


def _changed_since(target: Target, plan: Plan, approved_plan: str) -> list[str]:
    """What differs from the plan that was approved, by name; empty if no journal here has that plan."""
    now = plan.fingerprints()
    for record in _recorded_plans(target, approved_plan):
        before = record.get("covers")
        if record.get("plan") == approved_plan and isinstance(before, dict):
            return differing_names(now, before)
    return []


def _recorded_plans(target: Target, approved_plan: str) -> Iterator[Mapping[str, object]]:
    """The plans in this run's journal, and in those of the newest runs in the project's folder."""
    yield from (record for record in target.journal.records if record["kind"] == "planned")
    # Imported where it is needed: a rollback in a terminal starts without it.
    from buddy_ops.runs.stores import JOURNAL, LocalStore

    store = LocalStore(project.project_root() / "runs")
    # A folder's name begins with its time: the newest first.
    for folder in sorted(store.folders(), reverse=True)[:JOURNALS]:
        content = store.read(f"{folder}/{JOURNAL}") or b""
        # Most journals have nothing of this plan, and are not worth parsing.
        if approved_plan.encode() in content:
            yield from (record for record in read_journal(content) if record["kind"] == "planned")


def _require_unmoved(target: Target, plan: Plan) -> None:
    """Refuse an approval of a plan whose alias has changed since. The action checks again when it writes."""
    planned = plan.covers.get("from")
    if not planned or plan.covers.get("alias") != target.settings.alias or plan.under_way:
        return
    try:
        alias = aliases.read_alias(target)
    except BuddyError:
        # The action reads the alias again and reports why it cannot.
        return
    # A rollout's plan has one version here, a rollback's has primary and additional one.
    expected = list(planned) if isinstance(planned, list | tuple) else [planned]
    serving: list[str | None] = []
    # A plan may name the primary version alone.
    if alias is not None:
        serving = [alias.primary, alias.additional][: len(expected)]
    if serving != expected:
        raise Refused(
            "approval-void",
            f"Plan {plan.hash} was made while {target.resource} served v{' and v'.join(filter(None, expected))}. "
            "The alias has changed since.",
            now=f"{target.resource} serves {alias or 'nothing'}; this run changed nothing.",
            next=f"{again('the cell of the plan')}. Review the plan, and approve it again.",
        )


def _missing(target: Target, plan: Plan, people: Sequence[str]) -> Refused:
    wanted = count(plan.approvals, "person must", "different people must")
    names = parameter("approved_by", ["NAME"] * plan.approvals)
    # In a notebook there is no such option.
    if (unasked := option("yes")) == "--yes":
        # Without it the command asks, whoever is named.
        names = f"{unasked} {names}"
    return Refused(
        "approval-missing",
        f"In {target.environment} {wanted} approve this plan. Approved by: {join_words(people) or 'nobody'}.",
        now=plan.unapproved,
        next=f"Review the plan above (plan {plan.hash}). To approve it, give the names: {names}.",
    )


def _refusal(target: Target, plan: Plan, who: str) -> Refused:
    person = who or "The person who was asked"
    target.journal.append("refused", plan=plan.hash, by=person, title=plan.title)
    return Refused(
        "approval-refused",
        f"{person} did not approve plan {plan.hash}: {plan.title}.",
        now=plan.unapproved,
        next=f"To change it: correct the parameters. {again('the cells from the plan on')}.",
    )


def _is_rollback(plan: Plan) -> bool:
    return plan.covers.get("action") == "rollback"


def _require_verified(target: Target, plan: Plan, verified: Sequence[str]) -> None:
    """Refuse an approval by fewer verified people than the plan needs. One person always suffices for one.

    Raises:
        Refused: ``approval-unverified``.
    """
    if plan.approvals <= 1 or len(verified) >= plan.approvals:
        return
    raise Refused(
        "approval-unverified",
        f"{target.environment} requires {plan.approvals} approvers whose identity is verified (verified_approvers). "
        f"Verified: {join_words(verified)}. Names in {parameter('approved_by')} are not.",
        now=plan.unapproved,
        next="Start it with the workflow 'run a runbook' of GitHub, in an environment with required reviewers. "
        "docs/rules.md says how the workflow names them; its role must be one of ci_principals.",
    )


def _record(target: Target, plan: Plan, people: tuple[str, ...], order: str = "") -> Approval:
    try:
        principal = target.principal
    except AwsFailed as failure:
        # A rollback does not wait for the caller's identity; a deployment does.
        if not _is_rollback(plan) and not order:
            raise
        principal = f"unknown ({failure.code})"
    verified = verified_identities(target.settings.policy.ci_principals, principal, os.environ)
    # An abort needs no verified identity: it is a rollback.
    if target.settings.policy.verified_approvers and plan.calls and not (target.dry_run or order):
        _require_verified(target, plan, verified)
    approval = Approval(plan.hash, people, target.clock.now(), principal, order=order, verified=verified)
    target.journal.append("approved", **approval.facts(plan.title))
    return approval
