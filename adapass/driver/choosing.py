"""Candidates of a run: searched for, replayed from a recipe, or (without data) the clean model alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapass.budgeted import OperatingPoint
from adapass.cost.model import Cost, Trust
from adapass.driver.context import Context
from adapass.driver.finals import Build, build_all
from adapass.driver.material import Parts
from adapass.driver.recipe import Decisions
from adapass.errors import RecipeError
from adapass.search.candidates import Candidate, Search
from adapass.search.judge import Judge, spread_indices
from adapass.search.plan import Plan, apply_plan


def clean_candidate(context: Context) -> Candidate:
    """The exact rewrites alone."""
    options = context.plain_options(context.clean)
    return Candidate(Plan(), context.clean, context.stopwatch().seconds(context.clean, options), 0.0)


def search(context: Context, parts: Parts, judge: Judge) -> tuple[list[Candidate], tuple[str, ...]]:
    """Candidates, fastest first, and what was left out and why."""
    effort = context.request.effort
    fit = parts.fit.subset(list(spread_indices(len(parts.fit), effort.fit_samples)))
    work = Search(
        clean=context.clean,
        families=context.families,
        fit=fit,
        damage_samples=fit.subset(list(spread_indices(len(fit), effort.damage_samples))),
        judge=judge,
        watch=context.stopwatch(),
        build=context.plain_options(context.clean),
        max_drop=context.request.max_drop,
        spared_shares=effort.spared_shares,
        knob_bases=effort.knob_bases,
        threads=context.request.threads,
        fingerprint=context.fingerprint,
        store=context.store,
        progress=context.progress,
        out_of_time=context.out_of_time,
    )
    return work.run(), tuple(work.notes)


def replay(context: Context, parts: Parts, decisions: Decisions) -> Candidate:
    """The plan of a recipe, applied and fitted again.

    Raises:
        RecipeError: it turns a knob that the rewritten model does not have.

    """
    fit = parts.fit.subset(list(spread_indices(len(parts.fit), context.request.effort.fit_samples)))
    model = apply_plan(context.clean, decisions.plan, fit=fit, check=[fit.feeds(0)])
    for name in decisions.knobs:
        if name not in model.graph.initializers:
            raise RecipeError(f"the recipe sets knob '{name}', which the rewritten model does not have")
    knobs = {name: np.asarray(numbers, np.float32) for name, numbers in decisions.knobs.items()}
    points = (OperatingPoint(knobs, frozenset(), 0.0, 0.0),) if knobs else ()
    return Candidate(decisions.plan, model, Cost(0.0, Trust.GUESS), 0.0, points)


def finalists(context: Context, candidates: Sequence[Candidate], decisions: Decisions | None) -> list[Build]:
    """Build the fastest candidates, and the exact one, in every variant (of a recipe: in its own).

    Raises:
        RecipeError: the variant a recipe names cannot be built here.

    """
    wanted = list(candidates[: context.request.effort.finalists])
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
    )
    if decisions is None or decisions.variant is None:
        return builds
    named = (decisions.backend, decisions.variant)
    chosen = [build for build in builds if (build.generator.name, build.variant.name) == named]
    if not chosen:
        what = f"backend {named[0]}, variant {named[1]}"
        raise RecipeError(f"the recipe's build ({what}) is not possible for {context.material.target.name}")
    return chosen
