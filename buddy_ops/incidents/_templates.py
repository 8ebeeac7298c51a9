"""Markdown from the templates of this package."""

import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from buddy_ops.core.text import date_and_time, show_controls

# The characters that Markdown reads as code, a table's border, a link, emphasis or an image.
MARKUP = re.compile(r"[\\|`\[\]*_!]")


def escape(value: object) -> str:
    """A value as one line of Markdown without markup or links."""
    line = show_controls(" ".join(str(value).split())).replace("&", "&amp;").replace("<", "&lt;")
    return MARKUP.sub(r"\\\g<0>", line)


_ENVIRONMENT = Environment(
    loader=PackageLoader("buddy_ops.incidents"),
    finalize=escape,  # every inserted value, so that no text of a journal, a log or AWS is read as Markdown
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["when"] = date_and_time


def render(template: str, **values: object) -> str:
    """A template of this package, filled in; every value is escaped."""
    return _ENVIRONMENT.get_template(f"{template}.md.j2").render(**values)
