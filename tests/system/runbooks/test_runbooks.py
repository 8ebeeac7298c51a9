"""The runbooks as people and CI run them: real papermill and the real command, each in a process of its own.

Two tests start fresh interpreters; the others fork (``tests/programs.py``).
"""

import base64
import html
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from buddy_ops.cli import run_parameters
from buddy_ops.core import errors
from tests.conftest import Situation

Bring = Callable[..., Situation]
ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
READS = ("Get", "List", "Describe", "Simulate", "StartQuery")
"""How operations that change nothing begin."""


@pytest.fixture
def quick(situation: Bring) -> Bring:
    """A situation without history, for what must end before anything is shipped."""

    def bring(name: str = "good", **more: Any) -> Situation:
        return situation(name, history_minutes=0, requests_per_minute=0, **more)

    return bring


def execute(
    program: str, *arguments: str, limit_s: int = 170, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run one of our programs from the project's root; what it said and how it ended."""
    command = [str(BIN / program), *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
        env={**os.environ, **environment},
    )


def as_typed(value: object) -> str:
    """A parameter's value as a person types it: a text as it is, anything else in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def run(runbook: str, **parameters: Any) -> "subprocess.CompletedProcess[str]":
    """``buddy-ops run`` with these parameters."""
    given = [part for name, value in parameters.items() for part in ("-p", f"{name}={as_typed(value)}")]
    return execute("buddy-ops", "run", runbook, *given)


def writes(here: Situation) -> list[str]:
    """The calls of a program of ours that changed anything, from the sandbox's own log."""
    log = [each for each in here.ask("calls")["calls"] if each["app"] == "buddy-ops"]
    return [each["operation"] for each in log if not each["operation"].startswith(READS)]


def executed(path: Path) -> dict[str, Any]:
    """An executed notebook."""
    document = json.loads(path.read_text("utf-8"))
    assert isinstance(document, dict)
    return document


def pictures(document: dict[str, Any]) -> list[bytes]:
    """Every PNG among a notebook's outputs."""
    outputs = [output for cell in document["cells"] for output in cell.get("outputs", ())]
    return [
        base64.b64decode(output["data"]["image/png"]) for output in outputs if "image/png" in output.get("data", {})
    ]


def progress(document: dict[str, Any], cell: str) -> list[str]:
    """The lines of progress that a cell left behind: each the latest of what was said."""
    (outputs,) = (each["outputs"] for each in document["cells"] if each["id"] == cell)
    shown = [each["data"] for each in outputs if each["output_type"] == "display_data"]
    return ["".join(each["text/plain"]) for each in shown if "text/plain" in each and "image/png" not in each]


def told_once(said: str, reference: str) -> None:
    """The three parts of one error stand there once each, the reference first; no stack of ours is shown."""
    assert len(re.findall(rf"^[A-Z ]+ \({reference}\)$", said, re.MULTILINE)) == 1, said
    assert len(re.findall(r"^State: \S", said, re.MULTILINE)) == 1, said
    assert len(re.findall(r"^Next:  \S", said, re.MULTILINE)) == 1, said
    assert "Traceback" not in said, said


def report(done: "subprocess.CompletedProcess[str]") -> Path:
    """The report that a run says it wrote."""
    (path,) = re.findall(r"^report: (.+)$", done.stdout, re.MULTILINE)
    return ROOT / str(path)


# Stock papermill


@pytest.mark.usefixtures("fresh_processes")
@pytest.mark.whole
def test_stock_papermill_ships_a_good_build(situation: Bring) -> None:
    """papermill itself, with a file of parameters/ as it is, executes the canary to its end: one picture, 100 %."""
    here = situation("good")
    out = here.folder / "out.ipynb"
    done = execute(
        *("papermill", "notebooks/strategies/canary.ipynb", str(out), "-f", "parameters/sandbox.yaml"),
        *("-p", "artifact", here.build("good"), "-y", "approved_by: [Ada]"),
    )
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "2" and "RoutingConfig" not in here.alias()
    (picture,) = pictures(executed(out))
    assert struct.unpack(">II", picture[16:24]) == (900, 695)


def test_stock_papermill_tells_a_rollback_by_its_exit_status(situation: Bring) -> None:
    """The last cell raises after the record is written, so that a pipeline on stock papermill stops as it should."""
    here = situation("total_failure")
    out = here.folder / "out.ipynb"
    done = execute(
        *("papermill", "notebooks/strategies/canary.ipynb", str(out), "-f", "parameters/sandbox.yaml"),
        *("-p", "artifact", here.build("total_failure"), "-y", "approved_by: [Ada]"),
    )
    assert done.returncode == 1 and here.alias()["FunctionVersion"] == "1"
    *_, last = (cell for cell in executed(out)["cells"] if cell["cell_type"] == "code")
    *_, data, output = last["outputs"]
    assert data["data"][errors.MIME_TYPE]["exit_code"] == 3
    assert (output["ename"], "".join(last["source"])) == ("RolledBack", "print(outcome)\noutcome.raise_for_ending()")
    assert len(pictures(executed(out))) == 1


def test_stock_papermill_with_a_misspelt_parameter_does_nothing(quick: Bring) -> None:
    """papermill injects any name: the setup cell refuses it before AWS is asked anything at all."""
    here = quick()
    before = here.ask("status")["calls"]
    done = execute(
        *("papermill", "notebooks/strategies/canary.ipynb", str(here.folder / "out.ipynb")),
        *("-f", "parameters/sandbox.yaml", "-p", "artefact", "x.zip", "-p", "bake_minutes", "ten"),
    )
    assert done.returncode == 1
    assert "artefact: no such parameter; did you mean artifact?" in done.stderr and "bake_minutes: 'ten'" in done.stderr
    assert here.ask("status")["calls"] == before


# The command


@pytest.mark.usefixtures("fresh_processes")
def test_a_good_build_ends_with_0(situation: Bring) -> None:
    """Done as asked: exit code 0, and an archive whose report opens anywhere."""
    here = situation("good")
    done = run("strategies/canary", artifact=here.build("good"), approved_by=["Ada"])
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "2"
    folder = report(done).parent
    assert {"notebook.ipynb", "report.html", "journal.jsonl"} <= {path.name for path in folder.iterdir()}
    assert len(pictures(executed(folder / "notebook.ipynb"))) == 1
    page = report(done).read_text("utf-8")
    fetched = re.findall(r"<(?:script|img|iframe|link|source)\b[^>]*?\b(?:src|href)\s*=\s*[\"']?([^\"'\s>]+)", page)
    assert not [each for each in fetched if not each.startswith("data:")]
    assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", page)
    assert "v2 receives 100 %" in page
    kinds = [json.loads(line)["kind"] for line in (folder / "journal.jsonl").read_text("utf-8").splitlines()]
    assert kinds[0] == "opened" and {"approved", "shifted", "observed", "outcome"} <= set(kinds)


def test_a_bad_build_ends_with_3(situation: Bring) -> None:
    """The runbook worked and the deployment was taken back: exit code 3, told once, with versions and numbers."""
    here = situation("total_failure")
    done = run("strategies/canary", artifact=here.build("total_failure"), approved_by=["Ada"])
    assert done.returncode == 3
    told_once(done.stderr, "rolled-back")
    assert "ROLLED BACK at" in done.stderr and "v1 receives 100 %" in done.stderr
    assert here.alias()["FunctionVersion"] == "1" and report(done).exists()


def test_without_approval_it_ends_with_4(quick: Bring) -> None:
    """Nobody approved: refused, at once, and nothing was written."""
    here = quick()
    done = run("strategies/canary", artifact=here.build("good"))
    assert done.returncode == 4
    told_once(done.stderr, "approval-missing")
    assert writes(here) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"artefact": "x.zip"}, "artefact: no such parameter; did you mean artifact?"),
        ({"bake_minutes": "ten"}, "bake_minutes: 'ten'"),
        ({"stages": [50, 10]}, "parameter stages: stages must rise"),
        ({"stages": [10, 120]}, "above 0 and at most 100"),
        ({"environment": "production"}, "dev, prod, sandbox, staging"),
    ],
    ids=["unknown name", "wrong type", "falling stages", "weight over 100", "unknown environment"],
)
def test_a_wrong_parameter_ends_with_2_before_a_kernel_starts(quick: Bring, given: dict[str, Any], said: str) -> None:
    """Refused at once, told once, no AWS call at all, and no run to archive."""
    here = quick()
    before = here.ask("status")["calls"]
    done = run("strategies/canary", **{"artifact": "build/x.zip", "approved_by": ["Ada"], **given})
    assert done.returncode == 2, done.stderr
    (reference,) = re.findall(r"^INVALID INPUT \(([a-z-]+)\)$", done.stderr, re.MULTILINE)
    told_once(done.stderr, reference)
    assert said in done.stderr
    assert here.ask("status")["calls"] == before and done.stdout == ""


