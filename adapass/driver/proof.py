"""Certify what ships: built artifacts, run on the certify part, in one fixed sequence.

The sequence is fixed before the certify samples are touched: the exact build first (where it is faster
than the original at all), then a few safer plans, then the fastest build with its knobs neutral, then along
its path of settings from the safest to the most aggressive. Each step is tested in turn; the first that fails
ends it, and the last that passed ships (fixed-sequence testing: the choice costs no confidence).

The steps of the shipped build that passed are its certified operating points: any of them may be run for
any reason, and a stricter budget that was settled beforehand leaves a known part of them. ``certified_drop``
of a step counts every step in front of it, the exact build included, for the walk at that budget has to
get there (``certify.inversion`` has the argument and what it does not allow).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from adapass.budgeted import Array, OperatingPoint
from adapass.certify.bounds import upper_bound
from adapass.certify.certificate import Certificate, issue
from adapass.certify.inversion import reach, walked
from adapass.certify.losses import Losses
from adapass.certify.sequence import Verdict, certify
from adapass.data import fingerprint
from adapass.driver.context import Context
from adapass.driver.finals import ORIGINAL, Build, knob_feeds
from adapass.search.deadline import NEVER, Deadline
from adapass.search.judge import Judge, stack_outputs

MAX_POINTS = 10
MAX_SAFER = 4
"""Steps in front of the fastest build: each one that fails, by bad luck too, ends the sequence."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One step of the sequence: a build at a setting of its knobs."""

    build: Build
    point: OperatingPoint | None


@dataclass(frozen=True, slots=True)
class Step:
    """A step that passed."""

    contestant: Contestant
    certificate: Certificate
    certified_drop: float
    """The smallest budget, of a grid below the tested one, at which the walk gets here and passes."""
    p_value: float
    """Valid for every budget from ``certified_drop`` to the tested one."""
    score: float
    exits: npt.NDArray[np.int64] | None
    """The exit each certify sample took; ``None`` for a model without exits."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The outcome of certification."""

    contestant: Contestant
    """The last step that passed; where none did, the first."""
    certificate: Certificate | None
    """``None`` when nothing passed."""
    reachable: float
    """Upper confidence bound on the drop of the contestant."""
    score: float
    """The metric on the certify part."""
    exits: npt.NDArray[np.int64] | None
    """The exit each certify sample took; ``None`` for a model without exits."""
    tested: tuple[Mapping[str, object], ...]
    """Every step that was tested, plain data."""
    steps: tuple[Step, ...] = ()
    """The shipped build's steps that passed, from the most careful to the one that ships."""
    certified_builds: frozenset[str] = frozenset()
    """Names of the builds of which a step passed."""


@dataclass(frozen=True, slots=True)
class _Run:
    losses: Losses
    score: float
    exits: npt.NDArray[np.int64] | None


def sequence(
    fast: Build, exact: Build | None, enough_seconds: float | None, safer: Sequence[Contestant] = ()
) -> list[Contestant]:
    """What is tested, in order; ``safer`` ones come between the exact and the fastest build."""
    first = [Contestant(exact, None)] if exact is not None and exact is not fast else []
    return [
        *first,
        *safer,
        *(Contestant(fast, point) for point in path_of(fast.candidate.points, enough_seconds)),
    ]


def safer_steps(fast: Build, builds: Sequence[Build], seconds: Mapping[str, float]) -> list[Contestant]:
    """What to fall back on should ``fast`` prove too bold even with its knobs neutral; slowest first.

    Of every other plan its fastest build, at each setting of its knobs, where nothing faster risks as little:
    each step of the sequence is faster than the one before it, and less safe. The clean model counts where a
    variant computes it in half precision: nearly as safe as the exact build, and often twice as fast.
    Settings slower than the exact build, or than the original, are left out: nobody wants to end there.
    """
    exact = [b for b in builds if b.variant.exact and not b.candidate.plan.parts]
    slowest = min((seconds[build.name] for build in exact), default=seconds.get(ORIGINAL, float("inf")))
    best: dict[int, Build] = {}
    for build in sorted(builds, key=lambda build: seconds[build.name]):
        lossy = bool(build.candidate.plan.parts) or not build.variant.exact
        if lossy and build.candidate is not fast.candidate:
            best.setdefault(id(build.candidate), build)
    offered = [
        (seconds[build.name] * expected / build.candidate.seconds.seconds, risk, Contestant(build, point))
        for build in best.values()
        for point, expected, risk in build.candidate.settings()
        if risk < fast.candidate.risk
    ]
    found: list[Contestant] = []
    least = float("inf")
    for latency, risk, step in sorted(offered, key=lambda each: (each[0], each[1])):
        if risk < least and seconds[fast.name] < latency < slowest:
            found.append(step)
            least = risk
    return _spread(found, MAX_SAFER)[::-1]


