"""What a runbook does where it is refused: by a rule, for want of a name, or by AWS. Judged by the sandbox's own state."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Situation, sampled
from tests.deployment.test_cleanup import publish, there
from tests.resilience.harness import QUIET
from tests.system.runbooks.test_checklists import kept, messages, telling
from tests.system.runbooks.test_incidents import frozen, records
from tests.system.runbooks.test_nbval import AFTER, BEFORE, settled
from tests.system.runbooks.test_runbooks import executed, pictures, report, run, told_once, writes

Bring = Callable[..., Situation]
ALWAYS = 1_000_000


def denied(here: Situation, *operations: str) -> None:
    """From now on AWS refuses these to us."""
    here.ask("chaos", kind="denied", operation=",".join(operations), times=ALWAYS)


def text(done: Any) -> str:
    """The executed notebook, as one text."""
    return str(executed(report(done).parent / "notebook.ipynb"))


# operations/clean_up_versions


def crowded(bring: Bring, environment: str = "sandbox") -> Situation:
    """Fifteen versions, two days old; live serves v1, another alias v2 and, with a share, v3."""
    here = bring("good", environment=environment, **QUIET)
    publish(here, 14)
    weights = {"AdditionalVersionWeights": {"3": 0.1}}
    here.client("lambda").create_alias(
        FunctionName=here.function, Name="other", FunctionVersion="2", RoutingConfig=weights
    )
    here.ask("advance", seconds=48 * 3600)
    return here


def test_old_versions_go_and_those_in_use_stay(situation: Bring) -> None:
    """The ten newest and the three that aliases serve are left; exactly the other two were deleted."""
    here = crowded(situation)
    done = run("operations/clean_up_versions", keep=10, approved_by=["Ada"])
    assert done.returncode == 0, done.stderr
    assert there(here) == [1, 2, 3, *range(6, 16)]
    assert writes(here) == ["DeleteFunction"] * 2 and here.alias()["FunctionVersion"] == "1"


@pytest.mark.whole
def test_fewer_versions_than_the_rules_keep_are_refused(situation: Bring) -> None:
    """prod keeps ten: one is refused with exit code 4, whoever approves, and every version is left."""
    here = crowded(situation, "prod")
    done = run("operations/clean_up_versions", environment="prod", keep=1, approved_by=["Ada", "Grace"])
    assert done.returncode == 4
    told_once(done.stderr, "not-allowed")
    assert "prod keeps the newest 10 versions" in done.stderr
    assert there(here) == [*range(1, 16)] and writes(here) == []


@pytest.mark.whole
def test_no_version_goes_without_a_name(situation: Bring) -> None:
    """Refused with exit code 4: every version is left."""
    here = crowded(situation)
    done = run("operations/clean_up_versions", keep=10)
    assert done.returncode == 4
    told_once(done.stderr, "approval-missing")
    assert there(here) == [*range(1, 16)] and writes(here) == []


@pytest.mark.whole
def test_a_deletion_that_aws_refuses_ends_with_1(situation: Bring) -> None:
    """Told once, with what was deleted before it: nothing; versions and aliases are as they were."""
    here = crowded(situation)
    before = here.alias()["RevisionId"]
    denied(here, "DeleteFunction")
    done = run("operations/clean_up_versions", keep=10, approved_by=["Ada"])
    here.ask("chaos")
    assert done.returncode == 1
    told_once(done.stderr, "access-denied")
    assert "Deleted before that: none." in done.stderr
    assert there(here) == [*range(1, 16)] and here.alias()["RevisionId"] == before


# rollback/immediate


def test_nobody_rolls_back_without_a_name(situation: Bring) -> None:
    """Refused with exit code 4: the alias is untouched."""
    here = situation("good", **QUIET)
    here.ship_by_hand("good")
    before = here.alias()["RevisionId"]
    done = run("rollback/immediate", to_version="1")
    assert done.returncode == 4
    told_once(done.stderr, "approval-missing")
    assert here.alias()["RevisionId"] == before and writes(here) == []


@pytest.mark.whole
def test_a_rollback_that_aws_refuses_ends_with_1(situation: Bring) -> None:
    """The write is denied: told once, with the version that still serves; the alias is untouched and nobody is told."""
    here = situation("good", **QUIET)
    here.ship_by_hand("good")
    given, queue = telling(here)
    before = here.alias()["RevisionId"]
    denied(here, "UpdateAlias")
    done = run("rollback/immediate", settings=given, to_version="1", approved_by=["Ada"])
    here.ask("chaos")
    assert done.returncode == 1
    told_once(done.stderr, "access-denied")
    assert (here.alias()["FunctionVersion"], here.alias()["RevisionId"]) == ("2", before)
    assert not [each for each in messages(here, queue) if "Roll " in each]


# emergency/deployment_failure


def test_a_fix_forward_leaves_the_traffic_and_tells_how_it_is(situation: Bring) -> None:
    """Nothing moves; deployments are frozen, the review has its date, and the team hears that it is not over."""
    here = situation("good", stable="errors_5_percent", history_minutes=30)
    here.ship_by_hand("errors_5_percent")
    here.ask("advance", seconds=300)
    given, queue = telling(here)
    before = here.alias()["RevisionId"]
    done = run("emergency/deployment_failure", settings=given, decision="fix forward", approved_by=["Ada"])
    assert done.returncode == 0, done.stderr
    assert here.alias()["RevisionId"] == before and here.calls("UpdateAlias") == []
    assert len(frozen(here)) == 1 and len(records(here)) == 1
    (message,) = (each for each in messages(here, queue) if "forward" in each)
    assert "Fix v2 forward. NOT RECOVERED: v2: " in message


# What reads, and is refused


@pytest.mark.whole
def test_start_here_says_what_it_cannot_know(situation: Bring) -> None:
    """Metrics, alarms and freezes are refused: exit code 0, each unknown and none well, and a sentence for a picture."""
    here = situation("good", history_minutes=10)
    denied(here, "GetMetricData", "DescribeAlarms", "GetParametersByPath")
    done = run("start_here")
    here.ask("chaos")
    assert done.returncode == 0, done.stderr
    document = executed(report(done).parent / "notebook.ipynb")
    assert "nknown" in str(document) and "AccessDenied" in str(document)
    assert pictures(document) == [] and writes(here) == []


def test_start_here_without_the_alias_ends_with_1(situation: Bring) -> None:
    """What serves cannot be read: the error says so, and nothing was written."""
    here = situation("good", **QUIET)
    denied(here, "GetAlias")
    done = run("start_here")
    here.ask("chaos")
    assert done.returncode == 1
    told_once(done.stderr, "access-denied")
    assert writes(here) == []


@pytest.mark.whole
def test_a_review_without_anything_to_read_guesses_nothing(situation: Bring) -> None:
    """No archived run, and CloudWatch refuses: every figure is unknown, each trouble stands in the draft, exit code 0."""
    here = situation("total_failure", stable="total_failure", history_minutes=20)
    until = here.ask("status")["time"]
    denied(here, "GetMetricData", "DescribeAlarmHistory", "GetAlias", "ListMetrics")
    draft = here.folder / "post-mortem.md"
    window = {"since": until[:11] + "00:00:00+00:00", "until": until}
    done = run("review/incident_review", **window, archive=str(here.folder / "none"), draft=str(draft))
    here.ask("chaos")
    assert done.returncode == 0, done.stderr
    told = draft.read_text("utf-8")
    assert "| onset | unknown |" in told and "| failed requests | 0 of 0 |" in told
    assert "| error budget used | unknown |" in told
    assert told.count("Not available: ") == 3 and "alarm history: " in told
    assert pictures(executed(report(done).parent / "notebook.ipynb")) == [] and writes(here) == []


def test_a_build_is_not_passed_by_what_could_not_be_looked_at(situation: Bring) -> None:
    """AWS refuses every check: each is unknown, exit code 4, and the record says so; nobody's yes stands in for them."""
    here = situation("good", **QUIET)
    settled(here)
    denied(here, "GetAlias", "DescribeAlarms", "GetParametersByPath")
    done = run("operations/pre_deployment", artifact=here.build("good"), attested=BEFORE)
    here.ask("chaos")
    assert done.returncode == 4
    told_once(done.stderr, "checklist-open")
    found = kept(here, "pre_deployment")
    checks = ("rollback target healthy", "alarms in place", "deployment window open")
    assert {found[each] for each in checks} == {("unknown", "")}
    assert {state for name, (state, _) in found.items() if name not in checks} == {"yes"}


