"""The judge's rules: when it promotes, holds, rolls back or blames nobody."""

import copy
from dataclasses import replace

import pytest

from buddy_ops.health.counts import Counts, Minute
from buddy_ops.health.judge import Judge, dispersion
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.verdict import Needed, Verdict

BAKE_S = 300.0


def minute(
    weight: float = 0.10,
    canary: tuple[int, int] = (60, 0),
    stable: tuple[int, int] = (540, 1),
    slow: tuple[int, int] = (0, 0),
    throttles: int = 0,
    changed: bool = False,
) -> Minute:
    """One minute: (requests, failures) of both versions, slow requests of (canary, stable)."""
    new = Counts(*canary, slow[0], throttles)
    return Minute(weight, Counts(*stable, slow[1]), new, changed)


def judged(*minutes: Minute, policy: JudgePolicy | None = None, history: tuple[Counts, ...] = ()) -> Judge:
    """The judge that saw these minutes."""
    judge = Judge(policy, history, stable_name="v41", canary_name="v42")
    for each in minutes:
        judge.observe(each)
    return judge


def after(judge: Judge, baked_s: float = BAKE_S, final: bool = False) -> Verdict:
    """Its verdict on a stage of 5 minutes."""
    return judge.verdict(baked_s=baked_s, bake_s=BAKE_S, final=final)


HEALTHY = minute()
ALONE = minute(1.0, canary=(600, 1), stable=(0, 0))
BOTH_BURN = minute(canary=(60, 12), stable=(540, 108))
DOUBTFUL = minute(canary=(60, 2), stable=(540, 3))
CURE = minute(canary=(60, 0), stable=(540, 108))


def test_a_healthy_version_is_promoted_when_its_bake_is_over_and_not_before() -> None:
    """The bake's time is served in full, then nothing but the absence of doubt is asked."""
    judge = judged(*[HEALTHY] * 5)
    assert after(judge, 299.0).decision == "hold"
    assert after(judge).decision == "promote"


def test_early_promotion_is_off_unless_the_policy_asks_for_it() -> None:
    """With it, a version that is shown to be healthy in its stage goes on after 3 minutes; an unproven one stays."""
    early = JudgePolicy(early_after_s=180.0)
    busy = minute(canary=(6000, 6), stable=(54_000, 54))
    assert after(judged(*[busy] * 3), 180.0).decision == "hold"
    assert after(judged(*[busy] * 3, policy=early), 180.0).decision == "promote"
    assert after(judged(*[minute(canary=(6, 0), stable=(54, 0))] * 3, policy=early), 180.0).decision == "hold"


def test_a_version_over_the_objective_and_worse_than_stable_is_rolled_back_inside_its_stage() -> None:
    """Rule S: the evidence against the objective passes 800, and that of being worse than stable passes 20."""
    judge = judged(*[minute(canary=(60, 6))] * 2)
    evidence = judge.scores()
    assert evidence.errors.slo >= evidence.rollback_at == 800
    assert evidence.errors.base >= evidence.worse_at == 20
    verdict = after(judge, 60.0)
    assert (verdict.decision, verdict.cause) == ("rollback", "errors")


def test_without_a_control_the_objective_alone_decides() -> None:
    """At 100 % stable serves nothing: rule S asks for no comparison."""
    judge = judged(minute(1.0, canary=(600, 40), stable=(0, 0)))
    assert judge.scores().errors.base == 1.0
    assert after(judge, 60.0, final=True).decision == "rollback"


def test_a_version_surely_worse_than_stable_needs_less_evidence_against_the_objective() -> None:
    """Rule R: being worse passes 800, being over the objective only 10."""
    judge = judged(minute(0.5, canary=(600, 16), stable=(600, 0)))
    assert judge.scores().errors.base >= 800 > judge.scores().errors.slo >= 10
    assert after(judge, 60.0).decision == "rollback"


