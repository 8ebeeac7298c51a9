"""Errors that end a command or a cell, as operators read them and as programs do.

    BuddyError                  1  FAILED: something failed; 'now' says how far it got
    ├── AwsFailed               1  FAILED: an AWS call failed; ``code`` is AWS's own name for it
    │   ├── NotFound            1  what the call names does not exist
    │   ├── AlreadyExists       1  what the call creates exists already
    │   ├── Conflict            1  a precondition of the call does not hold any more
    │   ├── Busy                1  AWS is still creating or updating what the call changes
    │   ├── AccessDenied        1  the caller lacks a permission
    │   ├── Throttled           1  AWS asks to slow down
    │   └── Unreachable         1  no answer: AWS may have carried the call out
    │       └── TimedOut        1  the call was sent, and no answer came in time
    ├── InvalidInput            2  INVALID INPUT: a parameter, a file or an argument is wrong; nothing was written
    ├── RolledBack              3  ROLLED BACK: the runbook worked, and the new version was rolled back
    │   └── Aborted             3  ABORTED: the same, requested by an operator
    ├── Refused                 4  REFUSED: approval, freeze, window or precondition; nothing was written
    │   └── Unobservable        5  INCONCLUSIVE: what is to be observed cannot be; nothing was written
    ├── Held                    5  INCONCLUSIVE: too little evidence in time, or both fail; stable serves 100 %
    └── ActionNeeded            6  ACTION NEEDED: what was read needs a person now; nothing was written

An error leaves its data in an executed notebook beside its text, so a program that executes notebooks reads the
exit code there and needs none of our classes.
"""

import sys
from collections.abc import Mapping
from typing import ClassVar

from buddy_ops.core.text import show_controls

UNCHANGED = "Nothing was changed."
MIME_TYPE = "application/vnd.buddy-ops.error+json"
"""The type of the output that carries an error's data in a notebook."""


class BuddyError(Exception):
    """An error in three parts, with a reference that is also an anchor in docs/reference/errors.md.

    Args:
        reference: kebab-case name, for example ``alias-moved``.
        what: what happened, in full sentences that name function, alias, versions and numbers.
        now: the state of AWS as far as it is known, and whether anything was changed.
        next: the command or the notebook to use now.
        facts: the same for programs, as JSON values.
    """

    exit_code: ClassVar[int] = 1
    result: ClassVar[str] = "FAILED"

    def __init__(
        self, reference: str, what: str, *, now: str = UNCHANGED, next: str, facts: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(what)
        self.reference = reference
        self.what = what
        self.now = now
        self.next = next
        self.facts = dict(facts or {})
        self._published = False

    def __str__(self) -> str:
        return f"{self.result} ({self.reference})\n\n{self.what}\n\nState: {self.now}\nNext:  {self.next}"

    def data(self) -> dict[str, object]:
        """All of it as JSON values."""
        return {
            "reference": self.reference,
            "exit_code": self.exit_code,
            "result": self.result,
            "what": self.what,
            "now": self.now,
            "next": self.next,
            "facts": self.facts,
        }

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a stack: the reader is an operator. The data goes beside it, unseen."""
        # The process has IPython if this method is called by it; core itself must not import it.
        ipython = sys.modules.get("IPython")
        shell = ipython and ipython.get_ipython()
        # IPython renders an error twice: for the notebook, and for its own history.
        if shell is not None and not self._published:
            self._published = True
            shell.display_pub.publish({MIME_TYPE: self.data()})
        # A list of lines, which IPython takes for a traceback.
        return [show_controls(str(self))]


class Stopped(KeyboardInterrupt):
    """A person interrupted a cell. The message says in one sentence or two what that means for AWS.

    An interrupt and no failure: code that handles an interrupt handles this.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a stack."""
        return [show_controls(str(self))]


class AwsFailed(BuddyError):
    """An AWS call failed. ``code`` is AWS's error code, or the transport's ('timeout', 'no-credentials', ...)."""

    def __init__(
        self,
        reference: str,
        what: str,
        *,
        now: str = UNCHANGED,
        next: str,
        code: str,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(reference, what, now=now, next=next, facts={"code": code, **(facts or {})})
        self.code = code

    @property
    def passing(self) -> bool:
        """Whether the same call may work in some seconds: AWS throttled it, was unavailable, or did not answer."""
        return self.reference in ("aws-unavailable", "aws-unreachable") or isinstance(self, (Throttled, Unreachable))


class NotFound(AwsFailed):
    """What the call names does not exist."""


class AlreadyExists(AwsFailed):
    """What the call creates exists already."""


class Conflict(AwsFailed):
    """A precondition of the call does not hold any more: another user or tool was first."""


class Busy(AwsFailed):
    """AWS is still creating or updating what the call changes, or failed at it. Nothing was changed."""


class AccessDenied(AwsFailed):
    """The caller lacks a permission."""


class Throttled(AwsFailed):
    """AWS asks to slow down. Nothing was changed."""


class Unreachable(AwsFailed):
    """No answer came in time. AWS may or may not have carried the call out, unless it was never sent."""


class TimedOut(Unreachable):
    """The call was sent, and its answer did not come in time."""


class InvalidInput(BuddyError):
    """Wrong usage or invalid parameters: found before anything was written."""

    exit_code = 2
    result = "INVALID INPUT"


class RolledBack(BuddyError):
    """The runbook worked, and the new version was rolled back."""

    exit_code = 3
    result = "ROLLED BACK"


class Aborted(RolledBack):
    """An operator aborted the rollout, and the new version was rolled back."""

    result = "ABORTED"


class Refused(BuddyError):
    """A rule, a person or the state of AWS forbids it. Nothing was written."""

    exit_code = 4
    result = "REFUSED"


class Unobservable(Refused):
    """What is to be observed cannot be. Nothing was written."""

    exit_code = 5
    result = "INCONCLUSIVE"


class Held(BuddyError):
    """The stable version serves all traffic, and the new one is not marked bad: too little evidence, or both fail."""

    exit_code = 5
    result = "INCONCLUSIVE"


class ActionNeeded(BuddyError):
    """What was read needs a person now. Nothing was written."""

    exit_code = 6
    result = "ACTION NEEDED"
