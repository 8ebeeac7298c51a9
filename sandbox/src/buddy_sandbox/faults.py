"""How a build of Buddy behaves: how often it fails, apologises or hangs, and how long it takes.

Knows the arithmetic from uniform draws to outcomes and durations. Never draws, and never looks at a clock.
``skill/faults.py`` is its pure-Python twin inside the zip, so that a smoke test and simulated traffic agree.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int8]

OK, ERROR, APOLOGY, TIMEOUT = 0, 1, 2, 3
"""Outcome codes: answered; Lambda error; answered with 'sorry' (no Lambda error); ran into the function's timeout."""

_RATES = (
    *("error_rate", "apology_rate", "timeout_rate", "slow_rate", "cold_slow_rate"),
    *("burst_error_rate", "corrupt_rate"),
)


class Rates(NamedTuple):
    """Shares (0..1) of the requests of one moment; whatever remains is answered well, ``slow`` lies across all."""

    error: float
    timeout: float
    apology: float
    slow: float


@dataclass(frozen=True)
class FaultProfile:
    """A build's behaviour. Rates are shares 0..1 of requests; durations exclude init, as Lambda's Duration does.

    Attributes:
        onset_s: faults begin this many seconds after the version's first request.
        burst_every_s: 0, or the period whose last ``burst_length_s`` fail at ``burst_error_rate``, once onset has come.
        slow_rate: share of requests that take exactly ``slow_ms``; the others are lognormal(``median_ms``, ``sigma``).
        cold_slow_rate: share of cold starts that take ``slow_ms`` beside their init (simulated traffic only: no onset).
        corrupt_rate: share of writes that damage the item they touch.
        escalation_rate: share of requests that are safety escalations (the people's doing, not a fault: no onset).
        region: where its faults are; '' is everywhere. Elsewhere it only takes its time.
        reminder_rate: share of requests that set a reminder (simulated traffic only: no onset).
    """

    name: str
    description: str = ""
    error_rate: float = 0.0
    apology_rate: float = 0.0
    timeout_rate: float = 0.0
    slow_rate: float = 0.0
    slow_ms: float = 7000.0
    cold_slow_rate: float = 0.0
    median_ms: float = 180.0
    sigma: float = 0.35
    init_ms: float = 650.0
    onset_s: float = 0.0
    burst_every_s: float = 0.0
    burst_length_s: float = 0.0
    burst_error_rate: float = 0.0
    corrupt_rate: float = 0.0
    # Rare enough that a busy day (6,000 requests a minute) stays under Buddy's alarm of more than one an hour.
    escalation_rate: float = 1e-6
    reminder_rate: float = 0.3
    region: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be a share or a duration."""
        for name in (*_RATES, "escalation_rate", "reminder_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie within 0..1, not {getattr(self, name)}")
        if self.error_rate + self.timeout_rate + self.apology_rate > 1.0:
            raise ValueError("error_rate, timeout_rate and apology_rate add up to more than 1")
        durations = (self.slow_ms, self.median_ms, self.sigma, self.init_ms, self.onset_s)
        if min(*durations, self.burst_every_s, self.burst_length_s) < 0 or self.median_ms == 0:
            raise ValueError("durations cannot be negative, nor the median 0")

    def in_region(self, name: str) -> "FaultProfile":
        """How the build behaves in a region."""
        if self.region in ("", name):
            return self
        healthy: dict[str, Any] = dict.fromkeys(_RATES, 0.0)
        return replace(self, **healthy)

    def rates_at(self, age_s: float) -> Rates:
        """The shares that hold ``age_s`` seconds after the version's first request."""
        since = age_s - self.onset_s
        if since < 0:
            return Rates(0.0, 0.0, 0.0, 0.0)
        every = self.burst_every_s
        bursting = every > 0 and since % every >= every - self.burst_length_s
        error = max(self.error_rate, self.burst_error_rate) if bursting else self.error_rate
        return Rates(error, self.timeout_rate, self.apology_rate, self.slow_rate)

    def outcomes(self, age_s: "Floats", u: "Floats") -> "Codes":
        """Outcome codes of requests at these ages, from one uniform draw each."""
        import numpy as np

        since = age_s - self.onset_s
        error = np.full(since.shape, self.error_rate)
        if self.burst_every_s > 0:
            bursting = np.mod(since, self.burst_every_s) >= self.burst_every_s - self.burst_length_s
            error = np.where(bursting, max(self.error_rate, self.burst_error_rate), error)
        codes = np.full(since.shape, OK, dtype=np.int8)
        # Widest threshold first, so that the narrower ones overwrite: error, then timeout, then apology from u = 0 up.
        codes[u < error + self.timeout_rate + self.apology_rate] = APOLOGY
        codes[u < error + self.timeout_rate] = TIMEOUT
        codes[u < error] = ERROR
        codes[since < 0] = OK
        return codes

    def durations_ms(self, z: "Floats", u2: "Floats", age_s: "Floats | None" = None) -> "Floats":
        """Milliseconds of answered requests, from standard normals ``z`` and uniforms ``u2`` (which are slow).

        Args:
            z: standard normal draws.
            u2: uniform draws, independent of those for ``outcomes``.
            age_s: ages, so that nothing is slow before ``onset_s``; without them, onset has passed.
        """
        import numpy as np

        slow = u2 < self.slow_rate
        if age_s is not None:
            slow &= age_s >= self.onset_s
        return np.where(slow, self.slow_ms, self.median_ms * np.exp(self.sigma * z))

    def to_json(self) -> str:
        """The profile as stable JSON: the same profile gives the same bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "FaultProfile":
        """Read ``to_json``'s text.

        Raises:
            ValueError: not JSON, an unknown or missing key, a value of the wrong type or out of range.
        """
        given: Any = json.loads(text)
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"not a fault profile: {error}") from None


PROFILES: dict[str, FaultProfile] = {
    profile.name: profile
    for profile in (
        FaultProfile("good", "healthy, but for one request in five hundred", error_rate=0.002),
        FaultProfile("errors_below_limit", "0.9 % of requests raise, within the limit of 1 %", error_rate=0.009),
        FaultProfile("errors_2_percent", "2 % of requests raise", error_rate=0.02),
        FaultProfile("errors_5_percent", "5 % of requests raise", error_rate=0.05),
        FaultProfile(
            "errors_in_eu_west_1", "5 % of requests raise, in eu-west-1 only", error_rate=0.05, region="eu-west-1"
        ),
        FaultProfile("total_failure", "every request raises", error_rate=1.0),
        FaultProfile("apologises", "every reply is 'sorry'; Lambda sees no error at all", apology_rate=1.0),
        FaultProfile("apologises_5_percent", "5 % of replies are 'sorry'; no Lambda error", apology_rate=0.05),
        FaultProfile("slow", "6 % of requests take 6.5 s, so p99 is over 6 s", slow_rate=0.06, slow_ms=6500.0),
        FaultProfile("slow_to_fail", "healthy for 12 minutes, then 5 % raise", error_rate=0.05, onset_s=720.0),
        FaultProfile(
            "twice_as_slow", "healthy, but each request takes twice as long", error_rate=0.002, median_ms=360.0
        ),
        FaultProfile("fewer_reminders", "healthy, but sets 30 % fewer reminders", error_rate=0.002, reminder_rate=0.21),
        FaultProfile(
            "bursts",
            "the last minute of every five fails at 30 %",
            burst_every_s=300.0,
            burst_length_s=60.0,
            burst_error_rate=0.3,
        ),
        FaultProfile(
            "clumps",
            "fails 0.5 % of its requests, all of them in one minute of every ten",
            burst_every_s=600.0,
            burst_length_s=60.0,
            burst_error_rate=0.05,
        ),
        FaultProfile("timeouts", "3 % of requests run into the timeout", timeout_rate=0.03),
        FaultProfile("cold_starts", "healthy, but takes 2.6 s to start", init_ms=2600.0),
        FaultProfile(
            "slow_cold_starts",
            "healthy, but every second cold start takes 6.5 s after its init",
            cold_slow_rate=0.5,
            slow_ms=6500.0,
        ),
        FaultProfile(
            "slower_cold_starts",
            "healthy, but a cold start takes 0.9 s after its init",
            cold_slow_rate=1.0,
            slow_ms=900.0,
        ),
        FaultProfile("corrupting", "healthy, but damages one item in ten that it writes", corrupt_rate=0.1),
    )
}
"""The profiles that scenarios and the demo name."""
