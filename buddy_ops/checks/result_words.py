"""The result words of the status: the first word that on-call reads, and what the exit code of each is.

Where several findings are equally severe, the word that comes first in ``RESULT_WORDS`` is the result.
"""

from dataclasses import dataclass

ACT = 6
"""Exit code: action is needed now."""

UNKNOWN_CODE = 1
"""Exit code: the health is not known. It never counts as OK."""

FINE = 0
"""Exit code: no action is needed for the users."""


@dataclass(frozen=True)
class ResultWord:
    """A result word. ``exit_codes`` are those that it comes with."""

    word: str
    exit_codes: tuple[int, ...]
    meaning: str


ALIAS_MISSING = "ALIAS MISSING"
ALIAS_UNREADABLE = "ALIAS UNREADABLE"
ALIAS_ON_LATEST = "ALIAS ON $LATEST"
ALIAS_MOVED = "ALIAS MOVED"
SPLIT_UNKNOWN = "TRAFFIC SPLIT UNKNOWN"
ISOLATED = "ISOLATED"
BOTH_FAIL = "BOTH VERSIONS FAIL"
ERRORS_HIGH = "ERROR RATE HIGH"
LATENCY_HIGH = "LATENCY HIGH"
THROTTLED = "REQUESTS THROTTLED"
STALLED = "ROLLOUT STALLED"
ROLLING_OUT = "ROLLOUT IN PROGRESS"
ROLLING_BACK = "ROLLBACK IN PROGRESS"
ROLLED_BACK = "ROLLED BACK"
JUST_DEPLOYED = "JUST DEPLOYED"
ALARM = "ALARM"
ALARMS_BLIND = "ALARMS BLIND"
METRICS_LATE = "METRICS LATE"
NO_TRAFFIC = "NO TRAFFIC"
NOT_DEPLOYED = "NOT DEPLOYED"
FROZEN = "FROZEN"
UNKNOWN = "UNKNOWN"
OK = "OK"

RESULT_WORDS = (
    ResultWord(
        ALIAS_MISSING, (ACT, UNKNOWN_CODE), "The alias does not exist, although versions do: callers get errors."
    ),
    ResultWord(ISOLATED, (ACT,), "A run stopped the function, or its writes, on purpose."),
    ResultWord(SPLIT_UNKNOWN, (ACT,), "Two versions serve, and no open rollout explains it."),
    ResultWord(
        BOTH_FAIL, (ACT,), "The version that a rollback would return to fails as well: a rollback would not help."
    ),
    ResultWord(ERRORS_HIGH, (ACT,), "A version that serves fails more requests than the limit."),
    ResultWord(LATENCY_HIGH, (ACT,), "A version that serves has more slow requests than the limit."),
    ResultWord(THROTTLED, (ACT,), "Lambda rejected requests: a concurrency limit is reached."),
    ResultWord(STALLED, (ACT,), "The run of a rollout no longer renews its failsafe, or was lost."),
    ResultWord(ALIAS_ON_LATEST, (ACT,), "The alias serves $LATEST: each upload reaches all users at once."),
    ResultWord(ALARM, (ACT,), "A CloudWatch alarm is in ALARM."),
    ResultWord(ALIAS_UNREADABLE, (UNKNOWN_CODE,), "AWS refused to show the alias, or could not be reached."),
    ResultWord(METRICS_LATE, (UNKNOWN_CODE,), "CloudWatch has not published the latest minutes."),
    ResultWord(NO_TRAFFIC, (UNKNOWN_CODE,), "No requests arrive: nothing shows that the version is healthy."),
    ResultWord(ROLLING_OUT, (UNKNOWN_CODE, FINE), "A rollout is in progress, and its run renews its failsafe."),
    ResultWord(ROLLING_BACK, (UNKNOWN_CODE, FINE), "A gradual rollback is in progress."),
    ResultWord(ROLLED_BACK, (UNKNOWN_CODE, FINE), "The traffic was rolled back within the last hour."),
    ResultWord(
        JUST_DEPLOYED, (UNKNOWN_CODE,), "A version was deployed within the last minutes: no minute of it is published."
    ),
    ResultWord(ALIAS_MOVED, (FINE,), "Another tool, or a person, moved the alias: the record does not explain it."),
    ResultWord(
        ALARMS_BLIND, (UNKNOWN_CODE, FINE), "Alarms have no data (exit code 1), are missing, or notify no person."
    ),
    ResultWord(UNKNOWN, (UNKNOWN_CODE,), "A check could not be made."),
    ResultWord(NOT_DEPLOYED, (UNKNOWN_CODE, FINE), "Nothing was ever deployed."),
    ResultWord(FROZEN, (FINE,), "Deployments are frozen. Rollbacks are not."),
    ResultWord(OK, (FINE,), "Every check passed, and the metrics show it."),
)

PRECEDENCE = {known.word: rank for rank, known in enumerate(RESULT_WORDS)}
"""The rank of each word among equally severe findings; a word that is not listed comes last."""
