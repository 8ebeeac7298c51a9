"""A fleet's status as one HTML page: it sorts, filters and opens offline, and nothing is fetched.

Every value came from outside: all are escaped. No script runs but the page's own. While a command keeps the page up to
date, the page loads itself again; what is left at the end is static.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

from buddy_ops.aws.clock import Clock
from buddy_ops.checks import findings
from buddy_ops.checks.next_steps import NextStep
from buddy_ops.core import palette
from buddy_ops.core.files import write_atomically
from buddy_ops.core.text import capitalised, date_and_time, duration, escape_html
from buddy_ops.fleet.audit import FleetAudit, TargetAudit
from buddy_ops.fleet.status import FleetStatus, TargetStatus
from buddy_ops.fleet.targets import Member
from buddy_ops.runs.pages import deferred_script, page_head

HERE = Path(__file__).parent
SCRIPT = (HERE / "page.js").read_text(encoding="utf-8").strip()
STYLE = (HERE / "page.css").read_text(encoding="utf-8").strip()
HEADS = (
    "Result",
    "Target",
    "Alias",
    "Serves",
    "Errors",
    "p99",
    "Per minute",
    "Last hour",
    "Deployed",
    "What to do",
)
AUDIT_HEADS = ("Result", "Target", "Alias", "Findings")
NUMBERS = ("Errors", "p99", "Per minute")
UNSORTED = ("Last hour", "What to do", "Findings")
SPARK = (90, 24)
"""Width and height of a drawing of the last hour, in pixels."""

WHOLE = 'style="white-space:nowrap"'
"""A result word and a target's name are not broken at their spaces and hyphens."""


def keep_page(path: Path, every_s: float, read: Callable[[], FleetStatus], clock: Clock) -> FleetStatus:
    """Write the page again and again until Ctrl-C; the last reading stays as a static page.

    Args:
        every_s: seconds between two readings; 0: one reading only.
    """
    found = read()
    try:
        while every_s:
            write_atomically(path, status_page(found, every_s))
            clock.sleep_until(found.at + timedelta(seconds=every_s))
            found = read()
    except KeyboardInterrupt:
        pass
    # Written without the reload: a page that no command updates any more must not look as if one did.
    finally:
        write_atomically(path, status_page(found))
    return found


def status_page(fleet: FleetStatus, reload_s: float = 0) -> str:
    """The page.

    Args:
        reload_s: after how many seconds it loads itself again, unless a row is open; 0: never.
    """
    return _page("Fleet status", fleet.summary, fleet.at, table=status_table(fleet, sorts=True), reload_s=reload_s)


def audit_page(fleet: FleetAudit) -> str:
    """The page of an audit."""
    return _page("Fleet audit", fleet.summary, fleet.at, audit_table(fleet, sorts=True))


def _page(title: str, summary: str, at: datetime, table: str, reload_s: float = 0) -> str:
    # The policy allows the script by its hash, so that none in an alarm's or a function's name can run.
    late, policy = deferred_script(SCRIPT)
    head = page_head(f"{title}: {escape_html(summary)}", policy, STYLE)
    again = f" Read again every {duration(reload_s)}." if reload_s else ""
    return (
        f"{head}<script>{late}</script><main data-reload={reload_s:g}><h1>{title}</h1>"
        f"<p>{escape_html(summary)}. Read at {date_and_time(at)}.{again}</p>"
        "<p><label>Filter <input type=search placeholder='region, team, result, ...'></label> <output></output></p>"
        f"{table}</main></body></html>\n"
    )


def status_table(fleet: FleetStatus, *, sorts: bool = False) -> str:
    """The table alone.

    Args:
        sorts: whether the page's script is there. Without it, as in a notebook, a button would do nothing.
    """
    return _table(HEADS, map(_row, fleet.targets), sorts=sorts)


def audit_table(fleet: FleetAudit, *, sorts: bool = False) -> str:
    """The table of an audit alone, as ``status_table``."""
    return _table(AUDIT_HEADS, map(_audit_row, fleet.targets), sorts=sorts)


