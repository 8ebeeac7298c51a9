"""Archived runs as pages: the executed notebook, the index of all runs, and a step's summary in Markdown.

Every value in a run came from outside: all are escaped, markup in outputs is
sanitized, and no page lets a script run but the index's own. Everything opens offline.
"""

import base64
import hashlib
import re
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from buddy_ops.core.outcome import describe_ending
from buddy_ops.core.text import date_and_time, escape_html, parse_utc, show_controls
from buddy_ops.runs.cells import Cell, Notebook, Output, source_of
from buddy_ops.runs.run_facts import RunFacts

if TYPE_CHECKING:
    from jinja2 import Template

    from buddy_ops.runs.provenance import CellDifference, CodeComparison

TEMPLATES = Path(__file__).with_name("templates")
STYLE = (TEMPLATES / "style.css").read_text(encoding="utf-8").strip()
SCRIPT = (TEMPLATES / "index.js").read_text(encoding="utf-8").strip()

DIFFERS = ".differs{color:#b00020;background:#fff1ee;border-left:3px solid #b00020;padding:.4rem .7rem;margin:.6rem 0}"
"""Only in reports: the page of the index is compared byte by byte, and an older archive must still verify."""

FORMER_HEADS = frozenset({"c8b7723b471da5193b51de17130f40141b797dacec52b821814ac536d9ab3288"})
"""SHA-256 of what ``index_head`` was in earlier releases: the index of their archives still verifies."""

CLOSED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The policy of a page: nothing is fetched, and no script runs, whatever got past the sanitizing."""

TAGS = frozenset(
    (
        *("a", "abbr", "b", "blockquote", "br", "caption", "code", "dd", "del", "details", "div", "dl", "dt", "em"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "li", "ol", "p", "pre", "s", "small", "span", "strong"),
        *("sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul"),
    )
)
"""The elements that are left of HTML from outside."""

IMAGES = ("image/png", "image/jpeg")
# A chart's SVG with its style, as a cell has it while a rollout is live (``_chart_output.svg``).
DRAWING = re.compile(r"<style>[^<]*</style>|<svg\b.*?</svg>", re.DOTALL)
# For example the red of an error's name in a traceback, ``\x1b[0;31m``: a page has no use for it.
TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
FACTS = (
    "outcome",
    "exit_code",
    "environment",
    "runbook",
    "began",
    "ended",
    "people",
    "principal",
    "incident",
    "run",
    "plan_id",
)


def report_page(notebook: Notebook, facts: RunFacts, compared: "CodeComparison | None" = None) -> str:
    """An executed notebook, as its JSON says, as one page.

    Args:
        notebook: the executed notebook's JSON.
        facts: its manifest's, for the box at the top.
        compared: the executed code beside the committed runbook; None: an archive of an earlier release.
    """
    title = escape_html(f"{facts.get('runbook', '')} · {facts.get('environment', '')} · {facts.get('run', '')}")
    shown = _shown(facts)
    removed: list[CellDifference] = []
    if compared is not None:
        removed = [difference for difference in compared.differences if difference.executed is None]
    return _template().render(
        head=page_head(title, CLOSED, STYLE + DIFFERS + _colours()),
        facts=[(name.replace("_", " "), _fact(name, value), _outcome_class(name, facts)) for name, value in shown],
        trouble=_joined(facts.get("trouble")),
        notes=[_joined(note) for note in facts.get("notes", ())],
        compared=compared,
        library=_library(facts.get("library") or {}),
        cells=[
            {**_cell(cell), "differs": _differing(compared, number)} for number, cell in enumerate(notebook["cells"], 1)
        ],
        removed=removed,
    )


def _shown(facts: Mapping[str, object]) -> list[tuple[str, object]]:
    """What a page says of a run at its top, by name: what a manifest lacks is left out."""
    values = ((name, facts.get(name)) for name in FACTS)
    return [(name, value) for name, value in values if value not in (None, "", [], ())]


def _differing(compared: "CodeComparison | None", number: int) -> "CellDifference | None":
    """How the cell of this number differs from the committed runbook."""
    if compared is None:
        return None
    return next((difference for difference in compared.differences if difference.executed == number), None)


def _library(facts: Mapping[str, object]) -> str:
    """The library's version and commit, and whether its files were as committed; '' for an older archive."""
    if not facts:
        return ""
    said = f"Buddy Ops {facts.get('version')}"
    if facts.get("commit"):
        said += f", commit {str(facts['commit'])[:12]}"
    if facts.get("clean") is None:
        return f"{said}. Whether its files were changed is unknown."
    if facts["clean"]:
        return f"{said}. Library, notebooks and parameters had no uncommitted changes."
    return f"{said}. CHANGED FILES: {_joined(facts.get('changed'))}"


def _cell(cell: Cell) -> dict[str, object]:
    """A cell as the template takes it: ``markdown``, or ``code``, ``state`` and ``outputs``, each as harmless HTML."""
    source = source_of(cell)
    if cell["cell_type"] != "code":
        return {"markdown": _sanitized(_markdown()(source))}
    state = cell["metadata"].get("buddy_ops", {}).get("state", "")
    return {"code": _highlighted(source), "state": state, "outputs": [_output(each) for each in cell["outputs"]]}


