"""Who may say yes, headlessly: names and a hash given as parameters; absent means refused, at once."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.core import settings
from buddy_ops.core.errors import AwsFailed, InvalidInput, Refused
from buddy_ops.core.plan import NOBODY, Approval, Plan
from buddy_ops.deployment import rollback, rollout
from buddy_ops.notebook import approvals
from tests.conftest import Situation, intercept, sampled

Bring = Callable[..., Situation]
WRITES = ("UpdateAlias", "CreateAlias", "UpdateFunctionCode", "PublishVersion", "CreateSchedule")


@pytest.fixture
def bring(situation: Bring) -> Bring:
    """A situation without history: an approval needs no measurements."""

    def begin(environment: str = "sandbox", **more: Any) -> Situation:
        return situation("good", environment=environment, history_minutes=0, requests_per_minute=0, **more)

    return begin


def approve(mine: Target, plan: Plan, by: Sequence[str] = (), approved_plan: str = "") -> Approval:
    return asyncio.run(approvals.request_approval(mine, plan, by, approved_plan))


def planned(here: Situation, **options: Any) -> tuple[Target, Plan]:
    """A target, and the plan of shipping a build there."""
    mine = here.connect(**options)
    return mine, rollout.plan_rollout(mine, here.build("good"))


def refused(mine: Target, plan: Plan, by: Sequence[str] = (), approved_plan: str = "") -> Refused:
    """The refusal; nothing was written, and no approval is in the journal."""
    with pytest.raises(Refused) as refusal:
        approve(mine, plan, by, approved_plan)
    assert refusal.value.exit_code == 4 and refusal.value.now == "Nothing was changed."
    assert "approved" not in [each["kind"] for each in mine.journal.records]
    return refusal.value


# How many


@pytest.mark.parametrize("by", [[], [""], ["  ", "\t"]], ids=["nobody", "nothing", "blanks"])
def test_nobody_is_refused(bring: Bring, by: list[str]) -> None:
    """Without a name there is no approval, and the refusal says which plan to approve and how."""
    here = bring()
    mine, plan = planned(here)
    error = refused(mine, plan, by)
    assert error.reference == "approval-missing"
    assert "1 person must approve" in error.what and "nobody" in error.what
    assert "approved_by" in error.next and plan.hash in error.next
    assert here.calls(*WRITES) == []


def test_one_person_suffices_where_the_policy_says_so(bring: Bring, capsys: pytest.CaptureFixture[str]) -> None:
    """The approval holds the claimed name, the proved caller, the plan and Buddy's time; so do journal and output."""
    here = bring()
    mine, plan = planned(here)
    approval = approve(mine, plan, ["Ada"])
    assert capsys.readouterr().out == f"{approval}\n"
    assert approval == Approval(plan.hash, ("Ada",), mine.clock.now(), mine.principal)
    assert approval.principal.startswith("arn:aws:sts::")
    (told,) = (each for each in mine.journal.records if each["kind"] == "approved")
    assert (told["plan"], told["by"], told["principal"]) == (plan.hash, ("Ada",), mine.principal)


@pytest.mark.parametrize(
    "by",
    sampled(
        [["Ada"], ["Ada", "Ada"], ["Ada", " ada "], ["Ada", "ADA", "aDa"], ["Ada", ""], ["Straße", "STRASSE"]],
        slice(None, None, 3),
    ),
    ids=str,
)
def test_one_person_under_two_names_is_one(bring: Bring, by: list[str]) -> None:
    """prod wants two different people: capitals, blanks and repetition do not make a second one."""
    mine, plan = planned(bring("prod"))
    error = refused(mine, plan, by, plan.hash)
    assert error.reference == "approval-missing" and "2 different people" in error.what and by[0] in error.what


def test_two_people_suffice_for_prod(bring: Bring) -> None:
    """Two names and the plan's hash."""
    mine, plan = planned(bring("prod"))
    assert approve(mine, plan, ["Ada", "Grace"], plan.hash).by == ("Ada", "Grace")


def test_an_environment_without_approvals_asks_nobody(bring: Bring) -> None:
    """dev deploys without being asked, and the record says that the policy decided."""
    mine, plan = planned(bring("dev"))
    assert plan.approvals == 0
    assert approve(mine, plan).by == ("the environment's policy",)


