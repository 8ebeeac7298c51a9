"""Who may say yes, and how they say it.

Knows approvals: names and the hash they approve. Where a person is there, the plan is shown and a confirmation is
typed; headless, the decision is a parameter, and absent means refused, at once. Never runs what it approves.
"""

import html
from collections.abc import Sequence

from buddy_ops.aws import aliases
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, Refused
from buddy_ops.core.plan import NOBODY, Approval, Plan
from buddy_ops.notebook import _widgets
from buddy_ops.notebook._widgets import ClickQueue, WidgetPanel

BACK = "back"
"""What a person types, or clicks, who wants what is under way called off instead of gone on with."""

TABLE = "text-align:left;vertical-align:top;padding:1px 12px 1px 0;line-height:1.4"


async def request_approval(
    target: Target, plan: Plan, approved_by: Sequence[str] = (), approved_plan: str = ""
) -> Approval:
    """An approval of exactly this plan, or a refusal.

    In a notebook that somebody steps through, the names in the parameters cell decide nothing by themselves: they may
    be yesterday's. They count where the hash stands beside them; whoever is missing is asked.

    Args:
        target: whose environment's policy says how many different people must agree.
        plan: what is to be approved; ``plan.approvals`` people are needed.
        approved_by: the names of those who agreed.
        approved_plan: the hash that they saw; needed where the policy demands it, compared wherever it is given.

    AWS: sts:GetCallerIdentity, reads only; lambda:GetAlias where a person was asked.

    Raises:
        Refused: ``approval-missing``, ``approval-refused`` or ``approval-void``; exit code 4.
    """
    present = _people(approved_by) if approved_plan else ()
    if target.dry_run or not _widgets.is_attended() or len(present) >= plan.approvals:
        return from_parameters(target, plan, approved_by, approved_plan)
    if plan.calls:
        _refuse_another(plan, approved_plan)
    if _widgets.load_ipywidgets() is None or not plan.calls:
        return in_terminal(target, plan, present)
    return await _with_widgets(target, plan, present)


def from_parameters(target: Target, plan: Plan, approved_by: Sequence[str] = (), approved_plan: str = "") -> Approval:
    """The decision that parameters give: nobody is asked, and absent means refused.

    AWS, Raises: as ``approve``.
    """
    people = _people(approved_by)
    if target.dry_run:
        return _record(target, plan, ("dry run",))
    if not plan.calls and approved_plan not in ("", plan.hash):
        return _record(target, plan, NOBODY)  # it was for what is done by now, and nothing will be changed
    _refuse_another(plan, approved_plan)
    if plan.demand_hash and not approved_plan:
        raise Refused(
            "approval-missing",
            f"{target.environment} wants the plan's hash with the approval, and none was given.",
            now=plan.unapproved,
            next=f"Read the plan above; if it is right, give approved_plan={plan.hash}.",
        )
    if len(people) < plan.approvals:
        raise _missing(target, plan, people)
    return _record(target, plan, people or ("the environment's policy",))


def in_terminal(target: Target, plan: Plan, agreed: Sequence[str] = ()) -> Approval:
    """Ask in words, in a terminal or where a notebook has no widgets; the plan has been shown.

    AWS: as ``approve``.

    Raises:
        Refused: ``approval-refused``, ``approval-missing`` where nobody can answer, or ``approval-void``.
    """
    if not plan.calls:
        return _record(target, plan, NOBODY)
    people, wanted = _people(agreed), confirmation(target)
    back = f", {BACK} to take the traffic back instead" if plan.under_way else ""
    while len(people) < plan.approvals:
        try:
            said = input(f"Type {wanted} to approve plan {plan.hash}{back}; anything else refuses: ").strip()
            if said not in ((wanted, BACK) if plan.under_way else (wanted,)):
                raise _refusal(target, plan, "")
            name = input("Your name: ")
        except EOFError:
            raise _missing(target, plan, people) from None
        if said == BACK:
            return _record(target, plan, _people((name,)) or ("somebody at the keyboard",), order="abort")
        known, people = people, _people((*people, name))
        if people == known:
            print("That is nobody new: a name is needed, and each must be a different person.")
    _refuse_moved(target, plan)
    return _record(target, plan, people)


def confirmation(target: Target) -> str:
    """The word that a person types: the function's name where it matters most, else the environment's."""
    matters = target.environment == "prod" or target.settings.rollout.demand_plan_hash
    return target.settings.function if matters else target.environment


