"""The plan: what it shows, and what its hash stands for."""

from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from buddy_ops.core.plan import HASH_LENGTH, NOBODY, Approval, Plan, changed_parts
from buddy_ops.core.text import escape_markdown

COVERS: dict[str, Any] = {
    "action": "rollout",
    "environment": "prod",
    "function": "buddy-alexa-skill-prod",
    "alias": "live",
    "from": "41",
    "code": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    "strategy": "canary",
    "policy": {"stages_percent": [10, 50, 100], "bake_minutes": 5.0, "approvals": 2},
}
PLAN = Plan(
    title="Ship v42 to buddy-alexa-skill-prod:live by canary",
    now=("buddy-alexa-skill-prod:live serves 100 % v41", "v42 has exactly this code already"),
    then=("10 % → 50 % → 100 %",),
    calls=("scheduler:CreateSchedule the lease", "lambda:UpdateAlias weight 0.1"),
    undo=("rollback/immediate returns the traffic to v41",),
    reasons=(),
    covers=COVERS,
    approvals=2,
    demand_hash=True,
)


def test_a_plan_reads_as_an_operator_expects() -> None:
    """Title, then what is and will be, the calls, the way back and the hash, one line each; what is empty is left out."""
    assert str(PLAN) == (
        "Ship v42 to buddy-alexa-skill-prod:live by canary\n"
        "Current state: buddy-alexa-skill-prod:live serves 100 % v41\n"
        "               v42 has exactly this code already\n"
        "After:         10 % → 50 % → 100 %\n"
        "API calls:     scheduler:CreateSchedule the lease\n"
        "               lambda:UpdateAlias weight 0.1\n"
        "To undo:       rollback/immediate returns the traffic to v41\n"
        f"Plan ID:       {PLAN.hash}"
    )


def test_a_plan_reads_the_same_in_a_notebook() -> None:
    """The table holds every line and the hash; what an alias's text contains cannot break or script the page."""
    shown = replace(PLAN, now=("a|b <script>",), reasons=("because",))._repr_markdown_()
    assert r"a\|b &lt;script>" in shown and "<script>" not in shown
    assert f"`{PLAN.hash}`" in shown and "because" in shown and "lambda:UpdateAlias weight 0.1" in shown


def test_a_plan_cannot_change_after_it_was_approved() -> None:
    """Plans are frozen."""
    with pytest.raises(FrozenInstanceError):
        PLAN.approvals = 0  # type: ignore[misc]


def test_a_hash_can_be_read_out_and_typed() -> None:
    """Two dozen characters, lower-case letters and digits only; fewer would allow two builds with one ID."""
    assert len(PLAN.hash) == HASH_LENGTH + 1 == 25
    assert PLAN.hash.isalnum() and PLAN.hash.isascii() and PLAN.hash == PLAN.hash.lower()


@given(st.permutations(sorted(COVERS)), st.permutations(sorted(COVERS["policy"])))
def test_the_hash_does_not_depend_on_the_order_of_keys(outer: list[str], inner: list[str]) -> None:
    """The same intention has the same hash, however its settings were written down."""
    covers = {key: COVERS[key] for key in outer}
    covers["policy"] = {key: COVERS["policy"][key] for key in inner}
    assert replace(PLAN, covers=covers).hash == PLAN.hash


@pytest.mark.parametrize("name", sorted(COVERS))
def test_the_hash_covers_every_part_of_the_intention(name: str) -> None:
    """Changing any covered value gives another hash."""
    other = {**COVERS, name: {**COVERS[name], "approvals": 1} if name == "policy" else f"{COVERS[name]}x"}
    assert replace(PLAN, covers=other).hash != PLAN.hash
    assert replace(PLAN, covers={key: value for key, value in COVERS.items() if key != name}).hash != PLAN.hash


def test_the_hash_does_not_cover_what_passes() -> None:
    """Words about the present (the title, what is live, who must agree) do not change the hash."""
    later = replace(PLAN, title="another", now=("v41 since 03:12",), then=(), calls=(), undo=(), reasons=("late",))
    assert later.hash == PLAN.hash


def test_a_hash_is_never_mistaken_for_a_number() -> None:
    """YAML and ``papermill -p`` read digits as a number: a hash must stay a text in both, or nobody could approve it."""
    hashes = [replace(PLAN, covers={"n": n}).hash for n in range(3000)]
    mistaken = [each for each in hashes if not isinstance(yaml.safe_load(each), str) or is_number(each)]
    assert mistaken == []


def is_number(text: str) -> bool:
    """Whether papermill's command line would take a text for a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_an_approval_says_who_and_what() -> None:
    """Claimed names, the proved principal, the plan and the minute stand in one sentence."""
    approval = Approval("abc", ("Ada", "Gr|ace"), datetime(2026, 11, 22, 3, 12, tzinfo=UTC), "arn:aws:iam::1:user/ci")
    said = str(approval)
    for part in ("Plan abc ", "Ada and Gr|ace", "arn:aws:iam::1:user/ci", "03:12 UTC"):
        assert part in said
    assert "no approval" in str(replace(approval, by=NOBODY))


def test_no_text_breaks_a_table() -> None:
    """Lines, columns and markup in what AWS says stay in their cell."""
    assert escape_markdown("a\nb |\t<b>&") == "a b \\| &lt;b>&amp;"


def test_what_differs_has_the_names_that_operators_know() -> None:
    """The keys of the hash are not shown: they stay as they are, since a plan's ID depends on them."""
    approved = COVERS | {"glass": "", "doomed": ["1"]}
    changed = COVERS | {
        "glass": "Ada",
        "doomed": ["1", "2"],
        "from": "42",
        "policy": {**COVERS["policy"], "approvals": 1},
    }
    assert changed_parts(changed, approved) == [
        "setting rollout.approvals",
        "the emergency override",
        "the version that serves",
        "the versions to delete",
    ]