def test_a_version_surely_worse_and_clearly_over_the_objective_is_rolled_back_at_the_end_of_its_bake() -> None:
    """Rule G: not before the bake is over, and not while it stays within 1.2 times the objective."""
    over = judged(minute(0.5, canary=(2000, 26), stable=(2000, 0)))
    assert over.scores().errors.base >= 800 > 10 > over.scores().errors.slo
    assert after(over, 60.0).decision == "hold"
    assert after(over).decision == "rollback"
    within = judged(minute(0.5, canary=(2400, 26), stable=(2400, 0)))
    assert within.scores().errors.base >= 800
    assert after(within).decision == "hold"


def test_a_version_worse_than_stable_but_within_the_objective_is_promoted() -> None:
    """The objective is what users were promised; being second to a perfect stable breaks no promise."""
    judge = judged(*[minute(0.5, canary=(3000, 12), stable=(3000, 0))] * 5)
    assert judge.scores().errors.base >= 800
    assert after(judge).decision == "promote"


def test_slow_requests_are_judged_like_errors() -> None:
    """p99 < 6 s is 'at most 1 % slower than 6 s': the same test on the other count."""
    judge = judged(*[minute(slow=(8, 1))] * 3)
    verdict = after(judge, 60.0)
    assert (verdict.decision, verdict.cause) == ("rollback", "slow")


def test_a_policy_may_hold_a_slow_version_instead() -> None:
    """on_slow = hold: somebody is to investigate, until the stretch is over; errors still roll back."""
    policy = JudgePolicy(on_slow="hold")
    judge = judged(*[minute(slow=(8, 1))] * 3, policy=policy)
    assert (after(judge).decision, after(judge).expired) == ("hold", False)
    assert (after(judge, 900.0).decision, after(judge, 900.0).expired) == ("hold", True)
    assert after(judged(*[minute(canary=(60, 8), slow=(8, 1))] * 3, policy=policy)).decision == "rollback"


def test_latency_is_left_out_of_the_minute_in_which_a_weight_rises() -> None:
    """Cold starts make any version slow for a moment; its errors count all the same."""
    cold = minute(slow=(30, 0))
    judge = judged(cold)
    assert judge.scores().slow.slo == 1.0
    judge.observe(cold)
    assert judge.scores().slow.slo > 800
    flagged = judged(HEALTHY, replace(cold, weight_changed=True))
    assert flagged.scores().slow.slo == 1.0
    assert judged(minute(canary=(60, 30))).scores().errors.slo > 800


def test_where_the_weight_moved_the_share_of_requests_is_what_the_versions_are_compared_by() -> None:
    """A minute that was mostly served before the shift must not be judged by the new weight."""
    late = minute(0.5, canary=(60, 6), stable=(540, 54), changed=True)
    assert judged(late).scores().errors.base < 2
    blamed = minute(0.05, canary=(60, 6), stable=(60, 6))
    assert (
        judged(blamed).scores().errors.base > 20 > 2 > judged(replace(blamed, weight_changed=True)).scores().errors.base
    )


def test_a_doubt_stretches_the_bake_and_then_expires() -> None:
    """After 10 minutes of stretch the caller takes the traffic back without blame; the last stage has no stretch."""
    judge = judged(*[DOUBTFUL] * 3)
    assert 2 <= judge.scores().errors.slo < 800
    assert (after(judge).decision, after(judge).expired) == ("hold", False)
    assert after(judge, 899.0).expired is False
    assert after(judge, 900.0).expired is True
    assert after(judge, 900.0, final=True).expired is False


def test_a_doubt_says_what_would_settle_it() -> None:
    """Requests, and the minutes that follow from the latest traffic: feeding so many at this rate does settle it."""
    needed = after(judged(*[DOUBTFUL] * 3)).needed
    assert isinstance(needed, Needed)
    assert needed.minutes == pytest.approx(needed.requests / 60, abs=1 / 60)
    more = round(needed.minutes + 0.5)
    assert after(judged(*[DOUBTFUL] * (3 + more))).decision == "rollback"
    calm = after(judged(*[DOUBTFUL] * 2, *[minute(canary=(60, 0))] * 2))
    assert (calm.decision, calm.needed) == ("promote", None)


