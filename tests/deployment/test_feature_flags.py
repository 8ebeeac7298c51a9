"""Feature flags: a new version of the code that serves, and no other variable lost, changed or shown."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from buddy_ops.aws import versions
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.deployment import feature_flags, rollout
from buddy_ops.deployment.rollout_plan import RolloutPlan
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from tests.conftest import Situation, approve, intercept

Bring = Callable[..., Situation]
SAFETY, FLOW = "ENABLE_ENHANCED_SAFETY", "ENABLE_NEW_MEDICATION_FLOW"
SECRET = {"API_TOKEN": "s3cret-t0ken"}


def configured(here: Situation, **variables: str) -> None:
    """$LATEST with these environment variables."""
    here.client("lambda").update_function_configuration(
        FunctionName=here.function, Environment={"Variables": variables}
    )
    here.ask("advance", seconds=10)


def with_secret(situation: Bring) -> Situation:
    """Version 2 serves, and has a secret in its environment."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    configured(here, **SECRET)
    here.client("lambda").publish_version(FunctionName=here.function)
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", FunctionVersion="2")
    here.ask("advance", seconds=10)
    return here


def variables(here: Situation, version: str = "$LATEST") -> dict[str, str]:
    reply = here.client("lambda").get_function_configuration(FunctionName=here.function, Qualifier=version)
    return dict(reply.get("Environment", {}).get("Variables", {}))


def turn(mine: Target, **wanted: bool) -> rollout.Outcome:
    plan = feature_flags.plan_flags(mine, wanted)
    return rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))


def aborted(mine: Target, plan: RolloutPlan) -> rollout.Outcome:
    """A rollout that a person aborts once it has traffic."""
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = next(steps)
    try:
        while True:
            mine.clock.sleep_until(seen.wake_at)
            seen = steps.send("abort" if seen.weight else None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def canary(here: Situation) -> Target:
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    return here.connect(values={**values, "rollout": {"strategies": ["canary"], "bake_minutes": 1, "watch_minutes": 2}})


def test_a_flag_is_a_new_version_and_nothing_else_changes(situation: Bring) -> None:
    """The same code, the flag in the environment, every other variable as it was; the alias serves it by the strategy."""
    here = with_secret(situation)
    mine = canary(here)
    outcome = turn(mine, **{SAFETY: True})
    assert (outcome.ending, here.alias()["FunctionVersion"]) == ("unproven", "3")
    assert variables(here, "3") == {**SECRET, SAFETY: "true"} and variables(here, "2") == SECRET
    shas = {version.number: version.sha256 for version in versions.list_versions(mine)}
    assert shas["3"] == shas["2"]
    weights = [each["params"]["RoutingConfig"]["AdditionalVersionWeights"] for each in here.calls("UpdateAlias")]
    assert weights[:4] == [{"3": 0.1}, {"3": 0.5}, {"3": 1.0}, {}]
    assert turn(mine, **{SAFETY: True}).new == "3", "the same again is the same version, watched on"


def test_no_secret_is_ever_shown(situation: Bring) -> None:
    """Neither plan nor journal nor outcome nor what is read back nor an error has the value of another variable."""
    here = with_secret(situation)
    mine = canary(here)
    plan = feature_flags.plan_flags(mine, {SAFETY: True})
    outcome = rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    shown = [
        str(plan),
        repr(plan),
        plan._repr_markdown_(),
        str(outcome),
        feature_flags.describe_flags(mine),
        repr(plan.covers),
    ]
    shown += [json.dumps(mine.journal.records, default=str), (here.folder / "run" / "journal.jsonl").read_text()]
    with pytest.raises(BuddyError) as failed:
        versions.update_environment(mine, {**SECRET, "no-such-name": "x"}, "")
    assert "ValidationException" in str(failed.value)
    assert not [each for each in (*shown, str(failed.value), repr(failed.value)) if SECRET["API_TOKEN"] in each]


@pytest.mark.whole
def test_who_turned_what_is_read_back(situation: Bring) -> None:
    """The newest turn first, each with its version, the flag, the run and the people; a mere new build is none."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    mine = canary(here)
    turn(mine, **{SAFETY: True, FLOW: False})
    here.ship(here.build("good", "2.0.0"))
    turn(mine, **{SAFETY: False})
    newest, oldest = feature_flags.flag_history(mine)
    assert (newest.version, newest.turned) == ("4", {SAFETY: False})
    assert (oldest.version, oldest.turned) == ("2", {SAFETY: True, FLOW: False})
    assert oldest.who == f"run {mine.run}: {SAFETY}=true, {FLOW}=false by Ada and Grace"
    assert f"v4 serves: {FLOW} off, {SAFETY} off." in feature_flags.describe_flags(mine)


def test_a_flag_that_is_taken_back_leaves_latest_as_it_was(situation: Bring) -> None:
    """After an abort $LATEST has the old environment, so that the next build does not ship the flag."""
    here = with_secret(situation)
    mine = canary(here)
    outcome = aborted(mine, feature_flags.plan_flags(mine, {SAFETY: True}))
    assert (outcome.ending, here.alias()["FunctionVersion"]) == ("aborted", "2")
    assert variables(here) == SECRET and variables(here, "3") == {**SECRET, SAFETY: "true"}


def test_a_build_that_would_ship_a_flag_along_says_so(situation: Bring) -> None:
    """What $LATEST has that the serving version has not stands in the plan, by name and without a value."""
    here = with_secret(situation)
    configured(here, **SECRET, ENABLE_ENHANCED_SAFETY="true", OTHER_TOKEN="also-s3cret")
    plan = rollout.plan_rollout(canary(here), here.build("good", "9.0.0"))
    (told,) = [each for each in plan.reasons if "differs from v2" in each]
    assert told.endswith(f": {SAFETY}, OTHER_TOKEN") and "s3cret" not in str(plan)


def test_a_flag_never_ships_code_that_does_not_serve(situation: Bring) -> None:
    """Where $LATEST holds another build it is refused; with the serving version's zip that code is shipped."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    code = builds.build(PROFILES["total_failure"], "6.6.6")
    here.client("lambda").update_function_code(FunctionName=here.function, ZipFile=code)
    here.ask("advance", seconds=10)
    mine = canary(here)
    for artifact in ("", here.build("total_failure", "6.6.6")):
        with pytest.raises(Refused, match="code-differs"):
            feature_flags.plan_flags(mine, {SAFETY: True}, artifact=artifact)
    plan = feature_flags.plan_flags(mine, {SAFETY: True}, artifact=here.build("good", "1.0.0"))
    assert rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan))).new == "2"
    serving = here.client("lambda").get_function_configuration(FunctionName=here.function, Qualifier="2")
    assert serving["CodeSha256"] == plan.change.sha256 and variables(here, "2") == {
        **variables(here, "1"),
        SAFETY: "true",
    }


