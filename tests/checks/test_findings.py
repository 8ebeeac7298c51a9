"""The framework of the checks: what becomes of an exception, and how findings are counted and shown."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.checks import findings, result_words, status
from buddy_ops.checks._shared import version_rates
from buddy_ops.checks.findings import Check, CheckContext, Finding, NotMeasured, State
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput, Refused
from buddy_ops.core.side_channels import SideChannels
from buddy_ops.health.counts import Counts
from buddy_ops.health.metrics import MetricsReading, MinuteRow

MISSING = InvalidInput("function-missing", "There is no function.", now="Nothing was changed.", next="Create it.")
DENIED = AwsFailed("not-permitted", "x" * 500, now="Nothing was changed.", next="Ask.", code="AccessDenied")
START = datetime(2026, 11, 2, 3, tzinfo=UTC)


def run(*checks: Check) -> list[Finding]:
    """The findings of checks that read nothing."""
    target = cast(Target, SimpleNamespace(side=SideChannels()))
    return list(findings.run_checks(checks, CheckContext(target)))


def raising(name: str, error: Exception, *, required: bool = False) -> Check:
    """A check that raises."""

    def check(context: CheckContext) -> Finding:
        raise error

    return Check(name, check, runbook="start_here", required=required)


def test_a_check_that_raises_is_unknown_and_hides_no_other() -> None:
    """Whatever is raised, the next check runs; an AWS error is quoted in part, since it may be a whole page."""
    found = run(
        raising("denied", DENIED),
        raising("missing", MISSING),
        raising("without data", NotMeasured("no requests")),
        raising("malformed", KeyError("Timeout")),
        Check("last", lambda _: findings.ok("done"), runbook="start_here"),
    )
    assert [finding.state for finding in found] == [State.UNKNOWN] * 4 + [State.OK]
    assert len(found[0].message) == findings.QUOTED and found[0].remedy == "Ask."
    assert found[2].message == "no requests" and "Timeout" in found[3].message
    # A check that passed needs no runbook.
    assert [finding.runbook for finding in found] == ["start_here"] * 4 + [""]


def test_what_a_required_check_needs_is_its_own_problem() -> None:
    """A missing function is a problem of the check that requires it; AWS not answering is still unknown."""
    found = run(raising("missing", MISSING, required=True), raising("denied", DENIED, required=True))
    assert [finding.state for finding in found] == [State.PROBLEM, State.UNKNOWN]


def test_findings_are_counted_and_shown_the_worst_first() -> None:
    """One table for Markdown, whose cells no message breaks."""
    found = run(Check("a", lambda _: findings.ok("fine")), Check("b", lambda _: findings.problem("x | y", "Do it.")))
    assert findings.count_states(found) == "1 PROBLEM, 1 OK"
    rows = findings.markdown_table(found).splitlines()[2:]
    assert rows[0].startswith("| b | PROBLEM | x \\| y | Do it. |") and rows[1].startswith("| a | OK |")
    assert findings.text_row(found[1]) == f"{'PROBLEM':<9}{'b':<19}x | y\n{'':<28}Do it."


def test_nothing_is_raised_for_nothing() -> None:
    """The error lists each entry; without entries there is none."""
    findings.raise_listing(Refused, "open", title="Title.", entries=[], next_step="Fix it.")
    with pytest.raises(BuddyError, match="open") as raised:
        findings.raise_listing(Refused, "open", title="Title.", entries=["a", "b"], next_step="Fix it.")
    assert raised.value.what == "Title.\n  - a\n  - b" and raised.value.exit_code == 4


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ((State.OK, State.INFO), "OK: all checks passed."),
        ((State.OK, State.WARNING), "OK, with warnings: message of 1."),
        ((State.WARNING, State.UNKNOWN), "UNKNOWN: check 1 could not be read (message of 1)."),
        ((State.UNKNOWN, State.PROBLEM), "CHECK 1: message of 1. Unknown: check 0"),
        ((State.PROBLEM, State.PROBLEM), "CHECK 0: message of 0. Also: CHECK 1"),
    ],
)
def test_the_verdict_begins_with_the_result_word(states: tuple[State, ...], verdict: str) -> None:
    """Unknown is never OK, and a problem comes before it."""
    found = tuple(Finding(f"check {n}", state, f"message of {n}") for n, state in enumerate(states))
    assert status.StatusReport("", found, ()).verdict == verdict


def test_the_first_lines_are_short_and_name_production() -> None:
    """The environment, the verdict and the steps come before the picture; the checks after it, unless it cannot be drawn."""
    subject = status.Subject(
        "prod", "buddy", "live", "us-east-1", datetime(2026, 11, 22, 3, 2, tzinfo=UTC), production=True
    )
    found = Finding("error rate", State.PROBLEM, "v2 4.8 %", detail="minute by minute")
    report = status.StatusReport("serves v2", (found,), (), subject)
    html = report.first_lines.html
    assert html.index("PRODUCTION") < html.index("prod: buddy:live") < html.index("ERROR RATE HIGH</b>: v2 4.8 %")
    assert "minute by minute" not in html and "minute by minute" in report.checks.html
    assert "PRODUCTION" not in replace(report, subject=replace(subject, production=False)).first_lines.html
    unread = replace(report, findings=(found.named(result_words.ALIAS_UNREADABLE),))
    assert "minute by minute" in unread.first_lines.html and "minute by minute" in repr(unread.first_lines)


def test_a_rate_is_counted_since_its_first_minute_over_the_limit() -> None:
    """The rate since then is not lower than the whole, and the minutes before it are not counted."""
    minutes = [Counts(100, 0, 0), Counts(100, 5, 0), Counts(100, 0, 0), Counts(100, 9, 0)]
    rows = tuple(MinuteRow(START + timedelta(minutes=n), {"2": counts}) for n, counts in enumerate(minutes))
    (rate,) = version_rates(MetricsReading(rows), "errors", limit=0.01)
    assert rate.over_limit and rate.onset() == START + timedelta(minutes=1)
    assert rate.starting_at(rate.onset()).describe() == "v2 4.7 % of 300 requests (limit 1 %)"
    with pytest.raises(NotMeasured, match="throttled"):
        version_rates(MetricsReading((), "CloudWatch throttled the call"), "errors")