def test_trouble_in_the_latest_minutes_keeps_traffic_from_moving_although_the_whole_looks_well() -> None:
    """A long good record dilutes a fault that has just begun: the latest minutes are looked at by themselves."""
    judge = judged(
        *[minute(0.5, canary=(300, 0), stable=(300, 0))] * 12, minute(0.5, canary=(300, 11), stable=(300, 0))
    )
    assert judge.scores().errors.slo < 2
    assert after(judge).decision == "hold"
    assert after(judge, 60.0, final=True).cause == ""
    burning = judged(
        *[minute(0.5, canary=(300, 0), stable=(300, 0))] * 12, minute(0.5, canary=(300, 5), stable=(300, 11))
    )
    assert after(burning).decision == "hold"


def test_throttled_calls_hold_and_blame_nobody() -> None:
    """They ran on no version; once five minutes are free of them the stage goes on."""
    judge = judged(*[HEALTHY] * 5, minute(throttles=3))
    verdict = after(judge)
    assert (verdict.decision, verdict.cause, verdict.needed) == ("hold", "throttles", None)
    assert judge.scores() == judged(*[HEALTHY] * 6).scores()
    for _ in range(5):
        judge.observe(HEALTHY)
    assert after(judge).decision == "promote"


def test_throttling_does_not_save_a_bad_version() -> None:
    """A version that exhausts the concurrency throttles the others: its own failures still count."""
    assert after(judged(*[minute(canary=(60, 8), throttles=50)] * 3)).decision == "rollback"


def test_an_external_fault_blames_nobody_and_stops_the_rollout() -> None:
    """Both versions fail alike: nothing is rolled back and nothing advances, bake over or not."""
    judge = judged(HEALTHY, *[BOTH_BURN] * 5)
    verdict = after(judge)
    assert (verdict.decision, verdict.cause, verdict.expired) == ("external", "errors", False)


def test_a_version_that_suffers_far_more_from_a_fault_is_still_rolled_back() -> None:
    """Stable burns, but the canary is surely the worse one: rule R."""
    judge = judged(*[minute(canary=(60, 50), stable=(540, 60))] * 2)
    assert judge.scores().errors.stable >= 20
    assert after(judge).decision == "rollback"


def test_after_five_calm_minutes_the_evidence_is_cleared_and_the_stage_bakes_again() -> None:
    """The caller sees `rebakes` grow and restarts its bake clock; the fault leaves no trace in the evidence."""
    judge = judged(HEALTHY, *[BOTH_BURN] * 3, *[HEALTHY] * 4)
    assert (after(judge).decision, judge.rebakes) == ("external", 0)
    judge.observe(HEALTHY)
    assert (judge.rebakes, after(judge, 0.0).rebakes, after(judge, 0.0).decision) == (1, 1, "hold")
    assert judge.scores().errors.slo == judge.scores().errors.stable == 1.0
    for _ in range(5):
        judge.observe(HEALTHY)
    assert after(judge).decision == "promote"


def test_an_external_fault_of_an_hour_is_given_up_without_blame() -> None:
    """The verdict stays 'external' and says that it has expired; 60 judged minutes count, not wall-clock time."""
    judge = judged(*[BOTH_BURN] * 59)
    assert after(judge).expired is False
    judge.observe(BOTH_BURN)
    assert (after(judge).decision, after(judge).expired) == ("external", True)


def test_a_rollout_that_is_the_fix_is_promoted_while_stable_burns() -> None:
    """Stable fails a fifth of its requests and the canary none: it advances, and the verdict says why."""
    verdict = after(judged(*[CURE] * 5))
    assert verdict.decision == "promote"
    assert any("v42 may be the fix" in reason for reason in verdict.reasons)


