"""Watch a stream of categories and say when it has left its reference.

Null hypothesis: the stream is independent draws from the population the reference sample was drawn
from. The monitor may be asked after every sample, forever; under the null it ever raises an alarm with
probability at most ``false_alarm_rate`` = a.

Proof. Let p be the true shares, C the region of ``Reference.bounds(a / 2)``. The reference misses p with
probability at most a / 2. Else p is in C. For a start s, let M_s be the mixture probability of what came
since s divided by its probability under p (1 before s): a nonnegative martingale that starts at 1. So is
M = sum of w(s) M_s, since the w(s) are fixed and sum to 1. What the monitor computes after block t,
A = sum over some of the starts of w(s) x mixture / (largest likelihood over C), is at most M, because the
likelihood under p is at most the largest one, and because terms that are left out are not negative; which
are left out depends on t alone. By Ville's inequality M reaches 2 / a at any time with probability at most
a / 2. Together: a. No large-sample approximation, no limit on the length of the stream, no correction
for looking often.

A long calm time does not hide a later drift: a stretch that begins near its begin is always among those
looked at (``windows``), at the price of log(1 / w(s)), about the logarithm of the calm time. A block costs
O(log t) and so does memory.

Samples that depend on each other (frames of one video, one user's burst) are not independent draws and may
raise an alarm. A drift that leaves the shares within ``bounds`` is never found: the reference is too small
to tell. The monitors of several workers cannot be merged: their order is lost; give one monitor all samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from adapass.drift.evidence import log_best, log_mixture, priors
from adapass.drift.reference import Reference
from adapass.drift.state import AlarmState, ReferenceState, State, read_state
from adapass.drift.windows import BLOCK, log_belief, starts, still_needed
from adapass.errors import UsageError

Integers = npt.NDArray[np.int64]

LARGEST_LOG: Final = 700.0
"""Evidence is shown up to exp of this, near the largest float there is."""
ADVICE: Final = (
    "The certificate speaks about the old population, not about this one. Check what changed before the "
    "model; if the change stays, gather new data, run `adapass optimize` again and start a new monitor; "
    "until then use the original model where quality matters."
)


@dataclass(frozen=True, slots=True)
class Alarm:
    """The stream has left the reference."""

    sample: int
    """How many samples had been seen when the alarm was raised."""
    since: int
    """How many samples came before the suspected begin of the drift; an estimate, to the block."""
    expected: tuple[float, ...]
    """Shares of the reference."""
    seen: tuple[float, ...]
    """Shares from the suspected begin to the alarm."""

    def message(self, noun: str = "category") -> str:
        """What happened and what to do, in plain words; ``noun`` says what a category is."""
        largest = max(range(len(self.seen)), key=lambda k: abs(self.seen[k] - self.expected[k]))
        shares = f"{self.expected[largest]:.1%} expected, {self.seen[largest]:.1%}"
        return (
            f"drift: after {self.sample:,} samples the stream no longer fits the reference, probably since "
            f"sample {self.since + 1:,}. {noun.capitalize()} {largest} changed most: {shares} of "
            f"{self.sample - self.since:,} samples seen. {ADVICE}"
        )


class Monitor:
    """A sequential test of a stream of categories, 0 to K - 1, against a reference. Not thread safe.

    After an alarm samples are still counted, but nothing more is tested: start a new monitor.
    """

    def __init__(self, reference: Reference, false_alarm_rate: float = 0.01) -> None:
        """Raises UsageError for a rate outside [1e-9, 0.5]."""
        if not 1e-9 <= false_alarm_rate <= 0.5:
            raise UsageError(f"false alarm rate is {false_alarm_rate}, expected 1e-9 to 0.5, usually 0.01")
        self.reference = reference
        self.false_alarm_rate = false_alarm_rate
        self._low, self._high = reference.bounds(false_alarm_rate / 2)
        self._prior = priors(np.array(reference.counts, np.float64))
        self._samples = 0
        self._counts: Integers = np.zeros(len(reference.counts), np.int64)
        self._marks: dict[int, Integers] = {0: self._counts.copy()}
        self._log_evidence = 0.0
        self._alarm: Alarm | None = None

    @property
    def alarm(self) -> Alarm | None:
        return self._alarm

    @property
    def samples(self) -> int:
        return self._samples

    @property
    def counts(self) -> tuple[int, ...]:
        """How often each category came, over everything observed."""
        return tuple(self._counts.tolist())

    @property
    def evidence(self) -> float:
        """The strongest evidence against the reference so far, at least 1; the alarm comes at ``needed``.

        One over it is a p-value that is valid at any time, but for the error the reference takes.
        """
        return math.exp(min(self._log_evidence, LARGEST_LOG))

    @property
    def needed(self) -> float:
        return 2 / self.false_alarm_rate

    def observe(self, categories: Sequence[int]) -> Alarm | None:
        """Take the next samples in their order, any number at once; the alarm, where there is one now.

        How the stream is cut into calls does not matter. A look is taken at every eighth sample.

        Raises:
            UsageError: something is no category of the reference; then none of these samples is taken.

        """
        taken = self._checked(categories)
        while len(taken):
            room = BLOCK - self._samples % BLOCK
            part, taken = taken[:room], taken[room:]
            self._counts += np.bincount(part, minlength=len(self._counts))
            self._samples += len(part)
            if self._samples % BLOCK == 0 and self._alarm is None:
                self._look(self._samples // BLOCK)
        return self._alarm

    def _checked(self, categories: Sequence[int]) -> Integers:
        found = np.asarray(categories)
        if found.size == 0:
            return np.zeros(0, np.int64)
        if found.ndim != 1 or found.dtype.kind not in "iu":
            raise UsageError(
                f"categories of type {found.dtype} and shape {list(found.shape)} found; "
                "a flat sequence of whole numbers expected"
            )
        wrong = np.flatnonzero((found < 0) | (found >= len(self._counts)))
        if len(wrong):
            raise UsageError(
                f"category {found[wrong[0]]} at place {wrong[0]} found; "
                f"0 to {len(self._counts) - 1} expected, the categories of the reference"
            )
        return found.astype(np.int64)

    def _look(self, now: int) -> None:
        begin = starts(now)
        seen = self._counts - np.stack([self._marks[start] for start in begin.tolist()])
        floats = seen.astype(np.float64)
        each = log_belief(begin) + log_mixture(floats, self._prior) - log_best(floats, self._low, self._high)
        total = float(np.logaddexp.reduce(each))
        self._log_evidence = max(self._log_evidence, total)
        self._marks[now] = self._counts.copy()
        self._marks = {s: mark for s, mark in self._marks.items() if s == 0 or still_needed(s, now)}
        if total >= math.log(self.needed):
            best = int(each.argmax())
            shares = floats[best] / floats[best].sum()
            self._alarm = Alarm(
                sample=self._samples,
                since=int(begin[best]) * BLOCK,
                expected=self.reference.shares,
                seen=tuple(shares.tolist()),
            )
            self._marks = {}

    def to_json(self) -> str:
        """Everything needed to go on later as if there had been no break."""
        alarm = self._alarm
        return State(
            reference=ReferenceState(counts=self.reference.counts, position=self.reference.position),
            false_alarm_rate=self.false_alarm_rate,
            counts=self.counts,
            marks=tuple((start, tuple(mark.tolist())) for start, mark in self._marks.items()),
            log_evidence=self._log_evidence,
            alarm=AlarmState(sample=alarm.sample, since=alarm.since, seen=alarm.seen) if alarm else None,
        ).model_dump_json()

    @staticmethod
    def from_json(text: str | bytes) -> Monitor:
        """The monitor that ``to_json`` wrote.

        Raises:
            DataError: the state is damaged or of another version.
            UsageError: a reference or a rate out of range.

        """
        state = read_state(text)
        reference = Reference(state.reference.counts, state.reference.position)
        monitor = Monitor(reference, state.false_alarm_rate)
        monitor._samples = state.samples
        monitor._counts = np.array(state.counts, np.int64)
        monitor._marks = {start: np.array(counts, np.int64) for start, counts in state.marks}
        monitor._log_evidence = state.log_evidence
        if state.alarm is not None:
            alarm = state.alarm
            monitor._alarm = Alarm(alarm.sample, alarm.since, reference.shares, alarm.seen)
        return monitor
