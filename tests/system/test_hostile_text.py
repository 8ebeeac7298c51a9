"""Text from every outside source, at every exit: each shows it, and none obeys it.

Sources: what AWS stores (deployment records, versions, freezes, checklists), log lines, names of people and incidents,
and AWS's own errors. Exits: a terminal, a cell's output in Jupyter, GitHub's log and step summary, Slack, SNS, and the
archived pages.
"""

import html
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from buddy_ops.aws import aliases, checklist_store, freezes, notifications, session
from buddy_ops.aws.session import Target
from buddy_ops.checks import readiness, status
from buddy_ops.cli import main
from buddy_ops.core.checklist import ChecklistItem, ChecklistResult
from buddy_ops.core.errors import AwsFailed, BuddyError
from buddy_ops.core.plan import Approval
from buddy_ops.core.text import NOT_FOR_TERMINALS
from buddy_ops.deployment import rollback, rollout
from buddy_ops.health import monitor
from buddy_ops.incidents import assessment, review
from buddy_ops.incidents.assessment import Assessment
from buddy_ops.incidents.error_lines import ErrorKind
from buddy_ops.notebook import opening
from buddy_ops.notebook.printing import print_escaped
from buddy_ops.runs import archive, pages
from tests.conftest import Situation, abandon, intercept
from tests.core.test_exits import HOSTILE
from tests.runs.test_archive import leave

Bring = Callable[..., Situation]
TEXT = "  ".join(HOSTILE)
LINE = " ".join(TEXT.split())
OWNED = re.compile(r"^\s{0,3}(#|::|>)", re.MULTILINE)
NOW = datetime(2026, 11, 22, 3, 12, tzinfo=UTC)


def refused(mine: Target) -> None:
    """AWS's errors say what an outsider wrote: each call of these services fails so."""

    def answer(send: Any, service: str, operation: str, **given: Any) -> Any:
        if service in ("cloudwatch", "ssm", "sts", "logs"):
            raise AwsFailed("aws-refused", f"AWS refused {service}:{operation}: X: {TEXT}", next=TEXT, code="X")
        return send(service, operation, **given)

    intercept(mine, answer)


def tried(make: Callable[[], object]) -> object:
    """What a call returns, or the error that it ends with: an operator reads either."""
    try:
        return make()
    except BuddyError as error:
        return error


def of_versions(bring: Bring) -> Iterator[object]:
    """The descriptions of versions, and one of the alias that another tool wrote."""
    here = bring("good", history_minutes=10)
    lam = here.client("lambda")
    lam.update_alias(FunctionName=here.function, Name="live", Description=LINE[:256])
    with closing(here.connect()) as mine:
        alias = aliases.require_alias(mine)
        yield aliases.describe(mine, alias)
        yield tried(lambda: rollback.plan_rollback(mine))
        yield tried(lambda: rollout.plan_rollout(mine, here.build("good")))
        yield status.read_status(mine)


def of_records(bring: Bring) -> Iterator[object]:
    """A deployment record whose texts were forged, in turn."""
    here = bring("good", history_minutes=10)
    with closing(here.connect()) as mine:
        plan = rollout.plan_rollout(mine, here.build("good"))
        abandon(mine, plan)
        alias = aliases.require_alias(mine)
        record = alias.rollout
        assert record is not None
        for name in ("run", "new_version", "stage", "closed_by_run", "stable_version"):
            forged = replace(record, **{name: LINE[:60]})
            yield aliases.describe_record(forged, mine.clock.now())
            yield aliases.describe(mine, replace(alias, rollout=forged))


def of_names(bring: Bring) -> Iterator[object]:
    """Who froze, who approved, who overrode the rules, what the incident is called."""
    here = bring("good", history_minutes=0)
    with closing(here.connect()) as mine:
        yield tried(lambda: freezes.create_freeze(mine, LINE[:200], LINE[:80], timedelta(hours=1)))
        yield freezes.Freeze(LINE, TEXT, TEXT, TEXT, readable=False)
        yield Approval("p4860dafb", (TEXT, TEXT), NOW, TEXT)
        values = mine.settings.model_dump(mode="json") | {"policy": {"by_hand": False, "ci_principals": ["arn:*"]}}
        glass = {"who": LINE[:60], "why": TEXT[:200]}
        with closing(here.connect(values=values)) as strict:
            yield tried(lambda: rollout.plan_rollout(strict, here.build("good"), break_glass=glass))
        yield status.read_status(mine)
    yield BuddyError("alias-moved", TEXT, now=TEXT, next=TEXT)


