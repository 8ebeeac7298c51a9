"""Forms: the parameters that a runbook's cell leaves empty, and the names of those who verified a checklist's items.

A value is valid if the runbook itself would take it. Nothing here writes to AWS.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from buddy_ops.aws import clock
from buddy_ops.core import palette, parameters, project
from buddy_ops.core.checklist import ChecklistItem, ChecklistResult
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.parameters import DeclaredParameter
from buddy_ops.core.text import count, escape_html
from buddy_ops.notebook import _widgets
from buddy_ops.notebook._widgets import ClickQueue, Widget, WidgetPanel, alert
from buddy_ops.notebook.choices import choose
from buddy_ops.notebook.interrupts import stopped_with

HIDDEN = ("settings", "approved_by", "approved_plan")
"""Parameters without a field: the environment's file has the settings, and the approval asks for names."""

WHICH_ENVIRONMENT = (
    "Which environment? To choose it in advance, set environment in the parameters cell, or start JupyterLab with "
    "BUDDY_OPS_ENVIRONMENT."
)

MARKS = {
    "yes": (palette.OK, "✓"),
    "no": (palette.PROBLEM, "✗"),
    "unknown": (palette.UNKNOWN, "?"),
    "pending": (palette.INFO, "…"),
}
"""Colour and mark of each state of a checklist's item."""


async def ask_environment(namespace: dict[str, object]) -> None:
    """Ask which environment is meant, if neither the parameters cell nor BUDDY_OPS_ENVIRONMENT says it.

    Headless no one is asked: it is the sandbox then. Call it before ``open_runbook``.

    Raises:
        InvalidInput: ``unknown-environment``: BUDDY_OPS_ENVIRONMENT names none.
    """
    names = project.environments()
    if namespace.get("environment") or project.default_environment() or len(names) < 2:
        return
    # Where nothing real is comes first: it has the focus.
    names.sort(key=lambda name: name != project.SANDBOX)
    namespace["environment"] = await choose(
        "", WHICH_ENVIRONMENT, {name: _describe_environment(name) for name in names}
    )


def _describe_environment(name: str) -> str:
    with suppress(InvalidInput, KeyError):  # a damaged file is refused once it is chosen
        return f"{name}: {project.read_settings(name)[0]['function']}"
    return name


async def fill_parameters(runbook: str, namespace: dict[str, Any], *needed: str) -> None:
    """Ask for a runbook's parameters with a form, if one that it needs is empty and a person is there.

    Call it before ``open_runbook``: ``await fill_parameters("canary", globals(), "artifact")``.
    """
    if all(namespace.get(name) for name in needed) or not _widgets.can_show_widgets():
        return
    widgets = _widgets.load_ipywidgets()
    clicks = ClickQueue()
    declared = project.declared_parameters(runbook)
    # What the cell has already is kept: only what is missing has to be entered.
    start = {name: namespace.get(name, parameter.default) for name, parameter in declared.items()}
    with suppress(InvalidInput, KeyError):  # the form then asks for it
        start["environment"] = project.choose_environment(start["environment"])
    fields = {name: _field(declared[name], value) for name, value in start.items() if name not in HIDDEN}
    message = widgets.HTML()
    # Never disabled: a page that misses one message would leave it so, and such a button says nothing to a keyboard.
    use = clicks.button("Use these values", "use", "primary")

    def values() -> dict[str, object]:
        return check_parameters(runbook, declared, start | _values(declared, fields), needed)

    def find_problem() -> str:
        try:
            values()
        except InvalidInput as error:
            return error.what
        return ""

    def check(_: object = None) -> None:
        problem = find_problem()
        shown = "All values are valid."
        if problem:
            shown = f"<pre>{escape_html(problem)}</pre>"
        message.value = shown

    for field in fields.values():
        field.observe(check, "value")
    check()
    first = fields[needed[0]]
    rows = [widgets.HBox([field, _meaning(declared[name].meaning)]) for name, field in fields.items()]
    panel = WidgetPanel(*rows, message, use, first=first)
    last_line = "Form closed: no parameter was changed."
    try:
        with stopped_with(lambda: "Stopped. No parameter was changed. Run this cell again to enter them."):
            while await clicks.take() is None or _tell_problem(find_problem(), message, fields, first):
                pass
        # Once more, at the click: a field may have changed after it was checked.
        chosen = values()
        namespace.update(chosen)
        last_line = ", ".join(f"{name} = {chosen[name]!r}" for name in fields)
    finally:
        panel.replace(last_line)


def _tell_problem(problem: str, message: Widget, fields: Mapping[str, Widget], first: Widget) -> bool:
    """Say what is wrong, with the cursor in the field that the sentence names; whether there is anything."""
    if not problem:
        return False
    message.value = alert(f"Not used: {problem}")
    # The sentence is the runbook's own, and names the parameter: 'artifact is needed.'
    named = [field for name, field in fields.items() if re.search(rf"\b{name}\b", problem)]
    (*named, first)[0].focus()
    return True