def _output(output: Output) -> dict[str, str]:
    """An output as its kind and its HTML. Of several forms the richest that a page without scripts can show."""
    kind = output["output_type"]
    if kind == "stream":
        return {"kind": output["name"], "html": _preformatted(output["text"])}
    if kind == "error":
        return {"kind": "error", "html": _preformatted("\n".join(output["traceback"]))}
    data = output.get("data", {})
    for image in IMAGES:
        if image in data:
            # Re-encoding drops whatever is not base64: a quote in it would end the attribute.
            content = base64.b64encode(base64.b64decode("".join(data[image]))).decode()
            alt = escape_html(_alternative(output, image))
            return {"kind": "", "html": f'<img src="data:{image};base64,{content}" alt="{alt}">'}
    # A drawing that is made of elements is no text: of a chart whose kernel was killed, the caption is left.
    if markup := DRAWING.sub("", "".join(data.get("text/html", ""))).strip():
        return {"kind": "", "html": _sanitized(markup)}
    if "text/markdown" in data:
        return {"kind": "", "html": _sanitized(_markdown()("".join(data["text/markdown"])))}
    text = "".join(data.get("text/plain", ""))
    if not text:
        return {"kind": "", "html": ""}
    return {"kind": "", "html": _preformatted(text)}


def _alternative(output: Output, image: str) -> str:
    """What a picture shows, in words: what drew it says so, else its text."""
    described = output.get("metadata", {}).get(image)
    if isinstance(described, Mapping):
        alt = described.get("alt")
        if isinstance(alt, str) and alt:
            return alt
    return "".join(output["data"].get("text/plain", ""))


def _preformatted(text: str | list[str]) -> str:
    return f"<pre>{escape_html(TERMINAL_COLOUR.sub('', ''.join(text)))}</pre>"


def index_head() -> str:
    """The index up to its first row; rows follow one after the other, and nothing behind them."""
    columns = ("ended", "environment", "runbook", "outcome", "exit", "who", "incident", "run", "manifest")
    dates = "<br>".join(f"<label>{end} <input type=date name={end}></label>" for end in ("from", "to"))
    boxes = f"<td>{dates}</td>" + "".join(
        f'<td><input name={number} placeholder="{name}" aria-label="{name} contains"></td>'
        for number, name in enumerate(columns)
        if number
    )
    heads = "".join(f"<th>{name}</th>" for name in columns)
    # The script stands in front of the rows, and runs when they are all there.
    late, policy = deferred_script(SCRIPT)
    widths = "td{min-width:3em}td:last-child{min-width:7em}td:nth-child(6){min-width:13em}"
    style = STYLE.replace("max-width:980px", "max-width:none") + widths
    return (
        f"{page_head('Archived runs', policy, style)}<main><h1>Archived runs</h1><p><output></output></p>"
        f"<script>{late}</script>\n<table><thead><tr>{heads}</tr><tr>{boxes}</tr></thead><tbody>\n"
    )


