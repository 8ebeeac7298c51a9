"""Names of people: one person in many spellings is one, and a name that hides something is refused."""

import pytest

from buddy_ops.core import people
from buddy_ops.core.errors import InvalidInput

ARN = "arn:aws:sts::123456789012:assumed-role/deployer/run-7"


@pytest.mark.parametrize(
    "same",
    ["ada lovelace", "ADA  LOVELACE", " Ada\tLovelace ", "Ada\u00a0Lovelace", "Ada\u2003Lovelace", "Ａｄａ Ｌｏｖｅｌａｃｅ",
     "Ada\u200b Lovelace", "A\u00adda Lovelace", "Ada \u202eLovelace", "\ufeffAda Lovelace", "Ada\u3164 Lovelace",
     "Ada\ufe0f Lovelace", "Ada\u034f Lovelace", "Ada\u2060 Love\u200dlace"],
)  # fmt: skip
def test_spellings_of_one_name_are_one_person(same: str) -> None:
    """Capitals, gaps, compatible letters and what does not show make no second person."""
    assert people.distinct_names(("Ada Lovelace", same)) == ("Ada Lovelace",)


def test_composed_letters_are_one_person_too() -> None:
    """An accent of its own, a capital that folds to two letters."""
    assert len(people.distinct_names(("Zo\u00eb", "Zoe\u0308", "ZOE\u0308"))) == 1
    assert len(people.distinct_names(("Stra\u00dfe", "STRASSE"))) == 1
    assert people.distinct_names(("Ada", "", "  ", "\u200b", "Grace")) == ("Ada", "Grace")


@pytest.mark.parametrize(
    "name", ["Ada\u200b", "A\x1bda", "Ada\u202e", "Ada\nGrace", "\ufeffAda", "Ada\u3164", "A\x00da"]
)
def test_a_name_with_hidden_characters_is_refused(name: str) -> None:
    """One error that says which characters; the name is shown without them, and so it can be typed."""
    with pytest.raises(InvalidInput, match="invalid-name") as refused:
        people.require_readable(("Grace", name), "approved_by")
    said = str(refused.value)
    assert "U+" in said and "approved_by" in said and not any(map(people.is_invisible, said.replace("\n", "")))
    people.require_readable(("Grace", people.clean_name(name)), "approved_by")


def test_names_of_all_languages_can_be_read() -> None:
    """Letters, marks, apostrophes and hyphens of any script show."""
    people.require_readable(("Zoë O\u2019Brien-Łuc", "李雷", "محمد", "हिन्दी", "Nguyễn"), "approved_by")


def test_verified_are_the_caller_or_those_whom_github_names() -> None:
    """Variables count only for a caller that the rules know as CI; one person in two parts of a job is one."""
    job = {"GITHUB_ACTOR": "ada", "GITHUB_TRIGGERING_ACTOR": "Ada", "BUDDY_OPS_REVIEWERS": "grace,ada"}
    assert people.verified_identities((), ARN, job) == (ARN,)
    assert people.verified_identities(("*assumed-role/other/*",), ARN, job) == (ARN,)
    assert people.verified_identities(("*assumed-role/deployer/*",), ARN, job) == ("ada (GitHub)", "grace (GitHub)")
    assert people.verified_identities(("*assumed-role/deployer/*",), ARN, {}) == (ARN,)