async def fill_checklist(run_checks: Callable[..., ChecklistResult], attested: Mapping[str, str]) -> ChecklistResult:
    """A checklist's result. Where a person is there, its items appear as they are checked, until none is open.

    A manual item has a field for the name of the person who verified it. Headless, ``attested`` has all the names.

    Args:
        run_checks: runs the checklist: takes ``attested``, and ``seen``, which is called with each item.

    Raises:
        What ``run_checks`` raises.
    """
    if not _widgets.can_show_widgets():
        return run_checks(attested=attested)
    widgets = _widgets.load_ipywidgets()
    clicks = ClickQueue()
    names = dict(attested)
    listed = widgets.HTML()
    people = widgets.VBox()
    fields: dict[str, Widget] = {}
    again = clicks.button("Check again", "again", "primary")
    store = clicks.button("Store the result as it is", "store")
    buttons = widgets.HBox()
    panel = WidgetPanel(listed, people, buttons)
    last_line = "No result was stored."
    click = ""
    try:
        while True:
            # While checks run there is nothing to click.
            buttons.children = ()
            # The checks run in a worker thread, and widgets belong to this one.
            seen = clicks.in_cell_thread(partial(_mark, listed, []))
            record = await clock.in_thread(run_checks, attested=names, seen=seen)
            if click == "store" or not record.open:
                closed = len(record.items) - len(record.open)
                last_line = f"{closed} of {count(len(record.items), 'item')} passed or verified."
                return record
            manual = [item.name for item in record.open if item.state == "unknown" and item.name not in fields]
            fields |= {name: _verifier_field(name) for name in manual}
            # One assignment: the fields appear together.
            people.children += tuple(fields[name] for name in manual)
            buttons.children = (again, store)
            click = ""
            with stopped_with(lambda: "Stopped. No result was stored. Run this cell again to check."):
                while not click:
                    click = await clicks.take() or ""
            names |= {name: field.value for name, field in fields.items()}
    finally:
        panel.replace(last_line)


def _verifier_field(item: str) -> Widget:
    """A field for the name of the person who verified an item. Its label names the item."""
    return _widgets.input_field(f"{item}, verified by", width="560px", label_width="290px", placeholder="name")


def _mark(listed: Widget, rows: list[str], item: ChecklistItem) -> None:
    """Show one more item, with a colour, and with a mark for those who cannot distinguish it."""
    tone, mark = MARKS[item.state]
    text = item.says
    if item.by:
        text = f"{item.says}, by {item.by}"
    rows.append(f'<div><b style="{tone.style}">{mark} {escape_html(item.name)}</b>: {escape_html(text)}</div>')
    listed.value = "".join(rows)


def check_parameters(
    runbook: str, declared: Mapping[str, DeclaredParameter], given: Mapping[str, object], needed: tuple[str, ...]
) -> dict[str, Any]:
    """The values, if the runbook would take them.

    Raises:
        InvalidInput: every problem, in the words that the runbook itself would use.
    """
    # The same three checks that the runbook's opening makes: its parameters, the settings, and the build.
    values = parameters.check_parameters(declared, given, f"parameters of {runbook}")
    values["environment"] = project.choose_environment(values["environment"])
    project.check_settings(values)
    if "artifact" in needed:
        project.check_artifact(values["artifact"])
    for name in needed:
        if not values[name]:
            raise InvalidInput("invalid-parameters", f"{name} is needed.", next="Enter it.")
    return values


def _field(parameter: DeclaredParameter, value: object) -> Widget:
    """A field for a parameter's type: a choice, a checkbox, or a line of text, which is YAML unless the type is str."""
    root = project.project_root()
    if parameter.name == "environment":
        names = project.environments()
        # A dropdown takes no value that is not among its options.
        if value not in names:
            value = None
        return _widgets.input_field(parameter.name, "Dropdown", options=names, value=value)
    if parameter.annotation == "bool":
        return _widgets.input_field(parameter.name, "Checkbox", value=bool(value))
    if parameter.name == "artifact":
        builds = sorted(str(path.relative_to(root)) for path in (root / "build").glob("*.zip"))
        return _widgets.input_field(parameter.name, "Combobox", options=builds, value=value, placeholder="build/….zip")
    return _widgets.input_field(parameter.name, value="" if value in (None, [], {}) else str(value))


def _meaning(text: str) -> Widget:
    """A text beside a field, whole: it wraps, where a label would be cut."""
    widgets = _widgets.load_ipywidgets()
    html = f'<p style="margin:0;padding:5px 0;line-height:1.4">{escape_html(text)}</p>'
    shown: Widget = widgets.HTML(html, layout=widgets.Layout(flex="1 1 0%"))
    return shown


def _values(declared: Mapping[str, DeclaredParameter], fields: Mapping[str, Widget]) -> dict[str, object]:
    """The values in the fields; an empty line is the parameter's default."""
    values: dict[str, object] = {}
    for name, field in fields.items():
        value = field.value
        if isinstance(value, str) and not value.strip():
            value = declared[name].default
        elif isinstance(value, str) and declared[name].annotation != "str":
            # Text that is not YAML stays text: the check of its type then says what is wrong.
            with suppress(ValueError):
                value = parameters.parse_value(value, declared[name].annotation)
        values[name] = value
    return values
