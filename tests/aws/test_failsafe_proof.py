"""The preflight that lets a lease fire at a scratch alias before traffic depends on one."""

from collections.abc import Callable

import pytest

from buddy_ops.core.errors import Refused
from tests.conftest import Situation

Bring = Callable[..., Situation]


def proving(here: Situation) -> dict[str, object]:
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["lease"]["prove"] = True
    return values


def test_a_lease_that_fires_lets_the_rollout_begin(situation: Bring) -> None:
    """Where the policy demands a proof, a scratch alias loses its weights to a schedule before anything is shifted."""
    here = situation("good")
    assert here.ship(here.build("good"), values=proving(here)).ending == "proved"
    calls = here.calls("CreateAlias", "DeleteAlias", "UpdateAlias")
    made = [call for call in calls if call["params"]["Name"] == "live-lease-proof" and call["status"] < 400]
    # The first clears what an interrupted proof may have left: deleting an alias that is not there succeeds.
    assert [call["operation"] for call in made] == ["DeleteAlias", "CreateAlias", "DeleteAlias"]
    assert [alias["Name"] for alias in here.client("lambda").list_aliases(FunctionName=here.function)["Aliases"]] == [
        "live"
    ]


def test_a_lease_that_does_not_fire_refuses_the_rollout(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule that cannot act refuses the rollout; live is untouched, and the scratch alias and its schedule are gone."""
    from buddy_ops.aws import failsafe

    here = situation("good")
    before = here.alias()["RevisionId"]
    # As a role without permission would: the schedule exists, and what it calls fails.
    monkeypatch.setattr(failsafe, "UPDATE_ALIAS", "scheduler:::aws-sdk:lambda:updateNothing")
    with pytest.raises(Refused, match="lease-unproven"):
        here.ship(here.build("good"), values=proving(here))
    assert here.alias()["RevisionId"] == before
    assert [alias["Name"] for alias in here.client("lambda").list_aliases(FunctionName=here.function)["Aliases"]] == [
        "live"
    ]
    assert here.client("scheduler").list_schedules()["Schedules"] == []
