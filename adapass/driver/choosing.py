"""Candidates of a run: searched for, replayed from a recipe, or (without data) the clean model alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from adapass.artifact.manifest import Trust as ManifestTrust
from adapass.budgeted import OperatingPoint
from adapass.cost.model import Cost, Trust
from adapass.cost.predict import Predictor
from adapass.data import Dataset
from adapass.driver.clean import HEAL
from adapass.driver.context import Context
from adapass.driver.finals import ORIGINAL, Build, at_point, build_all
from adapass.driver.healing import behind, healed_base
from adapass.driver.material import Parts
from adapass.driver.recipe import Decisions, write_plan
from adapass.driver.report import FrontPoint
from adapass.driver.request import Mode
from adapass.errors import RecipeError
from adapass.facts import FactCache
from adapass.graph.tensors import tensor_bytes
from adapass.search.advisor import Advice
from adapass.search.candidates import Search
from adapass.search.evaluations import Evaluations
from adapass.search.judge import Judge, spread_indices
from adapass.search.plan import Plan, tunes
from adapass.search.risk import discordance, expected_bound
from adapass.search.staged import Base
from adapass.search.trials import Candidate, Proving, Trials

FALLBACK_SHARES = (0.85, 0.7, 0.5)
"""Of what the boldest finalist risks, what each of its fallbacks may risk."""
SEARCH_SHARE = 0.4
"""Share of the budget the search may spend. What is tuned on samples loses up to twice as much on fresh
ones, and the finite-sample bound needs room as well."""


def clean_candidate(context: Context) -> Candidate:
    """The exact rewrites alone."""
    options = context.plain_options(context.clean)
    return Candidate(Plan(), context.clean, context.stopwatch().seconds(context.clean, options), 0.0)


def evaluations(
    context: Context, parts: Parts, samples: Dataset, clean: ir.Model | None = None
) -> Evaluations:
    """What computes and keeps fits and outputs; ``samples`` are the search samples."""
    effort = context.request.effort
    return Evaluations(
        clean=clean or context.clean,
        fit=parts.fit.subset(list(spread_indices(len(parts.fit), effort.fit_samples))),
        samples=samples,
        damage_samples=effort.damage_samples,
        fingerprint=context.fingerprint,
        executor=context.executor,
        store=context.store,
        progress=context.progress,
        deadline=context.time.search,
    )


def trials_of(context: Context, parts: Parts, judge: Judge, base: Candidate | None = None) -> Trials:
    """What tries plans, on the clean model or on ``base``; nothing was tried yet."""
    options, deadline = context.plain_options(context.clean), context.time.search
    clean = context.clean if base is None else base.model
    watch = context.stopwatch(deadline.check)
    return Trials(
        evaluations=evaluations(context, parts, judge.samples, clean),
        judge=judge,
        base=base,
        watch=watch,
        predictor=Predictor(watch, options, may_measure=lambda _: not deadline.passed),
        build=options,
        allowed=SEARCH_SHARE * context.request.max_drop,
        proving=Proving(context.request.max_drop, len(parts.certify), context.request.confidence),
        deadline=deadline,
        progress=context.progress,
    )


def search(
    context: Context, parts: Parts, judge: Judge, advice: Advice | None
) -> tuple[list[Candidate], Search]:
    """Candidates, fastest first, and the search with everything that was tried."""
    trials, request = trials_of(context, parts, judge), context.request
    base: Base | None = None
    if request.heal_seconds is not None:
        advice, base = None, healed_base(context, trials, request.heal_seconds)
        said = trials.notes
        if base is not None:
            trials = trials_of(context, parts, judge, base.candidate)
            trials.notes.extend(said)
    skipped = advice.skip if advice is not None and request.mode is Mode.QUICK else frozenset[str]()
    work = Search(
        trials=trials,
        families=[
            step
            for step in context.families
            if str(step) not in skipped and (base is None or not step.structural)
        ],
        rounds=request.effort.rounds,
        progress=context.progress,
        seed=request.seed,
        target_seconds=request.latency_target_seconds,
        max_bytes=_bytes_to_change(context),
        advice=advice,
        also_float=_halves(context),
    )
    found = work.run()
    if base is not None:
        found = [*behind(base, found), clean_candidate(context)]
    if advice is not None:
        trials.notes.insert(0, advice.words)
    trials.notes.extend(
        f"{name} lost every time on similar models and was left out" for name in sorted(skipped)
    )
    return found, work


def _halves(context: Context) -> bool:
    """Whether some generator computes floats in half precision."""
    request, target = context.request, context.material.target
    return any(
        not variant.exact
        for generator in context.material.generators
        for variant in generator.variants(context.clean, target, threads=request.threads, batch=request.batch)
    )


def _bytes_to_change(context: Context) -> float | None:
    """How many bytes of weights a plan may add; negative: it must save some. ``None``: any."""
    limit = context.request.max_size_bytes
    return None if limit is None else float(limit - tensor_bytes(context.clean))


def replay(context: Context, parts: Parts, judge: Judge, decisions: Decisions) -> Candidate:
    """The plan of a recipe, applied and fitted again.

    Raises:
        RecipeError: it turns a knob that the rewritten model does not have, or is too lossy here.

    """
    _check_choices(context, decisions.plan)
    work = evaluations(context, parts, judge.samples)
    model = work.fitted([decisions.plan])[0]
    if isinstance(model, str):
        raise RecipeError(f"the recipe's plan ({decisions.plan}) {model}")
    _check_knobs(model, decisions)
    knobs = {name: np.asarray(numbers, np.float32) for name, numbers in decisions.knobs.items()}
    # No trace says which exits are taken: this is the price of never leaving.
    expected = Predictor(context.stopwatch(), context.plain_options(context.clean)).estimate(model)
    cost = Cost(expected.seconds, min(expected.trust, Trust.MODEL))
    point = OperatingPoint(knobs, frozenset(), expected.seconds, 0.0)
    losses = judge.losses(work.outputs(at_point(model, point)))
    loss, request = float(np.mean(losses)), context.request
    if not knobs:
        return Candidate(decisions.plan, model, cost, loss)
    points = (dataclasses.replace(point, loss=loss, changed=discordance(losses)),)
    risk = expected_bound(losses, samples=len(parts.certify), confidence=request.confidence)
    return Candidate(decisions.plan, model, cost, loss, points, point_risks=(risk,))


def _check_choices(context: Context, plan: Plan) -> None:
    """What the recipe chooses must be on offer for this model, or the recipe belongs to another one."""
    for part in plan.parts:
        offered = {
            choice.key for choice in part.step.propose(context.clean, FactCache(context.clean)).choices
        }
        if missing := [choice.key for choice in part.choices if choice.key not in offered]:
            raise RecipeError(
                f"the recipe chooses {missing[0]} ({len(missing)} such), which {part.step.name} does not "
                "offer for this model; use the recipe with the model it was made for"
            )


def _check_knobs(model: ir.Model, decisions: Decisions) -> None:
    known = {k.input_name for part in decisions.plan.parts for k in part.step.knobs(model)}
    for name, numbers in decisions.knobs.items():
        if name not in known:
            raise RecipeError(f"the recipe sets knob '{name}', which the rewritten model does not have")
        shape = model.graph.initializers[name].shape
        if shape is None or tuple(shape) != (len(numbers),):
            raise RecipeError(f"the recipe sets {len(numbers)} numbers for knob '{name}' of shape {shape}")


def front_of(
    context: Context,
    builds: Sequence[Build],
    seconds: Mapping[str, float],
    candidates: Sequence[Candidate],
) -> list[FrontPoint]:
    """Everything that was timed: the original, builds of finalists, and candidates that were not built."""
    request, steps = context.request, context.steps
    measured = ManifestTrust.MEASURED if context.device_present else ManifestTrust.MODELLED
    front = [FrontPoint(ORIGINAL, seconds[ORIGINAL], measured, 0.0)]
    for build in builds:
        candidate = build.candidate
        recipe = write_plan(request, steps, candidate.plan, build, _boldest(candidate))
        front.append(FrontPoint(build.name, seconds[build.name], measured, candidate.loss, recipe))
    raced = {id(build.candidate) for build in builds}
    for candidate in candidates:
        if id(candidate) not in raced:
            recipe = write_plan(request, steps, candidate.plan, None, _boldest(candidate))
            predicted = candidate.seconds.seconds
            name = str(candidate.plan)
            front.append(FrontPoint(name, predicted, ManifestTrust.MODELLED, candidate.loss, recipe))
    return front


def fallbacks(candidates: Sequence[Candidate], chosen: Sequence[Candidate]) -> list[Candidate]:
    """Safer plans to build beside ``chosen``, should their rewrites prove too bold with knobs neutral.

    For each share the plan that is the fastest at a setting that risks at most so much of what the boldest
    of ``chosen`` risks.
    """
    bold = max((c.risk for c in chosen), default=0.0)
    lossy = [(seconds, risk, c) for c in candidates if c.plan.parts for _, seconds, risk in c.settings()]
    found: list[Candidate] = []
    for most in FALLBACK_SHARES:
        safer = [(seconds, c) for seconds, risk, c in lossy if risk < bold and risk <= most * bold]
        if not safer:
            continue
        fastest = min(safer, key=lambda pair: pair[0])[1]
        if all(fastest is not other for other in (*chosen, *found)):
            found.append(fastest)
    return found


def in_float(candidates: Sequence[Candidate], chosen: Sequence[Candidate]) -> list[Candidate]:
    """The plans of ``chosen`` without precision, where they were tried: half precision may be faster."""
    found: list[Candidate] = []
    for wanted in {_shape(c.plan): c for c in chosen if c.plan.parts}:
        same = [c for c in candidates if c.plan.parts and _is_float(c.plan) and _shape(c.plan) == wanted]
        found += [c for c in same[:1] if all(c is not other for other in (*chosen, *found))]
    return found


def _is_float(plan: Plan) -> bool:
    return all(part.step.structural or tunes(part.step) or part.step.name == HEAL for part in plan.parts)


def _shape(plan: Plan) -> tuple[tuple[str, ...], frozenset[str]]:
    """What a plan is but for precision, and for which sites of its knobs are left."""
    knobs = tuple(str(part.step) for part in plan.parts if tunes(part.step) or part.step.name == HEAL)
    cuts = frozenset(choice.key for part in plan.parts if part.step.structural for choice in part.choices)
    return knobs, cuts


def _boldest(candidate: Candidate) -> OperatingPoint | None:
    return candidate.points[-1] if candidate.points else None


def finalists(context: Context, candidates: Sequence[Candidate], decisions: Decisions | None) -> list[Build]:
    """Build the fastest candidates, and the exact one, in every variant (of a recipe: in its own).

    Raises:
        RecipeError: the variant a recipe names cannot be built here.

    """
    wanted = list(candidates[: context.request.effort.finalists])
    wanted += fallbacks(candidates, wanted)
    if context.material.parts is not None and _halves(context):
        wanted += in_float(candidates, wanted)
    wanted += [c for c in candidates if not c.plan.parts and c not in wanted]
    folder = context.scratch / "finalists"
    folder.mkdir()
    builds = build_all(
        wanted,
        context.material.generators,
        context.material.target,
        threads=context.request.threads,
        batch=context.request.batch,
        scratch=folder,
        until=context.time.building,
        exact_only=context.material.parts is None,
    )
    if decisions is None or decisions.variant is None:
        return builds
    named = (decisions.backend, decisions.variant)
    chosen = [build for build in builds if (build.generator.name, build.variant.name) == named]
    if not chosen:
        what = f"backend {named[0]}, variant {named[1]}"
        raise RecipeError(f"the recipe's build ({what}) is not possible for {context.material.target.name}")
    return chosen