def _spread(steps: Sequence[Contestant], most: int) -> list[Contestant]:
    places = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))
    return [steps[int(place)] for place in places]


def path_of(
    points: Sequence[OperatingPoint], enough_seconds: float | None = None
) -> list[OperatingPoint | None]:
    """The neutral setting and at most MAX_POINTS more, ends included; ``[None]`` for a model without knobs.

    Settings more aggressive than the first one expected to be fast enough are left out.
    """
    if not points:
        return [None]
    if enough_seconds is not None:
        slow = sum(point.expected_seconds > enough_seconds for point in points)
        points = points[: slow + 1]
    wanted = np.unique(np.linspace(0, len(points) - 1, min(MAX_POINTS, len(points))).round().astype(int))
    return [neutral(points[0]), *(points[int(i)] for i in wanted)]


def neutral(point: OperatingPoint) -> OperatingPoint:
    """The same knobs at infinity: by convention the setting at which they do nothing."""
    knobs = {name: np.full_like(value, np.inf) for name, value in point.knobs.items()}
    return replace(point, knobs=knobs, sites=frozenset(), loss=0.0, reach=(), detail={})


def expected_seconds(point: OperatingPoint | None) -> float | None:
    """``None`` without knobs and for the neutral setting, whose latency nobody predicts."""
    if point is None or not any(np.isfinite(value).any() for value in point.knobs.values()):
        return None
    return point.expected_seconds


def prove(
    context: Context, contestants: Sequence[Contestant], judge: Judge, *, until: Deadline = NEVER
) -> Proof:
    """Walk the sequence over the certify samples.

    No step but the first is begun that would probably end after ``until``: a walk that ends early only
    certifies less.
    """
    request = context.request
    runs: list[_Run] = []

    def walk() -> Iterator[Losses]:
        longest = 0.0
        for index, contestant in enumerate(contestants):
            began, left = until.clock(), until.seconds_left
            if index and left is not None and longest > left:
                return
            runs.append(_run(contestant, judge, request.threads))
            context.progress.step(index + 1, len(contestants), "certify")
            longest = max(longest, until.clock() - began)
            yield runs[-1].losses

    verdict = certify(walk(), request.max_drop, request.confidence)
    position = verdict.index or 0
    shipped = runs[position]
    passed = _passed(context, contestants, runs, verdict, fingerprint(judge.samples))
    tested = [
        {
            "name": contestant.build.name,
            "position": index,
            "passed": index < verdict.passed,
            "loss": run.losses.mean,
            "p_value": p,
            "expected_seconds": expected_seconds(contestant.point),
        }
        for index, (contestant, run, p) in enumerate(zip(contestants, runs, verdict.p_values, strict=False))
    ]
    return Proof(
        contestants[position],
        passed[-1].certificate if passed else None,
        upper_bound(shipped.losses, request.confidence),
        shipped.score,
        shipped.exits,
        tuple(tested),
        tuple(step for step in passed if step.contestant.build is contestants[position].build),
        frozenset(step.contestant.build.name for step in passed),
    )


def _passed(
    context: Context, contestants: Sequence[Contestant], runs: Sequence[_Run], verdict: Verdict, data: str
) -> list[Step]:
    request = context.request
    found = [reach(run.losses, request.max_drop, request.confidence) for run in runs[: verdict.passed]]
    reaches = [each for each in found if each is not None]
    assert len(reaches) == verdict.passed  # the grid ends at the budget at which all of them have passed
    drops = walked([each.certified_drop for each in reaches])
    steps: list[Step] = []
    for position, (drop, each) in enumerate(zip(drops, reaches, strict=True)):
        run = runs[position]
        certificate = issue(
            run.losses,
            verdict,
            position=position,
            max_drop=request.max_drop,
            confidence=request.confidence,
            split_seed=request.seed,
            data=data,
        )
        steps.append(Step(contestants[position], certificate, drop, each.p_value, run.score, run.exits))
    return steps


def _run(contestant: Contestant, judge: Judge, threads: int) -> _Run:
    build, point = contestant.build, contestant.point
    name = build.candidate.model.graph.outputs[0].name or ""
    samples, taken = judge.samples, list[npt.NDArray[np.int64]]()
    runner = build.generator.load(build.folder, threads=threads)

    def one(index: int) -> Array:
        outcome = runner.run(knob_feeds(samples.feeds(index), point))
        if outcome.exits is not None:
            taken.append(outcome.exits)
        return outcome.outputs[name]

    try:
        output = stack_outputs(samples, one)
    finally:
        runner.close()
    return _Run(judge.compare(output), judge.score(output), np.concatenate(taken) if taken else None)