def of_checklists(bring: Bring) -> Iterator[object]:
    here = bring("good", history_minutes=0)
    item = ChecklistItem(TEXT, "no", TEXT, TEXT)
    yield ChecklistResult("pre_deployment", TEXT, NOW, run=TEXT, principal=TEXT, items=(item,))
    with closing(here.connect()) as mine:
        name = "/buddy-ops/buddy-alexa-skill-sandbox/live/records/pre_deployment/v2/20261102T0300Z-0001"
        result = ChecklistResult("pre_deployment", "v2", NOW, run=LINE, principal=LINE, items=(item,))
        forged = checklist_store._encode(result, name)
        here.client("ssm").put_parameter(Name=name, Value=forged, Type="String")
        yield tried(lambda: checklist_store.newest_result(mine, "pre_deployment", "v2"))


def of_log_lines(bring: Bring) -> Iterator[object]:
    here = bring("good", history_minutes=0)
    kind = ErrorKind(TEXT, 3, "03:12", "03:13", TEXT)
    found = Assessment(
        version="2", deployed=NOW, at=NOW + timedelta(minutes=5), counts={}, kinds=(kind,), destination="1",
        resource="f:live", serves="100 % v2", rolled_back=False, recommended="roll back", reasons=(TEXT,),
        troubles=(TEXT,),
    )  # fmt: skip
    yield found
    yield tried(lambda: assessment.plan_freeze(here.connect(), TEXT, 1))


def of_errors(bring: Bring) -> Iterator[object]:
    """AWS refuses, and says what an outsider wrote."""
    here = bring("good", history_minutes=10)
    mine = here.connect(quiet=True)
    refused(mine)
    yield mine
    yield status.read_status(mine)
    yield tried(lambda: monitor.read_window(mine, 10))
    yield tried(lambda: readiness.run_audit(mine))
    yield tried(lambda: rollback.plan_rollback(mine))
    yield tried(lambda: freezes.active_freezes(mine))
    yield notifications.DeliveryReport((), (TEXT,))


def of_archived_runs(bring: Bring) -> Iterator[object]:
    """An incident's review of a run whose journal and manifest were written by others."""
    here = bring("good", history_minutes=10)
    root = here.folder / "runs"
    records = [
        {"seq": 2, "at": "2026-11-02T00:05:00Z", "kind": kind, "by": [TEXT], "reason": TEXT, "text": TEXT, "plan": TEXT}
        for kind in ("approved", "told", "frozen", "refused", "rollback", "outcome")
    ]
    leave(root, "run-0001", records=records, incident=TEXT, parameters={"incident": TEXT, "approved_by": [TEXT]})
    archive.append_to_chain(root / "run-0001", archive.build_manifest(root / "run-0001", archive.Redactor()))
    with closing(here.connect()) as mine:
        window = ("2026-11-02T00:00:00Z", "2026-11-02T00:10:00Z")
        found = tried(lambda: review.review_incident(mine, *window, TEXT, str(root)))
        yield found
        if isinstance(found, review.IncidentReview):
            yield Markdown(found.timeline())
            yield Markdown(review.draft_post_mortem(found))


class Markdown:
    """As IPython's: a cell's last line in the review."""

    def __init__(self, data: str) -> None:
        self.data = data

    def __str__(self) -> str:
        return self.data

    def _repr_markdown_(self) -> str:
        return self.data


SOURCES = {
    source.__name__.removeprefix("of_").replace("_", " "): source
    for source in (of_versions, of_records, of_names, of_checklists, of_log_lines, of_errors, of_archived_runs)
}


def controls(text: str) -> list[str]:
    return NOT_FOR_TERMINALS.findall(text)


def tags(markup: str) -> list[str]:
    """Tags that no text of ours has."""
    return re.findall(r"<(?:script|img|iframe|a [^>]*javascript)[^>]*>", markup)


