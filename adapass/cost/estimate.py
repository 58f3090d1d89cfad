"""A predicted latency with the interval it should lie in, and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from adapass.cost.model import Cost, Trust


@dataclass(frozen=True, slots=True)
class Share:
    """What one piece of a model contributes to the expected latency of a call."""

    key: str
    """Equal for pieces that take equally long."""
    name: str
    """The first value it computes for others, for people."""
    seconds: float
    """Already weighed by how often and on how many samples the piece runs."""
    low: float
    high: float
    trust: Trust
    """``MEASURED`` only when the piece was measured at the sizes it runs at."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected seconds of a call between ``low`` and ``high``; bounds of a difference may be negative.

    Errors of parts are added as if they all pointed the same way: equal pieces share one measurement, so
    they mostly do.
    """

    seconds: float
    low: float
    high: float
    trust: Trust
    parts: tuple[Share, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, cost: Cost, spread: float = 0.0) -> Estimate:
        """``cost`` with a relative half-width of ``spread``."""
        width = abs(cost.seconds) * spread
        return cls(cost.seconds, cost.seconds - width, cost.seconds + width, cost.trust)

    @property
    def spread(self) -> float:
        """Half the width of the interval, relative to the estimate."""
        return (self.high - self.low) / 2 / abs(self.seconds) if self.seconds else 0.0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.seconds + other.seconds,
            self.low + other.low,
            self.high + other.high,
            min(self.trust, other.trust),
            (*self.parts, *other.parts),
        )

    def __mul__(self, times: float) -> Estimate:
        """Weighed by a factor that is not negative."""
        parts = tuple(
            Share(p.key, p.name, p.seconds * times, p.low * times, p.high * times, p.trust)
            for p in self.parts
        )
        return Estimate(self.seconds * times, self.low * times, self.high * times, self.trust, parts)

    def widened(self, relative: float) -> Estimate:
        """With a further error of ``relative`` times the estimate."""
        width = abs(self.seconds) * relative
        return Estimate(self.seconds, self.low - width, self.high + width, self.trust, self.parts)

    def minus(self, other: Estimate) -> Estimate:
        """The difference; what both have in common cancels, its uncertainty too."""
        mine, theirs = _by_key(self), _by_key(other)
        own = [_left(mine[key], theirs.get(key, NOTHING)) for key in mine]
        lost = [_left(theirs[key], mine.get(key, NOTHING)) for key in theirs]
        up = sum(part.high - part.seconds for part in own) + sum(part.seconds - part.low for part in lost)
        down = sum(part.seconds - part.low for part in own) + sum(part.high - part.seconds for part in lost)
        seconds = self.seconds - other.seconds
        return Estimate(seconds, seconds - down, seconds + up, min(self.trust, other.trust))


NOTHING = Estimate(0.0, 0.0, 0.0, Trust.MEASURED)


def _by_key(estimate: Estimate) -> Mapping[str, Estimate]:
    found: dict[str, Estimate] = {}
    for part in estimate.parts:
        alone = Estimate(part.seconds, part.low, part.high, part.trust)
        found[part.key] = found.get(part.key, NOTHING) + alone
    return MappingProxyType(found)


def _left(part: Estimate, other: Estimate) -> Estimate:
    """The share of ``part`` that ``other`` does not have; the uncertainty shrinks with it."""
    if part.seconds <= other.seconds:
        return NOTHING
    return part * (1 - other.seconds / part.seconds)
