"""Feature flags: environment variables of the function, so that turning one is a deployment like any other.

Only variables under ``flags`` in parameters/ are shown: the others may be secrets. A plan of flags is a rollout's, by
the environment's strategy.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from buddy_ops.aws import aliases, versions
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import Version
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.text import date_and_time
from buddy_ops.deployment import rollout_plan
from buddy_ops.deployment.rollout_plan import RolloutPlan

ON = "true"
OFF = "false"
WORDS = {True: "on", False: "off", None: "not set"}


@dataclass(frozen=True)
class FlagChange:
    """One version that turned flags.

    Attributes:
        at: when it was published, in UTC.
        turned: the flags, True for on, None for not set.
        who: the version's Description: the run, and who approved it.
    """

    version: str
    at: datetime
    turned: Mapping[str, bool | None]
    who: str

    def __str__(self) -> str:
        return (
            f"v{self.version}, {date_and_time(self.at)}: {_words(self.turned)} ({self.who or 'no approver recorded'})"
        )


def plan_flags(
    target: Target,
    turn: Mapping[str, bool],
    strategy: str = "",
    artifact: str = "",
    break_glass: Mapping[str, str] | None = None,
) -> RolloutPlan:
    """What turning flags would do: the serving code is published again, and deployed by the environment's strategy.

    Args:
        turn: the flags, True for on.
        strategy: one that the environment allows; empty: its first.
        artifact: the zip of the version that serves, where $LATEST holds other code.
        break_glass: as ``plan_rollout`` takes it.

    AWS: as ``plan_rollout``, reads only.

    Raises:
        InvalidInput: ``unknown-flag``; and what ``plan_rollout`` raises.
    """
    known = target.settings.flags
    unknown = [_with_suggestion(name, known) for name in turn if name not in known]
    if unknown or not turn:
        problem = "No flag is named."
        if unknown:
            problem = f"No flag of {target.environment}: {', '.join(unknown)}."
        raise InvalidInput(
            "unknown-flag",
            problem,
            next=f"Give turn with one of {', '.join(known) or 'none'}; a new flag is added to `flags` in parameters/.",
        )
    # Sorted: the same flags give the same plan and the same Description.
    values = {name: ON if turn[name] else OFF for name in sorted(turn)}
    # Without one named, the environment's first strategy applies to flags as to builds.
    strategy = strategy or target.settings.rollout.strategies[0]
    return rollout_plan.plan_rollout(target, artifact, strategy, variables=values, break_glass=break_glass)


def describe_flags(target: Target) -> str:
    """The flags of every version that serves, and which version turned which, in lines.

    AWS: lambda:GetAlias, GetFunctionConfiguration, ListVersionsByFunction, every page, reads only.
    """
    alias = aliases.read_alias(target)
    lines = []
    if alias is None:
        lines.append(f"There is no alias {target.resource}: no version serves.")
    else:
        for version in alias.serving:
            serving = versions.read_version(target, version)
            words = f"its flags are unknown: Lambda does not show its variables ({serving.hidden_because})"
            if serving.shown_variables is not None:
                words = _words(_flags(target, serving))
            lines.append(f"v{version} serves: {words}.")
    return "\n".join((*lines, *map(str, flag_history(target))))


def flag_history(target: Target) -> tuple[FlagChange, ...]:
    """The versions that turned a flag, newest first. Those whose variables Lambda does not show are left out.

    AWS: lambda:ListVersionsByFunction, every page, reads only.
    """
    turns = []
    shown = [version for version in versions.list_versions(target) if version.shown_variables is not None]
    # Lambda's versions never change, so that two neighbours' variables are the whole history of the flags.
    for before, after in pairwise(shown):
        old, new = _flags(target, before), _flags(target, after)
        turned = {name: new[name] for name in new if new[name] != old[name]}
        if turned:
            turns.append(FlagChange(after.number, after.modified_at, turned, after.description))
    return tuple(reversed(turns))


def _words(flags: Mapping[str, bool | None]) -> str:
    return ", ".join(f"{name} {WORDS[value]}" for name, value in flags.items())


def _with_suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"{name} (did you mean {close[0]}?)"
    return name


def _flags(target: Target, version: Version) -> dict[str, bool | None]:
    held = version.variables
    # The skill's own reading of them: any of these words is on.
    return {name: held[name].lower() in ("1", "true", "on") if name in held else None for name in target.settings.flags}