@pytest.mark.parametrize("source", SOURCES)
def test_no_exit_obeys_text_from_outside(
    situation: Bring, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Everything that a source leads to, through all exits."""
    shown = 0
    with_hostile = 0
    for value in SOURCES[source](situation):
        text = str(value)
        with_hostile += "owned" in text or "owned" in str(getattr(value, "__dict__", ""))
        for exit_ in (in_terminal, in_github_log, in_a_cell, in_displays, in_summary, in_pages):
            exit_(value, text, capsys, monkeypatch)
        in_messages(text, monkeypatch)
        shown += 1
    # A description that is none of ours is shown nowhere.
    assert shown and (with_hostile or source == "versions"), f"{source} leads nowhere"


def in_terminal(value: object, text: str, capsys: pytest.CaptureFixture[str], _: pytest.MonkeyPatch) -> None:
    main.say(value)
    main.out.print(text)
    main.out.print_json(data={"text": text})
    assert not controls(capsys.readouterr().out)


def in_github_log(value: object, text: str, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
    with patch.context() as actions:
        actions.setenv("GITHUB_ACTIONS", "true")
        main.say(value)
        main.err.print(text)
    said = capsys.readouterr()
    for stream in (said.out, said.err):
        assert not controls(stream) and not re.search(r"^\s*::|##\[", stream, re.MULTILINE)


def in_a_cell(value: object, text: str, capsys: pytest.CaptureFixture[str], _: pytest.MonkeyPatch) -> None:
    """What a cell prints, and the error that it ends with."""
    print_escaped(value, text, sep="\n")
    assert not controls(capsys.readouterr().out)
    if isinstance(value, BuddyError):
        assert not controls("\n".join(value._render_traceback_()))


def in_displays(value: object, _: str, __: pytest.CaptureFixture[str], ___: pytest.MonkeyPatch) -> None:
    """What a cell's last line shows: Markdown or HTML, else its repr."""
    for name in ("_repr_markdown_", "_repr_html_"):
        if hasattr(value, name):
            markup = getattr(value, name)()
            if markup is None:  # the cell shows the plain text
                continue
            assert not controls(markup), (name, markup)
            assert not tags(markup), (name, markup)
            if name == "_repr_html_":
                continue
            assert not re.search(r"(?<!\\)\]\((?!\w+:?//|[\w/.#-]+\))", markup), (name, markup)
            assert not OWNED.search(re.sub(r"^#+ (?!owned)", "", markup, flags=re.MULTILINE)), (name, markup)
    if not hasattr(value, "_repr_markdown_") and not hasattr(value, "_repr_html_"):
        assert not controls(repr(value)) or isinstance(value, BaseException)


def in_summary(value: object, text: str, _: pytest.CaptureFixture[str], __: pytest.MonkeyPatch) -> None:
    summary = pages.step_summary({"runbook": text, "trouble": text, "notes": [text], "people": [text]}, "")
    plain = html.unescape(summary)
    assert not set("<`[(") & set(re.sub(r"\*\*|&#\d+;", "", summary)) and not controls(plain)


def in_pages(value: object, text: str, _: pytest.CaptureFixture[str], __: pytest.MonkeyPatch) -> None:
    data = {"text/plain": text}
    for name, kind in (("_repr_markdown_", "text/markdown"), ("_repr_html_", "text/html")):
        markup = getattr(value, name)() if hasattr(value, name) else None
        if markup is not None:  # a front end leaves such a form out
            data[kind] = markup
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": text},
        {"output_type": "display_data", "data": data, "metadata": {}},
        {"output_type": "display_data", "data": {"text/html": text}, "metadata": {}},
        {"output_type": "display_data", "data": {"text/markdown": text}, "metadata": {}},
        {"output_type": "error", "ename": "X", "evalue": text, "traceback": [text]},
    ]
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": text},
        {"cell_type": "code", "metadata": {"buddy_ops": {"state": "done"}}, "source": text, "outputs": outputs},
    ]
    facts = dict.fromkeys(("runbook", "environment", "run", "incident", "principal", "trouble", "unsigned"), text)
    facts |= {"people": [text], "notes": [text], "outcome": text, "began": text, "ended": text}
    for page in (pages.report_page({"cells": cells}, facts), pages.index_row(facts | {"folder": "f"})):
        body = page.partition("</style>")[2] or page
        assert not controls(html.unescape(body)) and not tags(body)


def in_messages(text: str, patch: pytest.MonkeyPatch) -> None:
    """Slack's mentions and links are texts; no channel gets a control character."""
    sent: list[str] = []
    with patch.context() as local:
        local.setenv("HOOK", "http://127.0.0.1:9/x")
        local.setattr(notifications, "_open", lambda request: sent.append(json.loads(request.data)["text"]))
        mine = session.connect("sandbox", "test", quiet=True)
        settings = mine.settings.model_copy(
            update={"notify": mine.settings.notify.model_copy(update={"slack_webhook": "env:HOOK", "topic_arn": None})}
        )
        notifications.announce(replace(mine, settings=settings), text)
    (message,) = sent
    assert not controls(message) and not re.search(r"<[!@#]|<\w+:", message)


def test_a_runbooks_print_is_the_one_that_escapes(situation: Bring, capsys: pytest.CaptureFixture[str]) -> None:
    """``print`` in a runbook's cells, also where it is handed on; to a file it prints as always."""
    situation("good", history_minutes=0)
    namespace: dict[str, Any] = {"environment": "sandbox", "In": []}
    opening.open_runbook("start_here", namespace)
    for given in ("FAILED\rOK", "\x1b[2Jgone", "a\bb"):
        namespace["print"](given, "x", sep="|", end="!\n", flush=True)
    assert capsys.readouterr().out == "FAILED\\x0dOK|x!\n\\x1b[2Jgone|x!\na\\x08b|x!\n"
