"""How Sphinx builds the documentation: ``make docs``."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from docs import generate

project = "Buddy Ops"
copyright = "Buddy Ops contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "Buddy Ops"
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_ivar = True  # else an attribute whose default has a docstring is described twice
napoleon_use_rtype = False
python_use_unqualified_type_names = True


def fill_in(app: Any, name: str, source: list[str]) -> None:
    """Put in what comes from the code."""
    if name == "reference/errors":
        source[0] = generate.errors_page(source[0])
    if name == "reference/settings":
        source[0] = source[0].replace("<!-- settings -->", generate.settings_tables())


def plain(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are prose: only their double backticks are markup."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        escaped = [part if part.startswith("``") else re.sub(r"([*|`]|_(?=\W|$))", r"\\\1", part) for part in parts]
        lines[number] = "".join(escaped)


def setup(app: Any) -> None:
    """Generate the pages, then hook into the build."""
    generate.write_pages(Path(__file__).parent)
    app.connect("source-read", fill_in)
    # Before napoleon, which turns the section Raises into markup.
    app.connect("autodoc-process-docstring", plain, priority=100)
