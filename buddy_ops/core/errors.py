"""What an operator is told when something ends otherwise than asked.

Knows the parts of an error and the exit code of each kind. Never knows AWS.

    BuddyError                  1  something failed; 'now' says how far it got
    ├── AwsFailed               1  an AWS call failed; ``code`` is AWS's own name for it
    ├── InvalidInput            2  a parameter, a file or a word on the command line is wrong; nothing was written
    ├── RolledBack              3  the runbook worked, and the deployment was taken back
    ├── Refused                 4  approval, freeze, window or precondition; nothing was written
    └── Held                    5  not enough evidence in the time allowed; traffic is back on stable
"""

from typing import ClassVar


class BuddyError(Exception):
    """An error in three parts, with a reference that is also an anchor in docs/reference/errors.md.

    Args:
        reference: kebab-case name, for example ``alias-moved``.
        what: what happened, in full sentences that name function, alias, versions and numbers.
        now: the state of AWS as far as it is known, and whether anything was changed.
        next: the command or the notebook to use now.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, reference: str, what: str, *, now: str, next: str) -> None:
        super().__init__(what)
        self.reference = reference
        self.what = what
        self.now = now
        self.next = next

    def __str__(self) -> str:
        return f"{self.reference}\n\n{self.what}\n\nNow:  {self.now}\nNext: {self.next}"

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a stack: the reader is an operator, and the stack is ours, not theirs."""
        return [f"{type(self).__name__}: {self}"]


class AwsFailed(BuddyError):
    """An AWS call failed. ``code`` is AWS's error code, or the transport's ('timeout', 'no-credentials', ...)."""

    def __init__(self, reference: str, what: str, *, now: str, next: str, code: str) -> None:
        super().__init__(reference, what, now=now, next=next)
        self.code = code


class InvalidInput(BuddyError):
    """Wrong usage or invalid parameters: found before anything was written."""

    exit_code = 2


class RolledBack(BuddyError):
    """The runbook did its work, and the deployment did not stay."""

    exit_code = 3


class Refused(BuddyError):
    """A rule, a person or the state of the world says no."""

    exit_code = 4


class Held(BuddyError):
    """The evidence did not suffice in the time allowed."""

    exit_code = 5


def exit_code_of(name: str, kind: type[BuddyError] = BuddyError) -> int:
    """Exit code by a class's name, for all that is left of an error in an executed notebook; 1 for a name not ours."""
    if kind.__name__ == name:
        return kind.exit_code
    codes = (exit_code_of(name, narrower) for narrower in kind.__subclasses__())
    return next((code for code in codes if code != BuddyError.exit_code), BuddyError.exit_code)