def test_a_hash_of_what_is_done_by_now_is_no_matter(bring: Bring) -> None:
    """Run again with the same parameters: nothing is left to approve, and nobody is noted as who approved it."""
    mine = bring("prod").connect()
    plan = rollback.plan_rollback(mine, "1")
    assert not plan.calls
    assert approve(mine, plan, ["Ada"], "p000000000000").by == NOBODY


def test_a_rollback_wants_one_person_anywhere(bring: Bring) -> None:
    """Taking traffic back is the safe direction: in prod too one person who is awake suffices, without a hash."""
    here = bring("prod")
    mine = here.connect()
    plan = rollback.plan_rollback(mine, "1")
    assert refused(mine, plan).reference == "approval-missing"
    assert approve(mine, plan, ["Ada"]).by == ("Ada",)


# Of what


def test_another_plans_hash_is_void(bring: Bring) -> None:
    """Who approved something else has not approved this, whatever the environment."""
    for environment in ("sandbox", "prod"):
        mine, plan = planned(bring(environment))
        error = refused(mine, plan, ["Ada", "Grace"], "0" * 12)
        assert error.reference == "approval-void"
        assert "0" * 12 in error.what and plan.hash in error.what and plan.hash in error.next


def test_prod_demands_the_hash(bring: Bring) -> None:
    """Two names without the hash are not enough where the policy wants it seen."""
    mine, plan = planned(bring("prod"))
    error = refused(mine, plan, ["Ada", "Grace"])
    assert error.reference == "approval-missing" and f"approved_plan={plan.hash}" in error.next


def test_a_dry_run_needs_nobody(bring: Bring) -> None:
    """Looking at a plan wants no approval; what comes of it can write nothing."""
    here = bring("prod")
    mine, plan = planned(here, dry_run=True)
    approval = approve(mine, plan)
    assert approval.by == ("dry run",)
    outcome = next_outcome(rollout.run_rollout(mine, rollout.plan_rollout(mine, here.build("good")), approval))
    assert outcome.ending == "dry-run" and here.calls(*WRITES) == []


def next_outcome(steps: rollout.Rollout) -> rollout.Outcome:
    """How a rollout that needs no waiting ended."""
    with pytest.raises(StopIteration) as end:
        next(steps)
    outcome: rollout.Outcome = end.value.value
    return outcome


def test_a_plan_runs_only_with_its_own_approval(bring: Bring) -> None:
    """An approval for one build cannot be used to ship another."""
    here = bring()
    mine, plan = planned(here)
    approval = approve(mine, plan, ["Ada"])
    other = rollout.plan_rollout(mine, here.build("total_failure"))
    with pytest.raises(Refused, match="approval-void"):
        next(rollout.run_rollout(mine, other, approval))
    assert here.calls(*WRITES) == []


def test_shipping_needs_to_know_who_asks(bring: Bring) -> None:
    """If AWS does not say who we are, nothing is shipped: the proved name belongs to the record."""
    mine, plan = planned(bring())

    def forget(send: Any, service: str, operation: str, **fields: Any) -> dict[str, Any]:
        if service == "sts":
            raise AwsFailed("access-denied", "no sts", now="Nothing.", next="Ask.", code="AccessDenied")
        return send(service, operation, **fields)

    intercept(mine, forget)
    with pytest.raises(AwsFailed, match="access-denied"):
        approve(mine, plan, ["Ada"])


# What the hash stands for


def test_the_same_intention_has_the_same_hash_later_and_elsewhere(bring: Bring) -> None:
    """Another run, an hour later, after the alias was touched and the code published: CI can approve ahead."""
    here = bring()
    _, first = planned(here, run="aaaa")
    here.ask("advance", seconds=3600)
    lam = here.client("lambda")
    lam.update_alias(FunctionName=here.function, Name="live", Description="touched")
    lam.update_function_code(FunctionName=here.function, ZipFile=(here.folder / "good-2.0.0.zip").read_bytes())
    here.ask("advance", seconds=10)
    lam.publish_version(FunctionName=here.function)
    here.ask("advance", seconds=10)
    _, second = planned(here, run="bbbb")
    assert second.title != first.title and second.hash == first.hash