def _table(names: tuple[str, ...], rows: Iterable[str], *, sorts: bool) -> str:
    heads = "".join(_head(name, sorts=sorts) for name in names)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _audit_row(target: TargetAudit) -> str:
    findings_ = "".join(
        f"<p>{findings.html_label(each.state)} {escape_html(each.check)}: {escape_html(each.full_message)}. "
        f"{escape_html(each.remedy)}</p>"
        for each in target.found
    )
    cells = (
        f"<td {WHOLE}>{findings.html_label(target.state, target.word)}</td>",
        _name(target.member),
        f"<td>{escape_html(target.where)}</td>",
        f"<td><details><summary>{escape_html(target.summary)}</summary>{findings_}</details></td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _name(member: Member) -> str:
    """The cell of a target's name, and of its labels as they are selected by."""
    labels = " ".join(f"{name}={value}" for name, value in member.declared.labels.items())
    return f"<td><b {WHOLE}>{escape_html(member.name)}</b><br><small>{escape_html(labels)}</small></td>"


def _head(name: str, *, sorts: bool) -> str:
    kind = " class=number" if name in NUMBERS else ""
    if name in UNSORTED or not sorts:
        return f"<th scope=col{kind}>{name}</th>"
    return f"<th scope=col aria-sort=none{kind}><button type=button>{name}</button></th>"


def _row(target: TargetStatus) -> str:
    errors, p99, per_minute = target.figures
    recent = target.recent
    rate = recent.error_rate if recent is not None else None
    p99_ms = recent.p99_ms if recent is not None else None
    deployed = date_and_time(target.deployed) if target.deployed is not None else ""
    number = recent.requests / max(1, len(recent.minutes)) if recent is not None else None
    # The result word has a column of its own.
    verdict = capitalised(target.report.verdict.removeprefix(target.report.word).lstrip(":, "))
    readiness = f"<br><small>{escape_html(target.readiness)}</small>" if target.readiness else ""
    cells = (
        f"<td {WHOLE}>{findings.html_label(target.state, target.report.word)}</td>",
        _name(target.member),
        f"<td>{escape_html(target.where)}</td>",
        f"<td>{escape_html(target.versions)}</td>",
        _number(errors, rate),
        _number(p99, p99_ms),
        _number(per_minute, number),
        f"<td>{_spark(target)}</td>",
        f"<td>{deployed}{readiness}</td>",
        f"<td><details><summary>{escape_html(verdict)}</summary>{_checks(target)}</details>"
        f"{'<br>'.join(map(_step, target.report.steps))}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _step(step: NextStep) -> str:
    """A step's command, and its runbook where a notebook links one."""
    link = f' <a href="{escape_html(step.link)}">{escape_html(step.runbook)}</a>' if step.link else ""
    return f"<code>{escape_html(step.command)}</code>{link}"


def _number(shown: str, value: float | None) -> str:
    """A cell that sorts by its number."""
    key = "" if value is None else f"{value:.6g}"
    return f'<td class=number data-key="{key}">{escape_html(shown)}</td>'


def _checks(target: TargetStatus) -> str:
    found = target.report.findings
    return "".join(
        f"<p>{findings.html_label(finding.state)} {escape_html(finding.check)}: {escape_html(finding.full_message)}</p>"
        for finding in found
    )


def _spark(target: TargetStatus) -> str:
    """The requests of the last hour as a line, with failed ones in red below it."""
    if target.traffic is None or not target.traffic.requests:
        return ""
    minutes = target.traffic.minutes
    most = max(minute.requests for minute in minutes)
    width, height = SPARK
    step = width / len(minutes)

    def bars(values: list[int], colour: str) -> str:
        # At least a pixel: one failed request of a thousand is still seen.
        steps = (
            f"M{index * step:.1f} {height}v{-max(1.0, height * value / most):.1f}h{step:.1f}V{height}z"
            for index, value in enumerate(values)
            if value
        )
        return f'<path fill="{colour}" d="{"".join(steps)}"/>'

    drawn = bars([minute.requests for minute in minutes], palette.INFO.text)
    failed = bars([minute.errors for minute in minutes], palette.PROBLEM.text)
    says = f"requests of the last hour, at most {most} per minute, {target.traffic.errors} failed"
    # JupyterLab makes a drawing as narrow as its column: without its own coordinates it would be cut off.
    size = f'width={width} height={height} viewBox="0 0 {width} {height}" style="min-width:{width}px"'
    return f'<svg {size} role="img" aria-label="{says}">{drawn}{failed}</svg>'
