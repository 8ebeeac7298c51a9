"""The checklists' notebooks, and the freeze from a terminal, as people run them."""

import json
from typing import Any

import pytest

from buddy_ops.aws import checklist_store
from buddy_ops.checks import checklists
from tests.conftest import Situation, sampled
from tests.resilience.harness import QUIET
from tests.system.runbooks.test_incidents import wired
from tests.system.runbooks.test_nbval import AFTER, BEFORE, settled
from tests.system.runbooks.test_runbooks import Bring, execute, executed, progress, report, run, told_once, writes


def kept(here: Situation, checklist: str) -> dict[str, tuple[str, str]]:
    """The states and the names of the newest record, from SSM."""
    record, *_ = checklist_store.list_results(here.connect(quiet=True), checklist)
    return {item.name: (item.state, item.by) for item in record.items}


def test_a_checked_build_leaves_a_record(situation: Bring) -> None:
    """Checks prove what they can, names answer for the rest, and the record says which was which."""
    here = situation("good", **QUIET)
    settled(here)
    done = run("operations/pre_deployment", artifact=here.build("good"), attested=BEFORE)
    assert done.returncode == 0, done.stderr
    assert writes(here) == ["PutMetricAlarm"] * 4 + ["PutParameter"]
    found = kept(here, "pre_deployment")
    assert {state for state, _ in found.values()} == {"yes"}
    assert found["code reviewed"] == ("yes", "Ada") and found["rollback target healthy"] == ("yes", "")


@pytest.mark.whole
def test_an_open_checklist_ends_with_4_and_says_so_in_its_record(situation: Bring) -> None:
    """Nobody attested and no alarm is there: each open item is told, once, and the record is kept all the same."""
    here = situation("good", **QUIET)
    done = run("operations/pre_deployment", artifact=here.build("good"))
    assert done.returncode == 4
    told_once(done.stderr, "checklist-open")
    assert "alarms in place: no" in done.stderr and "code reviewed: unknown" in done.stderr
    assert kept(here, "pre_deployment")["alarms in place"] == ("no", "")


def test_a_dry_run_keeps_nothing(situation: Bring) -> None:
    """It looks, and writes no record."""
    here = situation("good", **QUIET)
    assert run("operations/pre_deployment", artifact=here.build("good"), dry_run=True).returncode == 4
    assert writes(here) == []


def telling(here: Situation) -> tuple[dict[str, Any], str]:
    """Settings whose team hears of it by SNS, and the queue that hears it, too."""
    given, queue = wired(here)
    return given | {"notify": {"topic_arn": given["alarms"]["topic_arn"]}}, queue