def test_the_hash_covers_what_would_be_done(bring: Bring) -> None:
    """Environment, function, alias, serving version, code, strategy, stages, bakes and every policy: each makes another hash."""
    here = bring()
    mine, plan = planned(here)
    artifact = here.build("good")

    def changed(**sections: dict[str, Any] | list[Any] | str) -> str:
        """The hash of the same plan under other settings, in the same place."""
        values = mine.settings.model_dump(mode="json")
        for name, change in sections.items():
            values[name] = {**values[name], **change} if isinstance(change, dict) else change
        return rollout.plan_rollout(replace(mine, settings=settings.validate_settings(values, "test")), artifact).hash

    hashes = {"this": plan.hash, "code": rollout.plan_rollout(mine, here.build("good", "3.0.0")).hash}
    hashes["strategy"] = rollout.plan_rollout(mine, artifact, "all_at_once").hash
    hashes["environment"] = rollout.plan_rollout(replace(mine, environment="prod"), artifact).hash
    hashes["stages"] = changed(rollout={"stages_percent": [20, 100]})
    hashes["bakes"] = changed(rollout={"bake_minutes": 7})
    hashes["watch"] = changed(rollout={"watch_minutes": 7})
    hashes["on_slow"] = changed(rollout={"on_slow": "hold"})
    hashes["approvals"] = changed(rollout={"approvals": 2})
    hashes["ramp"] = changed(rollout={"ramp": {"failures": 9}})
    hashes["health"] = changed(health={"error_rate": 0.02})
    hashes["failsafe"] = changed(lease={"minutes": 30})
    hashes["smoke tests"] = changed(smoke_tests=[])
    hashes["failure metrics"] = changed(failure_metrics=[{"namespace": "Buddy", "name": "Another"}])
    hashes["region"] = rollout.plan_rollout(replace(mine, region="eu-west-1"), artifact).hash
    lam = here.client("lambda")
    lam.create_alias(FunctionName=here.function, Name="other", FunctionVersion="1")
    hashes["alias"] = changed(alias="other")
    lam.update_function_configuration(FunctionName=here.function, Description="so that it is another version")
    here.ask("advance", seconds=10)
    lam.publish_version(FunctionName=here.function)
    here.ask("advance", seconds=10)
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion="2")
    hashes["serving version"] = changed()
    assert len(set(hashes.values())) == len(hashes)


# Who is proved


@pytest.mark.parametrize(
    "second", sampled(["Ada\u200b", "Ａｄａ", "ada ", "A\u00adda", "Ada\u202e"], slice(None, None, 3))
)
def test_one_person_is_not_two(bring: Bring, second: str) -> None:
    """prod wants two different people: an invisible character or other letters make no second one."""
    here = bring("prod")
    mine, plan = planned(here)
    with pytest.raises((Refused, InvalidInput), match=r"approval-missing|invalid-name"):
        approve(mine, plan, ["Ada", second], plan.hash)
    back = rollback.plan_rollback(mine, "1")
    # A rollback is not held up by how a name is written.
    assert approvals.from_parameters(mine, replace(back, calls=("x",)), ["Ada", second]).by == ("Ada",)


def test_verified_identities_can_be_demanded(bring: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names are claims; the person who started the job in GitHub and a reviewer are two proved people."""
    here = bring("prod")
    mine, _ = planned(here)
    values = mine.settings.model_dump(mode="json")
    values["policy"] |= {"verified_approvers": True}
    strict = replace(mine, settings=settings.validate_settings(values, "test"))
    plan = rollout.plan_rollout(strict, here.build("good"))
    with pytest.raises(Refused, match="approval-unverified") as refused:
        approve(strict, plan, ["Ada", "Grace"], plan.hash)
    assert mine.principal in refused.value.what
    monkeypatch.setenv("GITHUB_ACTOR", "ada")
    monkeypatch.setenv("BUDDY_OPS_REVIEWERS", "grace")
    with pytest.raises(Refused, match="approval-unverified"):
        approve(strict, plan, ["Ada", "Grace"], plan.hash)
    values["policy"] |= {"ci_principals": [mine.principal]}
    strict = replace(mine, settings=settings.validate_settings(values, "test"))
    plan = rollout.plan_rollout(strict, here.build("good"))
    approval = approve(strict, plan, ["Ada", "Grace"], plan.hash)
    assert approval.verified == ("ada (GitHub)", "grace (GitHub)")
    assert strict.journal.records[-1]["verified"] == approval.verified
    monkeypatch.setenv("BUDDY_OPS_REVIEWERS", "ADA")
    with pytest.raises(Refused, match="approval-unverified"):
        approve(strict, plan, ["Ada", "Grace"], plan.hash)
