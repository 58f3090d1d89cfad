"""What the user asked for, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from adapass.certify.losses import Metric
from adapass.errors import UsageError
from adapass.search.rounds import Rounds


class Mode(StrEnum):
    """How much time the search may take."""

    QUICK = "quick"
    DEFAULT = "default"
    EXTENSIVE = "extensive"


@dataclass(frozen=True, slots=True)
class Effort:
    """What a mode spends."""

    fit_samples: int
    search_samples: int
    damage_samples: int
    timing_feeds: int
    rounds: Rounds
    """How often the search plans and measures."""
    finalists: int
    """How many candidates are built and raced."""


HEAL_SHARE = 0.5
"""Of the time limit, what healing may take at most."""
EFFORT: Mapping[Mode, Effort] = MappingProxyType(
    {
        Mode.QUICK: Effort(1000, 500, 16, 24, Rounds(repairs=1, shares=(1.0,), corrections=0), 1),
        Mode.DEFAULT: Effort(2500, 2000, 32, 32, Rounds(repairs=3, shares=(1.0, 0.5), corrections=2), 2),
        Mode.EXTENSIVE: Effort(
            20000, 5000, 64, 64, Rounds(repairs=5, shares=(1.0, 0.75, 0.5, 0.25), corrections=4, trials=24), 4
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that steers a run. Equal requests on equal inputs give equal artifacts."""

    target: str = "cpu"
    max_drop: float = 0.01
    """Largest mean paired drop allowed, as a share: 0.01 is one point of accuracy."""
    confidence: float = 0.95
    metric: str = "auto"
    backend: str = "auto"
    latency_target_seconds: float | None = None
    mode: Mode = Mode.DEFAULT
    time_limit_seconds: float | None = None
    threads: int = 1
    batch: int = 1
    passes: str | None = None
    """Text of the clean pipeline instead of the default one; budgeted passes in it are searched."""
    skip_passes: tuple[str, ...] = ()
    seed: int = 0
    resume: bool = False
    dry_run: bool = False
    allow_uncertified: bool = False
    allow_code: bool = False
    output: Path | None = None
    max_size_bytes: int | None = None
    """Largest size of the stored weights; ``None``: any."""
    workers: int | None = None
    """Processes that fit and evaluate; 0: this one. ``None``: as many as threads, where that is worth it."""
    scheduler: str | None = None
    """Address of a Dask scheduler to use instead of local processes."""
    deterministic: bool = False
    """Take latencies that were measured before from a table in a file, so that a run repeats to the bit."""
    latency_table: Path | None = None
    """That file; by default one beside the artifact."""
    heal_seconds: float | None = None
    """How long to train what is left of a cut model; ``None``: nothing is trained."""
    advise: bool = True
    """Start from what worked for similar models before."""

    def __post_init__(self) -> None:
        """Check ranges, so that nothing long starts with a senseless request."""
        if not 0.0 <= self.max_drop < 1.0:
            raise UsageError(
                f"max_drop is {self.max_drop}, expected a share from 0 to below 1 (0.01 is one point)"
            )
        if not 0.5 <= self.confidence < 1.0:
            raise UsageError(f"confidence is {self.confidence}, expected 0.5 to below 1 (0.95 is usual)")
        if self.metric not in ("auto", *Metric):
            raise UsageError(f"unknown metric '{self.metric}'; known: auto, {', '.join(Metric)}")
        for name in ("threads", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.deterministic and self.time_limit_seconds is not None:
            raise UsageError(
                "--deterministic with --time-limit: how far a run gets in a given time is not repeatable; "
                "leave one of them out"
            )
        limit, heal = self.time_limit_seconds, self.heal_seconds
        if limit is not None and heal is not None and heal > HEAL_SHARE * limit:
            raise UsageError(
                f"healing for {heal:g} s takes more than half of the time limit ({limit:g} s), and nothing "
                "would be left to search and prove in; give less or raise the limit"
            )
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"workers is {self.workers}, expected 0 (this process) or more")
        for name in ("latency_target_seconds", "time_limit_seconds", "max_size_bytes", "heal_seconds"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise UsageError(f"{name} is {limit}, expected more than 0")

    @property
    def effort(self) -> Effort:
        return EFFORT[self.mode]
