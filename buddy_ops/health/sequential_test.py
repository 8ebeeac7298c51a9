"""The arithmetic of a sequential test on counts: mixtures, e-processes, dispersion.

An e-process starts at 1. While the tested hypothesis holds, its mean never exceeds 1. So it reaches 800 in fewer than 1
of 800 rollouts, however often it is read (Ville's inequality). The initial value is spread over how bad the version may
be, and over when the fault began. This module has no policy and no words.

Source: docs/sequential-test.md. Given the failures of a minute or tick, those of the canary are binomial in the weight
(exact). In a minute in which the weight moved they are hypergeometric in n1/(n0+n1), and the value is no larger
(Hoeffding, 1963); in a tick, the larger weight bounds them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, log

Mixture = tuple[tuple[float, float], ...]
"""Pairs (multiple of the tested chance, share of the initial value). The shares add up to 1."""

_CAP = 1e100  # a larger value changes no decision, and a plain float never overflows
_LARGEST_STEP = 200.0  # exp() of more would overflow
_HORIZON_MINUTES = 30  # after the first stake, 1/(30 + minutes so far) of the idle value is staked each minute
_LONGEST_GAP = 1.0  # a minute: what is staked after a longer silence is no more than after this one
_FEWEST_EVENTS = 5  # below this many events a dispersion cannot be estimated


class ComparedByState:
    """Equal when all attributes are equal: a rebuilt judge can be compared with the one that ran."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)


@dataclass(slots=True)  # not frozen: a frozen one takes three times as long to make, and a day has 20,000
class PairedCounts:
    """Events and requests of both versions over the same time.

    Attributes:
        stable_unread: some of stable's events come from ticks, which do not count its requests: it has no rate.
    """

    canary_events: int = 0
    canary_requests: int = 0
    stable_events: int = 0
    stable_requests: int = 0
    stable_unread: bool = False

    def __add__(self, other: "PairedCounts") -> "PairedCounts":
        return PairedCounts(
            canary_events=self.canary_events + other.canary_events,
            canary_requests=self.canary_requests + other.canary_requests,
            stable_events=self.stable_events + other.stable_events,
            stable_requests=self.stable_requests + other.stable_requests,
            stable_unread=self.stable_unread or other.stable_unread,
        )

    @property
    def has_stable(self) -> bool:
        """Whether stable served beside the canary."""
        return self.stable_unread or self.stable_requests > 0

    @property
    def canary_rate(self) -> float:
        """The canary's share of events, 0..1; 0 without requests."""
        return self.canary_events / max(1, self.canary_requests)


@dataclass(slots=True)
class EProcess:
    """Evidence that events are more (or less) frequent than the tested chance. ``value`` is 1 without evidence.

    Attributes:
        dispersion: divides the log-likelihood, so that bursts count less. The test stays valid (Jensen's inequality).
        first_stake: share of the value that is staked at first; the rest waits for changes that begin later.
        parts: the staked value, by multiple of the mixture; ``idle`` is what is not staked yet.
        minutes: for how long there were trials.
    """

    mixture: Mixture
    dispersion: float = 1.0
    first_stake: float = 1.0
    value: float = 1.0
    idle: float = 1.0
    minutes: float = 0.0
    parts: list[float] = field(init=False)
    _gap: float = 0.0
    _chance: float = -1.0
    _rows: list[tuple[float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parts = [0.0] * len(self.mixture)

    def update(self, events: int, trials: int, chance: float, minutes: float = 1.0) -> None:
        """Add a minute, or a part of one.

        Stakes depend on the past and on when there were trials, and never on events: each part may be of any length.

        Args:
            chance: that of an event in each trial under the tested hypothesis.
            minutes: since the last update.
        """
        self._gap = min(self._gap + minutes, _LONGEST_GAP)
        # A part without trials says nothing, and leaves the idle value for later.
        if trials <= 0 or not 0.0 < chance < 1.0:
            return
        if chance != self._chance:
            self._chance = chance
            self._rows = self._gains_and_costs(chance)
        stake = self.idle * self._gap / (_HORIZON_MINUTES + self.minutes) if self.minutes else self.first_stake
        self.minutes += self._gap
        self._gap = 0.0
        self.idle -= stake
        # One plain loop: a resumed rollout runs it 17,000 times for a day, and comprehensions take twice as long.
        staked = 0.0
        for index, (share, gain, cost) in enumerate(self._rows):
            step = events * gain - trials * cost
            if step > _LARGEST_STEP:
                step = _LARGEST_STEP
            part = (self.parts[index] + share * stake) * exp(step)
            if part > _CAP:
                part = _CAP
            self.parts[index] = part
            # Not sum(): its rounding depends on the version of Python, and a verdict must not.
            staked += part
        self.value = self.idle + staked

    def trials_to(self, value: float, rate: float, chance: float) -> float | None:
        """About how many trials at this rate of events bring it to ``value``; None if they lead away from it."""
        drift = max(rate * gain - cost for _, gain, cost in self._gains_and_costs(chance))
        distance = log(value) - log(max(self.value, 1e-300))
        return distance / drift if drift * distance > 0 else None

    def _gains_and_costs(self, chance: float) -> list[tuple[float, float, float]]:
        """By multiple: its share, what an event adds to the log-likelihood, and what a trial takes from it."""
        phi = self.dispersion
        return [
            (share, log(multiple) / phi, log(1 + chance * (multiple - 1)) / phi) for multiple, share in self.mixture
        ]


def dispersion(minutes: Iterable[tuple[int, int]]) -> float:
    """Pearson's dispersion of per-minute counts (events, requests) against their pooled rate.

    1.0 means independent events; bursts give more. Never below 1, and 1 where fewer than 5 events were seen. Needs 3 h
    of minutes at least, 24 h at low traffic.
    """
    seen = [(min(x, n), n) for x, n in minutes if n > 0]
    events = sum(x for x, _ in seen)
    requests = sum(n for _, n in seen)
    if events < _FEWEST_EVENTS or events == requests or len(seen) < 2:
        return 1.0
    rate = events / requests
    chi2 = sum((x - n * rate) ** 2 / (n * rate * (1 - rate)) for x, n in seen)
    return max(1.0, chi2 / (len(seen) - 1))
