"""The parts of the documentation that come from the code: settings, errors, commands, packages and runbooks.

``python -m docs.generate`` writes the JSON schemas of the files in parameters/ for editors, and docs/reference/cli.md.
"""

import ast
import copy
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from buddy_ops.core import errors, places

ROOT = Path(__file__).parents[1]
COMMANDS_PAGE = ROOT / "docs" / "reference" / "cli.md"
SCHEMA = ROOT / "buddy_ops" / "core" / "settings.schema.json"
FLEET_SCHEMA = SCHEMA.with_name("fleet.schema.json")
EXIT_CODES = {
    name: kind.exit_code
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.BuddyError)
}
EXTENDS = {
    "type": "string",
    "pattern": f"^{places.BASE_FILE.pattern}$",
    "default": None,
    "description": "File in the same folder whose settings hold where this one writes none: defaults.yaml or "
    "NAME.defaults.yaml. Mappings are merged by key; a list is replaced.",
}
"""The key with which an environment's file names its base. It is resolved before the settings are validated."""

HEADING = re.compile(r"^## `([a-z-]+)`$")


# Errors


@dataclass(frozen=True)
class Raised:
    """One place that raises an error."""

    reference: str
    kind: str
    """The class, or empty where the syntax does not say."""

    module: str


def constants(node: ast.expr | None) -> Iterator[str]:
    """The texts that an expression may be: a constant, or either side of a conditional expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)


def named(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Reference and class of each error that one piece of syntax names."""
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        name = called.rpartition(".")[2]
        if name in EXIT_CODES or called == "super().__init__":
            yield from ((text, name if name in EXIT_CODES else "") for text in constants(next(iter(node.args), None)))
        # A helper that raises takes the class and then the reference.
        for given, after in pairwise(node.args):
            kind = ast.unparse(given).rpartition(".")[2]
            if kind in EXIT_CODES:
                yield from ((text, kind) for text in constants(after))
        for keyword in node.keywords:
            if keyword.arg == "reference":
                yield from ((text, "") for text in constants(keyword.value))
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for left, right in pairs:
                if ast.unparse(left) == "reference":
                    yield from ((text, "") for text in constants(right))
    elif isinstance(node, ast.FunctionDef):
        arguments = [*node.args.args[len(node.args.args) - len(node.args.defaults) :], *node.args.kwonlyargs]
        for argument, default in zip(arguments, [*node.args.defaults, *node.args.kw_defaults], strict=True):
            if argument.arg == "reference":
                yield from ((text, "") for text in constants(default))


def raised() -> list[Raised]:
    """Every error that the library's code names, and the endings of a rollout that are errors."""
    from buddy_ops.core import outcome

    found = [Raised(ending, "", "core.outcome") for ending, code in outcome.EXIT_CODES.items() if code]
    for path in sorted((ROOT / "buddy_ops").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "buddy_ops").with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            found += [Raised(reference, kind, module) for reference, kind in named(node)]
    return [each for each in found if each.reference]


def explained(prose: str) -> dict[str, str]:
    """The text of each reference in docs/reference/errors.md; headings that follow one another share the next text."""
    found: dict[str, str] = {}
    waiting: list[str] = []
    for line in prose.splitlines():
        if match := HEADING.match(line):
            # A blank line before a heading closes the group above it.
            waiting.append(match[1])
            found[match[1]] = ""
        elif line.strip():
            for name in waiting:
                found[name] += f"{line}\n"
        else:
            waiting = []
    return found


def errors_page(prose: str) -> str:
    """The prose, and under each heading the error's class, exit code and modules.

    Raises:
        ValueError: A reference of the code has no prose, or a heading has no reference in the code.
    """
    places = raised()
    texts = explained(prose)
    references = {place.reference for place in places}
    missing = sorted(reference for reference in references if not texts.get(reference))
    if missing or set(texts) - references:
        raise ValueError(f"errors.md: without prose: {missing}; not in the code: {sorted(set(texts) - references)}")
    lines = []
    for line in prose.splitlines():
        lines.append(line)
        if match := HEADING.match(line):
            mine = [place for place in places if place.reference == match[1]]
            kinds = sorted({place.kind for place in mine if place.kind})
            codes = sorted({EXIT_CODES[kind] for kind in kinds})
            facts = [f"{', '.join(kinds)}, exit code {', '.join(map(str, codes))}"] if kinds else []
            facts.append("raised in " + ", ".join(f"`{name}`" for name in sorted({place.module for place in mine})))
            lines += ["", f"*{'; '.join(facts)}*", ""]
    return "\n".join(lines) + "\n"


