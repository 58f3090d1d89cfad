"""Which exits live samples take, watched for drift: cheap while it runs, looked at when somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from adapass.drift.expected import exit_reference
from adapass.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from adapass.artifact.manifest import Manifest
    from adapass.drift.monitor import Alarm, Monitor

MOST_PENDING: Final = 4096


class DriftWatch:
    """Collects exits at one operating point. Without an expected histogram it watches nothing."""

    def __init__(self, manifest: Manifest, point: str | None) -> None:
        """Raises ``ArtifactError`` where the histogram of the manifest cannot be one."""
        self._monitor = _monitor(manifest, point)
        self._pending: list[int] = []

    def add(self, exits: Sequence[int]) -> None:
        if self._monitor is None:
            return
        self._pending += exits
        if len(self._pending) >= MOST_PENDING:
            self._look()

    @property
    def alarm(self) -> Alarm | None:
        """Set once live samples no longer fit the certificate's; it stays."""
        self._look()
        return None if self._monitor is None else self._monitor.alarm

    def _look(self) -> None:
        if self._monitor is not None and self._pending:
            self._monitor.observe(self._pending)
            self._pending = []


def _monitor(manifest: Manifest, point: str | None) -> Monitor | None:
    from adapass.drift.monitor import Monitor

    try:
        reference = exit_reference(manifest, point)
    except UsageError as error:
        raise ArtifactError(f"the exits in the manifest are damaged: {error}") from error
    return None if reference is None else Monitor(reference)