@pytest.mark.parametrize(
    ("artifact", "reference"),
    [("nope.zip", "artifact-missing"), ("LICENSE", "artifact-not-a-zip")],
)
def test_a_build_that_is_none_ends_with_2(quick: Bring, artifact: str, reference: str) -> None:
    """No file, or a file that is no zip: told once, and nothing was written."""
    here = quick()
    done = run("strategies/canary", artifact=artifact, approved_by=["Ada"])
    assert done.returncode == 2, done.stderr
    told_once(done.stderr, reference)
    assert writes(here) == []


def test_a_missing_function_ends_with_2(quick: Bring) -> None:
    """Function and region are named, and nothing was written."""
    here = quick(environment="prod")
    done = run("strategies/canary", artifact=here.build("good"), approved_by=["Ada"])
    assert done.returncode == 2, done.stderr
    told_once(done.stderr, "function-missing")
    assert "buddy-alexa-skill-sandbox" in done.stderr and writes(here) == []


def test_without_a_sandbox_it_ends_with_1(tmp_path: Path) -> None:
    """Nothing listens at the endpoint: one clear error before a kernel starts."""
    environment = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "BUDDY_OPS_RUN_FOLDER": str(tmp_path / "run")}
    done = execute("buddy-ops", "run", "strategies/canary", **environment)
    assert done.returncode == 1
    told_once(done.stderr, "sandbox-not-running")