def test_the_fix_is_still_judged_when_it_serves_everything() -> None:
    """At 100 % the burning stable is the past: a fix that breaks is rolled back, one that holds is proved."""
    held = judged(*[CURE] * 5, *[ALONE] * 5)
    held.next_stage()
    held.observe(ALONE)
    verdict = after(held, final=True)
    assert verdict.decision == "promote"
    assert not any("may be the fix" in reason for reason in verdict.reasons)
    broken = judged(*[CURE] * 5, *[minute(1.0, canary=(600, 60), stable=(0, 0))] * 2)
    assert after(broken, final=True).decision == "rollback"


def test_a_stage_without_traffic_passes_by_time_and_proves_nothing() -> None:
    """Thin or no traffic may pass a stage; the last stage then waits for the caller's watch limit."""
    judge = judged(*[minute(canary=(0, 0), stable=(0, 0))] * 5)
    assert after(judge).decision == "promote"
    assert judge.proved is False
    verdict = after(judge, final=True)
    assert verdict.decision == "hold"
    assert verdict.needed is not None and verdict.needed.minutes is None


def test_a_stage_of_which_no_minute_was_read_does_not_pass() -> None:
    """Missing measurements never pass, whatever the clock says."""
    judge = judged(*[HEALTHY] * 5)
    judge.next_stage()
    assert after(judge).decision == "hold"
    judge.observe(HEALTHY)
    assert after(judge).decision == "promote"


def test_the_last_stage_ends_when_the_version_is_proved() -> None:
    """Its bake must be over, and both streams under 1.5 times their objectives but for 1 chance in 100."""
    judge = judged(ALONE)
    assert (judge.proved, after(judge, final=True).decision) == (False, "hold")
    for _ in range(4):
        judge.observe(ALONE)
    assert judge.proved
    assert judge.scores().errors.ok >= judge.scores().proved_at == 100
    assert after(judge, 299.0, final=True).decision == "hold"
    assert after(judge, final=True).decision == "promote"


def test_a_slow_version_is_not_proved_by_its_lack_of_errors() -> None:
    """Both streams are asked."""
    judge = judged(*[minute(1.0, canary=(600, 0), stable=(0, 0), slow=(6, 0))] * 5)
    assert judge.scores().errors.ok >= 100 > judge.scores().slow.ok
    assert judge.proved is False


def test_asking_for_a_verdict_changes_nothing() -> None:
    """It may be read twice, or never."""
    judge = judged(HEALTHY, minute(canary=(60, 2)), BOTH_BURN)
    before = copy.deepcopy(judge)
    assert after(judge) == after(judge)
    assert judge == before


def test_more_failures_than_requests_are_read_as_all_failed() -> None:
    """CloudWatch publishes a minute's metrics one after the other; a count must not break the test."""
    assert judged(minute(canary=(6, 9))) == judged(minute(canary=(6, 9)))
    assert judged(minute(canary=(6, 9))).scores() == judged(minute(canary=(6, 6))).scores()


def test_any_number_of_failures_is_weighed_without_overflow() -> None:
    """Evidence is capped far above every threshold, and falls again when the failures end."""
    judge = judged(*[minute(0.5, canary=(3_000_000, 3_000_000), stable=(3_000_000, 0))] * 50)
    assert 1e100 <= judge.scores().errors.slo < 1e103
    for _ in range(3):
        judge.observe(minute(0.5, canary=(3_000_000, 0), stable=(3_000_000, 0)))
    assert judge.scores().errors.slo < 1


def test_bursts_in_the_history_temper_every_count() -> None:
    """Where stable's failures come ten at a time, ten failures are no more evidence than one was."""
    bursts = tuple(Counts(600, 20 if at % 10 == 0 else 0) for at in range(180))
    assert dispersion((each.errors, each.requests) for each in bursts) > 10
    bad = minute(canary=(60, 6))
    assert after(judged(bad, bad), 60.0).decision == "rollback"
    assert after(judged(bad, bad, history=bursts), 60.0).decision == "hold"


@pytest.mark.parametrize(
    "minutes",
    [
        [],
        [(0, 600)] * 180,
        [(4, 600), *[(0, 600)] * 179],
        [(0, 0)] * 180,
        [(600, 600)] * 180,
        [(3, 600)] * 180,
        [(10, 600)],
    ],
)
def test_dispersion_is_one_where_nothing_can_be_learnt(minutes: list[tuple[int, int]]) -> None:
    """Fewer than 5 events, no traffic, one minute, or failures more even than chance: the plain test is right."""
    assert dispersion(minutes) == 1.0


