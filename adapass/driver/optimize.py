"""``adapass.optimize``: the main job.

    read -> clean -> search -> race the finalists -> certify -> compare with the original -> write

Whatever goes wrong on the way to something better ends with the original, a reason and exit code 3;
whatever is wrong with the input ends before any work.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapass.artifact.write import check_destination
from adapass.budgeted import Feeds
from adapass.cache import Cache
from adapass.data import Source, fingerprint
from adapass.driver.clean import split_passes
from adapass.driver.finals import build_all, fastest
from adapass.driver.material import Material, ModelSource, Parts, default_threads, gather, timing_feeds
from adapass.driver.outcome import Finding, conclude, hand_back
from adapass.driver.proof import prove
from adapass.driver.report import Result
from adapass.driver.request import Mode, Request
from adapass.errors import UsageError
from adapass.machine import fingerprint as machine_fingerprint
from adapass.observe import LogCounts, ShowProgress
from adapass.progress import Progress, Silent
from adapass.search.candidates import Candidate, Search
from adapass.search.judge import Judge, predict, spread_indices
from adapass.search.plan import Plan
from adapass.search.stopwatch import Stopwatch
from adapass.search.store import Store

PHASES = 6


def optimize(
    model: ModelSource,
    *,
    target: str = "cpu",
    data: Source | None = None,
    eval_data: Source | None = None,
    max_drop: float = 0.01,
    confidence: float = 0.95,
    metric: str = "auto",
    backend: str = "auto",
    latency_target_seconds: float | None = None,
    mode: str = "default",
    time_limit_seconds: float | None = None,
    threads: int | None = None,
    batch: int = 1,
    passes: str | None = None,
    skip_passes: Sequence[str] = (),
    recipe: Path | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    allow_uncertified: bool = False,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Make ``model`` faster on ``target`` within a certified budget, or hand it back with the reason.

    ``data`` fits, ``eval_data`` searches and certifies (without it ``data`` is split by content).
    ``max_drop`` is a share (0.01 = one point). ``threads`` is the budget of the process, by default
    all cores. Without data only exact rewrites and build settings are tried.

    Raises:
        InvalidInputError: model, data, recipe or options are wrong.
        TargetError: the target is unknown.
        VerificationError: a pass broke the model.
    """
    if mode not in list(Mode):
        raise UsageError(f"mode is '{mode}', expected one of {', '.join(Mode)}")
    request = Request(
        target=target,
        max_drop=max_drop,
        confidence=confidence,
        metric=metric,
        backend=backend,
        latency_target_seconds=latency_target_seconds,
        mode=Mode(mode),
        time_limit_seconds=time_limit_seconds,
        threads=default_threads(threads),
        batch=batch,
        passes=passes,
        skip_passes=tuple(skip_passes),
        seed=seed,
        resume=resume,
        dry_run=dry_run,
        allow_uncertified=allow_uncertified,
        allow_code=allow_code,
        output=None if output is None else Path(output),
    )
    with tempfile.TemporaryDirectory(prefix="adapass-") as scratch:
        return _run(model, request, data, eval_data, recipe, Path(scratch), progress or Silent())
