"""A checklist's result in a parameter: its messages are whole, unless a parameter cannot hold them."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from buddy_ops.aws import checklist_store
from buddy_ops.checks import checklists
from buddy_ops.core.checklist import ITEMS, ChecklistItem, ChecklistResult
from buddy_ops.core.errors import Refused
from tests.conftest import Situation
from tests.resilience.harness import QUIET

Bring = Callable[..., Situation]

LONG = "v2 4.8 % of 8,966 requests (limit 1 %) since 02:58 UTC; " * 20
RESULT = ChecklistResult(
    checklist="post_deployment",
    subject="v2",
    at=datetime(2026, 11, 2, tzinfo=UTC),
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
    assert '"says":"' in checklist_store._encode(replace(RESULT, items=(huge,)), "/r")


# Records from outside


def test_the_items_are_those_of_the_checklists() -> None:
    """The rules know the items that the checklists have."""
    assert tuple(check.name for check in checklists.BEFORE) == ITEMS["pre_deployment"]
    assert tuple(check.name for check in checklists.AFTER) == ITEMS["post_deployment"]


def test_a_record_of_this_name_by_another_writer_is_told(situation: Bring) -> None:
    """Somebody was there first: the result is not said to be stored; under its next name it is."""
    target = situation("good", **QUIET).connect(quiet=True)
    name = f"/buddy-ops/buddy-alexa-skill-sandbox/live/records/post_deployment/v2/20261102T0000Z-{RESULT.run}"
    target.client("ssm").put_parameter(Name=name, Value='{"items": []}', Type="String", Overwrite=False)
    with pytest.raises(Refused, match="record-differs"):
        checklist_store.write_result(target, RESULT)
    later = replace(RESULT, at=datetime(2026, 11, 2, 0, 1, tzinfo=UTC))
    checklist_store.write_result(target, later)
    assert checklist_store.list_results(target, "post_deployment") == (later,)


def test_an_overwritten_record_is_known(situation: Bring) -> None:
    """Whoever may overwrite parameters leaves a trace: AWS counts the writes of each."""
    here = situation("good", **QUIET)
    target = here.connect(quiet=True)
    name = checklist_store.write_result(target, RESULT)
    forged = checklist_store._encode(replace(RESULT, items=(ChecklistItem("error rate normal", "yes", "fine"),)), name)
    here.client("ssm").put_parameter(Name=name, Value=forged, Type="String", Overwrite=True)
    read = checklist_store.newest_result(target, "post_deployment", "v2")
    assert read is not None and read.overwritten
    assert "was overwritten after it was written" in read.problems(ITEMS["post_deployment"], RESULT.at)


def test_a_record_of_the_future_hides_no_other(situation: Bring) -> None:
    """The one dated 2099 counts only if there is no other, and then the rules refuse it."""
    target = situation("good", **QUIET).connect(quiet=True)
    future = replace(RESULT, at=datetime(2099, 1, 1, tzinfo=UTC), run="zzzz")
    checklist_store.write_result(target, future)
    assert checklist_store.newest_result(target, "post_deployment", "v2") == replace(future, postdated=True)
    now = replace(RESULT, at=target.clock.now().replace(microsecond=0))
    checklist_store.write_result(target, now)
    assert checklist_store.newest_result(target, "post_deployment", "v2") == now


PATH = "/buddy-ops/buddy-alexa-skill-sandbox/live/records/post_deployment/v2"
VALUES = json.loads(checklist_store._encode(RESULT, PATH))
ITEM = VALUES["items"][1]


@pytest.mark.parametrize(
    "change",
    [
        {"run": "a\u001b[2Jb"}, {"run": 7}, {"principal": None}, {"principal": "ada\u202e"}, {"at": "soon"},
        {"items": [{**ITEM, "state": "fine"}]}, {"items": [{**ITEM, "by": "Ada\u200b"}]}, {"items": [{**ITEM, "by": 3}]},
        {"items": [{**ITEM, "name": "smoke\ntests pass"}]}, {"items": [{**ITEM, "more": 1}]}, {"items": "all"},
    ],
)  # fmt: skip
def test_what_we_did_not_write_proves_nothing(situation: Bring, change: dict[str, Any]) -> None:
    """Control and invisible characters, other types and states: such a record is none."""
    parameter: Any = {
        "Name": "/buddy-ops/buddy-alexa-skill-sandbox/live/records/post_deployment/v2/x",
        "Value": json.dumps(VALUES | change),
    }
    assert checklist_store._decode("post_deployment", parameter) is None
    assert checklist_store._decode("post_deployment", {**parameter, "Value": json.dumps(VALUES)}) == RESULT


def test_a_message_cannot_change_a_terminal() -> None:
    """What a check says may quote a log line: escape codes are left out when it is read."""
    values = VALUES | {"items": [{**ITEM, "says": "3 of 3\u001b[2J\u202e passed"}]}
    read = checklist_store._decode("post_deployment", {"Name": "/r/v2/x", "Value": json.dumps(values)})
    assert read is not None and read.items[0].says == "3 of 3[2J passed"


@pytest.mark.parametrize("elsewhere", ["live/records/post_deployment/v3", "blue/records/post_deployment/v2"])
def test_a_result_of_another_version_or_alias_is_known(situation: Bring, elsewhere: str) -> None:
    """What was true of v2 in the sandbox is copied to where the rules look for another: they say so and refuse."""
    here = situation("good", **QUIET)
    target = here.connect(quiet=True)
    name = checklist_store.write_result(target, replace(RESULT, at=target.clock.now()))
    text = here.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    here.client("ssm").put_parameter(Name=f"/buddy-ops/{here.function}/{elsewhere}/x", Value=text, Type="String")
    settings = target.settings.model_copy(update={"alias": elsewhere.partition("/")[0]})
    there = replace(target, settings=settings)
    read = checklist_store.newest_result(there, "post_deployment", elsewhere.rpartition("/")[2])
    assert read is not None and read.copied
    said = "was copied from another build, version or environment"
    assert said in read.problems(ITEMS["post_deployment"], target.clock.now())
    genuine = checklist_store.newest_result(target, "post_deployment", "v2")
    assert genuine is not None and not genuine.copied


def test_a_result_that_is_dated_ahead_does_not_come_true(situation: Bring) -> None:
    """Dated three hours ahead it is refused as of the future; three hours later by the time at which AWS stored it."""
    here = situation("good", **QUIET)
    target = here.connect(quiet=True)
    checklist_store.write_result(target, replace(RESULT, at=target.clock.now() + timedelta(hours=3)))
    here.ask("advance", seconds=4 * 3600)
    read = checklist_store.newest_result(target, "post_deployment", "v2")
    assert read is not None and read.at < target.clock.now()
    assert any("after AWS stored it" in each for each in read.problems((), target.clock.now()))


def test_results_of_earlier_releases_are_read() -> None:
    """They say nothing of where they belong."""
    values = {name: value for name, value in VALUES.items() if name != "of"}
    read = checklist_store._decode("post_deployment", {"Name": "/r/v2/x", "Value": json.dumps(values)})
    assert read is not None and not read.copied and not read.overwritten and not read.postdated