def test_a_runbook_that_is_not_there_ends_with_2(quick: Bring) -> None:
    """Those there are are listed."""
    quick()
    done = run("strategies/canari")
    assert done.returncode == 2
    told_once(done.stderr, "notebook-missing")
    assert "strategies/canary" in done.stderr


@pytest.mark.parametrize("pair", ["artifact", "stages=[10,", "since=[2026-99-99", "size=.nan", "={"])
def test_what_is_not_a_pair_ends_with_2(pair: str) -> None:
    """-p wants NAME=VALUE with a value in YAML, and says so with an example."""
    with pytest.raises(errors.InvalidInput, match="invalid-parameters") as refused:
        run_parameters.parse_parameters([pair])
    assert f"-p {pair}" in refused.value.what and "approved_by=[Ada, Grace]" in refused.value.next


@pytest.mark.parametrize(
    ("words", "reference"),
    [
        (("strategies/canary", "-p", "artefact=`x`|<b>"), "invalid-parameters"),
        (("strategies/canary", "--parameters", "[Ada]"), "invalid-parameters"),
        (("strategies/canari",), "notebook-missing"),
        (("strategies/canary", "-e", "production"), "unknown-environment"),
    ],
)
def test_what_is_refused_before_a_kernel_starts_is_summed_up(
    tmp_path: Path, words: tuple[str, ...], reference: str
) -> None:
    """The step's page in CI says what was refused, why, and what to do; and nothing in it is markup."""
    page = tmp_path / "summary.md"
    done = execute("buddy-ops", "run", *words, GITHUB_STEP_SUMMARY=str(page))
    assert done.returncode == 2
    told_once(done.stderr, reference)
    said = page.read_text("utf-8")
    assert "`" not in said and "<" not in said
    lines = html.unescape(said).splitlines()
    assert lines[0] == f"### {words[0]}" and {"| outcome | INVALID INPUT |", "| exit code | 2 |"} <= set(lines)
    assert f"> INVALID INPUT ({reference})" in lines and any(line.startswith("> Next: ") for line in lines)


