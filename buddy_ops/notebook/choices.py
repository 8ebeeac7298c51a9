"""A choice between two ways to go on: buttons where a person can press them, else the runbook's parameter.

Nothing is changed by it: what was chosen becomes a plan, and is approved as such.
"""

from collections.abc import Mapping

from buddy_ops.core.text import escape_html
from buddy_ops.notebook import _widgets
from buddy_ops.notebook._widgets import ClickQueue, WidgetPanel
from buddy_ops.notebook.interrupts import stopped_with


async def choose(given: str, question: str, choices: Mapping[str, str]) -> str:
    """The value of a parameter, or the one that a person chooses where it is empty. Headless it stays empty.

    Args:
        given: the parameter's value.
        question: what is asked for, a sentence or two.
        choices: what each button says, with its effect and its target, by value. The recommended one comes first.

    Raises:
        Stopped: the cell was interrupted.
    """
    if given or not _widgets.can_show_widgets():
        return given
    widgets = _widgets.load_ipywidgets()
    clicks = ClickQueue()
    recommended = next(iter(choices))
    buttons = [clicks.button(text, value, "primary" if value == recommended else "") for value, text in choices.items()]
    panel = WidgetPanel(widgets.HTML(escape_html(question)), widgets.HBox(buttons), first=buttons[0])
    last_line = "Nothing was chosen."
    try:
        with stopped_with(
            lambda: "Stopped. Nothing was chosen, and nothing was changed. To choose, run this cell again."
        ):
            # A slice without a click returns None: in between, the kernel takes an interrupt.
            chosen = None
            while chosen is None:
                chosen = await clicks.take()
        last_line = f"Chosen: {choices[chosen]}. Nothing has changed yet."
        return chosen
    finally:
        # After an interrupt, too: no button stays that does nothing any more.
        panel.replace(last_line)