@pytest.mark.whole
def test_a_deployment_is_not_closed_by_what_could_not_be_looked_at(situation: Bring) -> None:
    """Its smoke tests and its figures are refused: unknown, exit code 4, and the record says so."""
    here = situation("good", **QUIET)
    settled(here)
    denied(here, "Invoke", "GetMetricData")
    done = run("operations/post_deployment")
    here.ask("chaos")
    assert done.returncode == 4
    told_once(done.stderr, "checklist-open")
    found = kept(here, "post_deployment")
    unknown = {"smoke tests pass", *AFTER}
    assert {name for name, (state, _) in found.items() if state == "unknown"} == unknown


@pytest.mark.parametrize("checklist", sampled(["pre_deployment", "post_deployment"], slice(1)))
def test_a_record_that_cannot_be_kept_ends_with_1(situation: Bring, checklist: str) -> None:
    """SSM refuses the write: the error says so, and no strategy finds a record that was never kept."""
    here = situation("good", **QUIET)
    settled(here)
    given = (
        {"artifact": here.build("good"), "attested": BEFORE} if checklist == "pre_deployment" else {"attested": AFTER}
    )
    denied(here, "PutParameter")
    done = run(f"operations/{checklist}", **given)
    here.ask("chaos")
    assert done.returncode == 1
    told_once(done.stderr, "access-denied")
    assert records(here) == []
