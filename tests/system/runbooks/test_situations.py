"""The interesting situations through the notebook: each ends as it should, and its report can be retold by anybody."""

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from buddy_ops.runs import supervisor
from buddy_sandbox import scenarios
from tests.conftest import Situation, sampled

Bring = Callable[..., Situation]
EXITS = {"proved": 0, "unproven": 0, "rolled-back": 3, "held": 5}

# What a reader must find in the report, besides how many of which version's requests failed.
TOLD = {
    "night": ("health check inconclusive", "Inconclusive: need about"),
    "no_traffic": ("health check inconclusive", "v2 received no requests"),
    "slow_to_fail": ("ROLLED BACK at", "v1 receives 100 %"),
    "outage": ("SUCCEEDED: v2 receives 100 %; healthy",),
    "bursts": ("SUCCEEDED: v2 receives 100 %; healthy",),
    "throttling": ("SUCCEEDED: v2 receives 100 %; healthy",),
    "fix": ("SUCCEEDED: v2 receives 100 %; healthy", "v2 may be the fix"),
}
COMPARISON = re.compile(
    r"v2 error rate [\d.]+ % \([\d,]+ of [\d,]+ requests?(, limit 1 %)?\)"
    r"(, v1 [\d.]+ % \([\d,]+ of [\d,]+\)|; v1 received no requests) in the same minutes"
)


class Words(HTMLParser):
    """The words that a reader of a page sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.seen.append(data)


@pytest.mark.parametrize("name", sampled(sorted(TOLD), {"slow_to_fail"}))
def test_a_situation_ends_as_it_should_and_is_told_in_plain_words(situation: Bring, name: str) -> None:
    """Versions, requests, failures, rates and what was done stand in the report; a Greek letter does not."""
    scenario = scenarios.read(name)
    here = situation(name)
    given = {"environment": "sandbox", "artifact": here.build(scenario.build), "approved_by": ["Ada"]}
    done = supervisor.run_notebook("strategies/canary", given, folder=here.folder / "run")
    assert done.exit_code == EXITS[scenario.ends], done.trouble
    assert done.report is not None
    page = Words()
    page.feed(done.report.read_text(encoding="utf-8"))
    text = " ".join(" ".join(page.seen).split())
    for sentence in TOLD[name]:
        assert sentence in text
    if name != "no_traffic":
        assert COMPARISON.search(text)
    assert not re.search(r"[\u0370-\u03ff]", text)
    assert "e-value" not in text and "likelihood" not in text
