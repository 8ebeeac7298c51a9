"""Widgets of a cell that waits for a person: whether one can answer, and how a click reaches the cell.

Widgets live as long as the cell needs them; one line of text takes their place.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from buddy_ops.core import palette
from buddy_ops.core.text import escape_html, show_controls
from buddy_ops.notebook import page
from buddy_ops.notebook._shell import current_shell

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

SLICE_S = 0.5
"""Longest real time between two checks of what a cell waits for: a kernel takes an interrupt only in between."""

ButtonStyle = Literal["", "primary", "danger"]

BUTTONS: Mapping[str, palette.Tone] = {"primary": palette.INFO, "danger": palette.PROBLEM}
"""The colour of a button that is recommended, and of one that rolls back."""

QUIET_S = 0.3
"""For how long no field may have changed before Enter counts."""

RUN_AGAIN = "Choose Run > Restart Kernel and Run All Cells."

NO_BUTTONS = f"The buttons that were here do nothing any more: the kernel was restarted or has ended. {RUN_AGAIN}"
"""In place of buttons whose kernel is gone, and where a front end has no widgets."""

RELOADED = f"The page was reloaded, so it does not show what follows here. Nothing was approved. {RUN_AGAIN}"
"""In place of a question whose page was reloaded: the kernel still waits, but this page shows no further output."""


class Widget(Protocol):
    """What runbooks use of a widget: ipywidgets has no types. Only input fields have all of it."""

    value: Any

    def add_class(self, name: str) -> object:
        """Add a CSS class."""

    def focus(self) -> None:
        """Put the cursor there."""

    def observe(self, handler: Callable[[object], object], names: str) -> None:
        """Call ``handler`` with each change of this member."""

    def on_msg(self, callback: Callable[[object, Mapping[str, object], object], object]) -> None:
        """Call ``callback`` with each message that the page sends."""


def is_attended() -> bool:
    """Whether a person can answer a question that this cell asks.

    JupyterLab, VS Code and consoles say so in each request to run a cell. papermill, nbclient and nbval say the
    opposite. Outside a notebook the answer is no.
    """
    kernel = getattr(current_shell(), "kernel", None)
    return kernel is not None and bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin"))


def load_ipywidgets() -> Any:
    """The ipywidgets package, or None where it is not installed."""
    try:
        import ipywidgets
    except ImportError:
        return None
    return ipywidgets


def can_show_widgets() -> bool:
    """Whether a person can answer with widgets."""
    return is_attended() and load_ipywidgets() is not None


def input_field(
    label: str, kind: str = "Text", *, width: str = "380px", label_width: str = "110px", **options: object
) -> Widget:
    """An input field that takes changes while a cell waits. ``kind`` is a class of ipywidgets."""
    widgets = load_ipywidgets()
    layout = widgets.Layout(width=width)
    widget_class = getattr(widgets, kind)
    style = {"description_width": label_width}
    field: Widget = widget_class(description=label, layout=layout, style=style, **options)
    field.observe(_acknowledge, "value")
    return field


def _acknowledge(_: object) -> None:
    """Report to the front end that its message was processed: it sends the widget's next change only then.

    ipykernel 7.4 reports that itself, but not for messages that it takes while an asynchronous cell runs.
    """
    kernel = getattr(current_shell(), "kernel", None)
    if kernel is None:
        return
    parent = kernel.get_parent("shell")
    if parent.get("msg_type") != "comm_msg":
        return
    # Busy again, since the cell itself goes on.
    for state in ("idle", "busy"):
        kernel.session.send(kernel.iopub_socket, "status", {"execution_state": state}, parent=parent, ident=b"status")


def _on_enter(field: Widget, do: Callable[[], object]) -> None:
    def receive(_: object, content: Mapping[str, object], __: object) -> None:
        if content.get("event") == "submit":
            do()

    field.on_msg(receive)


def alert(text: str) -> str:
    """A sentence about what is wrong, as HTML. Screen readers say it at once."""
    if not text:
        return ""
    return f'<b style="{palette.PROBLEM.style}" role="alert">{escape_html(text)}</b>'


class ClickQueue:
    """Clicks in their sequence, from whichever thread receives them to the cell that waits."""

    def __init__(self) -> None:
        # Not at the top: commands in a terminal import this module, too, and start without asyncio.
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[str] = asyncio.Queue()

    def button(self, text: str, click: str, style: ButtonStyle = "", **options: object) -> Widget:
        """A button that puts ``click`` into the queue."""
        widgets = load_ipywidgets()
        options.setdefault("layout", widgets.Layout(width="auto", max_width="100%"))
        if style:
            # JupyterLab's own colours of such buttons lack contrast in one theme or the other.
            options["style"] = {"button_color": BUTTONS[style].text, "text_color": palette.ON_COLOUR}
        button = widgets.Button(description=text, **options)
        # ipykernel may handle the click on another thread than the cell's.
        button.on_click(lambda _: self._loop.call_soon_threadsafe(self._queue.put_nowait, click))
        made: Widget = button
        return made

    def in_cell_thread(self, function: Callable[[T], None]) -> Callable[[T], None]:
        """The same function for calls from another thread; it runs in the cell's own, where widgets belong."""

        def call_soon(argument: T) -> None:
            self._loop.call_soon_threadsafe(function, argument)

        return call_soon

    def enter(self, fields: Sequence[Widget], click: str) -> None:
        """Let Enter move to the next field, and in the last one count as ``click``.

        The page moves the cursor before a field reports Enter; this does it where the page runs no script.
        """
        for field, following in pairwise(fields):
            _on_enter(field, following.focus)
        _on_enter(fields[-1], lambda: self._loop.call_soon_threadsafe(self._click_when_quiet, fields, click))

    def _click_when_quiet(self, fields: Sequence[Widget], click: str, before: Sequence[object] | None = None) -> None:
        """Click once no field has changed for ``QUIET_S``: Enter arrives before the last letters that were typed."""
        values = [field.value for field in fields]
        if values == before:
            self._queue.put_nowait(click)
        else:
            self._loop.call_later(QUIET_S, partial(self._click_when_quiet, fields, click, before=values))

    async def take(self, meanwhile: "asyncio.Future[None] | None" = None) -> str | None:
        """The next click; None after ``SLICE_S`` without one, or once ``meanwhile`` is done."""
        import asyncio

        clicked = asyncio.ensure_future(self._queue.get())
        waited_for: set[asyncio.Future[str] | asyncio.Future[None]] = {clicked}
        if meanwhile is not None:
            waited_for.add(meanwhile)
        try:
            await asyncio.wait(waited_for, timeout=SLICE_S, return_when=asyncio.FIRST_COMPLETED)
            if clicked.done():
                return clicked.result()
            return None
        finally:
            # A waiter that is left behind would take the next click.
            clicked.cancel()


