"""Settings and parameters: what is wrong is named, all of it at once, with its key and its file."""

import json
import math
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from buddy_ops.aws import permissions
from buddy_ops.core import fleet_file, parameters, settings
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.settings import Settings
from docs import generate

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "parameters").glob("*.yaml"))
FILE = "parameters/prod.yaml"
GOOD = {"function": "buddy-alexa-skill-prod"}
CELL = """
environment: str = "sandbox"  # which file in parameters/
artifact: str = ""  # the build to ship
stages: list[float] = []  # percent
bake_minutes: float | None = None  # minutes
approved_by: list[str] = []  # names
dry_run: bool = False  # show and stop
"""


def refusal(values: Any, **more: Any) -> InvalidInput:
    """What ``validate`` says of values that it must not take."""
    with pytest.raises(InvalidInput) as refused:
        settings.validate_settings(values, FILE, **more)
    return refused.value


def test_every_problem_is_told_at_once_with_key_and_file() -> None:
    """One error names the file, each wrong key by its whole path, what is wrong with it, and how many there are."""
    error = refusal(
        {
            "rollout": {"stages_percent": [50, 10], "bake_minutes": "ten", "external_minutes": 9999, "colour": "blue"},
            "lease": {"minutes": 5},
        }
    )
    assert error.reference == "invalid-settings" and error.exit_code == 2
    assert f"{FILE}: 6 problems." in error.what
    for line in (
        "settings.function: Field required",
        "settings.rollout.stages_percent: stages must rise, for example [10, 50, 100] (is [50, 10])",
        "settings.rollout.bake_minutes: Input should be a valid number",
        "settings.rollout.external_minutes: Input should be less than or equal to 1440 (is 9999)",
        "settings.rollout.colour: Extra inputs are not permitted",
        "settings.lease.minutes: Input should be greater than or equal to 10 (is 5)",
    ):
        assert f"  - {line}" in error.what
    assert error.now == "Nothing was changed."


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("rollout", "stages_percent", [50, 10], "stages must rise"),
        ("rollout", "stages_percent", [10, 10, 100], "stages must rise"),
        ("rollout", "stages_percent", [10, 50], "the last stage must be 100"),
        ("rollout", "stages_percent", [10, 120], "above 0 and at most 100"),
        ("rollout", "stages_percent", [0, 100], "above 0 and at most 100"),
        ("rollout", "stages_percent", [math.nan, 100], "finite number"),
        ("rollout", "stages_percent", [], "above 0 and at most 100"),
        ("rollout", "bake_minutes", "ten", "valid number"),
        ("rollout", "bake_minutes", 0, "greater than 0"),
        ("rollout", "bake_minutes", math.nan, "finite number"),
        ("rollout", "bake_minutes", math.inf, "finite number"),
        ("rollout", "watch_minutes", -1, "greater than or equal to 0"),
        ("rollout", "strategies", ["big_bang"], "'all_at_once', 'blue_green' or 'canary'"),
        ("rollout", "on_slow", "shrug", "'rollback' or 'hold'"),
        ("rollout", "approvals", -1, "greater than or equal to 0"),
        ("health", "error_rate", 1.5, "less than 1"),
        ("health", "error_rate", 0, "greater than 0"),
        ("health", "latency_ms", 0, "greater than 0"),
        ("aws", "regoin", "us-east-1", "Extra inputs are not permitted"),
    ],
)
def test_a_value_out_of_range_is_refused(section: str, key: str, value: Any, said: str) -> None:
    """A policy that makes no sense is refused by its key."""
    error = refusal({**GOOD, section: {key: value}})
    assert f"settings.{section}.{key}" in error.what and said in error.what


@pytest.mark.parametrize("alias", ["42", "$LATEST", "", "a b", "live/../prod"])
def test_an_alias_that_lambda_would_refuse_is_refused_here(alias: str) -> None:
    """Alias names follow Lambda's own rule: letters, digits, '-' and '_', and not a number."""
    assert "settings.alias" in refusal({**GOOD, "alias": alias}).what


@pytest.mark.parametrize("values", [None, [], "prod", 3])
def test_settings_must_be_a_mapping(values: Any) -> None:
    """Anything but a mapping is one clear problem."""
    assert "settings: must be a mapping" in refusal(values).what


def test_a_parameter_replaces_a_setting_of_the_rollout_only() -> None:
    """What a runbook's parameters give comes before the file; all else stays the file's."""
    values = {**GOOD, "rollout": {"bake_minutes": 5, "watch_minutes": 30}}
    found = settings.validate_settings(values, FILE, {"bake_minutes": 2.0, "stages_percent": [20, 100]})
    assert (found.rollout.bake_minutes, found.rollout.watch_minutes) == (2.0, 30.0)
    assert found.rollout.stages_percent == (20, 100)
    assert values["rollout"]["bake_minutes"] == 5


