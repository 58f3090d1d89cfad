"""What a timing run found: statistics that survive noise, and ratios with their uncertainty.

Adaptive models do not take the same time for every input, so the middle of all calls says little.
The figure that counts is the mean over inputs; noise is removed where it arises, by the median of
each input over the rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Seconds: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]

RESAMPLES: Final = 1000
NOISY: Final = 0.10
"""Relative spread of one input's time over the rounds above which a machine is called noisy."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time of one contestant over that of another (below 1: faster), with a bootstrap interval."""

    value: float
    low: float
    high: float
    confidence: float

    @property
    def is_faster(self) -> bool:
        """Whether even the pessimistic end of the interval is below 1."""
        return self.high < 1.0

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high, "confidence": self.confidence}


@dataclass(frozen=True, slots=True, eq=False)
class Timing:
    """Times of one contestant, in seconds per call. A call is one feed, whatever its batch size."""

    calls: Seconds
    """[rounds, feeds] in seconds; NaN where time ran out; all contestants of a run miss the same calls."""
    batch_sizes: tuple[int, ...]
    """Samples in each feed."""
    notes: tuple[str, ...] = ()
    """What the reader should know before trusting the numbers."""

    @property
    def feed_medians(self) -> Seconds:
        """For each feed that was timed, the median over the rounds."""
        return np.nanmedian(self.calls[:, self._timed], axis=0)

    @property
    def mean(self) -> float:
        """Mean over feeds of the median over rounds: the expected latency of a call."""
        return float(np.mean(self.feed_medians))

    @property
    def median(self) -> float:
        return self.percentile(50)

    @property
    def p90(self) -> float:
        return self.percentile(90)

    @property
    def p99(self) -> float:
        return self.percentile(99)

    @property
    def spread(self) -> float:
        """Interquartile range of all calls: differences between inputs and noise together."""
        return self.percentile(75) - self.percentile(25)

    @property
    def noise(self) -> float | None:
        """Relative interquartile range over rounds of the typical input; ``None`` under 4 rounds."""
        complete = self.complete_rounds
        if len(complete) < 4:
            return None
        low, middle, high = np.percentile(complete, (25, 50, 75), axis=0)
        return float(np.median((high - low) / middle))

    @property
    def n(self) -> int:
        """Number of timed calls."""
        return int(np.isfinite(self.calls).sum())

    @property
    def throughput(self) -> float:
        """Samples per second when calls follow one another."""
        samples = sum(size for size, timed in zip(self.batch_sizes, self._timed, strict=True) if timed)
        return samples / float(np.sum(self.feed_medians))

    @property
    def complete_rounds(self) -> Seconds:
        """[rounds, feeds] without the round that time cut short and the feeds never reached."""
        reached = self.calls[:, self._timed]
        return reached[np.isfinite(reached).all(axis=1)]

    def percentile(self, percent: float) -> float:
        return float(np.nanpercentile(self.calls, percent))

    def ratio(self, baseline: Timing, *, confidence: float = 0.95) -> Ratio:
        """The mean over the baseline's, paired by feed and round; both must come from one interleaved run.

        The interval adds two uncertainties: the inputs are a sample (bootstrap over feeds), and a round may
        disturb all inputs of a contestant (jackknife over rounds; a bootstrap would repeat outliers until
        they win the median).
        """
        if self.calls.shape != baseline.calls.shape or (self._timed != baseline._timed).any():
            raise ValueError("the two timings are not of one run: feeds or rounds differ")
        logs = _resampled_log_ratios(self.complete_rounds, baseline.complete_rounds)
        tail = 100 * (1 - confidence) / 2
        low, high = np.exp(np.percentile(logs, (tail, 100 - tail)))
        return Ratio(self.mean / baseline.mean, float(low), float(high), confidence)

    def to_json(self) -> dict[str, object]:
        names = ("mean", "median", "p90", "p99", "spread")
        seconds = {f"{name}_seconds": float(getattr(self, name)) for name in names}
        counts = {"throughput_per_second": self.throughput, "noise": self.noise, "calls": self.n}
        return {**seconds, **counts, "notes": list(self.notes)}

    @property
    def _timed(self) -> npt.NDArray[np.bool_]:
        return np.asarray(np.isfinite(self.calls[0]))


def _resampled_log_ratios(ours: Seconds, theirs: Seconds) -> Seconds:
    """``RESAMPLES`` logarithms of the ratio of means, scattered as the two uncertainties say."""
    rounds, feeds = ours.shape
    random = np.random.default_rng(0)
    drawn: Indices = random.integers(feeds, size=(RESAMPLES, feeds))
    means = [np.median(calls, axis=0)[drawn].mean(axis=1) for calls in (ours, theirs)]
    logs: Seconds = np.log(means[0] / means[1])
    if rounds > 1:
        # Few rounds say little about their own scatter, hence Student's distribution.
        logs += _round_error(ours, theirs) * random.standard_t(rounds - 1, RESAMPLES)
    return logs


def _round_error(ours: Seconds, theirs: Seconds) -> float:
    """Jackknife standard error, over rounds, of the logarithm of the ratio of means."""
    rounds = len(ours)
    left_out = [_log_ratio(np.delete(ours, r, axis=0), np.delete(theirs, r, axis=0)) for r in range(rounds)]
    return float(np.sqrt((rounds - 1) * np.var(left_out)))


def _log_ratio(ours: Seconds, theirs: Seconds) -> float:
    return float(np.log(np.median(ours, axis=0).mean() / np.median(theirs, axis=0).mean()))
