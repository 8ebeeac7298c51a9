"""The shell of the kernel that this process is, if it is one."""

import sys
from typing import Any


def current_shell() -> Any:
    """IPython's shell in this process; None outside of it. It has no types."""
    # Not imported: a command in a terminal starts without it.
    ipython = sys.modules.get("IPython")
    if ipython is None:
        return None
    return ipython.get_ipython()