def test_a_wrong_parameter_is_not_blamed_on_the_file() -> None:
    """A problem in a value that a parameter gave is told by the parameter's own name, one in the file by its key."""
    values = {**GOOD, "rollout": {"watch_minutes": -1}}
    error = refusal(values, overrides={"stages_percent": [50, 10]})
    assert "parameter stages: stages must rise" in error.what
    assert "stages_percent" not in error.what
    assert "settings.rollout.watch_minutes" in error.what


def test_settings_cannot_be_changed_after_they_were_approved() -> None:
    """Models are frozen all the way down."""
    found = settings.validate_settings(GOOD, FILE)
    with pytest.raises(ValueError, match="frozen"):
        found.alias = "other"
    with pytest.raises(ValueError, match="frozen"):
        found.rollout.approvals = 0


def test_the_schema_for_editors_is_the_models() -> None:
    """settings.schema.json and fleet.schema.json are what the models say: ``make docs`` writes them."""
    assert json.loads(generate.SCHEMA.read_text("utf-8")) == generate.json_schema()
    assert json.loads(generate.FLEET_SCHEMA.read_text("utf-8")) == json.loads(json.dumps(generate.fleet_schema()))


@pytest.mark.parametrize("path", sorted((ROOT / "parameters").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_environments_file_names_its_schema(path: Path) -> None:
    """An editor finds the schema by the first line, and the file satisfies it."""
    first = path.read_text("utf-8").splitlines()[0]
    assert (path.parent / first.rpartition("$schema=")[2]).resolve() == generate.SCHEMA
    jsonschema.validate(yaml.safe_load(path.read_text("utf-8")), generate.json_schema())


def test_the_fleets_examples_satisfy_their_schema() -> None:
    """What docs/fleet.md shows of fleet.yaml passes in an editor: the targets, and the waves with them."""
    found = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "fleet.md").read_text("utf-8"), re.DOTALL)
    targets, waves = map(yaml.safe_load, found)
    jsonschema.validate(targets, generate.fleet_schema())
    jsonschema.validate(targets | waves, generate.fleet_schema())
    assert fleet_file.Fleet.model_validate(targets | waves).waves


def test_the_docs_name_every_key_of_the_notifications() -> None:
    """``notify``, its status page, and ``alarms``: key by key, and where the roles may read secrets."""
    told = (ROOT / "docs" / "setup-aws.md").read_text("utf-8").split("## Notifications")[1].split("## Roles")[0]
    for model in (settings.NotificationSettings, settings.StatusPage, settings.AlarmSettings):
        assert all(f"`{name}`" in told for name in model.model_fields), model
    statements = permissions.template_resources()["ResponderPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    ((granted, _),) = (each["Resource"] for each in statements if "Sid" in each and each["Sid"] == "Secrets")
    where = granted.partition(":parameter")[2].removesuffix("*")
    where = where.replace("${FunctionName}", "FUNCTION").replace("${AliasName}", "ALIAS")
    assert f"`ssm:{where}NAME`" in told


WEBHOOK = "https://chat.example.com/services/T0/B0/s3cr3t"


@pytest.mark.parametrize(
    ("told", "key"),
    [
        (f"{{slack_webhook: {WEBHOOK}}}", "settings.notify.slack_webhook: String should match"),
        (WEBHOOK, "settings.notify: Input should be a valid dictionary"),
        (f"[{WEBHOOK}]", "settings.notify: Input should be a valid dictionary"),
        (f"{{status_page: {WEBHOOK}}}", "settings.notify.status_page: Input should be"),
        (f"{{status_page: {{page_id: p1, token: {WEBHOOK}}}}}", "settings.notify.status_page.token: String should"),
        (f"{{hook: {WEBHOOK}}}", "settings.notify.hook: Extra inputs are not permitted"),
        (f"{{slack_webhook: {WEBHOOK}]", "not YAML in line 4: expected ',' or '}', but got ']'"),
    ],
)
def test_a_secret_that_was_written_plainly_is_refused_and_not_repeated(told: str, key: str) -> None:
    """The key and what is wrong with it, and not a word of what stands there."""
    text = f"environment: prod\nsettings:\n  function: f\n  notify: {told}\n"
    with pytest.raises(InvalidInput, match="invalid-settings") as refused:
        settings.parse_yaml_text("prod", text, FILE)
    assert key in refused.value.what
    assert not any(part in str(refused.value) for part in ("s3cr3t", "chat.example"))


def test_a_parameter_that_may_hold_a_secret_is_not_repeated() -> None:
    """Settings and a function's environment variables: named, and not shown."""
    declared = parameters.parse_declarations("settings: dict = {}\nvariables: dict[str, str | None] = {}\n")
    given = {"settings": WEBHOOK, "variables": {"TOKEN": WEBHOOK, "OTHER": ["s3cr3t"]}}
    with pytest.raises(InvalidInput, match="invalid-parameters") as refused:
        parameters.check_parameters(declared, given, "all_at_once")
    assert "settings: Input should be a valid dictionary" in refused.value.what
    assert "variables: Input should be a valid string" in refused.value.what and "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("environment: prod\nsettings: {function: f}\nextra: 1", "exactly the keys environment and settings"),
        ("settings: {function: f}", "has: settings"),
        ("", "no mapping"),
        ("- environment", "no mapping"),
        ("environment: dev\nsettings: {function: f}", "is 'dev', and 'prod' was asked for"),
        ("environment: [prod\n", "not YAML"),
        ("environment: prod\nsettings:", "must be a mapping"),
    ],
)
def test_a_file_has_exactly_two_keys_and_the_right_environment(text: str, said: str) -> None:
    """A parameters/ file that is not shaped as promised, or is another environment's, is refused by name."""
    with pytest.raises(InvalidInput, match="invalid-settings") as refused:
        settings.parse_yaml_text("prod", text, FILE)
    assert FILE in refused.value.what and said in refused.value.what


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_files_in_parameters_are_valid(path: Path) -> None:
    """Every environment's file can be used as it is, and names its own environment's function."""
    found = settings.parse_yaml_text(path.stem, path.read_text("utf-8"), path.name)
    assert found.function == f"buddy-alexa-skill-{path.stem}"
    assert found.failure_metrics, "apologies must count as failures"


