"""A cell that writes 5 MB of log records: every line is in the archive, and what it costs beside stock papermill.

Run it with ``python -m benchmarks.logs``. The ratio of CPU seconds counts; both kinds of run alternate, so that the
machine's other load is the same for both.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from buddy_ops.cli import sandbox

RECORDS = 50_000
ROUNDS = 3
AIM = 1.5

CELL = f"""
import logging
logger = logging.getLogger("skill")
logger.addHandler(logging.StreamHandler())
for number in range({RECORDS}):
    logger.warning("record %06d: request d7b9a3c1 took 412 ms, 3 reminders of table buddy-users were read", number)
"""
"""Each record is a line of about 100 bytes on stderr, as a library's own logging writes it."""

PARAMETERS = 'environment: str = "sandbox"\nsettings: dict = {}'
OURS = "import sys; from buddy_ops.runs.supervisor import run_notebook; run_notebook(sys.argv[1], {})"
STOCK = "import sys, papermill; papermill.execute_notebook(sys.argv[1], sys.argv[2], progress_bar=False)"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, sandbox.running_sandbox() as url:
        project = write_project(Path(name))
        environment = {**os.environ, "AWS_ENDPOINT_URL": url}
        ratios = []
        for number in range(ROUNDS):
            stock = cpu_seconds([STOCK, "notebooks/logs.ipynb", f"stock-{number}.ipynb"], project, environment)
            ours = cpu_seconds([OURS, "notebooks/logs.ipynb"], project, environment)
            executed = max(project.glob("runs/*/notebook.ipynb"), key=lambda path: path.stat().st_mtime)
            kept = lines_in(executed)
            theirs = lines_in(project / f"stock-{number}.ipynb")
            ratios.append(ours / stock)
            print(f"buddy-ops {ours:.1f} s, {kept:,} of {RECORDS:,} lines; papermill {stock:.1f} s, {theirs:,} lines")
        print(f"CPU: {statistics.median(ratios):.2f} times stock papermill's (aim: at most {AIM})")


def write_project(folder: Path) -> Path:
    """A project with one notebook, whose one cell logs."""
    (folder / "parameters").mkdir()
    (folder / "notebooks").mkdir()
    shipped = Path(__file__).parents[1] / "parameters" / "sandbox.yaml"
    (folder / "parameters" / "sandbox.yaml").write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    cells = [
        {"cell_type": "code", "id": name, "metadata": {"tags": tags}, "source": source, "outputs": []}
        | {"execution_count": None}
        for name, tags, source in (("parameters", ["parameters"], PARAMETERS), ("logs", [], CELL))
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    document = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / "notebooks" / "logs.ipynb").write_text(json.dumps(document), encoding="utf-8")
    return folder


def cpu_seconds(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """CPU seconds of a Python program and of all processes it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = [sys.executable, "-c", *command]
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"exit code {done.returncode}: {done.stderr[-600:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def lines_in(executed: Path) -> int:
    """How many records an executed notebook has."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    text = "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")
    return sum(line.startswith("record ") for line in text.splitlines())


if __name__ == "__main__":
    main()
