"""Names of people: which can be read, and which are one person's. Pure."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.text import shorten

UNREADABLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's categories of what does not show: control, format, surrogate, private, unassigned, line and paragraph
separators."""

BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0").union(
    map(chr, range(0x180B, 0x1810)), map(chr, range(0xFE00, 0xFE10)), map(chr, range(0xE0100, 0xE01F0))
)
"""Characters of other categories that do not show either. Source: Unicode, Default_Ignorable_Code_Point; U+2800."""


ACTORS = ("GITHUB_ACTOR", "GITHUB_TRIGGERING_ACTOR")
"""Variables of a job in GitHub with the person who started it, and who started it again."""

REVIEWERS = "BUDDY_OPS_REVIEWERS"
"""The variable in which the workflow says which reviewers approved the job in GitHub, with commas."""


def is_invisible(character: str) -> bool:
    """Whether a character of a name does not show. White space shows as a gap."""
    return character in BLANK or unicodedata.category(character) in UNREADABLE


def visible_text(text: str) -> str:
    """A text on one line, without what does not show."""
    spaced = (" " if part.isspace() else part for part in text)
    return "".join(part for part in spaced if not is_invisible(part))


def clean_name(name: str) -> str:
    """A name as it is shown: without what does not show, and with single spaces."""
    return " ".join(visible_text(str(name)).split())


def identify(name: str) -> str:
    """What two spellings of one name have in common: compatible letters, capitals, gaps and what does not show."""
    folded = unicodedata.normalize("NFKC", clean_name(name)).casefold()
    # Folding may leave letters that are composed in another way.
    return clean_name(unicodedata.normalize("NFKC", folded))


def distinct_names(names: Iterable[str]) -> tuple[str, ...]:
    """The different people among these names, each by its first spelling."""
    people: dict[str, str] = {}
    for name in names:
        if shown := clean_name(name):
            people.setdefault(identify(name), shown)
    return tuple(people.values())


def verified_identities(ci_principals: Sequence[str], principal: str, variables: Mapping[str, str]) -> tuple[str, ...]:
    """The people whose part in this run is verified: the caller, or in CI those whom GitHub names.

    Args:
        ci_principals: callers that are CI, with *. Any process can set variables: only CI's own are believed.
        principal: the caller as AWS names it.
        variables: the environment variables of this process; ``REVIEWERS`` names those who let the job run.
    """
    if not any(fnmatchcase(principal, pattern) for pattern in ci_principals):
        return (principal,)
    reviewers = variables.get(REVIEWERS, "").split(",")
    names = distinct_names((*(variables.get(name, "") for name in ACTORS), *reviewers))
    return tuple(f"{name} (GitHub)" for name in names) or (principal,)


def describe_unreadable(name: str) -> str:
    """What in a name does not show, a sentence; empty if it can be read."""
    found = sorted({f"U+{ord(part):04X}" for part in str(name).strip() if is_invisible(part)})
    if not found:
        return ""
    return f'The name "{shorten(clean_name(name), 60)}" has characters that do not show: {", ".join(found[:5])}.'


def require_readable(names: Sequence[str], where: str) -> None:
    """Refuse names that read as another one.

    Args:
        where: the parameter that gives them.

    Raises:
        InvalidInput: ``invalid-name``.
    """
    problems = [problem for name in names if (problem := describe_unreadable(name))]
    if problems:
        raise InvalidInput(
            "invalid-name",
            " ".join(problems),
            next=f"Type the name in {where} again, without copying it.",
        )