def test_dispersion_is_the_ratio_of_variance_to_chance() -> None:
    """Pearson's statistic by hand: two minutes of 0 and 20 in 100 against a pooled rate of 10 %."""
    assert dispersion([(0, 100), (20, 100)]) == pytest.approx(200 / 9)


def day(rate: float, requests: int = 600) -> tuple[Counts, ...]:
    """24 h of stable's minutes that fail at this rate."""
    return (Counts(requests, round(rate * requests)),) * 1440


def test_a_version_alone_that_fails_as_stable_always_did_is_not_blamed() -> None:
    """Stable fails 1.5 % for ever: alone, a version at 1.5 % is no worse. Its limit is stable's usual rate."""
    same = minute(1.0, canary=(600, 9), stable=(0, 0))
    usual = judged(*[same] * 60, history=day(0.015))
    assert after(usual, final=True).decision != "rollback"
    assert after(judged(*[same] * 60), final=True).decision == "rollback"
    worse = judged(*[minute(1.0, canary=(600, 36), stable=(0, 0))] * 3, history=day(0.015))
    verdict = after(worse, final=True)
    assert verdict.decision == "rollback"
    assert 0.015 < verdict.compared.limit < 0.016
    assert verdict.reasons[0].endswith("limit 1.5 %); v41 received no requests in the same minutes.")
    assert verdict.reasons[-1] == "The limit is the usual rate of v41, which is over 1 %."


def test_stables_minutes_in_the_rollout_count_for_its_usual_rate() -> None:
    """Without a history, what stable served beside the version is its usual rate."""
    beside = minute(0.5, canary=(300, 5), stable=(300, 5))
    alone = minute(1.0, canary=(600, 10), stable=(0, 0))
    assert after(judged(*[beside] * 10, *[alone] * 60), final=True).decision != "rollback"


@pytest.mark.parametrize(
    "history",
    [
        day(0.008),
        # An outage of four hours in the day before.
        (*day(0.002)[:1200], *[Counts(600, 300)] * 240),
        # Too little is known of it.
        (Counts(20, 1),) * 3,
        (),
    ],
)
def test_no_other_history_raises_the_limit_of_a_version_alone(history: tuple[Counts, ...]) -> None:
    """The objective holds where stable keeps it, whatever happened to it for some hours."""
    judge = judged(minute(1.0, canary=(600, 40), stable=(0, 0)), history=history)
    verdict = after(judge, 60.0, final=True)
    assert (verdict.decision, verdict.compared.limit) == ("rollback", 0.01)


def test_an_external_fault_in_the_rollout_raises_no_limit() -> None:
    """The minutes in which both versions failed are discarded with the evidence."""
    calm = minute(canary=(60, 0), stable=(540, 0))
    judge = judged(*[HEALTHY] * 3, *[BOTH_BURN] * 3, *[calm] * 6, minute(1.0, canary=(600, 40), stable=(0, 0)))
    assert judge.rebakes == 1
    assert after(judge, 60.0, final=True).decision == "rollback"


def test_an_outage_in_the_history_does_not_make_the_judge_deaf() -> None:
    """Ten minutes of failures twelve hours ago are no bursts of every day: a bad version is rolled back as without."""
    quiet = day(0.002)
    outage = (*quiet[:700], *[Counts(600, 540)] * 10, *quiet[710:])
    bad = [minute(canary=(60, 6))] * 3
    assert after(judged(*bad, history=outage), 60.0).decision == "rollback"
    # Spells that come every hour are usual, and temper the evidence.
    spells = tuple(Counts(600, 18 if at % 60 < 3 else 1) for at in range(1440))
    errors = judged(*bad, history=spells).scores().errors
    assert errors.slo < judged(*bad, history=quiet).scores().errors.slo
