"""Who may say yes where a person is there: what is typed and clicked, who is counted, and what voids it."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import Refused
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.deployment import rollback, rollout
from buddy_ops.notebook import _widgets, approvals
from tests.conftest import Situation

Bring = Callable[..., Situation]
WRITES = ("UpdateAlias", "CreateAlias", "UpdateFunctionCode", "PublishVersion", "CreateSchedule")


@dataclass
class Page:
    """The gate's panel as a person has it: fields by their label, buttons by their words, and what is left."""

    rows: tuple[Any, ...] = ()
    left: str = ""
    told: list[str] = field(default_factory=list)

    def show(self, *rows: Any, first: Any = None) -> "Page":
        self.rows = rows
        return self

    def replace(self, line: str) -> None:
        self.left = line

    def act(self, step: str) -> None:
        """'Type=sandbox' fills a field; any other word presses that button."""
        label, filled, text = step.partition("=")
        parts = [part for row in self.rows for part in getattr(row, "children", ())]
        (part,) = (part for part in parts if part.description.partition(":")[0] == label)
        if filled:
            part.value = text
        else:
            part.click()


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A person is there, and has widgets."""
    found = Page()
    monkeypatch.setattr(_widgets, "is_attended", lambda: True)
    monkeypatch.setattr(approvals, "WidgetPanel", found.show)
    yield found


async def answered(page: Page, mine: Target, plan: Plan, steps: tuple[str, ...], **given: Any) -> Approval:
    """Go through the gate by these steps; what it says is noted after each."""
    asked = asyncio.create_task(approvals.request_approval(mine, plan, **given))
    await asyncio.sleep(0)
    for step in steps:
        page.act(step)
        for _ in range(10):
            await asyncio.sleep(0)
        page.told.append(page.rows[1].value)
    return await asyncio.wait_for(asked, 20)


def answer(page: Page, mine: Target, plan: Plan, *steps: str, **given: Any) -> Approval:
    return asyncio.run(answered(page, mine, plan, steps, **given))


@pytest.fixture
def bring(situation: Bring) -> Bring:
    """A situation without history: an approval needs no measurements."""

    def begin(environment: str = "sandbox", **more: Any) -> Situation:
        return situation("good", environment=environment, history_minutes=0, requests_per_minute=0, **more)

    return begin


def planned(here: Situation) -> tuple[Target, Plan]:
    mine = here.connect()
    return mine, rollout.plan_rollout(mine, here.build("good"))


def test_a_name_and_the_word_approve(bring: Bring, page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    """Who, when and which hash are recorded, and one line takes the widgets' place: nothing says it a second time."""
    mine, plan = planned(bring())
    approval = answer(page, mine, plan, "Type=sandbox", "Your name= Ada ", "Approve")
    assert capsys.readouterr().out == ""
    assert approval.by == ("Ada",) and approval.plan_hash == plan.hash
    assert page.left == f"{approval} Traffic has not moved yet: the next cell moves it."
    told = mine.journal.records[-1]
    assert (told["kind"], told["by"], told["plan"]) == ("approved", ("Ada",), plan.hash)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (("Your name=Ada", "Approve"), "type &quot;sandbox&quot; exactly"),
        (("Type=Sandbox", "Your name=Ada", "Approve"), "type &quot;sandbox&quot; exactly"),
        (("Type=sandbox", "Approve"), "enter your name"),
        (("Type=sandbox", "Your name=  ", "Approve"), "enter your name"),
        (("Type=sandbox", "Your name=Ada\u200b", "Approve"), "characters that do not show: U+200B"),
    ],
)
def test_half_an_answer_does_nothing(bring: Bring, page: Page, steps: tuple[str, ...], said: str) -> None:
    """The wrong word or no name: the gate says so and goes on waiting, until it is refused."""
    here = bring()
    mine, plan = planned(here)
    with pytest.raises(Refused, match="approval-refused"):
        answer(page, mine, plan, *steps, "Cancel")
    assert said in page.told[len(steps) - 1] and here.calls(*WRITES) == []


def test_a_refusal_is_recorded(bring: Bring, page: Page) -> None:
    """Who refused what stands in the journal, and the notebook goes no further."""
    mine, plan = planned(bring())
    with pytest.raises(Refused) as refused:
        answer(page, mine, plan, "Your name=Ada", "Cancel")
    assert refused.value.reference == "approval-refused" and "Ada did not approve" in refused.value.what
    assert mine.journal.records[-1]["kind"] == "refused" and page.left == f"Not approved: {plan.title}."


def test_prod_wants_the_functions_name_and_two_people(bring: Bring, page: Page) -> None:
    """The environment's name is not enough there, and one person with two spellings of a name is one person."""
    mine, plan = planned(bring("prod"))
    word = "Type=buddy-alexa-skill-prod"
    first = ("Type=prod", "Your name=Ada", "Approve", word, "Approve")
    approval = answer(page, mine, plan, *first, word, "Your name=ADA", "Approve", "Your name=Grace", "Approve")
    assert "type &quot;buddy-alexa-skill-prod&quot; exactly" in page.told[2]
    assert "Approved by Ada; 1 more needed" in page.told[4] and "a different approver" in page.told[7]
    assert approval.by == ("Ada", "Grace")


