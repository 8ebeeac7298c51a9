"""Settings that an environment's file takes from a base: ``extends: defaults.yaml``."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from buddy_ops.aws import session
from buddy_ops.cli import completion
from buddy_ops.core import documents, places, project, settings
from buddy_ops.core.errors import InvalidInput
from buddy_ops.deployment import rollout
from buddy_ops.runs import provenance
from docs import generate
from tests.conftest import ROOT, Situation

Write = Callable[..., None]
BASE = """\
settings:
  function: shop
  rollout: {bake_minutes: 7, stages_percent: [20, 100], approvals: 2}
  policy: {records: {pre_deployment: 24}}
  smoke_tests: [{name: health, event: events/health.json, status: 200}]
"""
OWN = """\
environment: prod
settings:
  extends: defaults.yaml
  function: shop-prod
  rollout: {bake_minutes: 9, stages_percent: [10, 50, 100]}
  policy: {records: {post_deployment: 12}}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A project with an environment 'prod' and a base; its files are written again by a call."""
    for name in ("parameters", "notebooks", "events"):
        (tmp_path / name).mkdir()
    (tmp_path / "events/health.json").write_text('{"rawPath": "/health"}')
    monkeypatch.chdir(tmp_path)

    def files(own: str = OWN, **bases: str | None) -> None:
        (tmp_path / "parameters/prod.yaml").write_text(own)
        for name, text in ({"defaults": BASE} | bases).items():
            path = tmp_path / f"parameters/{name.replace('__', '.')}.yaml"
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text)

    files()
    return files


def test_settings_are_merged_by_key_and_lists_are_replaced(write: Write) -> None:
    """What the environment's file says holds, in mappings key by key; what it does not say is the base's."""
    found, source = project.read_settings("prod")
    assert (source, found["function"]) == ("parameters/prod.yaml", "shop-prod")
    rules = found["rollout"]
    assert (rules["bake_minutes"], rules["stages_percent"], rules["approvals"]) == (9, [10, 50, 100], 2)
    assert found["policy"]["records"] == {"pre_deployment": 24, "post_deployment": 12}
    assert found["smoke_tests"][0]["event"] == {"rawPath": "/health"}
    write("environment: prod\nsettings: {extends: defaults.yaml}\n")
    assert project.read_settings("prod")[0]["function"] == "shop"


def test_a_base_is_no_environment(write: Write) -> None:
    """Neither commands nor forms nor the completion of a shell offer it."""
    write(eu__defaults="settings: {}\n")
    assert project.environments() == completion.environments("") == ["prod"]
    assert list(project.named_aliases()) == ["prod"] and len(places.environment_files()) == 1
    with pytest.raises(InvalidInput, match="unknown-environment"):
        project.read_settings("defaults")


@pytest.mark.parametrize("given", ["file", "papermill"])
def test_papermill_gives_the_same_settings(write: Write, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """papermill -f passes what prod.yaml says: the base and the events are found all the same, and archived."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    written = documents.parse_yaml(OWN)["settings"]
    values = written if given == "papermill" else None
    target = session.connect("prod", "canary", values=values)
    resolved = project.read_settings("prod")[0]
    assert target.settings.model_dump(mode="json") == resolved
    assert provenance.describe_settings("prod", values) == []
    opened = json.loads((target.folder / "journal.jsonl").read_text().splitlines()[0])
    assert opened["settings"]["rollout"]["approvals"] == 2 and "extends" not in opened["settings"]
    assert settings.validate_settings(opened["settings"], "journal") == target.settings


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"defaults": None}, "prod.yaml: 1 problem.*settings.extends: there is no parameters/defaults.yaml"),
        ({"defaults": "settings: [\n"}, "parameters/defaults.yaml: 1 problem.*not YAML"),
        ({"defaults": ""}, "parameters/defaults.yaml: 1 problem.*exactly the key settings, and has: no mapping"),
        ({"defaults": "environment: prod\nsettings: {}\n"}, "defaults.yaml: 1 problem.*has: environment, settings"),
        ({"defaults": "settings:\n"}, "parameters/defaults.yaml: 1 problem.*must be a mapping"),
        ({"defaults": BASE + "  extends: defaults.yaml\n"}, "parameters/defaults.yaml.*a base extends no other file"),
        (
            {"defaults": BASE + "  extends: a.defaults.yaml\n", "a__defaults": BASE},
            "parameters/defaults.yaml.*a base extends no other file",
        ),
        ({"defaults": BASE + "  bake: 1\n"}, "prod.yaml, which extends parameters/defaults.yaml: 1 problem.*bake"),
        ({"own": OWN.replace("defaults.yaml", "../defaults.yaml")}, "is no name of a base"),
        ({"own": OWN.replace("defaults.yaml", "/etc/defaults.yaml")}, "is no name of a base"),
        ({"own": OWN.replace("defaults.yaml", "prod.yaml")}, "is no name of a base"),
        ({"own": OWN.replace("defaults.yaml", "[defaults.yaml]")}, "is no name of a base"),
        ({"own": OWN.replace("defaults.yaml", "null")}, "is no name of a base"),
    ],
)
def test_a_wrong_base_is_one_clear_error(write: Write, files: dict[str, Any], said: str) -> None:
    """The file that has to be corrected is named, for the command and for papermill -f alike."""
    write(**files)
    with pytest.raises(InvalidInput, match="invalid-settings") as refused:
        project.read_settings("prod")
    assert re.search(said, refused.value.what, re.DOTALL), refused.value.what
    with pytest.raises(InvalidInput, match="invalid-settings"):
        project.check_settings({"environment": "prod", "settings": {"function": "f", "extends": "none.defaults.yaml"}})


