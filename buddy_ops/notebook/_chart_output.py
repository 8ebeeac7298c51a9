"""A chart's scene as SVG, which is fast to make, and as PNG, which every viewer shows; dark in a dark theme."""

import base64
import importlib
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from buddy_ops.core.text import escape_html
from buddy_ops.notebook._chart_scene import FONT, Fill, Ink, Point, Scene, Stroke, Text

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import RendererAgg

DARK_FILTER = "invert(.93) hue-rotate(180deg)"
"""Makes a picture's light card dark and keeps its hues."""

CHART = ".buddy-ops-chart"
THEMES = f'<style>[data-jp-theme-light="false"] {CHART},body.vscode-dark {CHART}{{filter:{DARK_FILTER}}}</style>'
"""In JupyterLab's and VS Code's dark themes, also when a person changes the theme. Where styles are removed, as from an
untrusted notebook, the card stays light."""

DENSE_POINTS = 150
"""A path of more points is written in whole pixels."""


def preload_drawing() -> None:
    """Import matplotlib in the background, half a second of CPU time: meanwhile a rollout waits for AWS."""

    def load() -> None:
        # What is wrong with it is told where a chart is drawn.
        with suppress(Exception):
            importlib.import_module("matplotlib.backends.backend_agg")

    threading.Thread(target=load, daemon=True).start()


def svg(scene: Scene) -> str:
    """The scene as HTML for a frame that is replaced soon."""
    parts = [
        THEMES,
        f'<svg class="buddy-ops-chart" role="img" aria-label="{escape_html(scene.description)}" '
        f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {scene.width} {scene.height}" width="{scene.width}" '
        f'height="{scene.height}" style="max-width:100%;height:auto;font-family:\'{FONT}\',Verdana,sans-serif">',
    ]
    parts += [_svg_shape(shape) for shape in scene.shapes]
    parts.append("</svg>")
    return "".join(parts)


def _svg_shape(shape: Stroke | Fill | Text) -> str:
    if isinstance(shape, Text):
        bold = ' font-weight="bold"' if shape.bold else ""
        # The text keeps the width that it was measured with, in whichever font the browser has.
        return (
            f'<text x="{shape.left:.1f}" y="{shape.y:.1f}" font-size="{shape.size:g}"{bold} '
            f'textLength="{shape.width:.1f}" lengthAdjust="spacingAndGlyphs" fill="{Ink.TEXT}">'
            f"{escape_html(shape.text)}</text>"
        )
    if isinstance(shape, Fill):
        path = "".join(f"{_svg_path(points)}z" for points in shape.paths)
        opacity = f' fill-opacity="{shape.opacity:g}"' if shape.opacity < 1 else ""
        return f'<path d="{path}" fill="{shape.ink}"{opacity}/>'
    dash = f' stroke-dasharray="{" ".join(f"{length:g}" for length in shape.dash)}"' if shape.dash else ""
    path = "".join(_svg_path(points) for points in shape.paths)
    return f'<path d="{path}" fill="none" stroke-width="{shape.width:g}"{dash} stroke="{shape.ink}"/>'


def _svg_path(points: Sequence[Point]) -> str:
    """A path's data: where it begins, then each step in tenths of a pixel, in whole ones where there are many."""
    digits = 0 if len(points) > DENSE_POINTS else 1
    # Each step is from the rounded place before, so that no error adds up.
    x = round(points[0][0], digits)
    y = round(points[0][1], digits)
    steps = [f"M{x:g},{y:g}l"]
    for next_x, next_y in points[1:]:
        step_x = round(next_x - x, digits)
        step_y = round(next_y - y, digits)
        x += step_x
        y += step_y
        # A minus sign separates two numbers as well as a comma.
        steps.append(f"{step_x:g},{step_y:g} " if step_y >= 0 else f"{step_x:g}{step_y:g} ")
    # A path of one point has no step, and an 'l' without numbers is no path.
    return "".join(steps).rstrip("l ")


def png(scene: Scene) -> bytes:
    """The scene as a PNG file, light on every background."""
    with _own_style():
        return _draw(scene)


def _draw(scene: Scene) -> bytes:
    # Imported when a picture is drawn: it takes half a second of CPU time (``preload_drawing``).
    import numpy
    from matplotlib.backends.backend_agg import RendererAgg
    from PIL import Image

    # 72 dots an inch: a point is a pixel.
    renderer = RendererAgg(scene.width, scene.height, 72)
    for shape in scene.shapes:
        if isinstance(shape, Text):
            _draw_text(renderer, shape)
        elif isinstance(shape, Fill):
            _draw_paths(renderer, shape.paths, fill=shape)
        else:
            _draw_paths(renderer, shape.paths, stroke=shape)
    # The card covers everything: no pixel is transparent.
    image = Image.fromarray(numpy.asarray(renderer.buffer_rgba())[:, :, :3].copy())
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def _draw_text(renderer: "RendererAgg", text: Text) -> None:
    from matplotlib.font_manager import FontProperties

    context = renderer.new_gc()
    context.set_foreground(Ink.TEXT.value)
    font = FontProperties(family=FONT, size=text.size, weight="bold" if text.bold else "normal")
    renderer.draw_text(context, text.left, text.y, text.text, font, 0)


def _draw_paths(
    renderer: "RendererAgg",
    paths: Sequence[Sequence[Point]],
    *,
    fill: Fill | None = None,
    stroke: Stroke | None = None,
) -> None:
    import numpy
    from matplotlib.colors import to_rgba
    from matplotlib.path import Path
    from matplotlib.transforms import Affine2D

    context = renderer.new_gc()
    colour = None
    if fill is not None:
        context.set_linewidth(0)
        context.set_alpha(fill.opacity)
        colour = to_rgba(fill.ink.value, fill.opacity)
    if stroke is not None:
        context.set_foreground(stroke.ink.value)
        context.set_linewidth(stroke.width)
        context.set_capstyle("butt")
        context.set_joinstyle("round")
        if stroke.dash:
            context.set_dashes(0, stroke.dash)
    # The renderer's own y axis points up.
    flip = Affine2D().scale(1, -1).translate(0, renderer.height)
    for points in paths:
        if len(points) > 1:
            renderer.draw_path(context, Path(numpy.asarray(points, float), closed=False), flip, colour)


def kept_bundle(scene: Scene) -> dict[str, str]:
    """The scene as a notebook keeps it, by MIME types: as PNG, which every viewer shows, and in HTML.

    JupyterLab prefers HTML: its own view of a PNG has no alternative text, and is white in a dark theme.
    """
    picture = base64.b64encode(png(scene)).decode()
    size = f'width="{scene.width}" height="{scene.height}" style="max-width:100%;height:auto"'
    alt = escape_html(scene.description)
    page = f'{THEMES}<img class="buddy-ops-chart" src="data:image/png;base64,{picture}" alt="{alt}" {size}>'
    return {"image/png": picture, "text/html": page}


@contextmanager
def _own_style() -> Iterator[None]:
    """Draw as matplotlib does by itself: a person's settings may need LaTeX, or hide what an operator must see.

    A ``$`` in a text is a character, not the beginning of a formula.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False
        yield
