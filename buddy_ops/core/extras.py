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
    return InvalidInput(
        "extra-missing",
        f"This command needs the extra 'run' of buddy-ops: the package {package} is not installed.",
        next="Install it with `pip install 'buddy-ops[run]'`. Then run the same command again.",
    )


def verify_extra_missing() -> InvalidInput:
    """The error of a check with public keys where the package for it is not installed."""
    return InvalidInput(
        "extra-missing",
        "--public-key needs the extra 'verify' of buddy-ops: the package cryptography is not installed.",
        next="Install it with `pip install 'buddy-ops[verify]'`, or leave the option out: then AWS KMS verifies.",
    )


def require_apprise() -> ModuleType:
    """The library of ``notify.channels``.

    Raises:
        InvalidInput: ``extra-missing``.
    """
    try:
        import apprise
    except ImportError:
        raise InvalidInput(
            "extra-missing",
            "settings.notify.channels needs the extra 'notify' of buddy-ops: the package apprise is not installed.",
            next="Install it with `pip install 'buddy-ops[notify]'`.",
        ) from None
    return apprise
