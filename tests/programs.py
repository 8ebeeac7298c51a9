"""Our programs as forks of the test's process, in which everything is already imported.

A runbook run starts three processes: ``buddy-ops``, its engine and a kernel. Their imports take four times the CPU time
of an average run. A fork of the test's process has them, and is otherwise a process of its own: process id, parent,
session, signals, files, environment and exit code are as after an exec. Tests in which a
supervisor is killed and one of each program start a fresh interpreter (fixture ``fresh_processes``); BUDDY_TESTS_FRESH=1, as in ``make test-all``, lets all.
"""

import asyncio
import atexit
import gc
import importlib
import inspect
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

import botocore.session
import jupyter_core.utils

# As the engine does: a grammar of IRIs would be compiled in each worker, for seconds.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
import nbformat  # noqa: E402

MODULES = ("buddy_ops.cli.main", "buddy_ops.runs.engine", "buddy_ops.runs._kernel", "ipykernel_launcher")
SCRIPTS = ("buddy-ops", "papermill")
BIN = Path(sys.executable).parent
STANDARD_IGNORED = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""Warnings that a fresh interpreter does not show."""

PRELOADED = (
    "IPython.core.completer", "IPython.core.completerlib", "IPython.core.debugger", "IPython.core.oinspect",
    "IPython.extensions.storemagic", "buddy_ops.cli.main", "buddy_ops.notebook.charts", "buddy_ops.notebook.forms",
    "buddy_ops.notebook.live", "buddy_ops.notebook.opening", "buddy_ops.runs.execution", "buddy_ops.runs.supervisor",
    "ipykernel.debugger", "ipykernel.ipkernel", "ipykernel.kernelapp", "ipywidgets", "papermill.cli", "psutil",
    "matplotlib.backends.backend_agg", "matplotlib.figure",
    "tornado.platform.asyncio", "xmlrpc.server", "zmq.utils.garbage",
)  # fmt: skip

SERVICES = ("lambda", "cloudwatch", "dynamodb", "logs", "s3", "scheduler", "sns", "ssm", "sts")
"""The services that most runbooks call."""

_execute_child = subprocess.Popen._execute_child  # type: ignore[attr-defined]


def install() -> None:
    """Let ``subprocess`` fork our programs from now on. The child's own children are forked as well."""
    if sys.platform == "linux" and not os.environ.get("BUDDY_TESTS_FRESH"):
        subprocess.Popen._execute_child = _fork_child  # type: ignore[attr-defined]


def uninstall() -> None:
    """Let ``subprocess`` start every program by exec again."""
    subprocess.Popen._execute_child = _execute_child  # type: ignore[attr-defined]


def find_program(command: Sequence[str | os.PathLike[str]]) -> Callable[[], object] | None:
    """What runs a command line in this interpreter, or None for a program that is not ours."""
    first, *rest = map(os.fspath, command)
    if Path(first).parent == BIN and Path(first).name in SCRIPTS:
        return partial(_run_script, [first, *rest])
    if first == sys.executable:
        rest = rest[1:] if rest[:1] == ["-P"] else rest
        if len(rest) > 1 and rest[0] == "-m" and rest[1] in MODULES:
            return partial(_run_module, rest[1:])
    return None


def _run_script(arguments: list[str]) -> None:
    sys.argv = arguments
    _name_process(Path(arguments[0]).name)
    runpy.run_path(arguments[0], run_name="__main__")