# Settings


def json_schema() -> dict[str, Any]:
    """The JSON schema of a file in parameters/."""
    from buddy_ops.core.settings import Settings

    schema = Settings.model_json_schema(ref_template="#/$defs/{model}")
    definitions = schema.pop("$defs", {})
    schema["properties"] = {"extends": EXTENDS, **schema["properties"]}
    # What is required may be in the base; a base is partial, has no environment, and extends nothing.
    whole = {"anyOf": [{"required": ["extends"]}, _split(schema, definitions)]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of an environment of Buddy Ops",
        "type": "object",
        "required": ["settings"],
        "additionalProperties": False,
        "properties": {"environment": {"type": "string"}, "settings": {"$ref": "#/$defs/Settings"}},
        "if": {"required": ["environment"]},
        "then": {"properties": {"settings": whole}},
        "else": {"properties": {"settings": {"not": {"required": ["extends"]}}}},
        "$defs": {**definitions, "Settings": schema},
    }


PART = "Part"
"""The end of a definition's name for a model of which a file may have a part, and its base the rest."""


def _split(model: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Let a model's mappings be partial, as files that are merged may be; what a file that extends none must fulfil.

    Lists are not merged: their items keep what they require.
    """
    rule: dict[str, Any] = {}
    if "required" in model:
        rule["required"] = model.pop("required")
    for name, field in model.get("properties", {}).items():
        for option in (field, *field.get("anyOf", ())):
            key = option.get("$ref", "").rpartition("/")[2]
            if not key:
                continue
            part = definitions[key]
            if "required" in part:
                part = definitions[f"{key}{PART}"] = copy.deepcopy(part)
                option["$ref"] += PART
            inner = _split(part, definitions)
            if inner:
                rule.setdefault("properties", {})[name] = inner
    return rule


def fleet_schema() -> dict[str, Any]:
    """The JSON schema of parameters/fleet.yaml."""
    from buddy_ops.core.fleet_file import Fleet

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Fleet.model_json_schema(),
        "title": "Targets of a fleet of Buddy Ops",
    }


def shown(value: Any) -> str:
    """A JSON value in a cell of a table."""
    text = json.dumps(value, ensure_ascii=False)
    return "`" + text.replace("|", "\\|") + "`"


def type_name(field: dict[str, Any]) -> str:
    """The type of a field, with its limits."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2].removesuffix(PART)
        # pydantic's name for anything that JSON has: it is no section of the page.
        return "any JSON value" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    options = field.get("anyOf", field.get("oneOf", field.get("allOf")))
    if options:
        return " or ".join(dict.fromkeys(type_name(option) for option in options))
    if "const" in field:
        return shown(field["const"])
    if "enum" in field:
        return ", ".join(map(shown, field["enum"]))
    kind = str(field.get("type", "any"))
    if kind == "array":
        items = field.get("items", {})
        inner = type_name(items) if items else "any"
        return f"list of {inner}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"mapping to {type_name(field['additionalProperties'])}"
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[key]:g}" for key, sign in words.items() if key in field]
    if "pattern" in field:
        limits.append(f"pattern {shown(field['pattern'])}")
    return ", ".join([kind, *limits])