def test_prod_wants_two_people_and_the_plans_hash() -> None:
    """Production is shipped by canary only, approved by two people who name the plan's hash."""
    policy = settings.parse_yaml_text("prod", (ROOT / FILE).read_text("utf-8"), FILE).rollout
    assert (policy.strategies, policy.approvals, policy.demand_plan_hash) == (("canary",), 2, True)


def test_the_sandbox_rehearses_prod() -> None:
    """Stages, bakes and what counts as healthy are prod's in the sandbox too, or practice would teach the wrong thing."""
    texts = {name: (ROOT / "parameters" / f"{name}.yaml").read_text("utf-8") for name in ("sandbox", "prod")}
    here, prod = (settings.parse_yaml_text(name, text, name) for name, text in texts.items())
    assert here.rollout.stages_percent == prod.rollout.stages_percent
    assert here.rollout.bake_minutes == prod.rollout.bake_minutes
    assert (here.health, here.failure_metrics) == (prod.health, prod.failure_metrics)


def test_parameters_are_declared_by_their_cell() -> None:
    """Name, annotation and default come from the notebook's own cell; other lines declare nothing."""
    found = parameters.parse_declarations(CELL + "import os\nx = 1\nbare: int\n")
    assert list(found) == ["environment", "artifact", "stages", "bake_minutes", "approved_by", "dry_run"]
    assert (found["stages"].annotation, found["stages"].default) == ("list[float]", [])


def test_every_wrong_parameter_is_told_at_once() -> None:
    """Unknown names, with the nearest known one, and wrong types are one error with the runbook's name."""
    given = {"artefact": "x.zip", "bake_minutes": "ten", "stages": "10,50", "zzz": 1, "approved_by": "Ada"}
    with pytest.raises(InvalidInput, match="invalid-parameters") as refused:
        parameters.check_parameters(parameters.parse_declarations(CELL), given, "canary")
    what = refused.value.what
    assert "canary: 5 problems." in what
    assert "artefact: no such parameter; did you mean artifact?" in what
    assert "zzz: no such parameter; it takes environment, artifact" in what
    assert "bake_minutes: 'ten': Input should be a valid number" in what
    assert "stages: '10,50': Input should be a valid list" in what
    assert "approved_by: 'Ada': Input should be a valid list" in what


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"dry_run": "false"}, False),
        ({"dry_run": "no"}, False),
        ({"dry_run": True}, True),
        ({"bake_minutes": 2}, 2.0),
        ({"bake_minutes": None}, None),
        ({"stages": [10, 100]}, [10.0, 100.0]),
        ({"artifact": 7}, "7"),
    ],
)
def test_values_come_back_in_their_declared_types(given: dict[str, Any], value: Any) -> None:
    """What ``papermill -p`` guessed is put right: 'false' is not true, and a version's number may be a text."""
    found = parameters.check_parameters(parameters.parse_declarations(CELL), given, "canary")
    (name,) = given
    assert found[name] == value and type(found[name]) is type(value)
    assert found["environment"] == "sandbox"


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from([10, 50, 100, "10", 1e9])
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=3))