def _run_module(arguments: list[str]) -> None:
    sys.argv = arguments
    _name_process(arguments[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy: the module is imported already
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _name_process(name: str) -> None:
    """Say which program this is: the command line is the parent's."""
    Path("/proc/self/comm").write_text(_last_part(name), encoding="utf-8")


def is_program(pid: int, name: str) -> bool:
    """Whether a process is this program of ours, started afresh or forked."""
    process = Path(f"/proc/{pid}")
    return name in (process / "cmdline").read_text() or _last_part(name) == (process / "comm").read_text().strip()


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and that its parent has not asked for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _last_part(name: str) -> str:
    """The end of a module's name, in the 15 characters that Linux keeps."""
    return name.rpartition(".")[2][:15]


@cache
def _preload() -> None:
    """Import what the programs import, now or later in their run."""
    for name in PRELOADED:
        importlib.import_module(name)
    nbformat.validate(nbformat.v4.new_notebook())  # compiles the schema
    # The models of AWS's services, which all sessions of a test's process share: see conftest.
    session = botocore.session.get_session()
    session.set_credentials("test", "test")
    for service in SERVICES:
        session.create_client(service, region_name="us-east-1", endpoint_url="http://127.0.0.1:1")
    importlib.import_module("buddy_ops.runs.pages").preload()


def _fork_child(popen: Any, *arguments: Any) -> None:
    """``Popen._execute_child``: fork where the program is ours, else as ever."""
    given = inspect.signature(_execute_child).bind(popen, *arguments).arguments
    command = given["args"]
    program = None if isinstance(command, str) or given["shell"] else find_program(command)
    # Where Dask was used its threads run and hold locks, of which a fork has copies that are never released.
    if program is None or "distributed" in sys.modules:
        _execute_child(popen, *arguments)
        return
    _preload()
    started, starting = os.pipe()
    popen.pid = os.fork()
    if popen.pid == 0:
        _become(program, given)
    popen._child_created = True
    # As after an exec: the child leads its session already, and has its own files.
    os.close(starting)
    os.read(started, 1)
    os.close(started)
    popen._close_pipe_fds(*(given[name] for name in ENDS))


ENDS = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def _become(program: Callable[[], object], given: Mapping[str, Any]) -> NoReturn:
    """Run a program in a process that was just forked, as if it had been started afresh."""
    code = 1
    try:
        gc.freeze()
        if given["start_new_session"]:
            os.setsid()
        for number, end in enumerate((given["p2cread"], given["c2pwrite"], given["errwrite"])):
            if end != -1:
                os.dup2(end, number)
        _close_inherited(given["pass_fds"])
        if given["env"] is not None:
            os.environ.clear()
            os.environ.update(given["env"])
        if given["cwd"] is not None:
            os.chdir(given["cwd"])
        _forget_the_parent()
        code = _exit_code(program)
    finally:
        os._exit(code)


def _close_inherited(passed: Sequence[int]) -> None:
    """Close the parent's files. Their numbers stay taken: an object of the parent that closes its own, as a socket in a pool
    of connections does when it is deleted, would otherwise close a file that this process opened since.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for path in list(Path("/proc/self/fd").iterdir()):
        if int(path.name) > 2 and int(path.name) not in (nothing, *passed):
            with suppress(OSError):
                os.dup2(nothing, int(path.name), inheritable=False)
    os.close(nothing)


def _forget_the_parent() -> None:
    """Reset what a fresh interpreter has none of: handlers of signals, exit and logs, the event loop, pytest's hooks."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.set_wakeup_fd(-1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    logging.root.handlers.clear()
    asyncio.set_event_loop_policy(None)
    # A test that executed a notebook in its own process left a loop here, whose files are closed.
    jupyter_core.utils._loop.set(None)
    jupyter_core.utils._runner_map.clear()
    sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__
    sys.unraisablehook = sys.__unraisablehook__
    warnings.showwarning = warnings._showwarning_orig  # type: ignore[attr-defined]
    warnings.resetwarnings()
    for category in STANDARD_IGNORED:
        warnings.simplefilter("ignore", category)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115


def _exit_code(program: Callable[[], object]) -> int:
    """Run a program to its end, as the interpreter does; its exit code."""
    code = 0
    try:
        program()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException as error:
        code = 1
        sys.excepthook(type(error), error, error.__traceback__)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return code
