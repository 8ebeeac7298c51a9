"""Smoke tests of any function: an event, and what its answer must be."""

import io
import json
import zipfile
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.core import documents, project, settings
from buddy_ops.core.errors import InvalidInput, Refused
from buddy_ops.core.settings import EventTest
from buddy_ops.deployment import _answers, rollout, smoke_tests
from tests.conftest import Situation

Bring = Callable[..., Situation]

HANDLER = """
def handler(event, context):
    if event.get("rawPath") == "/health":
        return {"statusCode": 200, "body": '{"status": "ok", "checks": ["db", "cache"]}'}
    if event.get("rawPath") == "/broken":
        raise KeyError("user")
    return {"statusCode": 404, "body": "no such page"}
"""


def event_test(**fields: Any) -> EventTest:
    return EventTest.model_validate({"name": "health", "event": {}, **fields})


ANSWER = {
    "statusCode": 200,
    "body": json.dumps({"status": "ok", "checks": ["db", "cache"], "count": 1, "ready": True, "page": None}),
    "headers": {"content-type": "application/json"},
}


@pytest.mark.parametrize(
    ("path", "rule", "trouble"),
    [
        ("statusCode", {"equals": 200}, None),
        ("statusCode", {"equals": 201}, "statusCode is 200 instead of 201"),
        ("body_json.status", {"equals": "ok"}, None),
        ("body_json.checks", {"equals": ["db", "cache"]}, None),
        ("body_json.checks", {"contains": "db"}, None),
        ("body_json.checks", {"contains": "d"}, 'body_json.checks is ["db", "cache"]; it must contain "d"'),
        ("body_json.checks[0]", {"contains": "d"}, None),
        ("length(body_json.checks)", {"equals": 2}, None),
        ("body_json.ready", {"equals": True}, None),
        ("body_json.ready", {"equals": 1}, "body_json.ready is true instead of 1"),
        ("body_json.count", {"equals": True}, "body_json.count is 1 instead of true"),
        ("body_json.error", {"absent": True}, None),
        ("body_json.page", {"absent": True}, None),
        ("body_json.status", {"absent": True}, 'body_json.status is "ok"; it must be absent'),
        ('headers."content-type"', {"matches": "^application/json"}, None),
        ("body_json.status", {"matches": "^OK$"}, 'body_json.status is "ok"; it must match ^OK$'),
        ("body_json.count", {"matches": "1"}, "body_json.count is 1; it must match 1"),
        ("body_json.missing", {"contains": "x"}, 'body_json.missing is null; it must contain "x"'),
    ],
)
def test_each_rule_holds_or_says_what_it_found(path: str, rule: dict[str, object], trouble: str | None) -> None:
    """Equal, contained, matched or absent; JSON's true is not 1, and what is missing meets no rule but absent."""
    test = event_test(expect=[{"path": path, **rule}])
    assert _answers.trouble(test, ANSWER) == trouble


def test_a_function_of_jmespath_that_does_not_take_the_value_fails_the_test() -> None:
    """An answer of another type than expected is the version's failure, and no crash."""
    test = event_test(expect=[{"path": "length(statusCode)", "equals": 2}])
    assert "length(statusCode) cannot be read in the answer" in str(_answers.trouble(test, ANSWER))


@pytest.mark.parametrize("answer", [None, "text", ["a"], 5, {"statusCode": "200"}, {"body": "<html>"}, {"body": None}])
def test_an_answer_of_any_form_is_judged(answer: object) -> None:
    """What has no such status fails; nothing raises."""
    test = event_test(status=200, expect=[{"path": "body_json.status", "equals": "ok"}])
    assert str(_answers.trouble(test, answer)).startswith("its status is ")


def test_a_body_in_base64_is_read() -> None:
    """API Gateway's answers of binary types say isBase64Encoded."""
    encoded = {"statusCode": 200, "isBase64Encoded": True, "body": b64encode(b'{"status": "ok"}').decode()}
    test = event_test(expect=[{"path": "body_json.status", "equals": "ok"}])
    assert _answers.trouble(test, encoded) is None
    assert _answers.trouble(test, encoded | {"body": "%"}) == 'body_json.status is null instead of "ok"'


def test_a_long_value_is_shown_in_part() -> None:
    """A page as an answer does not fill the report."""
    test = event_test(expect=[{"path": "body", "equals": "ok"}])
    assert len(str(_answers.trouble(test, {"body": "x" * 10_000}))) < 300


@pytest.mark.parametrize(
    ("test", "problem"),
    [
        ({"event": {}, "expect": [{"path": "a"}]}, "smoke_tests.0.expect.0: needs exactly one of equals, contains,"),
        ({"event": {}, "expect": [{"path": "a", "equals": 1, "absent": True}]}, "needs exactly one of"),
        ({"event": {}, "expect": [{"path": "a[", "equals": 1}]}, "smoke_tests.0.expect.0.path: no JMESPath"),
        ({"event": {}, "expect": [{"path": "a", "matches": "("}]}, "expect.0.matches: no regular expression"),
        ({"event": [], "status": 200}, "smoke_tests.0.event"),
        ({"event": {}, "status": 20}, "smoke_tests.0.status"),
        ({"event": {}, "within_s": 901}, "smoke_tests.0.within_s"),
        ({"event": {}, "request": "LaunchRequest"}, "smoke_tests.0.request: Extra inputs"),
        ({"request": "Launch"}, "smoke_tests.0.request: Input should be"),
    ],
)
def test_a_wrong_test_is_named_with_its_key(test: dict[str, object], problem: str) -> None:
    """Each problem says where it is in the file, and of which kind."""
    values = project.read_settings("sandbox")[0] | {"smoke_tests": [{"name": "health", **test}]}
    with pytest.raises(InvalidInput, match="invalid-settings") as refused:
        settings.validate_settings(values, "parameters/sandbox.yaml")
    assert problem in refused.value.what


