"""What the judge says: sentences that a reader who knows no statistics can retell."""

import re

import pytest

from buddy_ops.health.judge import Counts, Judge, JudgePolicy, Minute, Verdict

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
}


def test_a_rollback_names_versions_requests_failures_rates_and_the_odds() -> None:
    """The sentence of the specification, with the counts of both versions in the same minutes."""
    first, second = EVERY["rollback"].reasons
    expected = "v42 fails 3.1 % of 640 requests (20 failures), v41 0.2 % of 5,760 (12) in the same minutes; "
    assert first.startswith(expected + "the odds that this is chance are below 1 in ")
    assert second.startswith(
        "At most 1 % is allowed; the odds that a version within that does as badly are below 1 in "
    )


def test_a_rollback_at_100_percent_says_that_there_was_nothing_to_compare_with() -> None:
    """Stable served nothing, so no odds of a comparison are claimed."""
    first = EVERY["rollback at 100 %"].reasons[0]
    assert first == "v42 fails 3.1 % of 6,400 requests (198 failures), v41 served none in the same minutes."


def test_a_slow_version_is_described_by_its_slow_requests() -> None:
    """The latency bound is named, so that nobody takes slow requests for failed ones."""
    first = EVERY["rollback of a slow one"].reasons[0]
    assert first.startswith("v42 takes over 6 s on 6.2 % of 640 requests (40 slow ones), v41 on 0.05 % of 5,760 (3) in")


def test_an_external_fault_says_why_nothing_is_rolled_back_and_what_happens_next() -> None:
    """Stable comes first: it is the one that burns."""
    first, second = EVERY["external"].reasons
    assert first.startswith("v41 fails 20 % of 11,520 requests (2,304 failures), v42 19.1 % of 1,280 (244) in the same")
    assert first.endswith("v41 suffers too, so nothing shows that v42 is the cause.")
    assert second.startswith("Nothing advances until v41 has been within its objectives for 5 minutes")
    assert "60 minutes, the limit" in EVERY["given up"].reasons[1]


def test_a_doubt_says_how_much_more_it_wants() -> None:
    """In requests, and in minutes at the present traffic."""
    verdict = EVERY["doubt"]
    assert verdict.needed is not None
    pattern = (
        rf"About {verdict.needed.requests:,} more requests would settle it, some \d+ minutes? at the present traffic\."
    )
    assert re.fullmatch(pattern, verdict.reasons[1])
    assert "none come" in EVERY["unproved, no traffic"].reasons[1]


def test_the_other_verdicts_say_what_a_reader_needs() -> None:
    """One telling phrase of each."""
    phrases = {
        "throttled": "4 throttled calls in the last 1 minute ran on no version, so nobody is blamed",
        "fresh doubt": "too many just now to go on",
        "baking": "The bake has 4 minutes to go.",
        "unread": "No minute of this stage has been read yet.",
        "promote": "v42 fails 0.2 % of 3,200 requests (5 failures), v41 0.2 % of 28,800 (60) in the same minutes.",
        "no traffic": "No request has reached v42 in this stage: it passes by time, and nothing is proved.",
        "fix": "v42 may be the fix",
        "unproved": "Not proved yet.",
        "proved": "Proved, but for 1 chance in 100: it keeps within 1.5 times what is allowed.",
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
        assert re.match(r"[A-Z0-9]|v4", reason)
        assert reason.endswith(".")


def test_odds_are_never_claimed_beyond_a_million() -> None:
    """No model of traffic is known better than that."""
    text = " ".join(said([bad(640, 640)] * 3).reasons)
    assert "below 1 in 1,000,000" in text
    assert "e+" not in text


def test_without_names_the_sentences_still_read() -> None:
    """The judge knows no version unless it is told; its sentences begin with a capital all the same."""
    judge = Judge()
    judge.observe(bad())
    assert judge.verdict(60.0, 300.0).reasons[0].startswith("The new version fails 3.1 % of 640 requests")
