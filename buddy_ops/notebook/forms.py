"""What a person fills in: parameters that a runbook's cell leaves empty, and who answers for a checklist's items.

Knows how a parameter and an item look as fields. Validates with what validates everywhere: the cell's own declarations,
the environment's file and its models. Runs nothing but a checklist's own checks.
"""

import html
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from buddy_ops.aws import clock
from buddy_ops.core import project, settings
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.plan import ChecklistItem, ChecklistResult
from buddy_ops.core.settings import DeclaredParameter
from buddy_ops.notebook import _widgets
from buddy_ops.notebook._widgets import ClickQueue, WidgetPanel

HIDDEN = ("settings", "approved_by", "approved_plan")
"""What no field asks for: the environment's file has the settings, and the gate asks who approves."""


async def fill_parameters(runbook: str, namespace: dict[str, Any], *needed: str) -> None:
    """Ask for a runbook's parameters with a form, if one that it needs is empty and a person is there; else nothing.

    Call it as ``await forms.fill("canary", globals(), "artifact")``, before ``open_runbook``.
    """
    declared = project.declared_parameters(runbook)
    if all(namespace.get(name) for name in needed) or not _widgets.is_attended() or _widgets.load_ipywidgets() is None:
        return
    clicks, shown = ClickQueue(), _widgets.load_ipywidgets()
    start = {name: namespace.get(name, each.default) for name, each in declared.items()}
    fields = {name: _field(declared[name], value) for name, value in start.items() if name not in HIDDEN}
    use, says, line = clicks.button("Use these", "use", "primary"), shown.HTML(), ""

    def look(_: object = None) -> None:
        try:
            check(runbook, declared, start | _values(declared, fields), needed)
            use.disabled, says.value = False, "These are valid."
        except InvalidInput as error:
            use.disabled, says.value = True, f"<pre>{html.escape(error.what)}</pre>"

    rows = [shown.HBox([field, shown.Label(declared[name].meaning)]) for name, field in fields.items()]
    for field in fields.values():
        field.observe(look, "value")
    look()
    clicks.soon(fields[needed[0]].focus)
    panel = WidgetPanel(*rows, says, use)
    try:
        while await clicks.take() is None:
            pass
        values = check(runbook, declared, start | _values(declared, fields), needed)
        namespace.update(values)
        line = ", ".join(f"{name} = {values[name]!r}" for name in fields)
    finally:
        panel.replace(line or "Nothing was filled in.")


MARKS = {"yes": ("#00704a", "✓"), "no": ("#b00020", "✗"), "unknown": ("#8a5a00", "?")}


async def fill_checklist(look: Callable[..., ChecklistResult], attested: Mapping[str, str]) -> ChecklistResult:
    """A checklist's record. Where a person is there, its items appear as they are checked, until nothing is open.

    What no check can tell has a field for the name of who answers for it. Whoever keeps the record as it is keeps it
    with its open items; headless, ``attested`` is all there is.

    Args:
        look: goes through the checklist: takes ``attested``, and ``seen``, which hears of each item.

    Raises:
        What ``look`` raises.
    """
    if not _widgets.is_attended() or _widgets.load_ipywidgets() is None:
        return look(attested=attested)
    clicks, shown, names = ClickQueue(), _widgets.load_ipywidgets(), dict(attested)
    listed, people, fields = shown.HTML(), shown.VBox(), dict[str, Any]()
    buttons = clicks.button("Check again", "again", "primary"), clicks.button("Keep it as it is", "keep")
    panel, ended, click = WidgetPanel(listed, people, shown.HBox(buttons)), "Interrupted: no record was kept.", ""
    try:
        while True:
            _enable(buttons, False)
            record = await clock.in_thread(look, attested=names, seen=clicks.each(partial(_mark, listed, [])))
            if click == "keep" or not record.open:
                ended = (
                    f"{len(record.items) - len(record.open)} of {len(record.items)} items are proved or answered for."
                )
                return record
            for item in record.open:
                if item.state == "unknown" and item.name not in fields:
                    fields[item.name] = _widgets.input_field("Who answers", placeholder="a name, or nobody")
                    people.children += (shown.HBox([fields[item.name], shown.Label(item.name)]),)
            _enable(buttons, True)
            while not (click := await clicks.take() or ""):
                pass
            names |= {name: field.value for name, field in fields.items()}
    finally:
        panel.replace(ended)


def _enable(buttons: tuple[Any, ...], on: bool) -> None:
    for button in buttons:
        button.disabled = not on


def _mark(listed: Any, rows: list[str], item: ChecklistItem) -> None:
    """Show one more item, in its colour and with a mark that needs none."""
    colour, mark = MARKS[item.state]
    by = f", by {item.by}" if item.by else ""
    rows.append(
        f'<div><b style="color:{colour}">{mark} {html.escape(item.name)}</b>: {html.escape(item.says + by)}</div>'
    )
    listed.value = "".join(rows)


def check(
    runbook: str, declared: Mapping[str, DeclaredParameter], given: Mapping[str, Any], needed: tuple[str, ...]
) -> dict[str, Any]:
    """The values, if the runbook would take them.

    Raises:
        InvalidInput: every problem, in the words that the runbook itself would use.
    """
    values = settings.check_parameters(declared, given, f"parameters of {runbook}")
    file, source = project.read_settings(values["environment"])
    settings.validate_settings(values["settings"] or file, source, settings.rollout_overrides(values))
    if "artifact" in needed:
        project.read_artifact(values["artifact"])
    for name in needed:
        if not values[name]:
            raise InvalidInput("invalid-parameters", f"{name} is needed.", now=settings.UNTOUCHED, next="Fill it in.")
    return values


def _field(parameter: DeclaredParameter, value: Any) -> Any:
    """A field for a parameter's type: a choice, a tick, or a line of text, which is YAML unless a text is meant."""
    root = project.project_root()
    if parameter.name == "environment":
        names = sorted(path.stem for path in (root / "parameters").glob("*.yaml"))
        return _widgets.input_field(parameter.name, "Dropdown", options=names, value=value if value in names else None)
    if parameter.annotation == "bool":
        return _widgets.input_field(parameter.name, "Checkbox", value=bool(value))
    if parameter.name == "artifact":
        builds = sorted(str(path.relative_to(root)) for path in (root / "build").glob("*.zip"))
        return _widgets.input_field(parameter.name, "Combobox", options=builds, value=value, placeholder="build/….zip")
    return _widgets.input_field(parameter.name, value="" if value in (None, [], {}) else str(value))


def _values(declared: Mapping[str, DeclaredParameter], fields: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in the fields; an empty line is the parameter's default."""
    found: dict[str, Any] = {}
    for name, field in fields.items():
        value = field.value
        if isinstance(value, str) and not value.strip():
            value = declared[name].default
        elif isinstance(value, str) and declared[name].annotation != "str":
            with suppress(ValueError):  # it stays a text, which its type refuses in words
                value = settings.from_yaml(value)
        found[name] = value
    return found
