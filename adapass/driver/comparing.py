"""The last word: what ships against the original, freshly measured, never from the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from adapass.artifact.manifest import Latency, Trust
from adapass.budgeted import OperatingPoint
from adapass.cost.timing import Ratio
from adapass.driver.context import Context
from adapass.driver.finals import ORIGINAL, Build, at_point, race
from adapass.registry import generator

ROUNDS = 10


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


def compared(context: Context, final: Final) -> tuple[Latency, Ratio | None]:
    """Latency of the original and of the result; the ratio with its interval where the device is here."""
    if not context.device_present:
        return _latency(context, modelled_original(context), final.build.candidate.seconds.seconds), None
    feeds, threads = context.feeds(2), context.request.threads
    timings = race([final.build], context.material.path, feeds, threads=threads, rounds=ROUNDS)
    before, after = timings[ORIGINAL], timings[final.build.name]
    return _latency(context, before.mean, after.mean), after.ratio(before)


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
