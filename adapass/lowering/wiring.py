"""What connects the stages of a model, and how to run them: numpy between the stages, order kept.

The wiring has a JSON form, so that an artifact can be run by somebody who only has the stage files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapass.budgeted import Array, Feeds
from adapass.errors import ArtifactError

SCHEMA = 1
MAX_STAGES = 1024


class Stage(BaseModel):
    """One stage. Names are those of the values in the original graph."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    inputs: tuple[str, ...] = Field(strict=False)
    optional: tuple[str, ...] = Field(default=(), strict=False)
    """Inputs the stage has a default for."""
    outputs: tuple[str, ...] = Field(strict=False)
    stop: str | None = None
    """Which of the outputs says who is finished; ``None`` for the last stage: everybody."""
    results: dict[str, str]
    """For each output of the whole model the output of this stage that holds it for finished samples."""


class Wiring(BaseModel):
    """All stages in order."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int = SCHEMA
    outputs: tuple[str, ...] = Field(strict=False)
    """Outputs of the whole model, in order."""
    always: dict[str, str]
    """Those of them that the first stage computes for every sample, and its output that holds them."""
    batch_axes: dict[str, int]
    """Where the values that stages exchange have one entry a sample; the others have no such axis."""
    stages: tuple[Stage, ...] = Field(strict=False, min_length=1, max_length=MAX_STAGES)

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> Wiring:
        """Raises ``ArtifactError`` when the text is no wiring this version understands."""
        try:
            wiring = Wiring.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ArtifactError(f"the stage wiring is damaged at '{place}': {first['msg']}") from error
        if wiring.schema_version != SCHEMA:
            raise ArtifactError(
                f"the stage wiring has schema {wiring.schema_version}, expected {SCHEMA}; update adapass"
            )
        return wiring


class StageRunner(Protocol):
    """Something that runs one stage: a session of whatever runtime."""

    def __call__(self, outputs: Sequence[str], feeds: Feeds, /) -> Sequence[Array]: ...


@dataclass(frozen=True, slots=True)
class Staged:
    """The outputs of a staged run, and the stage after which each sample was finished."""

    outputs: dict[str, Array]
    stages: npt.NDArray[np.int64]


def run_stages(wiring: Wiring, runners: Sequence[StageRunner], feeds: Feeds, batch: int) -> Staged:
    """Run ``batch`` samples through the stages; finished samples leave after each one.

    The result of a sample is independent of its company as far as the stages themselves are.
    """
    pool: dict[str, Array] = dict(feeds)
    rows: npt.NDArray[np.intp] = np.arange(batch)
    collected = _Collected(wiring, batch)
    for index, (stage, runner) in enumerate(zip(wiring.stages, runners, strict=True)):
        wanted = {name: pool[name] for name in stage.inputs if name in pool or name not in stage.optional}
        pool.update(zip(stage.outputs, runner(stage.outputs, wanted), strict=True))
        if index == 0:
            collected.keep(wiring.always, pool)
        stop = np.ones(len(rows), np.bool_) if stage.stop is None else pool[stage.stop].astype(np.bool_)
        if stop.all():
            collected.finish(stage, index, rows, pool, None)
            break
        if stop.any():
            collected.finish(stage, index, rows[stop], pool, stop)
            rows = rows[~stop]
        pool = _remaining(wiring, index, pool, stop)
    return Staged(collected.in_order(), collected.stages)


class _Collected:
    def __init__(self, wiring: Wiring, batch: int) -> None:
        self.stages = np.zeros(batch, np.int64)
        self._names = wiring.outputs
        self._batch = batch
        self._found: dict[str, Array] = {}

    def keep(self, always: Mapping[str, str], pool: Mapping[str, Array]) -> None:
        self._found.update((name, pool[held]) for name, held in always.items())

    def finish(
        self,
        stage: Stage,
        index: int,
        rows: npt.NDArray[np.intp],
        pool: Mapping[str, Array],
        stop: npt.NDArray[np.bool_] | None,
    ) -> None:
        """File the results of the samples that stop here; ``stop=None`` means all that are left."""
        self.stages[rows] = index
        for name, held in stage.results.items():
            values = pool[held]
            if len(rows) == self._batch:
                self._found[name] = values
                continue
            if name not in self._found:
                self._found[name] = np.empty((self._batch, *values.shape[1:]), values.dtype)
            self._found[name][rows] = values if stop is None else values[stop]

    def in_order(self) -> dict[str, Array]:
        return {name: self._found[name] for name in self._names}


def _remaining(
    wiring: Wiring, index: int, pool: dict[str, Array], stop: npt.NDArray[np.bool_]
) -> dict[str, Array]:
    """What later stages need, without the rows of finished samples. Copies only when somebody left."""
    needed = {name for stage in wiring.stages[index + 1 :] for name in stage.inputs}
    kept = {name: array for name, array in pool.items() if name in needed}
    if not stop.any():
        return kept
    left = np.flatnonzero(~stop)
    for name, array in kept.items():
        if (axis := wiring.batch_axes.get(name)) is not None:
            kept[name] = array.take(left, axis)
    return kept
