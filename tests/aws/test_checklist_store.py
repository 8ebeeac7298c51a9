"""A checklist's result in a parameter: its messages are whole, unless a parameter cannot hold them."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from buddy_ops.aws import checklist_store
from buddy_ops.core.checklist import ChecklistItem, ChecklistResult
from tests.conftest import Situation
from tests.resilience.harness import QUIET

Bring = Callable[..., Situation]

LONG = "v2 4.8 % of 8,966 requests (limit 1 %) since 02:58 UTC; " * 20
RESULT = ChecklistResult(
    checklist="post_deployment",
    subject="v2",
    at=datetime(2026, 11, 2, 3, tzinfo=UTC),
    run="run1",
    principal="arn:aws:iam::123456789012:user/ada",
    items=(ChecklistItem("error rate normal", "no", LONG), ChecklistItem("smoke tests pass", "yes", "3 of 3 passed")),
)


def stored(here: Situation, result: ChecklistResult) -> ChecklistResult | None:
    """The result as it is read back."""
    target = here.connect(quiet=True)
    checklist_store.write_result(target, result)
    return checklist_store.newest_result(target, result.checklist, result.subject)


def test_a_long_message_is_stored_whole(situation: Bring) -> None:
    """A message of 1,120 characters fits beside a short one."""
    assert stored(situation("good", **QUIET), RESULT) == RESULT


def test_only_what_does_not_fit_is_cut(situation: Bring) -> None:
    """The longest message is cut, and shows it; the others are whole."""
    too_long = ChecklistItem("latency within bounds", "no", 5 * LONG)
    read = stored(situation("good", **QUIET), replace(RESULT, items=(*RESULT.items, too_long)))
    assert read is not None and read.items[:2] == RESULT.items
    cut = read.items[2].says
    assert 2000 < len(cut) < 4096 and cut.endswith("…") and too_long.says.startswith(cut[:-1])


def test_a_name_that_fills_a_parameter_ends(situation: Bring) -> None:
    """Where cutting every message is not enough, the encoding ends all the same."""
    huge = replace(RESULT.items[0], by="x" * 5000)
    assert '"says":"' in checklist_store._encode(replace(RESULT, items=(huge,)))
