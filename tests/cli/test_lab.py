"""JupyterLab's process, apart from JupyterLab: how it ends."""

import subprocess
import sys
import textwrap
from pathlib import Path


def test_the_server_ends_although_a_thread_of_it_waits_for_ever(tmp_path: Path) -> None:
    """AnyIO's worker threads may outlive the server that began them; its exit code is kept."""
    package = tmp_path / "jupyterlab"
    package.mkdir()
    server = """
        import sys, threading
        threading.Thread(target=threading.Event().wait).start()
        print("the server has ended", flush=True)
        sys.exit(3)
    """
    (package / "__main__.py").write_text(textwrap.dedent(server))
    (package / "__init__.py").write_text("")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        "from buddy_ops.cli import _lab; _lab.LIMIT_S = 0.1; _lab.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 3 and "the server has ended" in ended.stdout


def test_a_server_without_such_a_thread_ends_as_python_ends(tmp_path: Path) -> None:
    """What is registered for the process's end is run."""
    package = tmp_path / "jupyterlab"
    package.mkdir()
    server = "import atexit, sys\natexit.register(print, 'at the end')\nsys.exit(0)\n"
    (package / "__main__.py").write_text(server)
    (package / "__init__.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from buddy_ops.cli import _lab; _lab.main()"
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and "at the end" in ended.stdout
