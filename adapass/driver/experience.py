"""What runs leave behind for later ones: which recipe won for which kind of model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from adapass.driver.context import Context
from adapass.driver.latency_table import LatencyTable
from adapass.graph.digest import digest
from adapass.search.advisor import Advice, ModelFeatures, advise, features_of, outcome_of, remember
from adapass.search.candidates import Search
from adapass.search.judge import Judge
from adapass.search.plan import Plan


@dataclass
class Experience:
    """Of earlier runs, for this one, and of this one for later ones."""

    context: Context
    judge: Judge

    def advice(self) -> Advice | None:
        """What similar models suggest; nothing where a run must repeat, or the user does not want it."""
        if not self._learns:
            return None
        names = [str(step) for step in self.context.families]
        return advise(self.context.cache, self._features, families=names, machine=self.context.machine)

    def learn(self, work: Search, plan: Plan, ratio: float, loss: float) -> None:
        """Remember which plan won (the empty one: none did), by what measured ratio."""
        context = self.context
        if not self._learns or not context.device_present or context.request.max_drop <= 0.0:
            return
        tried = tuple(dict.fromkeys(part.step for c in work.trials.found for part in c.plan.parts))
        outcome = outcome_of(plan, work.statics, tried, ratio=ratio, search_loss=loss)
        model = digest(context.material.model)
        remember(context.cache, self._features, outcome, model=model, machine=context.machine)

    @property
    def _learns(self) -> bool:
        request = self.context.request
        return request.advise and not request.dry_run and not isinstance(self.context.cache, LatencyTable)

    @cached_property
    def _features(self) -> ModelFeatures:
        request = self.context.request
        return features_of(
            self.context.clean,
            target=request.target,
            generator=self.context.primary.name,
            threads=request.threads,
            batch=request.batch,
            max_drop=request.max_drop,
            metric=self.judge.metric.value,
        )
