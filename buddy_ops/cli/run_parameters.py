"""The parameters of a runbook, from the options of ``buddy-ops run``."""

from collections.abc import Mapping, Sequence

from buddy_ops.core import parameters, settings
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.parameters import DeclaredParameter
from buddy_ops.core.text import shorten


def parse_mapping(text: str, declared: Mapping[str, DeclaredParameter] | None = None) -> dict[str, object]:
    """A YAML mapping of parameters, without the environment: that is an option, where reviewers see it.

    Args:
        declared: the runbook's parameters: those that are texts are taken as they are written.

    Raises:
        InvalidInput: ``invalid-parameters``.
    """
    try:
        given = parameters.parse_values(text, declared or {})
    except ValueError as error:
        problem = f"is not a YAML mapping that can be used: {error}"
    else:
        hidden = sorted({"environment", "settings"} & set(given))
        if not hidden:
            return given
        problem = f"must not contain {' and '.join(hidden)}"
    raise InvalidInput(
        "invalid-parameters",
        f"--parameters {problem}.",
        next="For example: --parameters '{approved_by: [Ada, Grace], dry_run: true}', with -e for the environment.",
    )


def parse_parameters(
    pairs: Sequence[str], declared: Mapping[str, DeclaredParameter] | None = None
) -> dict[str, object]:
    """NAME=VALUE pairs; a text's value as typed, other values as YAML. Raises InvalidInput ``invalid-parameters``."""
    given: dict[str, object] = {}
    for pair in pairs:
        try:
            name, value = parameters.parse_pair(pair, declared)
            if name in given:
                raise ValueError(f"{name} is given twice")
        except ValueError as error:
            # The value of a parameter that may hold a secret is not repeated.
            shown = pair.partition("=")[0]
            if shown not in settings.SECRETIVE:
                shown = shorten(pair, parameters.SHOWN)
            raise InvalidInput(
                "invalid-parameters",
                f"-p {shown} is not NAME=VALUE with a YAML value ({error}).",
                next="For example: -p artifact=build/skill.zip -p 'approved_by=[Ada, Grace]'.",
            ) from None
        given[name] = value
    return given
