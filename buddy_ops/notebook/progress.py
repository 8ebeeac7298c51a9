"""How far something long has come: one line, changed in place.

Knows how a notebook shows it. Never knows what goes on.
"""

from typing import Any


class ProgressLine:
    """Hears what is said and shows the latest of it."""

    def __init__(self) -> None:
        self._shown: Any = None

    def __call__(self, said: str) -> None:
        from IPython.display import display

        if self._shown is None:
            self._shown = display({"text/plain": said}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._shown.update({"text/plain": said}, raw=True)
