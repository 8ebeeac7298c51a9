"""What a run's cells put out is in its archive: all of it, however much, and nothing of an earlier execution."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from buddy_ops.runs import supervisor
from tests.conftest import Situation
from tests.system.runbooks.test_deaths import tiny

Bring = Callable[..., Situation]
RECORDS = 15_000
LOGS = f"""import logging
logger = logging.getLogger("skill")
logger.addHandler(logging.StreamHandler())
for number in range({RECORDS}):
    logger.warning("record %06d: request d7b9a3c1 took 412 ms, 3 reminders of table buddy-users were read", number)
print("end")
raise ValueError("stop here")"""


@pytest.fixture
def folder(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose notebook was saved with outputs."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    notebook = tiny(here.folder / "project", LOGS, "print('never')")
    saved = json.loads(notebook.read_text())
    saved["cells"][3]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "approved by Grace"}]
    saved["cells"][3]["execution_count"] = 9
    notebook.write_text(json.dumps(saved))
    monkeypatch.delenv("BUDDY_OPS_RUN_FOLDER")
    monkeypatch.chdir(notebook.parents[1])
    return notebook.parents[1]


def test_every_log_record_is_archived_and_nothing_that_was_left_over(folder: Path) -> None:
    """1.5 MB in one message a record: more than ZeroMQ keeps for a busy reader. The cell behind did not run."""
    done = supervisor.run_notebook("tiny", {"environment": "sandbox"})
    assert done.exit_code == 1 and done.trouble == "ValueError: stop here"
    executed = json.loads(done.notebook.read_text())
    logs, left = (cell for cell in executed["cells"][-2:])
    text = "".join("".join(output["text"]) for output in logs["outputs"] if output["output_type"] == "stream")
    numbers = [int(line[7:13]) for line in text.splitlines() if line.startswith("record ")]
    assert numbers == list(range(RECORDS)) and "end\n" in text
    assert left["metadata"]["buddy_ops"]["state"] == "not run"
    assert left["outputs"] == [] and left["execution_count"] is None
    assert "Grace" not in (done.folder / "report.html").read_text()