async def _with_widgets(target: Target, plan: Plan, people: tuple[str, ...]) -> Approval:
    """Ask with widgets, and wait: 'Run All' stops here."""
    wanted, clicks, shown = confirmation(target), ClickQueue(), _widgets.load_ipywidgets()
    word, name = _widgets.input_field("Type", placeholder=wanted), _widgets.input_field("Your name")
    says = shown.HTML(_ask(plan, people, wanted))
    yes = "Resume" if plan.under_way else "Approve"
    buttons = [clicks.button(yes, "approve", "primary"), clicks.button("Refuse", "refuse")]
    if plan.under_way:
        buttons.insert(1, clicks.button("Take the traffic back", BACK, "warning", layout=shown.Layout(width="auto")))
    # 'Run All' has scrolled to the last cell by now.
    clicks.soon(word.focus)
    panel, ended = WidgetPanel(shown.HTML(_table(plan)), says, shown.HBox([word, name]), shown.HBox(buttons)), ""
    try:
        while True:
            click = await clicks.take()
            typed_word, who = word.value.strip(), name.value.strip()
            if click == "refuse":
                raise _refusal(target, plan, who)
            if click == "approve" and typed_word != wanted:
                says.value = _told(f"Nothing was done: that is not {wanted}.")
            elif click and not who:
                says.value = _told("Nothing was done: your name is missing.")
            elif click == BACK:
                approval = _record(target, plan, (who,), order="abort")
                break
            elif click and _people((*people, who)) == people:
                says.value = _told(f"Nothing was done: {who} agreed already, and another person must.")
            elif click:
                people = _people((*people, who))
                if len(people) >= plan.approvals:
                    _refuse_moved(target, plan)
                    approval = _record(target, plan, people)
                    break
                word.value = name.value = ""
                says.value = _ask(plan, people, wanted)
        ended = str(approval)
        return approval
    except BuddyError as error:
        ended = error.what
        raise
    finally:
        panel.replace(ended or f"Interrupted: plan {plan.hash} was neither approved nor refused. {plan.unapproved}")


def _ask(plan: Plan, people: Sequence[str], wanted: str) -> str:
    agreed = f"{' and '.join(people)} agreed; {plan.approvals - len(people)} more must. " if people else ""
    several = "" if plan.approvals == 1 or people else f"{plan.approvals} different people must agree. "
    return f"{html.escape(agreed)}{several}To approve, type <code>{html.escape(wanted)}</code> and your name."


def _told(text: str) -> str:
    return f'<b style="color:#b00020" role="alert">{html.escape(text)}</b>'


def _table(plan: Plan) -> str:
    rows = "".join(
        f'<tr><th style="{TABLE}">{name}</th><td style="{TABLE}">{"<br>".join(map(html.escape, lines))}</td></tr>'
        for name, lines in (*plan.parts(), ("hash", (plan.hash,)))
    )
    return f"<b>{html.escape(plan.title)}</b><table>{rows}</table>"


def _refuse_another(plan: Plan, approved_plan: str) -> None:
    if approved_plan and approved_plan != plan.hash:
        raise Refused(
            "approval-void",
            f"Plan {approved_plan} was approved, and this is plan {plan.hash}: the artifact, the version that serves, "
            "the policy or the stages are not what they were.",
            now=plan.unapproved,
            next=f"Read this plan; if it is right, approve it: approved_plan={plan.hash}.",
        )


def _refuse_moved(target: Target, plan: Plan) -> None:
    """Void an approval of a plan that is no longer about the world as it is. The action looks again, at its write."""
    seen, alias_name = plan.covers.get("from"), plan.covers.get("alias")
    if not seen or alias_name != target.settings.alias or plan.under_way:
        return
    try:
        alias = aliases.read_alias(target)
    except BuddyError:
        return  # the action reads it again, and says what it could not read
    serving = (
        None if alias is None else ([alias.primary, alias.additional] if isinstance(seen, list) else alias.primary)
    )
    if serving != seen:
        stood = " and v".join(filter(None, seen)) if isinstance(seen, list) else seen
        raise Refused(
            "approval-void",
            f"Plan {plan.hash} was made while {target.resource} served v{stood}; since then somebody moved it.",
            now=f"{target.resource} serves {alias or 'nothing'}; this run changed nothing.",
            next="Run the cell of the plan again, read it, and answer again.",
        )


def _missing(target: Target, plan: Plan, people: Sequence[str]) -> Refused:
    wanted = "one person" if plan.approvals == 1 else f"{plan.approvals} different people"
    given = ", ".join(people) or "nobody"
    return Refused(
        "approval-missing",
        f"{target.environment} wants {wanted} to approve this plan; it was approved by {given}.",
        now=plan.unapproved,
        next=f"Read the plan above; if it is right, give approved_by with the names (plan {plan.hash}).",
    )


def _refusal(target: Target, plan: Plan, who: str) -> Refused:
    who = who or "Whoever was asked"
    target.journal.append("refused", plan=plan.hash, by=who, title=plan.title)
    return Refused(
        "approval-refused",
        f"{who} refused plan {plan.hash}: {plan.title}.",
        now=plan.unapproved,
        next="Correct what was wrong with the plan, and run the cells from there again.",
    )


def _people(names: Sequence[str]) -> tuple[str, ...]:
    """Different people: a name written twice, or with other capitals, is one person."""
    found: dict[str, str] = {}
    for name in names:
        stripped = str(name).strip()
        if stripped:
            found.setdefault(stripped.casefold(), stripped)
    return tuple(found.values())


def _record(target: Target, plan: Plan, people: tuple[str, ...], order: str = "") -> Approval:
    try:
        principal = target.principal
    except AwsFailed as failure:
        # Taking traffic back does not wait for a name; shipping does.
        if plan.covers.get("action") != "rollback" and not order:
            raise
        principal = f"unknown ({failure.code})"
    approval = Approval(plan.hash, people, target.clock.now(), principal, order)
    ordered = {"order": order} if order else {}
    target.journal.append("approved", plan=plan.hash, by=people, principal=principal, title=plan.title, **ordered)
    return approval
