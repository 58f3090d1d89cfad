"""The last word: what ships against the original, freshly measured, never from the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from adapass.artifact.manifest import Latency, Trust
from adapass.artifact.plain import PlainRunner
from adapass.budgeted import OperatingPoint
from adapass.cost.measure import Contestant, interleaved
from adapass.cost.timing import Ratio
from adapass.driver.context import Context
from adapass.driver.finals import ORIGINAL, Build, at_point, knob_feeds
from adapass.driver.points import PointTiming, points_to_measure
from adapass.driver.proof import Step
from adapass.generator import Runner
from adapass.registry import generator

ROUNDS = 10
WARMUP = 2
MOST_POINTS = 4


@dataclass(frozen=True, slots=True)
class Final:
    """The build that ships, the adaptive graph it was built from, and its portable form."""

    build: Build
    model: ir.Model
    portable: Path


def final_build(context: Context, build: Build, point: OperatingPoint | None) -> Final:
    """Build again with the chosen setting as default, and the portable form beside it."""
    model, target = at_point(build.candidate.model, point), context.material.target
    folder, portable = context.scratch / "final", context.scratch / "portable"
    for place in (folder, portable):
        place.mkdir()
    build.generator.build(model, target, folder, build.variant.options)
    everywhere, request = generator("onnxruntime"), context.request
    variants = everywhere.variants(model, target, threads=request.threads, batch=request.batch)
    everywhere.build(model, target, portable, variants[0].options)
    return Final(Build(build.candidate, build.generator, build.variant, folder), model, portable)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The original, what ships, and some of its operating points, timed in turns."""

    latency: Latency
    ratio: Ratio | None
    """``None`` where the device is not here."""
    points: Mapping[int, PointTiming] = field(default_factory=dict[int, PointTiming])
    """By position among the certified steps."""


def compare(
    context: Context,
    final: Final,
    steps: Sequence[Step] = (),
    *,
    most_points: int = MOST_POINTS,
    max_seconds: float | None = None,
) -> Comparison:
    """Latency of the original and of the result; the ratio with its interval where the device is here.

    In the same run the points of ``steps`` that have names are timed, at most ``most_points``. Each point
    takes as long as timing the result; with 1 only what ships is timed. ``max_seconds`` cuts rounds short.
    """
    if not context.device_present:
        modelled = final.build.candidate.seconds.seconds
        return Comparison(_latency(context, modelled_original(context), modelled), None)
    wanted = points_to_measure(steps, most_points)
    feeds, threads = context.feeds(2), context.request.threads
    original = PlainRunner(context.material.path, threads=threads)
    runners: list[Runner] = [original]
    try:
        result = final.build.generator.load(final.build.folder, threads=threads)
        runners.append(result)
        contestants: dict[str, Contestant] = {ORIGINAL: original.run, final.build.name: result.run}
        # What ships is there already: the last step is its default.
        others = {index: f"point {index}" for index in wanted if index != len(steps) - 1}
        for index, name in others.items():
            contestants[name] = _turned(result, steps[index].contestant.point)
        timings = interleaved(contestants, feeds, rounds=ROUNDS, warmup=WARMUP, max_seconds=max_seconds)
    finally:
        for runner in runners:
            runner.close()
    before, after = timings[ORIGINAL], timings[final.build.name]
    measured = {index: timings[others.get(index, final.build.name)] for index in wanted}
    return Comparison(
        _latency(context, before.mean, after.mean),
        after.ratio(before),
        {index: PointTiming(timing.mean, timing.ratio(before)) for index, timing in measured.items()},
    )


def _turned(runner: Runner, point: OperatingPoint | None) -> Contestant:
    return lambda feeds: runner.run(knob_feeds(feeds, point))


def modelled_original(context: Context) -> float:
    return context.stopwatch().seconds(context.material.model, {}).seconds


def shortfall(context: Context, latency: Latency, ratio: Ratio | None) -> str | None:
    """Why this is not good enough to ship; ``None`` when it is."""
    if ratio is not None and not ratio.is_faster:
        shown = f"{ratio.value:.3f}x ({ratio.low:.3f} to {ratio.high:.3f})"
        return f"the result is not reliably faster than the original: {shown}"
    limit, reached = context.request.latency_target_seconds, latency.after_seconds
    if limit is not None and reached is not None and reached > limit:
        return (
            f"the latency target was not reached: {1e3 * reached:.3f} ms within the quality budget, "
            f"{1e3 * limit:.3f} ms were asked for"
        )
    return None


def _latency(context: Context, before: float, after: float) -> Latency:
    return Latency(
        before_seconds=before,
        after_seconds=after,
        trust=Trust.MEASURED if context.device_present else Trust.MODELLED,
        threads=context.request.threads,
        batch=context.request.batch,
        device=context.material.target.name,
    )
