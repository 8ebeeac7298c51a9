"""What a fleet's rollback changed, in a notebook: each target's error rate before and after, as one picture."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from buddy_ops.aws.clock import in_thread
from buddy_ops.aws.session import Target
from buddy_ops.core.text import MINUTE, count, exact_percent, floor_minute, percent, show_controls, time_of_day
from buddy_ops.fleet.recovery import BEFORE, Recovery, read_recoveries
from buddy_ops.fleet.rollback import FleetRollback
from buddy_ops.fleet.targets import Place
from buddy_ops.notebook import _chart_output, _widgets
from buddy_ops.notebook._chart_layout import LINE, MARKS, WIDTH, axis_ticks
from buddy_ops.notebook._chart_scene import Fill, Ink, Scene, Stroke, Text, shorten_to, text_width
from buddy_ops.notebook._widgets import LiveOutput
from buddy_ops.notebook.interrupts import interrupts

SHOWN = 20
"""So many of the worst targets have a row; the others are counted."""

ROW = 24.0
"""Pixels from one target to the next."""

TOP = 92.0
NAME_PIXELS = 260.0
RATES_PIXELS = 220.0
HALF_LIMIT = 8.0

BEFORE_MARK = "^"
AFTER_MARK = "o"


async def watch_recovery(
    target: Target, places: Sequence[Place], done: FleetRollback, watch_minutes: float = 0
) -> None:
    """Show the error rates before and after, and read them again each minute while a person is there.

    Args:
        target: the notebook's.
        watch_minutes: for how long; an interrupt ends it, and the last picture stays.

    AWS: as ``read_recoveries``.
    """
    output = LiveOutput()
    updates = watch_minutes * MINUTE if _widgets.is_attended() else timedelta()
    until = target.clock.now() + updates
    try:
        while not done.dry_run:
            found = await in_thread(read_recoveries, places, done)
            now = target.clock.now()
            # The rollback is done: a picture that cannot be drawn must not end the cell as if it had failed.
            with target.side.contained("the chart"):
                _show(output, f"Error rates at {time_of_day(now, now)}", found)
            if now >= until:
                return
            await target.clock.wait(floor_minute(now) + MINUTE)
    except interrupts():
        return


def _show(output: LiveOutput, title: str, found: Sequence[Recovery]) -> None:
    if not found:
        return
    scene = lay_out(title, found)
    bundle = {**_chart_output.kept_bundle(scene), "text/plain": show_controls(scene.description)}
    output.show(bundle, metadata={"image/png": {"alt": show_controls(scene.description)}})


def lay_out(title: str, found: Sequence[Recovery]) -> Scene:
    """A row for each target: its error rates before and after, and its limit."""
    rows = found[:SHOWN]
    hidden = len(found) - len(rows)
    bottom = TOP + ROW * len(rows)
    scene = Scene(WIDTH, round(bottom + (LINE if hidden else 0) + 16), describe(title, found))
    scene.shapes.append(Fill([[(0, 0), (WIDTH, 0), (WIDTH, scene.height), (0, scene.height)]], Ink.CARD))
    scene.shapes.append(Text(title, 16, 24, size=15, bold=True))
    names = [shorten_to(each.name, NAME_PIXELS) for each in rows]
    left = 36 + max(text_width(name) for name in names)
    right = WIDTH - RATES_PIXELS
    # A fifth above each limit: its mark is within the picture, also where no rate comes near it.
    rates = [rate for each in rows for rate in (each.before, each.after, 1.2 * each.limit) if rate is not None]
    top = 1.05 * max(rates)

    def x(share: float) -> float:
        return left + share / top * (right - left)

    ticks = [(x(value / 100), label) for value, label in axis_ticks(100 * top, " %")]
    scene.shapes.append(Stroke([[(at, TOP - 4), (at, bottom)] for at, _ in ticks], Ink.GRID))
    scene.shapes += [Text(label, at, TOP - 10, anchor="middle") for at, label in ticks]
    # A row for each target: its name, from its rate before to the one since, its limit, and the same in words.
    limits = []
    for number, (each, name) in enumerate(zip(rows, names, strict=True)):
        y = TOP + ROW * (number + 0.5)
        scene.shapes.append(Text(name, 16, y + 4))
        scene.shapes.append(Text(_in_words(each), WIDTH - 16, y + 4, anchor="end"))
        limits.append([(x(each.limit), y - HALF_LIMIT), (x(each.limit), y + HALF_LIMIT)])
        if each.before is not None and each.after is not None:
            scene.shapes.append(Stroke([[(x(each.before), y), (x(each.after), y)]], Ink.MARK))
        if each.before is not None:
            scene.shapes.append(Fill([MARKS[BEFORE_MARK](x(each.before), y)], Ink.NEW))
        if each.after is not None:
            scene.shapes.append(Fill([MARKS[AFTER_MARK](x(each.after), y)], Ink.STABLE))
    scene.shapes.append(Stroke(limits, Ink.LIMIT, 1.4, (5.0, 3.0)))
    if hidden:
        scene.shapes.append(Text(f"{count(hidden, 'more target')} not shown", 16, bottom + LINE))
    _draw_legend(scene)
    return scene


def _draw_legend(scene: Scene) -> None:
    x = 24.0
    y = 48.0
    samples: tuple[tuple[str, Fill | Stroke], ...] = (
        (f"{BEFORE / MINUTE:g} min before", Fill([MARKS[BEFORE_MARK](x, y - 4)], Ink.NEW)),
        ("since", Fill([MARKS[AFTER_MARK](x + 120, y - 4)], Ink.STABLE)),
        ("limit", Stroke([[(x + 200, y - 12), (x + 200, y + 2)]], Ink.LIMIT, 1.4, (5.0, 3.0))),
    )
    for (name, sample), offset in zip(samples, (0, 120, 200), strict=True):
        scene.shapes.append(sample)
        scene.shapes.append(Text(name, x + offset + 10, y))


def describe(title: str, found: Sequence[Recovery]) -> str:
    """What the picture shows, in words, for people who do not see it."""
    return " ".join(_described(title, found))


def _described(title: str, found: Sequence[Recovery]) -> Iterator[str]:
    yield f"{title}, {BEFORE / MINUTE:g} min before the rollback → since."
    for each in found[:SHOWN]:
        yield f"{each.name}: {_in_words(each)} (limit {exact_percent(each.limit)})."
    if len(found) > SHOWN:
        yield f"{count(len(found) - SHOWN, 'more target')} not shown."


def _in_words(each: Recovery) -> str:
    """Both rates: '4.8 % → 0.1 % of 1,020'. Without a request nothing is known, which is not 0."""
    before = "unknown" if each.before is None else percent(each.before)
    if each.after is not None:
        return f"{before} → {percent(each.after)} of {each.requests:,}"
    return f"{before} → {'no requests' if each.minutes else 'not published yet'}"
