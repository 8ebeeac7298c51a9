"""JupyterLab with a token, whatever the user's own Jupyter configuration says: ``python -m buddy_ops.cli._lab``.

An empty token in that configuration, or in JUPYTER_TOKEN, would let any local program and any web page run code. The
token is added here and not to the command: every user of the machine can read a command line.
"""

import os
import runpy
import secrets
import sys
import threading
import time

LIMIT_S = 5.0
"""How long threads that work may still take once the server has ended."""


def main() -> None:
    """Start JupyterLab with the options of the command line, and a token."""
    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(24)
    sys.argv.append(f"--IdentityProvider.token={token}")
    # JupyterLab shows a token only where it made it.
    print("`jupyter server list` shows JupyterLab's address with its token.", file=sys.stderr)
    try:
        runpy.run_module("jupyterlab", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        _end_in_time(ended)


def _end_in_time(ended: SystemExit) -> None:
    """End the process, although a thread of the server that has ended may wait for work for ever.

    AnyIO stops its threads with the task that began them, which jupyter_server does not always let end. Python waits
    for them, and the server would have to be killed. Source: jupyterlab issue 10442.
    """
    own = threading.current_thread()
    deadline = time.monotonic() + LIMIT_S
    for thread in threading.enumerate():
        if thread is not own and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
    if not any(thread is not own and not thread.daemon for thread in threading.enumerate()):
        raise ended
    # os._exit flushes nothing.
    sys.stdout.flush()
    sys.stderr.flush()
    if isinstance(ended.code, int):
        os._exit(ended.code)
    os._exit(1)


if __name__ == "__main__":
    main()
