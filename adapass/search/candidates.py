"""The search over all families at once.

    1. what static choices save (timed by kind, in company) and damage (each alone, on samples)
    2. all choices of precision together, measured: corrects what the predictions miss by; then the best plan
       with structural choices (narrower layers, no block), corrected until nothing new comes up
    3. run-time knobs (early exits) fitted once on the clean model, their settings measured
    4. one allocation over both; the best few plans applied, fitted and measured; corrected; planned again

Everything that was measured is kept; the caller races the fastest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from adapass.budgeted import BudgetedPass
from adapass.certify.losses import Metric
from adapass.errors import BudgetError
from adapass.executor import TimeUpError
from adapass.graph.tensors import tensor_bytes
from adapass.progress import Progress
from adapass.search.advisor import Advice, advised_plan
from adapass.search.evolve import evolve
from adapass.search.joint import Chosen, JointProblem, Rates, Schedule, schedules_of, without_statics
from adapass.search.plan import tunes
from adapass.search.pricing import priced_families
from adapass.search.rounds import Rounds
from adapass.search.sized import sized_plans
from adapass.search.statics import StaticOption
from adapass.search.trials import Candidate, Trials, describe

FIT_TIME_SHARE = 0.6
"""Share of the time left that fitting run-time knobs may take."""
CLASS_METRICS = frozenset({Metric.ACCURACY, Metric.AGREEMENT})
SHRINK = 0.5
FIRST_STRUCTURAL = 2
"""Plans with structural choices that are tried before repairs count."""
BOLDER = 3.0
FAR = 100.0
"""The least damage that is looked at, as a share of what was too much."""
CLOSE = 1.15
"""A damage that is too much, and one that is not: nothing in between is looked for when they are as near."""
SURE = 0.7
"""Of the budget, the risk up to which the fastest plan needs no safer ones beside it."""
SAFER_DAMAGES = (0.5, 0.2)
"""Of the damage of the fastest plan, what safer ones may do."""
NO_RATES = Rates(loss_per_damage=0.0)


@dataclass
class Search:
    """``run`` returns candidates within the allowed loss, fastest first."""

    trials: Trials
    families: Sequence[BudgetedPass]
    rounds: Rounds
    progress: Progress
    seed: int = 0
    target_seconds: float | None = None
    """Latency asked for: the safest plan that reaches it is tried as well."""
    max_bytes: float | None = None
    """Change of stored bytes allowed against the clean model."""
    advice: Advice | None = None
    """What worked for similar models: tried before anything that is planned."""
    also_float: bool = False
    """Whether floats can be had faster than they are measured here (in half precision, by another generator):
    then the best plans are tried without precision as well."""
    statics: tuple[StaticOption, ...] = ()
    """What the static families offer; known once the search has run."""
    rates: Rates = NO_RATES
    """From predictions to what was measured; corrected by every plan of static choices alone."""

    def run(self) -> list[Candidate]:
        try:
            self._search()
        except TimeUpError:
            self.trials.notes.append("time limit: fewer plans were tried")
        found = self.trials.found
        self._tell_rejected([c for c in found if not self.trials.keeps(c)])
        within = [c for c in found if self.trials.keeps(c) and self._is_small_enough(c)]
        return sorted(within, key=lambda c: (c.seconds.seconds, describe(c.plan)))

    def _search(self) -> None:
        self.trials.clean()
        self.trials.predictor.anchor(self._clean)
        self.statics = self.priced()
        self._everything()
        self._structural()
        problem = JointProblem(self.statics, self._schedules(), self.rates, self.classes)
        self._first_plans(problem)
        self.try_safest_of_the_size()
        for _ in range(self.rounds.corrections):
            if not self._correct(problem):
                break
        if self.rounds.trials:
            evolve(self.trials, problem, count=self.rounds.trials, seed=self.seed)
        if (best := self._fastest()) is not None:
            self.trials.trimmed(best)
        self.try_safer_plans()
        if self.also_float:
            self._without_precision()

    def try_safer_plans(self) -> None:
        """Less of what is static in the fastest plan: something to ship should that prove too bold."""
        best = self._fastest()
        if best is None or best.risk <= SURE * self.trials.proving.max_drop:
            return
        taken = {choice.key for part in best.plan.parts for choice in part.choices}
        damage = sum(o.damage.additive(classes=self.classes) for o in self.statics if o.choice.key in taken)
        by_damage = Rates(loss_per_damage=1.0, saving_scale=self.rates.saving_scale)
        problem = JointProblem(self.statics, (), by_damage, self.classes)
        knobs = best.plan.knobs
        for share in SAFER_DAMAGES:
            bound = share * damage
            chosen = self._solved(problem, bound, what=f"stays within a damage of {bound:.2g}")
            if chosen is not None and chosen.statics:
                self.trials.try_plan(chosen.statics, None if knobs is None else knobs.step)

    def try_safest_of_the_size(self) -> None:
        """Where a size is asked for: of families that can measure whole plans, the least damage within it."""
        if self.max_bytes is None:
            return
        fit, check = self.trials.evaluations.fit, self.trials.deadline.check
        options = (self._clean, self.statics, self.max_bytes, fit)
        for statics in sized_plans(*options, classes=self.classes, check=check):
            self.trials.try_plan(statics, None)

    def _without_precision(self) -> None:
        """The structural part of the fastest plan, and of the fastest without knobs."""
        static = [c for c in self.trials.found if c.plan.parts and not c.points and self.trials.keeps(c)]
        fastest = min(static, key=lambda c: (c.seconds.seconds, describe(c.plan)), default=None)
        for best in (fastest, self._fastest()):
            if best is None:
                continue
            taken = {choice.key for part in best.plan.parts for choice in part.choices}
            body = [o for o in self.statics if o.step.structural and o.choice.key in taken]
            knobs = best.plan.knobs
            if body or knobs is not None:
                self.trials.try_plan(body, None if knobs is None else knobs.step)

    @property
    def classes(self) -> bool:
        """Whether damage is counted as divergence of class probabilities."""
        return self.trials.judge.metric in CLASS_METRICS

    @property
    def _clean(self) -> ir.Model:
        return self.trials.evaluations.clean

    @property
    def _baseline(self) -> float:
        return self.trials.found[0].seconds.seconds

    def priced(self) -> tuple[StaticOption, ...]:
        """Options of all static families; of none when time for them runs out."""
        return priced_families(self.trials, self.families, sized=self.max_bytes is not None)

    def _everything(self) -> None:
        """Measure the largest static saving; then ever less damage until the loss is within the budget."""
        bound = float("inf")
        for _ in range(1 + self.rounds.repairs):
            options = tuple(option for option in self.statics if not option.step.structural)
            chosen = self._solved(JointProblem(options, (), self.rates, self.classes), bound)
            if chosen is None or not chosen.statics:
                break
            candidate = self.trials.try_plan(chosen.statics, None)
            self._learn_rates(chosen, candidate)
            if candidate is not None and self.trials.keeps(candidate):
                self.trials.predictor.anchor(candidate.model)
                break
            bound = min(SHRINK * bound, self.trials.allowed)

    def _structural(self) -> None:
        """The best static plans by prediction, measured, between a damage too large and one that is not.

        Taking everything out, as ``_everything`` does with precision, would only teach that nothing is left;
        and what single choices damage says little about what many of them lose together.
        """
        if any(option.step.structural for option in self.statics):
            self.bracketed(self.statics)

    def bracketed(self, options: Sequence[StaticOption], fixed: Sequence[StaticOption] = ()) -> None:
        """Try ever bolder plans of ``options`` (and all of ``fixed``), then ones between too bold and not."""
        damages = {o.choice.key: o.damage.additive(classes=self.classes) for o in options}
        low, high, most = self._damage_within(damages, fixed), float("inf"), sum(damages.values())
        bound = BOLDER * low if low > 0.0 else float("inf")
        left = FIRST_STRUCTURAL + self.rounds.repairs
        while left and low * CLOSE < high and low < most:
            by_damage = Rates(loss_per_damage=1.0, saving_scale=self.rates.saving_scale)
            problem = JointProblem(tuple(options), (), by_damage, self.classes)
            chosen = self._solved(problem, bound, what=f"stays within a damage of {bound:.2g}")
            if chosen is None or not chosen.statics:
                return
            chosen = replace(chosen, statics=(*fixed, *chosen.statics))
            if self.trials.was_tried(chosen.statics, None):
                low = max(low, min(bound, most))
            else:
                left -= 1
                candidate = self._try(chosen)
                if candidate is not None and self.trials.keeps(candidate):
                    low = max(low, chosen.loss)
                else:
                    high = min(high, chosen.loss)
            bound = BOLDER * low if high == float("inf") else (max(low, high / FAR) * high) ** 0.5

    def _damage_within(self, damages: Mapping[str, float], fixed: Sequence[StaticOption]) -> float:
        """What plans with all of ``fixed`` that keep the budget damage at most, by the sum of ``damages``."""
        needed, found = {option.choice.key for option in fixed}, [0.0]
        for candidate in self.trials.found:
            keys = {choice.key for part in candidate.plan.parts for choice in part.choices}
            if needed <= keys and self.trials.keeps(candidate) and not candidate.points:
                found.append(sum(damages.get(key, 0.0) for key in keys))
        return max(found)

    def _learn_rates(self, chosen: Chosen, candidate: Candidate | None) -> None:
        """Rates under which the measured plan, static choices alone, would have been predicted right."""
        damage = sum(option.damage.additive(classes=self.classes) for option in chosen.statics)
        saving = sum(option.saving for option in chosen.statics)
        loss_rate, scale = self.rates.loss_per_damage, self.rates.saving_scale
        if candidate is None:  # moved the output further than its family declares: far too much
            worst = 2.0 * self.trials.allowed / damage if damage > 0.0 else loss_rate
            self.rates = Rates(max(worst, loss_rate), scale)
            return
        if damage > 0.0:
            # What is not seen on so many samples is not nothing: half a sample.
            loss_rate = max(candidate.expected_loss, 0.5 / len(self.trials.judge.samples)) / damage
        if saving > 0.0:
            scale = max(self._baseline - candidate.seconds.seconds, 0.0) / saving
        self.rates = Rates(loss_rate, scale)

    def _schedules(self) -> tuple[Schedule, ...]:
        found: list[Schedule] = []
        steps = [step for step in self.families if tunes(step)]
        for place, step in enumerate(steps):
            if step.separable:
                share = FIT_TIME_SHARE / (len(steps) - place)
                self.trials.evaluations.site_fits(step, self.trials.deadline.share(share))
            candidate = self.trials.settle(step)
            if candidate is not None:
                found += schedules_of(step, candidate.points, self._baseline)
        return tuple(found)

    def _first_plans(self, problem: JointProblem) -> None:
        if self.advice is not None:
            self.trials.try_plan(
                *advised_plan(self.advice, self.statics, self.families, classes=self.classes)
            )
        for share in self.rounds.shares:
            now = replace(problem, rates=self.rates)
            self._try(self._solved(now, share * self.trials.allowed))
        self._one_after_the_other(problem)
        if self.target_seconds is not None:
            self._try(self._solved(problem, 0.0, min_saving=self._baseline - self.target_seconds))

    def _one_after_the_other(self, problem: JointProblem) -> None:
        """Knobs on the best static plan: what is predicted must never lose to what one would try by hand."""
        static = [c for c in self.trials.found if c.plan.parts and not c.points]
        within = [c for c in static if self.trials.keeps(c) and self._is_small_enough(c)]
        if not within:
            return
        best = min(within, key=lambda c: (c.seconds.seconds, describe(c.plan)))
        taken = {choice.key for part in best.plan.parts for choice in part.choices}
        body = [option for option in problem.statics if option.choice.key in taken]
        for step in dict.fromkeys(schedule.step for schedule in problem.schedules):
            self.trials.try_plan(body, step)

    def _solved(
        self,
        problem: JointProblem,
        max_loss: float,
        *,
        min_saving: float | None = None,
        what: str | None = None,
    ) -> Chosen | None:
        """The best plan within the bounds; ``None``, and why in the notes, when nothing keeps them."""
        try:
            if min_saving is not None:
                return problem.safest(min_saving)
            return problem.fastest(max_loss, max_bytes=self.max_bytes)
        except BudgetError as error:
            loss = f"keeps a search loss of {100 * max_loss:.2f} points"
            what = what or (loss if min_saving is None else "reaches the latency asked for")
            self.trials.notes.append(f"by prediction no plan {what}: {error}")
            return None

    def _correct(self, problem: JointProblem) -> bool:
        """Plan again with the knobs as they turned out on the best plan; whether something new came up."""
        best = self._fastest()
        knobs = None if best is None else best.plan.knobs
        if best is None or knobs is None:
            return False
        taken = {choice.key for part in best.plan.statics for choice in part.choices}
        body = [option for option in problem.statics if option.choice.key in taken]
        schedules = schedules_of(knobs.step, best.points, self._baseline)
        alone = tuple(without_statics(s, body, self.rates, classes=self.classes) for s in schedules)
        again = replace(problem, schedules=alone, rates=self.rates)
        chosen = self._solved(again, self.trials.allowed)
        if chosen is None or self.trials.was_tried(chosen.statics, chosen.knobs):
            return False
        return self._try(chosen) is not None

    def _try(self, chosen: Chosen | None) -> Candidate | None:
        if chosen is None:
            return None
        candidate = self.trials.try_plan(chosen.statics, chosen.knobs)
        if chosen.knobs is None:
            self._learn_rates(chosen, candidate)
        return candidate

    def _fastest(self) -> Candidate | None:
        within = [c for c in self.trials.found if self.trials.keeps(c) and self._is_small_enough(c)]
        return min(within, key=lambda c: (c.seconds.seconds, describe(c.plan)), default=None)

    def _is_small_enough(self, candidate: Candidate) -> bool:
        if self.max_bytes is None:
            return True
        return tensor_bytes(candidate.model) - tensor_bytes(self._clean) <= self.max_bytes

    def _tell_rejected(self, rejected: Sequence[Candidate]) -> None:
        self.trials.notes.extend(
            f"{c.plan} ({c.seconds.seconds / self._baseline:.2f}x of clean) lost {100 * c.loss:.2f} points "
            f"on the search samples, changed {100 * c.discordance:.1f} % of the verdicts and would "
            f"probably be certified for {100 * c.risk:.2f} points only; the search may spend "
            f"{100 * self.trials.allowed:.2f}"
            for c in rejected
        )
