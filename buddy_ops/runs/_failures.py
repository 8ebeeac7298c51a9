"""How a cell failed, read from the outputs that it left in its notebook."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from buddy_ops.core import errors

FALLBACK_CODES = {"InvalidInput": 2, "RolledBack": 3, "Refused": 4, "Held": 5}
"""Exit codes by an error's name: for notebooks that were archived before errors left their data in them."""


@dataclass(frozen=True)
class Failure:
    """The error that ended a notebook. ``reference`` is empty where the error is none of the library's."""

    name: str
    text: str
    exit_code: int = errors.BuddyError.exit_code
    reference: str = ""
    data: Mapping[str, object] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """What an operator reads: our own errors say it all, another's name says what kind it is."""
        if self.reference or self.name in FALLBACK_CODES:
            return self.text
        return f"{self.name}: {self.text}"

    @property
    def is_refusal(self) -> bool:
        """Whether it says that nothing was written."""
        return self.exit_code in (errors.InvalidInput.exit_code, errors.Refused.exit_code)

    @classmethod
    def of_error(cls, error: errors.BuddyError) -> "Failure":
        """The same of an error that is still at hand."""
        return cls(
            type(error).__name__, str(error), exit_code=error.exit_code, reference=error.reference, data=error.data()
        )


def failure_of(outputs: Iterable[Mapping[str, Any]]) -> Failure | None:
    """The first error among a cell's outputs, with the data that it published before itself."""
    data: Mapping[str, Any] = {}
    for output in outputs:
        if output["output_type"] == "error":
            name = output["ename"]
            # The data decides. The name is for archives of earlier
            # releases; any other exception is an unexpected failure.
            code = data.get("exit_code", FALLBACK_CODES.get(name, errors.BuddyError.exit_code))
            reference = str(data.get("reference", ""))
            return Failure(name, output["evalue"], exit_code=int(code), reference=reference, data=data)
        # An error's data is an output of its own, before the error.
        data = output.get("data", {}).get(errors.MIME_TYPE, data)
    return None


def failure_in(notebook: Mapping[str, Any]) -> Failure | None:
    """The first error in an executed notebook."""
    found = (failure_of(cell["outputs"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    return next(filter(None, found), None)
