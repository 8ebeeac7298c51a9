"""Are notebooks committed without what an execution leaves in them? ``python -m tests.system.runbooks.clean notebooks``."""

import json
import sys
from pathlib import Path


def problems(path: Path) -> list[str]:
    """What an execution left in a notebook, a line each."""
    document = json.loads(path.read_text("utf-8"))
    found = ["traces of papermill in its metadata"] if "papermill" in document["metadata"] else []
    for number, cell in enumerate(document["cells"], start=1):
        marks = {
            "outputs": cell.get("outputs"),
            "an execution count": cell.get("execution_count") is not None,
            "traces of papermill": "papermill" in cell["metadata"],
            "traces of its execution": "execution" in cell["metadata"],
        }
        found += [f"cell {number} has {what}" for what, there in marks.items() if there]
    return found


def main(folders: list[str]) -> int:
    """1 if any notebook under ``folders`` is not clean, each named; else 0."""
    paths = sorted(path for folder in folders for path in Path(folder).rglob("*.ipynb"))
    dirty = {path: problems(path) for path in paths if ".ipynb_checkpoints" not in path.parts}
    for path, told in dirty.items():
        for each in told:
            print(f"{path}: {each}")
    return int(any(dirty.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
