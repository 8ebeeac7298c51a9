"""JupyterLab with a token, whatever the user's own Jupyter configuration says: ``python -m buddy_ops.cli._lab``.

An empty token in that configuration, or in JUPYTER_TOKEN, would let any local program and any web page run code. The
token is added here and not to the command: every user of the machine can read a command line.
"""

import os
import runpy
import secrets
import sys


def main() -> None:
    """Start JupyterLab with the options of the command line, and a token."""
    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(24)
    sys.argv.append(f"--IdentityProvider.token={token}")
    # JupyterLab shows a token only where it made it.
    print("`jupyter server list` shows JupyterLab's address with its token.", file=sys.stderr)
    runpy.run_module("jupyterlab", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
