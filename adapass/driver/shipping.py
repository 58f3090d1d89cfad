"""Describe and write what ships: latency, quality, exits and certificate of the final build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import onnx_ir as ir

from adapass.artifact.manifest import GeneratorInfo, Latency, Quality
from adapass.budgeted import BudgetedPass
from adapass.cost.timing import Ratio
from adapass.driver.comparing import Final
from adapass.driver.context import Context
from adapass.driver.front import front_entries, race_entries, step_entries
from adapass.driver.outcome import Finding, Shipment, conclude
from adapass.driver.points import PointTiming, exits_of, manifest_points, point_measures
from adapass.driver.proof import Proof
from adapass.driver.recipe import write_plan
from adapass.driver.report import FrontPoint, Result
from adapass.driver.request import Request
from adapass.facts import FactCache
from adapass.search.judge import Judge


def ship(
    context: Context,
    final: Final,
    latency: Latency,
    ratio: Ratio | None,
    *,
    proof: Proof | None = None,
    judge: Judge | None = None,
    race: Mapping[str, float] = MappingProxyType({}),
    front: Sequence[FrontPoint] = (),
    points: Mapping[int, PointTiming] = MappingProxyType({}),
    hints: Sequence[str] = (),
) -> Result:
    """Write the artifact of an optimized model.

    ``front`` is everything that was timed; ``race`` (mean seconds by name) stands in where there is none.
    ``points`` are the timings of certified steps (``Comparison.points``).
    """
    build, request, parts = final.build, context.request, context.material.parts
    steps = proof.steps if proof is not None else ()
    measures = point_measures(final.model, steps, points)
    certified = proof.certified_builds if proof is not None else frozenset[str]()
    point = proof.contestant.point if proof is not None else None
    certificate = proof.certificate if proof is not None else None
    finding = Finding(
        recipe=write_plan(request, context.steps, build.candidate.plan, build, point),
        task=judge.metric.value if judge is not None else "unknown",
        latency=latency,
        latency_note=_interval(ratio),
        quality=_quality(judge, proof),
        certificate=certificate.to_dict() if certificate is not None else None,
        certificate_words=certificate.statement if certificate is not None else "",
        exits=exits_of(final.model, point, proof.exits if proof is not None else None),
        points=manifest_points(steps),
        point_measures=measures,
        pareto=(
            *(
                front_entries(front, chosen=build.name, certified=certified)
                if front
                else race_entries(race, build.name, certified)
            ),
            *step_entries(proof.tested if proof is not None else ()),
        ),
        messages=(*(parts.notes if parts is not None else ()), *hints),
        warnings=_warnings(final, proof, request),
    )
    options = dict(build.variant.options)
    info = GeneratorInfo(name=build.generator.name, variant=build.variant.name, options=options)
    shipment = Shipment(portable=final.portable, folder=build.folder, generator=info)
    return conclude(context.material, context.destination, finding, shipment)


def no_data_hint(model: ir.Model, families: Sequence[BudgetedPass]) -> tuple[str, ...]:
    """What data would unlock, from what each family sees in the graph alone."""
    hints: list[str] = []
    for step in families:
        proposal = step.propose(model, FactCache(model))
        sites = {choice.site for choice in proposal.choices}
        if sites:
            hints.append(f"with data, {step.name} could work at {len(sites)} places")
        elif proposal.refusals:
            hints.append(f"{step.name} does not apply: {proposal.refusals[0].reason}")
    how = "give data: --data FIT.npz --eval EVAL.npz, arrays named like the inputs (labels are optional)"
    return (*hints, how)


def _interval(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"[{ratio.low:.2f} to {ratio.high:.2f}]"


def _quality(judge: Judge | None, proof: Proof | None) -> Quality | None:
    if judge is None or proof is None:
        return None
    before = judge.score(judge.original)
    return Quality(metric=judge.metric.value, before=before, after=proof.score, samples=len(judge.samples))


def _warnings(final: Final, proof: Proof | None, request: Request) -> tuple[str, ...]:
    if proof is not None and proof.certificate is None:
        bound = f"{100 * proof.reachable:.2f} points with {100 * request.confidence:g} % confidence"
        return (f"uncertified: the drop can only be bounded by {bound}, more than was asked for",)
    if proof is None and not final.build.candidate.plan.parts:
        return ("no data was given: only exact rewrites were made; outputs are equal up to rounding",)
    return ()