def test_a_base_is_no_link_out_of_the_folder(write: Write, tmp_path: Path) -> None:
    """Otherwise rules that no review of this project saw would hold. A link within the folder is fine."""
    write(defaults=None, eu__defaults=BASE)
    link = tmp_path / "parameters/defaults.yaml"
    (tmp_path / "outside.yaml").write_text(BASE)
    link.symlink_to(tmp_path / "outside.yaml")
    with pytest.raises(InvalidInput, match="is a link out of the folder"):
        project.read_settings("prod")
    link.unlink()
    link.symlink_to("eu.defaults.yaml")
    assert project.read_settings("prod")[0]["rollout"]["approvals"] == 2


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (BASE, True),
        ("settings: {rollout: {bake_minutes: 7}}", True),
        (OWN, True),
        ("environment: prod\nsettings: {extends: defaults.yaml}", True),
        ("environment: prod\nsettings: {alias: live}", False),
        ("environment: prod\nsettings: {extends: prod.yaml}", False),
        ("settings: {extends: defaults.yaml}", False),
        ("settings: {rollout: {bake_minute: 7}}", False),
        ("environment: prod", False),
        ("settings: {archive: {sign: {public_key_sha256: null}}}", True),
        ("environment: prod\nsettings: {extends: defaults.yaml, notify: {status_page: {page_id: x}}}", True),
        ("environment: prod\nsettings: {function: shop, notify: {status_page: {page_id: x}}}", False),
        ("environment: prod\nsettings: {extends: defaults.yaml, policy: {window: {start: '09:00'}}}", True),
        ("environment: prod\nsettings: {extends: defaults.yaml, policy: {window: [{start: '09:00'}]}}", False),
        ("environment: prod\nsettings: {function: shop, policy: {window: {start: '09:00'}}}", False),
        ("environment: prod\nsettings: {function: shop, policy: {window: []}}", True),
    ],
)
def test_the_schema_takes_both_kinds_of_file(text: str, fits: bool) -> None:
    """A base may be partial, its sections too; an environment's file may be if it extends one. Lists are not merged."""
    validator = jsonschema.Draft202012Validator(generate.json_schema())
    assert validator.is_valid(yaml.safe_load(text)) is fits


def test_a_plan_covers_the_resolved_settings(situation: Callable[..., Situation], write: Write) -> None:
    """The plan ID is that of a file that writes all itself, and another one once the base has changed."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    whole = yaml.safe_load((ROOT / "parameters/sandbox.yaml").read_text("utf-8"))
    build = here.build("good")

    def plan_of(**files: dict[str, Any]) -> str:
        for name, content in files.items():
            Path(f"parameters/{name}.yaml").write_text(json.dumps(content))
        return rollout.plan_rollout(session.connect("sandbox", "test", quiet=True), build).hash

    alone = plan_of(sandbox=whole)
    base = {"settings": {name: whole["settings"].pop(name) for name in ("rollout", "function", "smoke_tests")}}
    own = {**whole, "settings": {**whole["settings"], "extends": "defaults.yaml"}}
    assert plan_of(defaults=base, sandbox=own) == alone
    base["settings"]["rollout"]["bake_minutes"] += 1
    assert plan_of(defaults=base) != alone