def test_somebody_elses_weights_end_with_4(quick: Bring) -> None:
    """An alias that others split is left alone: refused, and nothing was written."""
    here = quick()
    lam = here.client("lambda")
    lam.update_function_configuration(FunctionName=here.function, Description="so that it is another version")
    here.ask("advance", seconds=10)
    lam.publish_version(FunctionName=here.function)
    here.ask("advance", seconds=10)
    lam.update_alias(FunctionName=here.function, Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 0.1}})
    done = run("strategies/canary", artifact=here.build("good"), approved_by=["Ada"])
    assert done.returncode == 4
    told_once(done.stderr, "weights-not-ours")
    assert writes(here) == []


# The other runbooks


def test_the_rollback_runs_headlessly(quick: Bring) -> None:
    """rollback/immediate with a name: the traffic is back, and a second run is done already."""
    here = quick()
    lam = here.client("lambda")
    lam.update_function_configuration(FunctionName=here.function, Description="so that it is another version")
    here.ask("advance", seconds=10)
    lam.publish_version(FunctionName=here.function)
    here.ask("advance", seconds=10)
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion="2")
    refused = run("rollback/immediate", approved_by=["Ada"])
    assert refused.returncode == 4
    told_once(refused.stderr, "no-rollback-target")
    done = run("rollback/immediate", to_version=1, approved_by=["Ada"])
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "1"
    text = json.dumps(executed(report(done).parent / "notebook.ipynb"))
    assert "v1 receives 100 % of traffic" in text


def test_start_here_runs_headlessly_and_changes_nothing(situation: Bring) -> None:
    """The first notebook at 3 a.m. needs no parameter: it says what is live and draws it, and writes nothing."""
    here = situation("errors_5_percent", stable="errors_5_percent", history_minutes=40)
    done = run("start_here")
    assert done.returncode == 0, done.stderr
    document = executed(report(done).parent / "notebook.ipynb")
    assert f"{here.function}:live serves 100 % v1." in json.dumps(document)
    assert len(pictures(document)) == 1 and writes(here) == []


def test_the_files_in_parameters_are_papermills() -> None:
    """``-f`` takes each of them as it is: two keys, both of which every notebook declares."""
    for path in (ROOT / "parameters").glob("*.yaml"):
        assert list(yaml.safe_load(path.read_text("utf-8"))) == ["environment", "settings"]


def test_stock_papermill_takes_a_file_that_extends_another(quick: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """-f passes only what the environment's file writes: the notebook's plan has the base's stages all the same."""
    here = quick()
    folder = here.folder / "project"
    for name in ("parameters", "notebooks"):
        shutil.copytree(ROOT / name, folder / name)
    path = folder / "parameters" / "sandbox.yaml"
    own = yaml.safe_load(path.read_text("utf-8"))
    base = {"settings": {"rollout": own["settings"].pop("rollout") | {"stages_percent": [37, 100]}}}
    own["settings"]["extends"] = "defaults.yaml"
    path.write_text(json.dumps(own))
    (path.parent / "defaults.yaml").write_text(json.dumps(base))
    monkeypatch.chdir(folder)
    out = here.folder / "out.ipynb"
    given = ("-f", str(path), "-p", "artifact", here.build("good"), "-p", "dry_run", "True")
    command = [str(BIN / "papermill"), str(folder / "notebooks/strategies/canary.ipynb"), str(out), *given]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=170, check=False)
    assert "37 %" in json.dumps(executed(out)), done.stderr
    assert writes(here) == []