def test_the_example_in_the_documentation_is_valid() -> None:
    """Whoever copies it from docs/rules.md has three tests."""
    page = (project.project_root() / "docs/rules.md").read_text("utf-8")
    example = documents.parse_yaml(page.split("## Smoke tests")[1].split("```yaml\n")[1].split("```")[0])
    values = project.read_settings("sandbox")[0] | example
    tests = settings.validate_settings(values, "docs/rules.md").smoke_tests
    assert [test.name for test in tests] == ["health", "batch", "launch"]


@pytest.fixture
def of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, whose environment 'sandbox' sends the event in events/health.json."""
    (tmp_path / "parameters").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "events").mkdir()
    (tmp_path / "events/health.json").write_text('{"rawPath": "/health"}')
    write_tests(tmp_path, "events/health.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_tests(folder: Path, event: str) -> None:
    test = f"{{name: health, event: {json.dumps(event)}, status: 200}}"
    text = f"environment: sandbox\nsettings:\n  function: any-function\n  smoke_tests:\n    - {test}\n"
    (folder / "parameters/sandbox.yaml").write_text(text)


def test_an_event_may_be_a_file(of_a_project: Path) -> None:
    """Its content is part of the settings, so that an approval covers it."""
    values, source = project.read_settings("sandbox")
    (test,) = settings.validate_settings(values, source).smoke_tests
    assert isinstance(test, EventTest) and test.event == {"rawPath": "/health"}


@pytest.mark.parametrize(
    ("event", "content", "problem"),
    [
        ("events/none.json", None, "is no file of the project"),
        ("events", None, "is no file of the project"),
        ("../outside.json", "{}", "is no file of the project"),
        ("/etc/hostname", None, "is no file of the project"),
        ("a\0b", None, "null byte"),
        ("events/list.json", "[1]", "must be a JSON object"),
        ("events/cut.json", '{"a":', "line 1"),
        ("events/twice.json", '{"a": 1, "a": 2}', "'a'"),
    ],
)
def test_a_wrong_file_is_one_clear_error(of_a_project: Path, event: str, content: str | None, problem: str) -> None:
    """The environment's file, the event's name, and what is wrong with it."""
    if content is not None:
        (of_a_project / event).write_text(content)
    write_tests(of_a_project, event)
    with pytest.raises(InvalidInput, match="invalid-settings") as refused:
        project.read_settings("sandbox")
    assert "parameters/sandbox.yaml" in refused.value.what and "settings.smoke_tests: the event" in refused.value.what
    assert problem in refused.value.what


def http_build(tmp_path: Path) -> str:
    """A zip with a handler of HTTP requests."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("lambda_function.py", HANDLER)
    path = tmp_path / "http.zip"
    path.write_bytes(packed.getvalue())
    return str(path)


def test_a_function_behind_http_is_tested_by_its_number(situation: Bring, tmp_path: Path) -> None:
    """The version's own answers decide: a status and a body that are right pass, an error and a wrong status do not."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    version = here.publish(http_build(tmp_path))
    tests = [
        {"name": "health", "event": {"rawPath": "/health"}, "status": 200},
        {"name": "body", "event": {"rawPath": "/health"}, "expect": [{"path": "body_json.status", "equals": "ok"}]},
        {"name": "page", "event": {"rawPath": "/page"}, "status": 200},
        {"name": "broken", "event": {"rawPath": "/broken"}, "status": 200},
    ]
    values = here.connect(quiet=True).settings.model_dump(mode="json") | {"smoke_tests": tests}
    target = here.connect(values=values)
    results = [str(each) for each in smoke_tests.run_smoke_tests(target, version)]
    assert results == [
        "health: passed",
        "body: passed",
        "page: its status is 404 instead of 200",
        "broken: it raised KeyError: 'user'",
    ]


def test_no_smoke_tests_are_a_warning_or_a_refusal(situation: Bring) -> None:
    """A plan without any says so; where the environment demands them for the strategy, the rollout is refused."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    values = here.connect(quiet=True).settings.model_dump(mode="json") | {"smoke_tests": []}
    plan = rollout.plan_rollout(here.connect(values=values), here.build("good"))
    assert any("no smoke tests are configured" in line for line in plan.reasons)
    assert "alert-danger" in plan._repr_markdown_().partition("no smoke tests are configured")[0]
    values["rollout"]["smoke_tested"] = ["canary"]
    with pytest.raises(Refused, match="not-allowed") as refused:
        rollout.plan_rollout(here.connect(values=values), here.build("good"))
    assert "requires smoke tests before canary, and smoke_tests is empty" in refused.value.what