def index_row(facts: RunFacts) -> str:
    """One run's row of the index."""
    folder = urllib.parse.quote(str(facts.get("folder", "")), safe="")
    who = ", ".join(filter(None, (*map(str, facts.get("people", ())), str(facts.get("principal", "")))))
    outcome = f"<td>{_escaped(_fact('outcome', facts.get('outcome')))}</td>"
    # Without a class where it has none: an older archive's page must still verify, byte for byte.
    if kind := _outcome_class("outcome", facts):
        outcome = outcome.replace("<td>", f'<td class="{kind}">', 1)
    cells = (
        f"<td>{_escaped(_fact('ended', facts.get('ended')))}</td>",
        f"<td>{_escaped(facts.get('environment'))}</td>",
        f'<td><a href="{folder}/report.html">{_escaped(facts.get("runbook"))}</a>{_target_links(facts)}</td>',
        outcome,
        f"<td>{_escaped(facts.get('exit_code'))}</td>",
        f"<td>{escape_html(who)}</td>",
        f"<td>{_escaped(facts.get('incident'))}</td>",
        f"<td>{_escaped(facts.get('run'))}</td>",
        f"<td><code>{_escaped(str(facts.get('sha256', ''))[:12])}</code>{_unsigned(facts)}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>\n"


def _target_links(facts: RunFacts) -> str:
    """The reports of a fleet's targets below its own; '' for all others: an older archive's page must still verify."""
    links = ""
    runs = facts.get("targets") or ()
    several = Counter(each.get("target") for each in runs)
    for each in runs:
        folder = urllib.parse.quote(str(each.get("folder", "")), safe="")
        # One that was deployed to and then rolled back has a run of each.
        name = f"{each.get('target')}, {each.get('runbook')}" if several[each.get("target")] > 1 else each.get("target")
        shown = escape_html(f"{name}: {_fact('outcome', each.get('outcome'))}")
        if each.get("elsewhere"):
            shown += ", in another archive"
        # A target that was not reached has no run of its own.
        elif folder:
            shown = f'<a href="{folder}/report.html">{shown}</a>'
        links += f"<br><small>{shown}</small>"
    return links


def _unsigned(facts: Mapping[str, object]) -> str:
    """In red, that a run was not signed, and why; '' for all others: an older archive's page must still verify."""
    why = str(facts.get("unsigned") or "")
    if not why:
        return ""
    return f' <strong class="failed" title="{escape_html(why)}">NOT SIGNED</strong>'


def step_summary(facts: Mapping[str, object], digest: str) -> str:
    """How a run ended, as a step's summary in Markdown; no value in it is markup."""
    rows = [(name.replace("_", " "), facts.get(name)) for name in FACTS]
    rows += [("folder", facts.get("folder")), ("manifest", digest)]
    lines = [f"| {name} | {_plain(_fact(name, value))} |" for name, value in rows if value not in (None, "", [], ())]
    trouble = [f"\n> {_plain(line)}" for line in str(facts.get("trouble") or "").splitlines()[:12] if line.strip()]
    notes = facts.get("notes")
    said: list[str] = []
    if isinstance(notes, list | tuple):
        said = [f"\n**{_plain(note)}**" for note in notes]
    return "\n".join((f"### {_plain(facts.get('runbook'))}", "", "| | |", "|---|---|", *lines, *trouble, *said, ""))


def _plain(value: object) -> str:
    """A value that Markdown and HTML show as it is: each character that either might read is written as its number."""
    text = str(value)
    if isinstance(value, list | tuple):
        text = ", ".join(map(str, value))
    text = show_controls(" ".join(text.split())[:500])
    # A dot or a colon between letters, and two slashes, would become a link on GitHub's page; _ is emphasis.
    return re.sub(
        r"[^\w\s.,:/=+-]|_|(?<=\w)[.:](?=\w)|//", lambda match: "".join(f"&#{ord(c)};" for c in match[0]), text
    )


def _escaped(value: object) -> str:
    return escape_html(_joined(value))


def _joined(value: object) -> str:
    """A value as text: a list by commas, None as nothing."""
    if isinstance(value, list | tuple):
        return show_controls(", ".join(map(str, value)))
    if value is None:
        return ""
    return show_controls(str(value))


def _fact(name: str, value: object) -> str:
    """A fact as operators read it: times in UTC, and the outcome's result word."""
    if name == "outcome":
        return describe_ending(_joined(value))
    if name in ("began", "ended"):
        return readable_time(value)
    return _joined(value)


def readable_time(value: object) -> str:
    """A manifest's time as operators read it. The page of a damaged manifest is still shown, with the text it has."""
    with suppress(ValueError):
        return date_and_time(parse_utc(str(value)))
    return _joined(value)


def _outcome_class(name: str, facts: Mapping[str, object]) -> str:
    """The class of an outcome, which has its colour: one of a few words, or none."""
    outcome = str(facts.get("outcome", ""))
    if name == "outcome" and re.fullmatch(r"[a-z-]{1,20}", outcome):
        return outcome
    return ""


def deferred_script(script: str) -> tuple[str, str]:
    """A script that runs once its page is complete, and the policy of a page that lets only this one run."""
    late = f"document.addEventListener('DOMContentLoaded',()=>{{{script}}})"
    digest = base64.b64encode(hashlib.sha256(late.encode()).digest()).decode()
    return late, f"{CLOSED}; script-src 'sha256-{digest}'"


def page_head(title: str, policy: str, style: str) -> str:
    """A page up to the beginning of its body. The title is HTML already."""
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{policy}">'
        f'<meta name=viewport content="width=device-width"><meta name=referrer content=no-referrer>'
        f"<title>{title}</title><style>{style}</style></head><body>"
    )


# The packages that make pages are imported when one is made: commands that only list runs import this module, too.
@cache
def _colours() -> str:
    from pygments.formatters import HtmlFormatter

    return str(HtmlFormatter(style="default").get_style_defs(".highlight"))


@cache
def _template() -> "Template":
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    return environment.get_template("report.html.j2")


@cache
def _markdown() -> Callable[[str], str]:
    import mistune

    # HTML within Markdown is passed through here, and sanitized with all the rest.
    convert = mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "url"])
    return lambda text: str(convert(text))


def _highlighted(source: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return str(highlight(show_controls(source), PythonLexer(), HtmlFormatter()))


def _sanitized(markup: str) -> str:
    import bleach

    spans = {"td": ["colspan", "rowspan"], "th": ["colspan", "rowspan"]}
    cleaned: str = bleach.clean(
        show_controls(markup), tags=TAGS, attributes={"*": ["class", "title"], "a": ["href"], **spans}
    )
    return cleaned


def preload() -> None:
    """Import what a page takes, while there is time."""
    _template()
    _colours()
    _sanitized(_markdown()(_highlighted("")))
