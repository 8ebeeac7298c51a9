"""What runs in the page of JupyterLab: a script that keeps focus and errors in view, and the style of lost buttons."""

from functools import cache
from importlib.resources import files

UNRECORDED = {"buddy_ops": {"recorded": False}}
"""The metadata of an output that is for the page only: a run's record leaves it out."""

STYLE = """<style>
.buddy-ops-dead, .buddy-ops-reloaded, .buddy-ops-script { display: none; }
.buddy-ops-panel.jupyter-widgets-disconnected > * { display: none; }
.buddy-ops-panel.buddy-ops-detached:not(.buddy-ops-works-detached) > * { display: none; }
.buddy-ops-panel.jupyter-widgets-disconnected > .buddy-ops-dead { display: block; }
.buddy-ops-panel.buddy-ops-detached:not(.jupyter-widgets-disconnected) > .buddy-ops-reloaded { display: block; }
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
