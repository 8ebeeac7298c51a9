"""What runs in JupyterLab's page: the script that keeps focus and errors in view, and the style of dead buttons."""

from functools import cache
from importlib.resources import files

STYLE = """<style>
.buddy-ops-notice, .buddy-ops-script { display: none; }
.buddy-ops-panel:is(.jupyter-widgets-disconnected, .buddy-ops-detached) > * { display: none; }
.buddy-ops-panel:is(.jupyter-widgets-disconnected, .buddy-ops-detached) > .buddy-ops-notice { display: block; }
</style>"""
"""Buttons without their kernel, or in a page that does not show their cell's output, give way to a sentence."""


def script(panel: str = "") -> dict[str, str]:
    """The page's script as a MIME bundle.

    Args:
        panel: the CSS class of the panel that it comes with; empty: it only follows errors.
    """
    return {"application/javascript": _source().replace("PANEL", panel)}


@cache
def _source() -> str:
    return files("buddy_ops.notebook").joinpath("page.js").read_text("utf-8")