def messages(here: Situation, queue: str) -> list[str]:
    """What the team was told."""
    found = here.client("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(each["Body"])["Message"] for each in found]


@pytest.mark.parametrize(
    ("artifact", "reference"),
    sampled(
        [("", "artifact-missing"), ("nope.zip", "artifact-missing"), ("LICENSE", "artifact-not-a-zip")], slice(-1, None)
    ),
)
def test_a_build_that_is_none_is_announced_to_nobody(situation: Bring, artifact: str, reference: str) -> None:
    """No build, or no zip: refused with exit code 2 before anybody is told that it will be shipped."""
    here = situation("good", **QUIET)
    given, queue = telling(here)
    done = run("operations/pre_deployment", settings=given, artifact=artifact, attested=BEFORE)
    assert done.returncode == 2
    told_once(done.stderr, reference)
    assert writes(here) == [] and messages(here, queue) == []


def test_those_on_call_are_told_which_build_comes(situation: Bring) -> None:
    """One message, with the path and the build that the record is for; it proves the item that nobody attested."""
    here = situation("good", **QUIET)
    given, queue = telling(here)
    artifact = here.build("good")
    assert run("operations/pre_deployment", settings=given, artifact=artifact).returncode == 4
    (message,) = messages(here, queue)
    subject = checklists.checklist_subject(here.connect(quiet=True), artifact)
    assert f"Deployment of {artifact} (build {subject}) starts soon." in message
    assert kept(here, "pre_deployment")["on-call notified"] == ("yes", "")


@pytest.mark.whole
def test_a_name_for_no_item_ends_with_2(situation: Bring) -> None:
    """A misspelt item would leave the right one open: it is refused, with those that there are."""
    here = situation("good", **QUIET)
    given, queue = telling(here)
    wrong = {"code reviewd": "Ada"}
    done = run("operations/pre_deployment", settings=given, artifact=here.build("good"), attested=wrong)
    assert done.returncode == 2
    told_once(done.stderr, "unknown-item")
    assert "code reviewed" in done.stderr and writes(here) == [] and messages(here, queue) == []


@pytest.mark.whole
def test_a_deployment_is_closed_after_a_day(situation: Bring) -> None:
    """Its smoke tests pass by its number, and its window has closed; nothing is left open."""
    here = situation("good", **QUIET)
    settled(here)
    done = run("operations/post_deployment", attested=AFTER)
    assert done.returncode == 0, done.stderr
    assert {each["params"]["Qualifier"] for each in here.calls("Invoke")} == {"2"}
    assert kept(here, "post_deployment")["rollback window closed"] == ("yes", "")
    document = executed(report(done).parent / "notebook.ipynb")
    assert progress(document, "checklist") == ["smoke test 3 of 3 of v2: session end"]


@pytest.mark.whole
def test_a_version_that_hurts_people_is_no_closed_deployment(situation: Bring) -> None:
    """Its error rate is no, and no name outvotes that."""
    here = situation("good", stable="apologises_5_percent", history_minutes=30)
    done = run("operations/post_deployment", attested={"error rate normal": "Ada", "business metrics healthy": "Ada"})
    assert done.returncode == 4
    told_once(done.stderr, "checklist-open")
    found = kept(here, "post_deployment")
    assert found["error rate normal"] == found["business metrics healthy"] == ("no", "")
    assert found["latency within bounds"] == ("yes", "")


# The freeze, from a terminal


def freeze(*arguments: str) -> Any:
    return execute("buddy-ops", *arguments)


def test_a_freeze_is_set_listed_and_lifted(situation: Bring) -> None:
    """It stands in SSM with reason, owner and end; every strategy refuses under it; a rollback does not."""
    here = situation("good", **QUIET)
    done = freeze("freeze", "--reason", "a release of Alexa", "--owner", "Ada", "--hours", "2")
    assert done.returncode == 0, done.stderr
    (parameter,) = here.client("ssm").get_parameters_by_path(Path="/buddy-ops/buddy-alexa-skill-sandbox/live/freeze")[
        "Parameters"
    ]
    id_ = parameter["Name"].rsplit("/", 1)[-1]
    assert json.loads(parameter["Value"])["owner"] == "Ada"
    assert f"{id_}: a release of Alexa (Ada, until " in freeze("freeze").stdout
    artifact = here.build("good")
    for strategy in ("all_at_once", "blue_green", "canary"):
        refused = run(f"strategies/{strategy}", artifact=artifact, approved_by=["Ada"])
        assert refused.returncode == 4
        told_once(refused.stderr, "frozen")
    assert here.calls("UpdateFunctionCode", "UpdateAlias") == []
    back = freeze("rollback", "--to-version", "1", "--approved-by", "Ada", "--yes")
    assert back.returncode == 0, back.stderr
    assert f"Freeze {id_} removed." in freeze("unfreeze", id_).stdout
    assert (
        here.client("ssm").get_parameters_by_path(Path="/buddy-ops/buddy-alexa-skill-sandbox/live/freeze")["Parameters"]
        == []
    )
    again = freeze("unfreeze", id_)
    assert again.returncode == 2 and f"sandbox has no freeze '{id_}'" in again.stderr
    assert "No active freeze in sandbox." in freeze("freeze").stdout


def test_a_freeze_without_an_owner_ends_with_2(situation: Bring) -> None:
    """Reason, owner and end: without one of them nothing is frozen."""
    here = situation("good", **QUIET)
    done = freeze("freeze", "--reason", "because")
    assert done.returncode == 2
    told_once(done.stderr, "freeze-incomplete")
    assert writes(here) == []
