"""Changes to an environment's file in parameters/, as a diff: comments and the order of its lines are kept."""

import json
from collections.abc import Mapping
from difflib import unified_diff

from buddy_ops.core.documents import parse_yaml

SECTION_INDENT = "  "
KEY_INDENT = "    "


def propose_changes(text: str, changes: Mapping[str, object], name: str) -> str:
    """A unified diff that sets some settings in a parameters/ file; empty where it has them already.

    Args:
        text: the file.
        changes: values by setting, such as 'health.late_data_s'.
        name: the file's path, for the diff.

    Raises:
        ValueError: the file writes the section in another form than a block of lines.
    """
    changed = text
    for setting, value in changes.items():
        section, _, key = setting.partition(".")
        changed = _with_value(changed, section, key, json.dumps(value))
        found = parse_yaml(changed)["settings"].get(section)
        if not isinstance(found, dict) or found.get(key) != value:
            raise ValueError(f"{name}: {section} is not a block of lines")
    lines = (text.splitlines(keepends=True), changed.splitlines(keepends=True))
    return "".join(unified_diff(*lines, fromfile=f"a/{name}", tofile=f"b/{name}"))


def _with_value(text: str, section: str, key: str, value: str) -> str:
    """The file with one value set: in its line, or in a new one at the beginning of the section."""
    lines = text.splitlines(keepends=True)
    head = f"{SECTION_INDENT}{section}:"
    starts = [number for number, line in enumerate(lines) if line.rstrip() == head or line.startswith(f"{head} #")]
    if not starts:
        ending = "" if text.endswith("\n") else "\n"
        return f"{text}{ending}{head}\n{KEY_INDENT}{key}: {value}\n"
    for number in range(starts[0] + 1, len(lines)):
        line = lines[number]
        if line.strip() and not line.startswith(KEY_INDENT):
            break
        if line.startswith(f"{KEY_INDENT}{key}:"):
            _, mark, comment = line.partition(" #")
            # A line without a comment has lost its end together with its value.
            lines[number] = f"{KEY_INDENT}{key}: {value}{mark}{comment or chr(10)}"
            return "".join(lines)
    lines.insert(starts[0] + 1, f"{KEY_INDENT}{key}: {value}\n")
    return "".join(lines)