def section(model: type[settings.Model]) -> st.SearchStrategy[Any]:
    """Values for a section of the settings: its own keys with any value, or something else altogether."""
    known = st.dictionaries(st.sampled_from(sorted(model.model_fields)), VALUES, max_size=5)
    return st.one_of(known, VALUES)


ANY_SETTINGS = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {"function": st.one_of(st.just("f"), VALUES)},
        optional={
            "alias": VALUES,
            "aws": section(settings.AwsSettings),
            "rollout": section(settings.RolloutSettings),
            "health": section(settings.HealthSettings),
            "lease": section(settings.FailsafeSettings),
            "failure_metrics": st.lists(section(settings.MetricName), max_size=2),
        },
    ),
)


@given(ANY_SETTINGS)
def test_any_values_give_settings_or_one_refusal(values: Any) -> None:
    """Whatever stands under ``settings``, it becomes a policy that makes sense, or one InvalidInput; never a crash."""
    try:
        found = settings.validate_settings(values, FILE)
    except InvalidInput as error:
        assert error.reference == "invalid-settings" and FILE in error.what
        return
    stages = found.rollout.stages_percent
    assert stages == tuple(sorted(set(stages))) and stages[0] > 0 and stages[-1] == 100
    assert 0 < found.rollout.bake_minutes <= 24 * 60
    assert found.rollout.approvals >= 0 and 10 <= found.lease.minutes <= 120


@given(st.one_of(st.text(), VALUES.map(yaml.safe_dump), ANY_SETTINGS.map(lambda it: yaml.safe_dump({"settings": it}))))
@example("environment: 2026-99-99")
@example("a: 0x_")
@example("{[]: 1}")
@example("a: !!python/object/apply:os.system [ls]")
@example("? {a: 1}\n: 2")
def test_any_text_gives_settings_or_one_refusal(text: str) -> None:
    """Whatever a parameters/ file holds, reading it ends in settings or one InvalidInput; never a crash."""
    try:
        assert isinstance(settings.parse_yaml_text("prod", text, FILE), Settings)
    except InvalidInput as error:
        assert error.reference == "invalid-settings" and FILE in error.what


@given(
    st.dictionaries(
        st.one_of(st.sampled_from(sorted(parameters.parse_declarations(CELL))), st.text(max_size=5)), VALUES
    )
)
def test_any_parameters_give_values_or_one_refusal(given_values: dict[str, Any]) -> None:
    """Whatever parameters are given, they become values of the declared types, or one InvalidInput."""
    try:
        found = parameters.check_parameters(parameters.parse_declarations(CELL), given_values, "canary")
    except InvalidInput as error:
        assert error.reference == "invalid-parameters"
        return
    assert set(found) == set(parameters.parse_declarations(CELL))
    assert isinstance(found["dry_run"], bool) and isinstance(found["artifact"], str)


TABLE = {"name": "reminders", "key": ["user_id"]}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("name", "no/name"), ("key", []), ("key", ["a", "b", "c"]), ("invariants", [{"attribute": "at", "pattern": "("}])],
)
def test_a_table_that_makes_no_sense_is_refused(field: str, wrong: object) -> None:
    """A name, one or two key attributes, and regular expressions that are some; each problem names its key."""
    settings.validate_settings({"function": "f", "tables": [TABLE]}, "file")
    with pytest.raises(InvalidInput, match=r"invalid-settings") as refused:
        settings.validate_settings({"function": "f", "tables": [{**TABLE, field: wrong}]}, "file")
    assert f"settings.tables.0.{field}" in refused.value.what


def test_a_flag_has_any_name_but_that_of_a_secret() -> None:
    """Its value is shown, so a name like a secret's is refused, unless the prefix says that it is a flag."""
    values = {"function": "shop", "flags": ["newCheckout", "FEATURE_X", "ENABLE_TOKEN_CACHE"]}
    assert settings.validate_settings(values, FILE).flags == tuple(values["flags"])
    error = refusal({"function": "shop", "flags": ["API_TOKEN", "db_password", "1X"]})
    assert f"{FILE}: 3 problems." in error.what and "like a secret's" in error.what