def test_somebody_elses_change_is_not_overwritten(situation: Bring) -> None:
    """A variable that is set between our look and our write is kept: the write is refused by its revision."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    mine = canary(here)
    plan = feature_flags.plan_flags(mine, {SAFETY: True})

    def late(send: Any, service: str, operation: str, **given: Any) -> dict[str, Any]:
        if operation == "update_function_configuration":
            configured(here, THEIRS="kept")
        return send(service, operation, **given)

    intercept(mine, late)
    with pytest.raises(Refused, match="rollout-under-way"):
        rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    assert variables(here) == {"THEIRS": "kept"} and here.alias()["FunctionVersion"] == "1"


@pytest.mark.parametrize(("given", "said"), [({"ENABLE_ENHANCED_SAFTY": True}, f"did you mean {SAFETY}"), ({}, "No")])
def test_an_unknown_flag_is_refused(situation: Bring, given: dict[str, bool], said: str) -> None:
    """A misspelt flag would be set and never read: it is refused with the name that was meant."""
    mine = situation("good", history_minutes=0, requests_per_minute=0).connect()
    with pytest.raises(InvalidInput, match="unknown-flag") as refused:
        feature_flags.plan_flags(mine, given)
    assert said in refused.value.what
    assert SAFETY in refused.value.next and feature_flags.plan_flags(mine, {SAFETY: True}).calls


def test_an_environment_that_lambda_keeps_back_is_never_replaced(situation: Bring) -> None:
    """A caller who may not decrypt sees no variables: writing the map would lose them all."""
    latest = versions.read_version(situation("good", history_minutes=0, requests_per_minute=0).connect())
    error = {"ErrorCode": "AccessDeniedException", "Message": "..."}
    with pytest.raises(BuddyError, match="environment-unreadable"):
        _ = replace(latest, environment={"Error": error}).variables
    assert replace(latest, environment={}).variables == {}
