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
    ("name", "same"),
    [("Ada", "\u0410da"), ("Ada", "Ad\u0430"), ("\u0410\u0441\u0435", "Ace"), ("Helen", "\u0397elen"),
     ("O'Brien", "O\u2019Brien"), ("OBrien", "O\u02bcBrien"), ("Jean-Luc", "Jean\u2010Luc"), ("Jean-Luc", "Jean Luc"),
     ("Ada", "Ada."), ("Ada", "@ada"), ("Ada", "Ada\U0001f642"), ("Zo\u00eb", "Zoe"), ("Nguy\u1ec5n", "Nguyen"), ("Luc", "\u0141uc"),
     ("Ada", "\u1d00da"), ("Ada", "A\u0338d\u0301a"), ("Ada Lovelace", "Lovelace, Ada"), ("Ada Lovelace", "ada.lovelace"),
     ("Bob", "B0b"), ("Ada", "Ada\u00b4"), ("ﬁnn", "finn"), ("Ⅳan", "ivan")],
)  # fmt: skip
def test_a_name_that_looks_the_same_is_one_person(name: str, same: str) -> None:
    """Letters of another alphabet, accents, signs and the order of the words make no second person."""
    assert people.distinct_names((name, same)) == (name,) and people.distinct_names((same, name)) == (same,)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Ada", "Adam"), ("Ada", "Grace"), ("\u674e\u96f7", "\u97e9\u6885\u6885"), ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u0928\u094d\u0926"),
     ("\u0418\u0432\u0430\u043d", "\u0412\u0435\u0440\u0430"), ("\u30aa\u30ce", "\u30aa\u30ac"), ("ada-1", "ada-2"), ("Amy", "May")],
)  # fmt: skip
def test_two_people_are_two(one: str, other: str) -> None:
    """In every script; a mark that is a vowel makes another name."""
    assert people.distinct_names((one, other)) == (one, other)


@pytest.mark.parametrize("names", [(".", ".."), ("-", "--"), ("\U0001f642", "\U0001f643"), ("?", "!"), ("'", '"')])
def test_what_has_no_letter_names_nobody(names: tuple[str, str]) -> None:
    """Two of them would be two people of whom nothing is known."""
    assert people.distinct_names(names) == ()
    with pytest.raises(InvalidInput, match="has no letter and no digit"):
        people.require_readable(names, "approved_by")


@pytest.mark.parametrize("name", ["\u0410da", "Gr\u0430ce Hopper", "\u13aada", "\u0397elen"])
def test_a_name_of_two_alphabets_is_refused(name: str) -> None:
    """A Cyrillic letter among Latin ones looks like another person's name; the reader could not tell."""
    with pytest.raises(InvalidInput, match=r"mixes .* letters of the same form"):
        people.require_readable((name,), "approved_by")


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


def test_a_bot_is_nobody_and_a_login_is_exact() -> None:
    """An app that started the job is no second person; two logins that differ by a sign are two people."""
    job = {"GITHUB_ACTOR": "dependabot[bot]", "GITHUB_TRIGGERING_ACTOR": "github-actions[bot]"}
    assert people.verified_identities(("*",), ARN, job) == (ARN,)
    assert people.verified_identities(("*",), ARN, job | {"BUDDY_OPS_REVIEWERS": "ada"}) == ("ada (GitHub)",)
    job = {"GITHUB_ACTOR": "ada-l", "BUDDY_OPS_REVIEWERS": "adal, ADA-L"}
    assert people.verified_identities(("*",), ARN, job) == ("ada-l (GitHub)", "adal (GitHub)")
