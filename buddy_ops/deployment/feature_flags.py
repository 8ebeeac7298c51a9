"""Feature flags: environment variables of the function, so that turning one is a new version like any other.

Knows which variables are flags (``flags`` in parameters/) and shows no other variable: the rest may be secrets. Never
shifts traffic: what it plans goes through the environment's strategy.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from buddy_ops.aws import aliases
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import InvalidInput
from buddy_ops.deployment import rollout_plan
from buddy_ops.deployment.rollout_plan import RolloutPlan

ON, OFF = "true", "false"
WORDS = {True: "on", False: "off", None: "not set"}


@dataclass(frozen=True)
class FlagChange:
    """One version that turned flags. ``who`` is what the version says of itself: the run, and who approved it."""

    version: str
    at: str
    turned: Mapping[str, bool | None]
    who: str

    def __str__(self) -> str:
        turned = ", ".join(f"{name} {WORDS[value]}" for name, value in self.turned.items())
        return f"v{self.version}, {self.at[:16]}: {turned} ({self.who or 'nobody is named'})"


def plan_flags(
    target: Target,
    turn: Mapping[str, bool],
    strategy: str = "",
    artifact: str = "",
    break_glass: Mapping[str, str] | None = None,
) -> RolloutPlan:
    """What turning flags would do: the code that serves, published anew, shipped by the environment's strategy.

    Args:
        turn: the flags, True for on.
        strategy: one that the environment allows; empty: its first.
        artifact: the zip of the version that serves, where $LATEST holds other code.
        break_glass: as ``envelope.plan`` takes it.

    AWS: as ``envelope.plan``, reads only.

    Raises:
        InvalidInput: ``unknown-flag``; and what ``envelope.plan`` raises.
    """
    known = target.settings.flags
    strange = {name: difflib.get_close_matches(name, known, n=1) for name in turn if name not in known}
    if strange or not turn:
        meant = [f"{name} (did you mean {close[0]}?)" if close else name for name, close in strange.items()]
        raise InvalidInput(
            "unknown-flag",
            f"No flag of {target.environment}: {', '.join(meant)}." if meant else "No flag is named.",
            now="Nothing was changed.",
            next=f"Give turn with one of {', '.join(known) or 'none'}; a new flag is added to `flags` in parameters/.",
        )
    values = {name: ON if turn[name] else OFF for name in sorted(turn)}
    strategy = strategy or target.settings.rollout.strategies[0]
    return rollout_plan.plan_rollout(target, artifact, strategy, values, break_glass)


def describe_flags(target: Target) -> str:
    """How the flags of every version that serves stand, and which version turned which, in lines.

    AWS: lambda:GetAlias, GetFunctionConfiguration, ListVersionsByFunction, every page, reads only.
    """
    alias = aliases.read_alias(target)
    told = [] if alias else ["Nothing serves yet."]
    for version in (alias.primary, alias.additional) if alias else ():
        if version is not None:
            flags = _flags(target, aliases.get_configuration(target, version))
            told.append(f"v{version} serves: {', '.join(f'{name} {WORDS[value]}' for name, value in flags.items())}.")
    return "\n".join((*told, *map(str, flag_history(target))))


def flag_history(target: Target) -> tuple[FlagChange, ...]:
    """The versions that turned a flag, newest first. AWS: lambda:ListVersionsByFunction, every page, reads only."""
    turns = []
    for before, after in pairwise(aliases.list_versions(target)):
        old, new = _flags(target, before), _flags(target, after)
        turned = {name: new[name] for name in new if new[name] != old[name]}
        if turned:
            turns.append(FlagChange(after["Version"], after["LastModified"], turned, after.get("Description", "")))
    return tuple(reversed(turns))


def _flags(target: Target, configuration: Mapping[str, Any]) -> dict[str, bool | None]:
    held = aliases.environment_variables(configuration)
    # The skill's own reading of them: any of these words is on.
    return {name: held[name].lower() in ("1", "true", "on") if name in held else None for name in target.settings.flags}
