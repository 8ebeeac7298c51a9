"""The progress of a long step: one line, updated in place."""

from buddy_ops.core.text import show_controls
from buddy_ops.notebook._widgets import LiveOutput


class ProgressLine(LiveOutput):
    """Called with a line of text, shows it in place of the line before."""

    def __call__(self, line: str) -> None:
        self.show({"text/plain": show_controls(line)})
