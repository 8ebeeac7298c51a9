"""Text in a cell's output: JupyterLab obeys control sequences in it as a terminal does.

A carriage return writes over a line, a backspace removes characters, colours hide text.
"""

from typing import TextIO

from buddy_ops.core.text import show_controls


def print_escaped(
    *values: object, sep: str | None = " ", end: str | None = "\n", file: TextIO | None = None, flush: bool = False
) -> None:
    """Python's ``print``, whose values are shown and not obeyed. Runbooks' cells have it as ``print``."""
    shown = [show_controls(str(value)) for value in values]
    print(*shown, sep=sep, end=end, file=file, flush=flush)