class LiveOutput:
    """One output of a cell, updated in place."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, bundle: Mapping[str, object], **options: object) -> None:
        """Show a MIME bundle, in place of the one before."""
        from IPython.display import display

        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True, **options)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True, **options)


class WidgetPanel:
    """Widgets in a cell's output; one line takes their place, so that no widget's state stays in the file."""

    def __init__(self, *rows: object, first: Widget | None = None, works_reloaded: str = "") -> None:
        """Show these rows.

        Args:
            first: the field in which a person begins; the page puts the cursor there.
            works_reloaded: what is said above the rows after a reload of the page, if they are of use then.
        """
        widgets = load_ipywidgets()
        self._box = widgets.VBox()
        name = f"buddy-ops-{self._box.model_id}"
        dead = _notice(f"{page.STYLE}<p role='alert'>{escape_html(NO_BUTTONS)}</p>", "buddy-ops-dead")
        reloaded = _notice(f"<p role='alert'>{escape_html(works_reloaded or RELOADED)}</p>", "buddy-ops-reloaded")
        script = widgets.Output(outputs=({"output_type": "display_data", "metadata": {}, "data": page.script(name)},))
        script.add_class("buddy-ops-script")
        if first is not None:
            first.add_class("buddy-ops-first")
        # All are there from the start: CSS shows one or the other when the kernel or the page is gone.
        self._box.children = (dead, reloaded, *rows, script)
        classes = ["buddy-ops-panel", name]
        if works_reloaded:
            classes.append("buddy-ops-works-detached")
        for css_class in classes:
            self._box.add_class(css_class)
        self._output = LiveOutput()
        self._output.show({**self._box._repr_mimebundle_(), "text/plain": NO_BUTTONS})

    def replace(self, line: str) -> None:
        """Remove the widgets, and leave one line about the result."""
        self._output.show(
            {"text/html": f'<p style="margin:0">{escape_html(line)}</p>', "text/plain": show_controls(line)}
        )
        _close(self._box)


def _notice(html: str, css_class: str) -> Widget:
    notice: Widget = load_ipywidgets().HTML(html)
    notice.add_class(css_class)
    return notice


def follow_errors() -> None:
    """Let the page bring each later error of this notebook into view, and the focus to its cell."""
    if can_show_widgets():
        LiveOutput().show(page.script(), metadata=page.UNRECORDED)


def _close(widget: Any) -> None:
    """Close a widget and its parts, the innermost first."""
    # Layout and style are widgets of their own: what is left of them would be stored in the notebook.
    for part in (*getattr(widget, "children", ()), widget.layout, getattr(widget, "style", None)):
        if hasattr(part, "layout"):
            _close(part)
        elif part is not None:
            part.close()
    widget.close()
