"""The search over all families at once.

    1. what every static choice saves (measured regions) and damages (measured on samples), each alone
    2. all static choices together, measured: corrects what the predictions miss by
    3. run-time knobs (early exits) fitted once on the clean model, their settings measured
    4. one allocation over both; the best few plans applied, fitted and measured; corrected; planned again

Everything that was measured is kept; the caller races the fastest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from adapass.budgeted import BudgetedPass
from adapass.certify.losses import Metric
from adapass.executor import TimeUpError
from adapass.progress import Progress
from adapass.search.advisor import Advice, advised_plan
from adapass.search.allocate import InfeasibleError
from adapass.search.evaluations import one_setting_a_site
from adapass.search.joint import Chosen, JointProblem, Rates, Schedule, schedules_of, without_statics
from adapass.search.rounds import Rounds
from adapass.search.statics import StaticOption, priced
from adapass.search.trials import Candidate, Trials, tunes

FIT_TIME_SHARE = 0.6
"""Share of the time left that fitting run-time knobs may take."""
CLASS_METRICS = frozenset({Metric.ACCURACY, Metric.AGREEMENT})
SHRINK = 0.5


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
    statics: tuple[StaticOption, ...] = ()
    """What the static families offer; known once the search has run."""

    def run(self) -> list[Candidate]:
        try:
            self._search()
        except TimeUpError:
            self.trials.notes.append("time limit: fewer plans were tried")
        found = self.trials.found
        self._tell_rejected([c for c in found if c.loss > self.trials.allowed])
        within = [c for c in found if c.loss <= self.trials.allowed]
        return sorted(within, key=lambda c: c.seconds.seconds)

    def _search(self) -> None:
        self.trials.clean()
        self.trials.predictor.anchor(self._clean)
        self.statics = self._priced()
        rates = self._everything(self.statics)
        problem = JointProblem(self.statics, self._schedules(), rates, self._classes)
        self._first_plans(problem)
        for _ in range(self.rounds.corrections):
            if not self._correct(problem):
                break
        if self.rounds.trials:
            from adapass.search.evolve import evolve

            evolve(self.trials, problem, count=self.rounds.trials, seed=self.seed)
        if (best := self._fastest()) is not None:
            self.trials.trimmed(best)

    @property
    def _classes(self) -> bool:
        return self.trials.judge.metric in CLASS_METRICS

    @property
    def _clean(self) -> ir.Model:
        return self.trials.evaluations.clean

    @property
    def _baseline(self) -> float:
        return self.trials.found[0].seconds.seconds

    def _priced(self) -> tuple[StaticOption, ...]:
        options: list[StaticOption] = []
        for step in self.families:
            choices = () if tunes(step) else one_setting_a_site(step, self._clean)
            if choices:
                damages = self.trials.evaluations.damages(step, choices)
                options += priced(self._clean, step, choices, damages, self._saving, self._pricing)
        return tuple(options)

    def _saving(self, changed: ir.Model) -> float:
        self.trials.deadline.check()
        return self.trials.predictor.saving(self._clean, changed).seconds

    def _pricing(self, done: int, total: int) -> None:
        self.progress.step(done, total, "price choices")

    def _everything(self, statics: tuple[StaticOption, ...]) -> Rates:
        """Measure the largest static saving; then ever less damage until the loss is within the budget."""
        rates, bound = Rates(loss_per_damage=0.0), float("inf")
        for _ in range(1 + self.rounds.repairs):
            chosen = JointProblem(statics, (), rates, self._classes).fastest(bound)
            if not chosen.statics:
                break
            candidate = self.trials.try_plan(chosen.statics, None)
            rates = self._corrected(rates, chosen, candidate)
            if candidate is not None and candidate.loss <= self.trials.allowed:
                self.trials.predictor.anchor(candidate.model)
                break
            bound = min(SHRINK * bound, self.trials.allowed)
        return rates

    def _corrected(self, rates: Rates, chosen: Chosen, candidate: Candidate | None) -> Rates:
        """Rates under which the measured plan would have been predicted right."""
        damage = sum(option.damage.additive(classes=self._classes) for option in chosen.statics)
        saving = sum(option.saving for option in chosen.statics)
        if damage <= 0.0:
            return rates
        if candidate is None:  # moved the output further than its family declares: far too much
            return replace(
                rates, loss_per_damage=max(2.0 * self.trials.allowed / damage, rates.loss_per_damage)
            )
        # What is not seen on so many samples is not nothing: half a sample.
        loss = max(candidate.loss, 0.5 / len(self.trials.judge.samples))
        saved = self._baseline - candidate.seconds.seconds
        scale = saved / saving if saving > 0.0 and saved > 0.0 else rates.saving_scale
        return Rates(loss / damage, scale)

    def _schedules(self) -> tuple[Schedule, ...]:
        found: list[Schedule] = []
        for step in self.families:
            if not tunes(step):
                continue
            if step.separable:
                evaluations = self.trials.evaluations
                evaluations.site_fits(step, self.trials.deadline.share(FIT_TIME_SHARE))
            candidate = self.trials.try_plan((), step)
            if candidate is not None:
                found += schedules_of(step, candidate.points, self._baseline)
        return tuple(found)

    def _first_plans(self, problem: JointProblem) -> None:
        if self.advice is not None:
            self.trials.try_plan(
                *advised_plan(self.advice, self.statics, self.families, classes=self._classes)
            )
        for share in self.rounds.shares:
            self._try(problem.fastest(share * self.trials.allowed, max_bytes=self.max_bytes))
        if self.target_seconds is None:
            return
        try:
            chosen = problem.safest(self._baseline - self.target_seconds)
        except InfeasibleError as error:
            self.trials.notes.append(f"the latency asked for is predicted to be out of reach: {error}")
        else:
            self._try(chosen)

    def _correct(self, problem: JointProblem) -> bool:
        """Plan again with the knobs as they turned out on the best plan; whether something new came up."""
        best = self._fastest()
        if best is None or not best.points:
            return False
        taken = {choice.key for part in best.plan.parts[1:] for choice in part.choices}
        body = [option for option in problem.statics if option.choice.key in taken]
        step = best.plan.parts[0].step
        schedules = schedules_of(step, best.points, self._baseline)
        alone = tuple(without_statics(s, body, problem.rates, classes=self._classes) for s in schedules)
        chosen = replace(problem, schedules=alone).fastest(self.trials.allowed, max_bytes=self.max_bytes)
        if self.trials.was_tried(chosen.statics, chosen.knobs):
            return False
        return self._try(chosen) is not None

    def _try(self, chosen: Chosen) -> Candidate | None:
        return self.trials.try_plan(chosen.statics, chosen.knobs)

    def _fastest(self) -> Candidate | None:
        within = [c for c in self.trials.found if c.loss <= self.trials.allowed]
        return min(within, key=lambda c: c.seconds.seconds, default=None)

    def _tell_rejected(self, rejected: Sequence[Candidate]) -> None:
        self.trials.notes.extend(
            f"{c.plan} ({c.seconds.seconds / self._baseline:.2f}x of clean) lost {100 * c.loss:.2f} points "
            f"on the search samples; the search may spend {100 * self.trials.allowed:.2f}"
            for c in rejected
        )