def settings_tables() -> str:
    """A section with a table for each model of the settings."""
    definitions = json_schema()["$defs"]
    lines: list[str] = []
    for name in ["Settings", *sorted(set(definitions) - {"Settings"})]:
        model = definitions[name]
        if "properties" not in model or name.endswith(PART):
            continue
        about = model.get("description", "").split("\n\n")[0].replace("\n", " ")
        lines += [f"## {name}", "", about, "", "| key | type | default | meaning |", "|---|---|---|---|"]
        for key, field in model["properties"].items():
            default = shown(field["default"]) if "default" in field else "required"
            meaning = field.get("description", "").replace("\n", " ").replace("|", "\\|")
            lines.append(f"| `{key}` | {type_name(field)} | {default} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


# Commands


def command_pairs() -> list[tuple[str, Any]]:
    """Every command by its words."""
    from buddy_ops.cli.main import app

    found = []
    for name, command in app.commands.items():
        parts = getattr(command, "commands", {})
        found += [(f"{name} {part}", leaf) for part, leaf in parts.items()] or [(name, command)]
    return found


def exit_code_table() -> str:
    """What is the same for all commands, then each command's exit codes."""
    from buddy_ops.cli.exit_codes import COMMANDS, FAILED, INVALID

    same = {FAILED, INVALID}
    lines = [f"- 1 is {FAILED}.", f"- 2 is {INVALID}.", "", "| command | exit codes | meaning |", "|---|---|---|"]
    for words, _ in command_pairs():
        codes = COMMANDS[words]
        own = "; ".join(f"**{code}** {meaning}" for code, meaning in codes.items() if meaning not in same)
        lines.append(f"| `buddy-ops {words}` | {', '.join(map(str, codes))} | {own} |")
    return "\n".join(lines)


def option_tables() -> str:
    """A section with the arguments and options of each command."""
    lines: list[str] = []
    for words, command in command_pairs():
        arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
        line = " ".join([f"buddy-ops {words}", *(parameter.name.upper() for parameter in arguments)])
        lines += [f"### `{line}`", "", inspect.cleandoc(command.help or ""), "", "| option | meaning |", "|---|---|"]
        for parameter in command.params:
            names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
            if parameter in arguments:
                names = f"`{parameter.name.upper()}`"
            lines.append(f"| {names} | {(parameter.help or '').replace('|', '')} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def commands_page(page: str) -> str:
    """The page of the commands, with what is generated between its marks."""
    for name, text in (("exit codes", exit_code_table()), ("options", option_tables())):
        begin = f"<!-- {name}: written by `python -m docs.generate` -->"
        end = f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"
    return page


# Packages and runbooks


def index(title: str, about: str, names: str) -> str:
    """A page that lists others."""
    return f"# {title}\n\n{about}\n\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n"


def api_pages() -> dict[str, str]:
    """One page a package, with every public module's documented members."""
    pages = {}
    packages = sorted(path.parent for path in (ROOT / "buddy_ops").glob("*/__init__.py"))
    for package in packages:
        name = f"buddy_ops.{package.name}"
        lines = [f"# {name}", "", "```{eval-rst}", f".. automodule:: {name}", "```", ""]
        for module in sorted(package.glob("[a-z]*.py")):
            lines += [f"## {module.stem}", "", "```{eval-rst}", f".. automodule:: {name}.{module.stem}"]
            lines += ["   :members:"]
            # The pattern of this type is no valid markup.
            lines += ["   :exclude-members: Flag"] if module.stem == "settings" else []
            lines += ["```", ""]
        pages[package.name] = "\n".join(lines)
    contents = "\n".join(pages)
    pages["index"] = index("API", "Each package has the names that its modules document.", contents)
    return pages


def runbook_page(path: Path) -> str:
    """A notebook as a page: its Markdown, and its code without outputs."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\(([\w./]+)\.ipynb\)", r"](\1.md)", source))
        else:
            parts.append(f"```python\n{source}\n```")
    return "\n\n".join(parts) + "\n"


def runbook_pages() -> dict[str, str]:
    """Every runbook's page by its name, and the list of them."""
    folder = ROOT / "notebooks"
    paths = [path for path in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    pages = {str(path.relative_to(folder).with_suffix("")): runbook_page(path) for path in paths}
    names = "\n".join(sorted(pages, key=lambda name: (name != "start_here", name)))
    pages["index"] = index("Runbooks", "Open them in JupyterLab: `make lab`. These pages show text and code.", names)
    return pages


def write_pages(docs: Path) -> None:
    """Write the generated pages under docs/; a page that has not changed keeps its time, so that a build is quick."""
    for folder, pages in (("reference/api", api_pages()), ("runbooks", runbook_pages())):
        for name, text in pages.items():
            path = docs / folder / f"{name}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text("utf-8") != text:
                path.write_text(text, "utf-8")


def main() -> None:
    """Write the JSON schemas, and the page of the commands."""
    COMMANDS_PAGE.write_text(commands_page(COMMANDS_PAGE.read_text("utf-8")), "utf-8")
    for path, schema in ((SCHEMA, json_schema()), (FLEET_SCHEMA, fleet_schema())):
        path.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
