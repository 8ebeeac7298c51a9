"""Archived runs as pages: the executed notebook, the index of all runs, and a step's summary in Markdown.

Knows HTML and Markdown, and that every value in a run came from outside: all are escaped, markup in outputs is
sanitized, and no page lets a script run but the index's own. Everything opens offline.
"""

import base64
import hashlib
import html
import re
import urllib.parse
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;max-width:980px;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.5rem 0}
td,th{border:1px solid #ddd;padding:.25rem .6rem;text-align:left;vertical-align:top}
td{overflow-wrap:anywhere;min-width:5em}td:last-child{min-width:11em}
th,td a{overflow-wrap:normal}th{background:#f6f6f6}
pre,code{font:13px/1.45 ui-monospace,monospace}pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0}
img{max-width:100%;height:auto}input{width:100%;box-sizing:border-box}
.input{background:#f6f8fa;border-left:3px solid #0072b2;padding:.4rem .7rem;margin:.6rem 0 .2rem}
.output{padding:.2rem .7rem}.stderr,.error{background:#fff1ee}.anchor-link,.jp-InputPrompt,.prompt{display:none}
.state{float:right;font:12px ui-monospace,monospace;color:#666}
.state-failed,.state-refused,.state-interrupted{color:#c00;font-weight:bold}.proved,.done,.deployed{color:#00704f}
.refused,.held,.unproven{color:#8a5a00}.failed,.killed,.interrupted,.rolled-back{color:#c00}
.problem,.burns,.alert-danger{color:#b00020}.ok{color:#00705a}.unknown{color:#8a5a00}.warning{color:#8a5a00}
.info,.note{color:#0059a0}
.alert-danger{border:1px solid;padding:.4rem .7rem}.verdict{font-size:130%}
.code{font:13px/1.45 ui-monospace,monospace;white-space:pre-wrap}
""".strip()

CLOSED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The policy of a page: nothing is fetched, and no script runs, whatever got past the sanitizing."""

TAGS = (
    *("a", "abbr", "b", "blockquote", "br", "caption", "code", "dd", "del", "details", "div", "dl", "dt", "em", "h1"),
    *(
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "i",
        "li",
        "ol",
        "p",
        "pre",
        "s",
        "small",
        "span",
        "strong",
        "sub",
        "summary",
    ),
    *("sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul"),
)
CELL = """{%- extends 'basic/index.html.j2' -%}
{%- block codecell -%}<section>
{%- set state = cell.metadata.get('buddy_ops', {}).get('state', '') -%}
{%- if state -%}<span class="state state-{{ state.split()[0] | escape_html }}">{{ state | escape_html }}</span>
{%- endif -%}
{{ super() }}</section>{%- endblock -%}"""

FACTS = ("outcome", "exit_code", "environment", "runbook", "began", "ended", "people", "principal", "incident", "run")

SCRIPT = """
const body=document.querySelector('tbody'),boxes=[...document.querySelectorAll('input')];
const rows=[...body.rows].reverse();body.append(...rows);
const has=(row,column,text)=>row.cells[column].textContent.toLowerCase().includes(text);
function show(){let n=0;for(const row of rows){row.hidden=!boxes.every(box=>{const text=box.value.trim().toLowerCase();
if(!text)return true;const at=row.cells[0].textContent.slice(0,10);
return box.name==='from'?at>=text:box.name==='to'?at<=text:has(row,+box.name,text)});n+=!row.hidden}
document.querySelector('output').value=n+' of '+rows.length+' runs'}
for(const box of boxes)box.addEventListener('input',show);show();
""".strip()


def report_page(notebook: Any, facts: Mapping[str, Any]) -> str:
    """An executed notebook as one page. ``facts`` are its manifest's, for the box at the top."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body, _ = _exporter().from_notebook_node(notebook)
    title = html.escape(f"{facts.get('runbook', '')} · {facts.get('environment', '')} · {facts.get('run', '')}")
    rows = "".join(
        f"<tr><th>{name.replace('_', ' ')}</th><td{_kind(name, facts)}>{_said(facts.get(name))}</td></tr>"
        for name in FACTS
        if facts.get(name) not in (None, "", [], ())
    )
    trouble = f"<pre class=error>{_said(facts.get('trouble'))}</pre>" if facts.get("trouble") else ""
    notes = "".join(f"<p><strong>{_said(each)}</strong></p>" for each in facts.get("notes", ()))
    head = _head(title, CLOSED, STYLE + _colours())
    return f"{head}<table>{rows}</table>{trouble}{notes}<main>{body}</main></body></html>\n"


def index_head() -> str:
    """The index up to its first row; rows follow one after the other, and nothing behind them."""
    columns = ("ended", "environment", "runbook", "outcome", "exit", "who", "incident", "run", "manifest")
    boxes = "<th>from <input type=date name=from><br>to <input type=date name=to></th>" + "".join(
        f'<th><input name={number} placeholder="{name}"></th>' for number, name in enumerate(columns) if number
    )
    heads = "".join(f"<th>{name}</th>" for name in columns)
    # The script stands in front of the rows, and runs when they are all there.
    late = f"document.addEventListener('DOMContentLoaded',()=>{{{SCRIPT}}})"
    digest = base64.b64encode(hashlib.sha256(late.encode()).digest()).decode()
    policy = f"{CLOSED}; script-src 'sha256-{digest}'"
    widths = "td{min-width:3em}td:last-child{min-width:7em}td:nth-child(6){min-width:13em}"
    style = STYLE.replace("max-width:980px", "max-width:none") + widths
    return (
        f"{_head('Archived runs', policy, style)}<h1>Archived runs</h1><p><output></output></p>"
        f"<script>{late}</script>\n<table><thead><tr>{heads}</tr><tr>{boxes}</tr></thead><tbody>\n"
    )


def index_row(facts: Mapping[str, Any]) -> str:
    """One run's row of the index."""
    folder = urllib.parse.quote(str(facts.get("folder", "")), safe="")
    who = ", ".join(filter(None, (*map(str, facts.get("people", ())), str(facts.get("principal", "")))))
    outcome = f"<td{_kind('outcome', facts)}>{_said(facts.get('outcome'))}</td>"
    cells = (
        f"<td>{_said(facts.get('ended'))}</td>",
        f"<td>{_said(facts.get('environment'))}</td>",
        f'<td><a href="{folder}/report.html">{_said(facts.get("runbook"))}</a></td>',
        outcome,
        f"<td>{_said(facts.get('exit_code'))}</td>",
        f"<td>{html.escape(who)}</td>",
        f"<td>{_said(facts.get('incident'))}</td>",
        f"<td>{_said(facts.get('run'))}</td>",
        f"<td><code>{_said(str(facts.get('sha256', ''))[:12])}</code></td>",
    )
    return f"<tr>{''.join(cells)}</tr>\n"


def step_summary(facts: Mapping[str, Any], digest: str) -> str:
    """How a run ended, as a step's summary in Markdown; no value in it is markup."""
    rows = [(name.replace("_", " "), facts.get(name)) for name in FACTS]
    rows += [("folder", facts.get("folder")), ("manifest", digest)]
    lines = [f"| {name} | {_plain(value)} |" for name, value in rows if value not in (None, "", [], ())]
    trouble = [f"\n> {_plain(line)}" for line in str(facts.get("trouble") or "").splitlines()[:12] if line.strip()]
    notes = [f"\n**{_plain(note)}**" for note in facts.get("notes", ())]
    return "\n".join((f"### {_plain(facts.get('runbook'))}", "", "| | |", "|---|---|", *lines, *trouble, *notes, ""))


def _plain(value: Any) -> str:
    """A value that Markdown and HTML show as it is: each character that either might read is written as its number."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = " ".join(text.split())[:500]
    return re.sub(
        r"[^\w\s.,:/=+-]|_|(?<=\w)[.:](?=\w)|//", lambda match: "".join(f"&#{ord(c)};" for c in match[0]), text
    )


def _said(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str("" if value is None else value)
    return html.escape(text)


def _kind(name: str, facts: Mapping[str, Any]) -> str:
    """The class of an outcome: one of a few words, or none."""
    outcome = str(facts.get("outcome", ""))
    return f' class="{outcome}"' if name == "outcome" and re.fullmatch(r"[a-z-]{1,20}", outcome) else ""


def _head(title: str, policy: str, style: str) -> str:
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{policy}">'
        f'<meta name=viewport content="width=device-width"><meta name=referrer content=no-referrer>'
        f"<title>{title}</title><style>{style}</style></head><body>"
    )


@cache
def _colours() -> str:
    from pygments.formatters import HtmlFormatter

    return str(HtmlFormatter(style="default").get_style_defs(".highlight"))


@cache
def _exporter() -> Any:
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="basic",
        template_file="buddy_ops.html.j2",
        extra_loaders=[DictLoader({"buddy_ops.html.j2": CELL})],
        sanitize_html=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    exporter.register_filter("clean_html", _sanitized)  # nbconvert's own knows neither headings nor paragraphs
    return exporter


def _sanitized(markup: Any) -> str:
    import bleach

    text = markup.decode() if isinstance(markup, bytes) else str(markup)
    spans = {"td": ["colspan", "rowspan"], "th": ["colspan", "rowspan"]}
    cleaned: str = bleach.clean(text, tags=TAGS, attributes={"*": ["class", "title"], "a": ["href"], **spans})
    return cleaned


def preload_exporter() -> None:
    """Import what a page takes, while there is time."""
    _exporter()
    _colours()
