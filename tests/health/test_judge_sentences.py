"""What the judge says: sentences that a reader who knows no statistics can retell."""

import re

import pytest

from buddy_ops.health.counts import Counts, Minute
from buddy_ops.health.judge import Judge
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.verdict import Verdict

JARGON = re.compile(
    r"[\u0370-\u03ff\u1f00-\u1fff]|e-value|p-value|null|hypothes|likelihood|martingale|evidence against"
)


def said(
    minutes: list[Minute], baked_s: float = 300.0, final: bool = False, policy: JudgePolicy | None = None
) -> Verdict:
    """The verdict on these minutes."""
    judge = Judge(policy, stable_name="v41", canary_name="v42")
    for minute in minutes:
        judge.observe(minute)
    return judge.verdict(baked_s=baked_s, bake_s=300.0, final=final)


def bad(requests: int = 640, failures: int = 20) -> Minute:
    """A minute in which v42 fails so many requests."""
    return Minute(0.10, Counts(5760, 12, 3), Counts(requests, failures))


GOOD = Minute(0.10, Counts(5760, 12, 3), Counts(640, 1))
EMPTY = Minute(0.10, Counts(), Counts())
BURNING = Minute(0.10, Counts(5760, 1152), Counts(640, 122))
EVERY = {
    "rollback": said([bad()]),
    "rollback at 100 %": said([Minute(1.0, Counts(), Counts(6400, 198))], final=True),
    "rollback of a slow one": said([Minute(0.10, Counts(5760, 12, 3), Counts(640, 1, 40))] * 2),
    "external": said([BURNING] * 2),
    "given up": said([BURNING] * 60),
    "throttled": said([Minute(0.10, Counts(5760, 12), Counts(640, 1, 0, 4))]),
    "doubt": said([Minute(0.10, Counts(540, 3), Counts(60, 2))] * 3),
    "fresh doubt": said([Minute(0.5, Counts(300), Counts(300))] * 12 + [Minute(0.5, Counts(300), Counts(300, 11))]),
    "baking": said([GOOD], 60.0),
    "unread": said([]),
    "promote": said([GOOD] * 5),
    "no traffic": said([EMPTY] * 5),
    "fix": said([Minute(0.10, Counts(5760, 1152), Counts(640, 1))] * 5),
    "unproved": said([Minute(1.0, Counts(), Counts(60))], final=True),
    "unproved, no traffic": said([Minute(1.0, Counts(), Counts())], final=True),
    "proved": said([Minute(1.0, Counts(), Counts(6000, 12, 6))] * 5, final=True),
    "proved without cold starts": said(
        [Minute(1.0, Counts(), Counts(6000, 12, 96, cold=180, cold_slow=90))] * 5, final=True
    ),
}


def test_a_rollback_names_versions_requests_failures_rates_limit_and_p_values() -> None:
    """The sentence of the specification, with the counts of both versions in the same minutes."""
    first, second, third = EVERY["rollback"].reasons
    assert first == (
        "v42 error rate 3.1 % (20 of 640 requests, limit 1 %), v41 0.21 % (12 of 5,760) in the same minutes."
    )
    assert second == "p < 0.000001 that the difference is random."
    assert third == "Over the 1 % limit (p < 0.0007)."


def test_a_rollback_at_100_percent_says_that_there_was_nothing_to_compare_with() -> None:
    """Stable served nothing, so no p-value of a comparison is claimed."""
    first = EVERY["rollback at 100 %"].reasons[0]
    assert first == (
        "v42 error rate 3.1 % (198 of 6,400 requests, limit 1 %); v41 received no requests in the same minutes."
    )
    assert not any("random" in reason for reason in EVERY["rollback at 100 %"].reasons)


def test_a_slow_version_is_described_by_its_slow_requests() -> None:
    """The latency bound is named, so that nobody takes slow requests for failed ones."""
    first = EVERY["rollback of a slow one"].reasons[0]
    assert first.startswith("v42 requests over 6 s 6.2 % (40 of 640 requests, limit 1 %), v41 0.052 % (3 of 5,760)")


def test_cold_starts_that_are_left_out_are_counted() -> None:
    """On-call reads how many are not judged and how many were slow; the claim of health is about the others."""
    reasons = EVERY["proved without cold starts"].reasons
    assert reasons[1] == "Requests over 6 s (without cold starts) are below 1.5 % with 99 % confidence."
    # After the rise to 100 % latency is not judged in the first minute.
    assert reasons[-1] == "Latency is judged without 720 cold starts of v42; 360 took over 6 s."


def test_an_external_fault_says_why_nothing_is_rolled_back_and_what_happens_next() -> None:
    """Stable comes first: it is the one that is affected."""
    first, second, third = EVERY["external"].reasons
    assert first == "v41 is affected too: v42 is not shown to be the cause."
    assert second.startswith("v41 error rate 20 % (2,304 of 11,520 requests), v42 19 % (244 of 1,280) in the same")
    assert third.startswith("The rollout waits until v41 is within its limits for 5 min")
    assert EVERY["given up"].reasons[2] == "This has lasted 60 min (limit 60 min)."


def test_a_doubt_says_how_much_more_it_wants() -> None:
    """In requests, and in minutes at the present traffic."""
    verdict = EVERY["doubt"]
    assert verdict.needed is not None
    pattern = rf"Inconclusive: need about {verdict.needed.requests:,} more requests \(~\d+ min\)\."
    assert re.fullmatch(pattern, verdict.reasons[0])
    assert "no traffic at present" in EVERY["unproved, no traffic"].reasons[0]


def test_the_other_verdicts_say_what_a_reader_needs() -> None:
    """One telling phrase of each."""
    phrases = {
        "throttled": "4 requests throttled in the last 1 min (not attributed to a version). Raise the concurrency",
        "fresh doubt": "Inconclusive: too many errors in the last 5 min to advance.",
        "baking": "Baking: 4 min left. No regression so far.",
        "unread": "No metrics for this stage yet.",
        "promote": "v42 error rate 0.16 % (5 of 3,200 requests), v41 0.21 % (60 of 28,800) in the same minutes.",
        "no traffic": "v42 received no requests in this stage; it will advance on time only (no evidence).",
        "fix": "v42 may be the fix",
        "unproved": "Inconclusive: need about",
        "proved": "Healthy: error rate is below 1.5 % with 99 % confidence.",
    }
    for name, phrase in phrases.items():
        assert phrase in " ".join(EVERY[name].reasons), name


@pytest.mark.parametrize("name", EVERY)
def test_no_sentence_has_a_greek_letter_or_a_word_of_the_trade(name: str) -> None:
    """Every reason is a full sentence that starts with a capital, a number or a version and ends with a full stop."""
    reasons = EVERY[name].reasons
    assert reasons
    for reason in reasons:
        assert not JARGON.search(reason), reason
        assert re.match(r"[A-Z0-9]|v4|p < 0", reason)
        assert reason.endswith(".")


def test_no_p_value_is_claimed_below_one_in_a_million() -> None:
    """No model of traffic is more exact than that."""
    text = " ".join(said([bad(640, 640)] * 3).reasons)
    assert "p < 0.000001" in text
    assert "e+" not in text


def test_without_names_the_sentences_still_read() -> None:
    """The judge knows no version unless it is told; its sentences begin with a capital all the same."""
    judge = Judge()
    judge.observe(bad())
    assert judge.verdict(60.0, 300.0).reasons[0].startswith("The new version error rate 3.1 % (20 of 640")