def test_names_in_the_parameters_cell_count_with_the_hash_only(bring: Bring, page: Page) -> None:
    """Yesterday's names approve nothing by 'Run All'; beside this plan's hash they do."""
    mine, plan = planned(bring("prod"))
    with pytest.raises(Refused, match="approval-refused"):
        answer(page, mine, plan, "Cancel", approved_by=["Ada", "Grace"])
    asked = answer(page, mine, plan, *approving("Grace"), approved_by=["Ada"], approved_plan=plan.hash)
    given = asyncio.run(approvals.request_approval(mine, plan, ["Ada", "Grace"], plan.hash))
    assert asked.by == given.by == ("Ada", "Grace")


def approving(name: str) -> tuple[str, ...]:
    return "Type=buddy-alexa-skill-prod", f"Your name={name}", "Approve"


def test_a_world_that_moved_voids_the_approval(bring: Bring, page: Page) -> None:
    """Somebody shipped while the plan was read: the gate says what serves now, and nothing was written."""
    here = bring()
    mine, plan = planned(here)
    lam = here.client("lambda")
    lam.update_function_configuration(FunctionName=here.function, Description="so that it is another version")
    here.ask("advance", seconds=10)
    lam.publish_version(FunctionName=here.function)
    here.ask("advance", seconds=10)
    back = rollback.plan_rollback(mine, "2")
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion="2")
    for each in (plan, back):
        with pytest.raises(Refused, match="approval-void") as void:
            answer(page, mine, each, "Type=sandbox", "Your name=Ada", "Approve")
        assert "served v1" in void.value.what and "100 % v2" in void.value.now
    assert here.calls(*WRITES) == []


def test_what_changes_nothing_asks_nobody(bring: Bring, page: Page) -> None:
    """A finished notebook that is run again re-verifies: nobody has to say yes to nothing."""
    here = bring()
    mine = here.connect()
    plan = rollback.plan_rollback(mine, "1")
    approval = asyncio.run(approvals.request_approval(mine, plan))
    assert (
        approval.by == ("not required: nothing will be changed",)
        and rollback.run_rollback(mine, plan, approval).already
    )
    lam = here.client("lambda")
    lam.update_function_configuration(FunctionName=here.function, Description="so that it is another version")
    here.ask("advance", seconds=10)
    lam.publish_version(FunctionName=here.function)
    here.ask("advance", seconds=10)
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion="2")
    with pytest.raises(Refused, match="alias-moved"):
        rollback.run_rollback(mine, plan, approval)
    assert here.calls("UpdateAlias") == []


def test_a_rollout_under_way_can_be_called_off_at_the_gate(situation: Bring, page: Page) -> None:
    """A new kernel finds it on the alias: one name takes the traffic back, without the word and without a second person."""
    here = situation("good", environment="prod")
    first = here.connect()
    artifact = here.build("good")
    plan = rollout.plan_rollout(first, artifact)
    steps = rollout.run_rollout(first, plan, Approval(plan.hash, ("Ada", "Grace"), first.clock.now(), "arn"))
    for seen in steps:
        if seen.weight:
            break
        first.clock.sleep_until(seen.wake_at)
    steps.close()
    mine = here.connect()
    again = rollout.plan_rollout(mine, artifact)
    assert again.title.startswith(f"Resume run {first.run}: v2") and again.hash == plan.hash
    approval = answer(page, mine, again, "Roll back", "Your name=Ada", "Roll back")
    assert "enter your name" in page.told[0] and approval.order == "abort"
    steps = rollout.run_rollout(mine, again, approval)
    assert next(steps).weight == 0.0
    with pytest.raises(StopIteration) as end:
        steps.send("stop")
    assert end.value.value.ending == "aborted"
    assert here.alias()["FunctionVersion"] == "1" and "RoutingConfig" not in here.alias()


# Without widgets


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """A person at a terminal, or a notebook without widgets."""
    waiting = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)


def test_without_widgets_the_gate_asks_in_words(bring: Bring, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same word and names; anything else refuses, and where nobody can answer, nobody approved."""
    mine, plan = planned(bring("prod"))
    monkeypatch.setattr(_widgets, "load_ipywidgets", lambda: None)
    word = "buddy-alexa-skill-prod"
    type_in(monkeypatch, word, "Ada", word, "ada", word, "Grace")
    assert asyncio.run(approvals.request_approval(mine, plan)).by == ("Ada", "Grace")
    type_in(monkeypatch, word, "Ada", word, "Ada\u200b", word, "Ａｄａ", word, "Grace")
    assert asyncio.run(approvals.request_approval(mine, plan)).by == ("Ada", "Grace")
    type_in(monkeypatch, "yes")
    with pytest.raises(Refused, match="approval-refused"):
        asyncio.run(approvals.request_approval(mine, plan))
    type_in(monkeypatch, word, "Ada")
    with pytest.raises(Refused, match="approval-missing"):
        asyncio.run(approvals.request_approval(mine, plan))
