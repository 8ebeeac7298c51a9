"""Who sits before the notebook: whether a person can answer, and how a click reaches the cell that waits for it.

Knows widgets for as long as a cell needs them. Never knows what is asked, and leaves nothing but a line of text behind.
"""

import html
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

SLICE_S = 0.5
"""Real seconds between two looks at what a cell waits for: a kernel hears an interrupt only in between."""

NO_BUTTONS = (
    "Buttons should be here. Install ipywidgets where JupyterLab runs, or do this with buddy-ops in a terminal."
)


def is_attended() -> bool:
    """Whether somebody can answer a question that this cell asks.

    JupyterLab, VS Code and consoles say so in each request to run a cell. papermill, nbclient and nbval say that nobody
    can, and outside a notebook nobody is asked.
    """
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython.get_ipython(), "kernel", None) if ipython else None
    return kernel is not None and bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin"))


def load_ipywidgets() -> Any:
    """The ipywidgets package, or None where it is not installed."""
    try:
        import ipywidgets
    except ImportError:
        return None
    return ipywidgets


def input_field(label: str, kind: str = "Text", **more: Any) -> Any:
    """Something to fill in, whose every change is heard while a cell waits. ``kind`` is a name of ipywidgets."""
    shown = load_ipywidgets()
    wide, style = shown.Layout(width="380px"), {"description_width": "110px"}
    made = getattr(shown, kind)(description=label, layout=wide, style=style, **more)
    made.observe(_acknowledge, "value")
    return made


def _acknowledge(_: object) -> None:
    """Tell the front end that its message was dealt with; the next change of the same widget waits for that.

    ipykernel 7.4 says so itself, but not for messages that it takes while an asynchronous cell runs.
    """
    kernel = getattr(sys.modules["IPython"].get_ipython(), "kernel", None)
    if kernel is None or (parent := kernel.get_parent("shell")).get("msg_type") != "comm_msg":
        return
    for state in ("idle", "busy"):
        kernel.session.send(kernel.iopub_socket, "status", {"execution_state": state}, parent=parent, ident=b"status")


class ClickQueue:
    """Clicks in the order in which they came, from whichever thread hears them to the cell that waits."""

    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[str] = asyncio.Queue()

    def button(self, text: str, what: str, style: str = "", **more: Any) -> Any:
        """A button whose click is ``what``."""
        button = load_ipywidgets().Button(description=text, button_style=style, **more)
        button.on_click(lambda _: self._loop.call_soon_threadsafe(self._queue.put_nowait, what))
        return button

    def each(self, do: Callable[[T], None]) -> Callable[[T], None]:
        """The same, called from another thread and done in the cell's own: widgets belong there."""

        def soon(what: T) -> None:
            self._loop.call_soon_threadsafe(do, what)

        return soon

    def soon(self, act: Callable[[], None]) -> None:
        """Do something once the page has had time to show what was displayed."""
        self._loop.call_later(SLICE_S, act)

    async def take(self, meanwhile: "asyncio.Future[None] | None" = None) -> str | None:
        """The next click; None when none came within ``SLICE_S``, or when what happens ``meanwhile`` is over."""
        import asyncio

        clicked = asyncio.ensure_future(self._queue.get())
        waited_for: set[asyncio.Future[Any]] = {clicked} if meanwhile is None else {clicked, meanwhile}
        try:
            await asyncio.wait(waited_for, timeout=SLICE_S, return_when=asyncio.FIRST_COMPLETED)
            return clicked.result() if clicked.done() else None
        finally:
            clicked.cancel()


class WidgetPanel:
    """Widgets in a cell's output; one line takes their place, so that no widget's state stays in the file."""

    def __init__(self, *rows: Any) -> None:
        from IPython.display import display

        self._box = load_ipywidgets().VBox(rows)
        bundle = {**self._box._repr_mimebundle_(), "text/plain": NO_BUTTONS}
        self._handle: Any = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def replace(self, line: str) -> None:
        """End the widgets and say in one line what came of them."""
        shown = f'<p style="margin:0">{html.escape(line)}</p>'
        self._handle.update({"text/html": shown, "text/plain": line}, raw=True)
        _each(self._box, lambda widget: widget.close())


def _each(widget: Any, do: Callable[[Any], None]) -> None:
    """Do it with a widget and all that belongs to it, the innermost first."""
    for part in (*getattr(widget, "children", ()), widget.layout, getattr(widget, "style", None)):
        if hasattr(part, "layout"):
            _each(part, do)
        elif part is not None:
            do(part)
    do(widget)
