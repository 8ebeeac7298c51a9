"""Names of people: which can be read, and which are one person's. Pure."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.text import join_words, shorten

UNREADABLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's categories of what does not show: control, format, surrogate, private, unassigned, line and paragraph
separators."""

BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0").union(
    map(chr, range(0x180B, 0x1810)), map(chr, range(0xFE00, 0xFE10)), map(chr, range(0xE0100, 0xE01F0))
)
"""Characters of other categories that do not show either. Source: Unicode, Default_Ignorable_Code_Point; U+2800."""


SEPARATORS = re.compile(r"[\s,;/_.\u00b7\u30fb-]+")
"""What is between the words of a name. Marks that are no letters, as in O'Brien, separate nothing."""

MARKED_SCRIPTS = ("LATIN", "GREEK", "CYRILLIC")
"""Scripts whose accents make another spelling, not another person. In others the marks are vowels."""

LOOKALIKE_SCRIPTS = (*MARKED_SCRIPTS, "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "DESERET", "GOTHIC", "OSAGE")
"""Alphabets with letters of the same form as those of another one: no word of a name has letters of two of them."""

LOOKALIKES = str.maketrans(
    # Cyrillic, Greek, and Latin letters that are none of a to z.
    "аеорсухіјѕԁԛԝһкмтнвгӏ" + "αβεζηικμνορτυχω" + "ıɑɡłøđħŧ" + "01",
    "aeopcyxijsdqwhkmthbrl" + "abezhikmnoptuxw" + "iaglodht" + "ol",
)
"""Small letters and digits of the same form as one of a to z, or whose capital is. Source: Unicode, UTS 39."""

SMALL_CAPITAL = re.compile(r"LATIN LETTER SMALL CAPITAL ([A-Z])")

BOT = "[bot]"
"""What the names of GitHub's apps end with: none is a person."""

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
    """What the spellings of one name have in common; empty for what has no letter and no digit.

    Compatible letters, capitals, gaps, accents, signs, the order of its words and what does not show make no other
    person; nor do letters of another alphabet that have the same form.
    """
    folded = unicodedata.normalize("NFKC", clean_name(name)).casefold()
    # Folding may leave letters that are composed in another way.
    decomposed = unicodedata.normalize("NFKD", folded)
    words = SEPARATORS.split("".join(_significant(decomposed)).translate(LOOKALIKES))
    # Sorted: "Lovelace, Ada" is Ada Lovelace.
    return "".join(sorted(words))


def _significant(decomposed: str) -> Iterator[str]:
    """The letters, digits and separators of a name, without accents and signs."""
    script = ""
    for part in decomposed:
        kind = unicodedata.category(part)
        if kind.startswith("M") and script in MARKED_SCRIPTS:
            continue
        # Modifier letters separate nothing: Unicode's ʼ is a letter, and for its reader the apostrophe of O'Brien.
        if kind.startswith(("L", "N", "M")) and not "\u02b0" <= part <= "\u02ff":
            script = _script(part)
            # Unicode folds no small capital to its letter, and ᴀda reads as ada.
            capital = SMALL_CAPITAL.fullmatch(unicodedata.name(part, ""))
            if capital is None:
                yield part
            else:
                yield capital[1].lower()
        elif SEPARATORS.fullmatch(part) or kind in ("Pd", "Zs"):
            yield " "


def _script(letter: str) -> str:
    """The script of a letter, by the first word of its name: 'LATIN'."""
    return unicodedata.name(letter, "").partition(" ")[0]


def distinct_names(names: Iterable[str]) -> tuple[str, ...]:
    """The different people among these names, each by its first spelling. What has no letter names no one."""
    people: dict[str, str] = {}
    for name in names:
        if identity := identify(name):
            people.setdefault(identity, clean_name(name))
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
    # GitHub's own names are exact, but for capitals: ada-l and adal are two people.
    logins: dict[str, str] = {}
    for login in (*(variables.get(name, "") for name in ACTORS), *reviewers):
        shown = clean_name(login)
        if identify(shown) and not shown.endswith(BOT):
            logins.setdefault(shown.casefold(), shown)
    return tuple(f"{login} (GitHub)" for login in logins.values()) or (principal,)


def describe_unreadable(name: str) -> str:
    """What in a name does not show, a sentence; empty if it can be read."""
    found = sorted({f"U+{ord(part):04X}" for part in str(name).strip() if is_invisible(part)})
    if not found:
        return ""
    return f'The name "{shorten(clean_name(name), 60)}" has characters that do not show: {", ".join(found[:5])}.'


def describe_problem(name: str) -> str:
    """Why a name cannot be that of a person, a sentence; empty if it can, or if there is none."""
    if problem := describe_unreadable(name):
        return problem
    shown = clean_name(name)
    if shown and not identify(shown):
        return f'The name "{shorten(shown, 60)}" has no letter and no digit.'
    for word in unicodedata.normalize("NFKC", shown).split():
        scripts = sorted({_script(letter) for letter in word if letter.isalpha()} & set(LOOKALIKE_SCRIPTS))
        if len(scripts) > 1:
            mixed = join_words(script.capitalize() for script in scripts)
            return f'The name "{shorten(shown, 60)}" mixes {mixed} letters of the same form.'
    return ""


def require_readable(names: Sequence[str], where: str) -> None:
    """Refuse names that read as another one, or that name no one.

    Args:
        where: the parameter that gives them.

    Raises:
        InvalidInput: ``invalid-name``.
    """
    problems = [problem for name in names if (problem := describe_problem(name))]
    if problems:
        raise InvalidInput(
            "invalid-name",
            " ".join(problems),
            next=f"Type the name in {where} again, without copying it.",
        )
