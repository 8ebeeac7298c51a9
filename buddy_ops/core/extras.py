"""The packages of the extras, and the errors where one is missing.

The terminal's own commands need none of them, so a plain installation has none.
"""

import importlib.util
from types import ModuleType

from buddy_ops.core.errors import InvalidInput

RUN_PACKAGES = (
    "papermill", "ipykernel", "IPython", "jupyter_client", "nbclient", "nbformat", "matplotlib",
    "bleach", "jinja2", "mistune", "pygments",
)  # fmt: skip
"""Import names of the packages that execute and archive a notebook."""


def require_run_packages() -> None:
    """Check that a notebook can be executed and archived here.

    Raises:
        InvalidInput: ``extra-missing``.
    """
    for package in RUN_PACKAGES:
        # Found, not imported: the imports take seconds, and the run's processes make them.
        if importlib.util.find_spec(package) is None:
            raise run_extra_missing(package)


def run_extra_missing(package: str) -> InvalidInput:
    """The error that names the missing package and how to install it."""
    return _extra_missing("This command", "run", package, ". Then run the same command again")


def verify_extra_missing() -> InvalidInput:
    """The error of a check with public keys where the package for it is not installed."""
    return _extra_missing("--public-key", "verify", "cryptography", ", or leave the option out: then AWS KMS verifies")


def require_apprise() -> ModuleType:
    """The library of ``notify.channels``.

    Raises:
        InvalidInput: ``extra-missing``.
    """
    try:
        import apprise
    except ImportError:
        raise _extra_missing("settings.notify.channels", "notify", "apprise") from None
    return apprise


def require_distributed() -> None:
    """Check that steps on several targets can run here.

    Raises:
        InvalidInput: ``extra-missing``.
    """
    if importlib.util.find_spec("distributed") is None:
        raise _extra_missing("A fleet's runbook", "fleet", "distributed", ". Then run the same command again")


def _extra_missing(what: str, extra: str, package: str, further: str = "") -> InvalidInput:
    """The error of what needs an extra; ``further`` goes on after the command that installs it."""
    return InvalidInput(
        "extra-missing",
        f"{what} needs the extra {extra!r} of buddy-ops: the package {package} is not installed.",
        next=f"Install it with `pip install 'buddy-ops[{extra}]'`{further}.",
    )
