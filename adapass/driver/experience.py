"""What runs leave behind for later ones: which recipe won for which kind of model."""

from __future__ import annotations

from adapass.driver.context import Context
from adapass.driver.latency_table import LatencyTable
from adapass.graph.digest import digest
from adapass.search.advisor import Advice, ModelFeatures, advise, features_of, outcome_of, remember
from adapass.search.candidates import Search
from adapass.search.judge import Judge
from adapass.search.plan import Plan


def advice_for(context: Context, judge: Judge) -> Advice | None:
    """What similar models suggest; nothing where a run must repeat, or the user does not want it."""
    if not _learns(context):
        return None
    names = [str(step) for step in context.families]
    return advise(context.cache, _features(context, judge), families=names, machine=context.machine)


def learn(context: Context, judge: Judge, work: Search, plan: Plan, ratio: float, loss: float) -> None:
    """Remember which plan won (the empty one: none did), by what measured ratio."""
    if not _learns(context) or not context.device_present or context.request.max_drop <= 0.0:
        return
    families = {str(step): step for step in work.families}
    tried = [
        families[str(p.step)] for c in work.trials.found for p in c.plan.parts if str(p.step) in families
    ]
    outcome = outcome_of(plan, work.statics, tried, ratio=ratio, search_loss=loss)
    features, model = _features(context, judge), digest(context.material.model)
    remember(context.cache, features, outcome, model=model, machine=context.machine)


def _learns(context: Context) -> bool:
    request = context.request
    return request.advise and not request.dry_run and not isinstance(context.cache, LatencyTable)


def _features(context: Context, judge: Judge) -> ModelFeatures:
    request = context.request
    return features_of(
        context.clean,
        target=request.target,
        generator=context.primary.name,
        threads=request.threads,
        batch=request.batch,
        max_drop=request.max_drop,
        metric=judge.metric.value,
    )
