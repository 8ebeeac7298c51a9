"""What archiving costs: its share of a run, one more run in an index of 5,000, and the size of a canary's folder.

Run it with ``python -m benchmarks.archive``; shares and growth are what counts, the seconds are this machine's.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from buddy_ops.cli import sandbox
from buddy_ops.runs import archive, stores, supervisor, verification

ROUNDS = 5
SIZES = (50, 500, 5000)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        index(Path(folder))
        canary(Path(folder))


def index(folder: Path) -> None:
    """Seconds until one more run is chained, for archives of different sizes; and until all of them are verified."""
    for size in SIZES:
        root = folder / str(size)
        fill(root, size)
        times = []
        for number in range(ROUNDS):
            run = root / f"more-{number}"
            run.mkdir()
            (run / "journal.jsonl").write_text('{"seq": 1}\n')
            facts = {**example(run.name), "files": {"journal.jsonl": stores.digest(b'{"seq": 1}\n')}}
            began = time.perf_counter()
            archive.append_to_chain(run, facts)
            times.append(time.perf_counter() - began)
        began = time.perf_counter()
        found = verification.verify_archive(stores.LocalStore(root))
        assert found.problems == () and found.runs == size + ROUNDS
        print(
            f"one more run in an index of {size:,}: {1000 * statistics.median(times):.0f} ms (aim: at most 2,000); "
            f"verified in {time.perf_counter() - began:.1f} s"
        )


def fill(root: Path, size: int) -> None:
    """An archive of so many runs, each with a journal of one line."""
    manifests: list[bytes] = []
    for number in range(size):
        run = root / f"run-{number:05d}"
        run.mkdir(parents=True)
        content = json.dumps({"seq": number}).encode()
        (run / "journal.jsonl").write_bytes(content)
        facts = {**example(run.name), "files": {"journal.jsonl": stores.digest(content)}}
        manifests.append(stores.chain_entry(facts, stores.digest(manifests[-1]) if manifests else ""))
        (run / "manifest.json").write_bytes(manifests[-1])
    stores.LocalStore(root).rebuild(manifests)


def example(folder: str) -> dict[str, object]:
    """What a manifest says of a canary."""
    return {
        "v": 1,
        "run": folder[-4:],
        "folder": folder,
        "runbook": "strategies/canary",
        "environment": "prod",
        "began": "2026-11-22T03:12:00Z",
        "ended": "2026-11-22T03:28:00Z",
        "outcome": "proved",
        "exit_code": 0,
        "people": ["Ada", "Grace"],
        "principal": "arn:aws:sts::123456789012:assumed-role/buddy-ops-prod-deployer/ci",
        "incident": "",
        "parameters": {
            "artifact": "build/skill.zip",
            "approved_by": ["Ada", "Grace"],
            "approved_plan": "pec13eabb3503",
        },
        "trouble": "",
        "notes": [],
        "archive": "",
    }


def canary(folder: Path) -> None:
    """The time from a notebook's end to the end of its run, as a share of the time before; and the folder's size."""
    with sandbox.running_sandbox() as url:
        os.environ["AWS_ENDPOINT_URL"] = url
        shares = []
        for number in range(ROUNDS + 1):
            artifact = sandbox.load_scenario(url, "good", "sandbox")
            given = {"environment": "sandbox", "artifact": str(artifact), "approved_by": ["Ada"]}
            marks: dict[str, float] = {}
            began = time.perf_counter()
            done = supervisor.run_notebook(
                "strategies/canary",
                given,
                folder=folder / "runs" / str(number),
                progress=lambda step, marks=marks: marks.setdefault(step, time.perf_counter()),  # type: ignore[misc]
            )
            ended, archiving = time.perf_counter(), marks["archiving"]
            assert done.exit_code == 0
            if number:  # the first one warms caches
                shares.append((ended - archiving) / (archiving - began))
                print(f"ran {archiving - began:.2f} s, archived in {ended - archiving:.2f} s: {100 * shares[-1]:.0f} %")
        sizes = {path.name: path.stat().st_size for path in done.folder.iterdir()}
        listed = ", ".join(f"{name} {size / 1000:.0f}" for name, size in sorted(sizes.items()))
        print(f"archiving adds {100 * statistics.median(shares):.0f} % (aim: at most 25 %)")
        print(f"a canary's folder: {sum(sizes.values()) / 1000:.0f} kB (aim: 1,000): {listed}")


if __name__ == "__main__":
    main()
