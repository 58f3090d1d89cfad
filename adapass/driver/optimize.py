"""``adapass.optimize``: the main job.

    read -> clean -> search -> race the finalists -> certify -> compare with the original -> write

Whatever goes wrong on the way to something better ends with the original, a reason and exit code 3;
whatever is wrong with the input ends before any work.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adapass.artifact.write import check_destination
from adapass.cache import Cache
from adapass.data import Source
from adapass.driver.clean import split_passes
from adapass.driver.context import Context
from adapass.driver.job import PHASES, Job
from adapass.driver.latency_table import LatencyTable
from adapass.driver.material import Material, ModelSource, default_threads, gather
from adapass.driver.outcome import tool_versions
from adapass.driver.recipe import read_plan
from adapass.driver.report import Result
from adapass.driver.request import Mode, Request
from adapass.driver.time_plan import TimePlan
from adapass.errors import UsageError
from adapass.executor import open_executor
from adapass.machine import fingerprint
from adapass.observe import LogCounts, ShowProgress
from adapass.progress import Progress, Silent
from adapass.search.evolve import require_optuna
from adapass.search.store import Store

WORTH_PROCESSES = 2e9
"""Bytes of model times samples from which worker processes pay: they take a second or two to start."""


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
    max_size_bytes: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    deterministic: bool = False,
    latency_table: Path | None = None,
    heal_seconds: float | None = None,
    advise: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Make ``model`` faster on ``target`` within a certified budget, or hand it back with the reason.

    ``data`` fits, ``eval_data`` searches and certifies (without it ``data`` is split by content).
    ``max_drop`` is a share (0.01 = one point). ``threads`` is the budget of the process, by default
    all cores. Without data only exact rewrites and build settings are tried. ``workers`` processes (or the
    Dask cluster at ``scheduler``) fit and evaluate; latency is measured in this process, one thing at a
    time. ``heal_seconds`` cuts boldly and trains what is left towards the original for about so long (needs
    the torch extra). ``deterministic`` replays ``latency_table`` and adds to it what it lacks.

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
        max_size_bytes=max_size_bytes,
        workers=workers,
        scheduler=scheduler,
        deterministic=deterministic,
        latency_table=latency_table,
        heal_seconds=heal_seconds,
        advise=advise,
    )
    if request.mode is Mode.EXTENSIVE:
        require_optuna()
    with tempfile.TemporaryDirectory(prefix="adapass-") as scratch:
        return _run(model, request, data, eval_data, recipe, Path(scratch), progress or Silent())


def _run(
    model: ModelSource,
    request: Request,
    data: Source | None,
    eval_data: Source | None,
    recipe: Path | None,
    scratch: Path,
    progress: Progress,
) -> Result:
    decisions = None if recipe is None else read_plan(recipe)
    with open_context(model, request, data, eval_data, scratch, progress) as context:
        result = Job(context).run(decisions)
    context.store.clear()
    return result


@contextmanager
def open_context(
    model: ModelSource,
    request: Request,
    data: Source | None,
    eval_data: Source | None,
    scratch: Path,
    progress: Progress,
) -> Generator[Context]:
    """Read and check everything, clean the model, and open what a run works with.

    Raises:
        InvalidInputError: model, data or options are wrong.
        TargetError: the target is unknown.
        VerificationError: a pass broke the model.

    """
    started = TimePlan(time.monotonic(), request.time_limit_seconds)
    steps, families = split_passes(request)
    material = gather(model, request, data, eval_data, scratch)
    destination = destination_of(request, material.path)
    store = Store()
    if not request.dry_run:
        check_destination(destination)
        store = Store(
            destination.with_name(f"{destination.name}.work"), repr(sorted(tool_versions().items()))
        )
    if not request.resume:
        store.clear()
    progress.phase("clean", 1, PHASES)
    fit = material.parts.fit if material.parts is not None else None
    watchers = [LogCounts(), ShowProgress(progress)]
    clean = steps.run(material.model, data=fit, observers=watchers, seed=request.seed).model
    with open_executor(workers=_workers(request, material), scheduler=request.scheduler) as executor:
        yield Context(
            request,
            material,
            clean,
            steps,
            families,
            store,
            scratch,
            progress,
            destination,
            started,
            executor,
            _measurements(request, destination),
        )


def _workers(request: Request, material: Material) -> int:
    """As asked; else one process a thread, unless the work is done sooner than processes are started."""
    if request.workers is not None:
        return request.workers
    if material.parts is None:
        return 0
    if request.time_limit_seconds is not None:
        return request.threads  # what runs in a process of its own can be ended when time is up
    samples = len(material.parts.fit) + len(material.parts.search)
    heavy = material.path.stat().st_size * samples > WORTH_PROCESSES
    return request.threads if heavy else 0


def _measurements(request: Request, destination: Path) -> Cache:
    """The cache of this machine, or the table that is replayed."""
    if not request.deterministic:
        return Cache()
    beside = destination.with_name(f"{destination.stem}.latency.json")
    return LatencyTable(request.latency_table or beside, fingerprint(request.threads).key)


def destination_of(request: Request, model: Path) -> Path:
    """``--output``, else the model's name in the current folder; always ends in ``.adapass``."""
    if request.output is None:
        return Path(f"{model.stem}.adapass")
    wanted = request.output
    return wanted if wanted.suffix == ".adapass" else wanted.with_name(f"{wanted.name}.adapass")
