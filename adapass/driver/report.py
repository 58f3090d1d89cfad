"""What a run tells: a result with a table, plain data for JSON, and the reason when nothing was won."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adapass.artifact.manifest import Trust
from adapass.errors import ExitCode


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the before/after table."""

    what: str
    before: str
    after: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The table and the words around it."""

    rows: tuple[Row, ...] = ()
    messages: tuple[str, ...] = ()
    """What the user should know, in full sentences."""
    figures: Mapping[str, object] = field(default_factory=dict[str, object])
    """Every number in the table and more, unrounded, JSON values only."""

    def to_dict(self) -> dict[str, object]:
        return {
            "table": [
                {"what": r.what, "before": r.before, "after": r.after, "note": r.note} for r in self.rows
            ],
            "messages": list(self.messages),
            **self.figures,
        }


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A candidate of the search that was timed, kept whether it won or not."""

    name: str
    """Of a build its ``Build.name``; ``original`` for the model itself."""
    seconds: float
    """Mean latency of a batch."""
    trust: Trust
    search_loss: float | None
    """Mean paired loss on the search samples; ``None`` where it was not taken."""
    recipe: Mapping[str, object] = field(default_factory=dict[str, object])
    """What ``recipe.yaml`` would hold, had it won."""


@dataclass(frozen=True, slots=True)
class Result:
    """What ``adapass.optimize`` returns."""

    artifact: Path | None
    """The artifact's folder; holds the original when ``exit_code`` is 3. ``None`` after a dry run."""
    report: Report
    recipe: Mapping[str, object]
    pareto: tuple[Mapping[str, object], ...] = ()
    """What was measured, as in ``pareto.json`` but without the recipes; see ``driver.front``."""
    exit_code: ExitCode = ExitCode.OK
    reason: str = ""
    """Why the original came back; empty when it did not."""

    @property
    def latency_ratio(self) -> float | None:
        """After over before; ``None`` where nothing was timed."""
        ratio = self.report.figures.get("latency_ratio")
        return ratio if isinstance(ratio, float) else None

    def to_dict(self) -> dict[str, object]:
        return {
            "artifact": None if self.artifact is None else str(self.artifact),
            "exit_code": int(self.exit_code),
            "reason": self.reason,
            "report": self.report.to_dict(),
            "recipe": dict(self.recipe),
            "pareto": [dict(point) for point in self.pareto],
        }
