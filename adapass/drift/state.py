"""A monitor between two runs of a service, as JSON: checked in every part before it is believed."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapass.drift.reference import MAX_CATEGORIES
from adapass.drift.windows import BLOCK, kept_starts
from adapass.errors import DataError

FORMAT: Final = "adapass-monitor"
SCHEMA_VERSION: Final = 1
MAX_STATE_BYTES: Final = 4 << 20

Count = Annotated[int, Field(ge=0, le=10**15)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1, max_length=MAX_CATEGORIES)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ReferenceState(_Section):
    """The reference the stream is held against."""

    counts: Counts
    position: Annotated[int, Field(ge=0, le=10**6)]


class AlarmState(_Section):
    """The alarm, once raised."""

    sample: Count
    since: Count
    seen: tuple[Share, ...]


class State(_Section):
    """Everything a monitor knows."""

    format: Literal["adapass-monitor"] = FORMAT
    schema_version: Literal[1] = SCHEMA_VERSION
    reference: ReferenceState
    false_alarm_rate: float
    counts: Counts
    marks: tuple[tuple[Count, Counts], ...]
    """Counts at the starts that are still needed: finished blocks, and what was seen by then."""
    log_evidence: Annotated[float, Field(ge=0)]
    alarm: AlarmState | None = None

    @property
    def samples(self) -> int:
        return sum(self.counts)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        width = len(self.reference.counts)
        rows = [*(counts for _, counts in self.marks), self.counts]
        if any(len(row) != width for row in rows):
            raise ValueError(f"counts of {width} categories expected everywhere")
        starts = tuple(start for start, _ in self.marks)
        if starts != (() if self.alarm else kept_starts(self.samples // BLOCK)):
            raise ValueError(f"marks at blocks {starts} do not fit {self.samples} samples")
        if any(sum(counts) != BLOCK * start for start, counts in self.marks):
            raise ValueError("counts of a mark do not sum to the samples before it")
        if any(early > late for a, b in pairwise(rows) for early, late in zip(a, b, strict=True)):
            raise ValueError("counts fall from one mark to the next")
        if self.alarm and not self._alarm_fits(self.alarm, width):
            raise ValueError("the alarm does not fit the samples")
        return self

    def _alarm_fits(self, alarm: AlarmState, width: int) -> bool:
        inside = alarm.since < alarm.sample <= self.samples
        return inside and len(alarm.seen) == width and abs(sum(alarm.seen) - 1) < 1e-6


def read_state(text: str | bytes) -> State:
    """Parse and check what ``Monitor.to_json`` wrote.

    Raises:
        DataError: too large, not JSON, damaged, or written by another version.

    """
    if len(text) > MAX_STATE_BYTES:
        raise DataError(f"monitor state of {len(text):,} bytes found, at most {MAX_STATE_BYTES:,} expected")
    try:
        return State.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        raise DataError(
            f"monitor state: {field}: {first['msg']}; it is damaged or of another version: "
            "move the file away to start again from nothing"
        ) from error
