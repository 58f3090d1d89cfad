"""Run what was built: one session, or one session a stage with samples leaving in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from adapass.budgeted import Array, Feeds
from adapass.codegen.feeds import FeedCheck
from adapass.errors import DataError, UsageError
from adapass.generator import Outcome
from adapass.lowering.wiring import Wiring, run_stages
from adapass.ops import EXIT_INDEX


class Session(Protocol):
    """A model that a runtime has opened."""

    def run(self, output_names: Sequence[str], feeds: Mapping[str, Array], /) -> Sequence[Array]: ...


class SessionRunner:
    """One model in one session. Not thread safe."""

    def __init__(self, session: Session, outputs: Sequence[str], check: FeedCheck) -> None:
        self._session: Session | None = session
        self._outputs = tuple(outputs)
        self._check = check

    def run(self, feeds: Feeds) -> Outcome:
        """Run one batch.

        Raises:
            DataError: the feeds do not fit the model.
            UsageError: the runner is closed.

        """
        if self._session is None:
            raise UsageError("the runner is closed; load the artifact again")
        values = _run(self._session, self._outputs, self._check(feeds))
        return outcome(dict(zip(self._outputs, values, strict=True)))

    def close(self) -> None:
        self._session = None


class StagedRunner:
    """One session a stage. Not thread safe."""

    def __init__(self, sessions: Sequence[Session], wiring: Wiring, check: FeedCheck) -> None:
        self._sessions: tuple[Session, ...] = tuple(sessions)
        self._wiring = wiring
        self._check = check

    def run(self, feeds: Feeds) -> Outcome:
        """Run one batch through the stages.

        Raises:
            DataError: the feeds do not fit the model.
            UsageError: the runner is closed.

        """
        if not self._sessions:
            raise UsageError("the runner is closed; load the artifact again")
        checked = self._check(feeds)
        runners = [_stage(session) for session in self._sessions]
        return outcome(run_stages(self._wiring, runners, checked, self._batch(checked)).outputs)

    def close(self) -> None:
        self._sessions = ()

    def _batch(self, feeds: Mapping[str, Array]) -> int:
        axes = self._wiring.batch_axes
        return next((array.shape[axes[name]] for name, array in feeds.items() if name in axes), 1)


def outcome(outputs: dict[str, Array]) -> Outcome:
    """Take the exit indices out of the outputs: they say what was spent, they are no result."""
    taken = outputs.pop(EXIT_INDEX, None)
    if taken is None:
        return Outcome(outputs)
    return Outcome(outputs, np.asarray(taken, np.int64).reshape(-1))


class _Stage:
    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, outputs: Sequence[str], feeds: Feeds, /) -> Sequence[Array]:
        return _run(self._session, outputs, feeds)


def _stage(session: Session) -> _Stage:
    return _Stage(session)


def _run(session: Session, outputs: Sequence[str], feeds: Feeds) -> Sequence[Array]:
    try:
        return session.run(outputs, dict(feeds))
    except Exception as error:  # runtimes have no public base class for their errors
        shapes = ", ".join(f"{name} {array.dtype.name}{list(array.shape)}" for name, array in feeds.items())
        raise DataError(f"the model does not run on {shapes}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
