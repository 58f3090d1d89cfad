"""Candidates: plans applied, fitted and judged on search data.

Two rounds. Static families (precision, later pruning) give bases: all their choices, then all but
the most damaging ones. Families with run-time knobs (early exits) are put on the clean model and on
the best bases, so both are chosen together: which exits pay depends on how fast the rest became.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, BudgetedPass, Choice, OperatingPoint, Samples
from adapass.cost.model import Cost
from adapass.facts import FactCache
from adapass.generator import Options
from adapass.graph.digest import digest
from adapass.pipeline import TooLossyError
from adapass.progress import Progress
from adapass.search.damage import damages, levels
from adapass.search.judge import Judge, predict
from adapass.search.plan import Part, Plan, apply_plan
from adapass.search.stopwatch import Stopwatch
from adapass.search.store import Store

CHECKED_FEEDS = 3
SEARCH_SHARE = 0.4
"""Share of the budget the search may spend. What is tuned on samples loses up to twice as much on fresh
ones, and the finite-sample bound needs room as well."""
MORE_SPARED_SHARES = (0.5, 0.7, 0.85, 0.95)
"""Tried in turn when all the usual levels lose too much."""
STATIC_SHARE = 0.6
"""Share of that which static choices may spend where knobs are to be turned on top of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A fitted model, its settings from safest to most aggressive, and what is known of them."""

    plan: Plan
    model: ir.Model
    seconds: Cost
    """Expected mean latency at the most aggressive setting."""
    loss: float
    """Mean paired loss on the search samples there."""
    points: tuple[OperatingPoint, ...] = ()


@dataclass
class Search:
    """Everything the search works with. ``run`` returns candidates, fastest first."""

    clean: ir.Model
    families: Sequence[BudgetedPass]
    fit: Samples
    damage_samples: Samples
    judge: Judge
    watch: Stopwatch
    build: Options
    """The plain variant latencies are measured with."""
    max_drop: float
    spared_shares: Sequence[float]
    knob_bases: int
    threads: int
    fingerprint: str
    """Of the data and the seed: part of every key of the store."""
    store: Store
    progress: Progress
    out_of_time: Callable[[], bool]
    notes: list[str] = field(default_factory=list[str])

    def run(self) -> list[Candidate]:
        allowed = SEARCH_SHARE * self.max_drop
        bases = [self._clean_candidate(), *self._static(allowed)]
        within = [c for c in bases if c.loss <= allowed]
        self._tell_rejected([c for c in bases if c.loss > allowed])
        found = within + [c for base in self._worth_knobs(within) for c in self._adaptive(base, allowed)]
        return sorted(found, key=lambda c: c.seconds.seconds)

    def _clean_candidate(self) -> Candidate:
        return Candidate(Plan(), self.clean, self.watch.seconds(self.clean, self.build), 0.0)

    def _static(self, allowed: float) -> Iterator[Candidate]:
        for step in self.families:
            choices = () if has_knobs(step) else self._usable(step, self.clean)
            if choices:
                yield from self._levels(step, choices, allowed)

    def _levels(self, step: BudgetedPass, choices: Sequence[Choice], allowed: float) -> Iterator[Candidate]:
        """All choices, then all but the most damaging ones; ever fewer while everything loses too much."""
        damage = self._damage(step, choices)
        usual = len(self.spared_shares)
        within = False
        for number, level in enumerate(levels(choices, damage, (*self.spared_shares, *MORE_SPARED_SHARES))):
            if number >= usual and within:
                return
            if self.out_of_time():
                self.notes.append(f"time limit: fewer settings of {step.name} were tried")
                return
            candidate = self._static_candidate(Plan((Part(step, level),)))
            if candidate is not None:
                within |= candidate.loss <= allowed
                yield candidate

    def _static_candidate(self, plan: Plan) -> Candidate | None:
        try:
            model = self._fitted(self.clean, plan)
        except TooLossyError as error:
            self.notes.append(f"{plan} was dropped: it {error.why}")
            return None
        loss = float(np.mean(self.judge.losses(self._predict(model))))
        candidate = Candidate(plan, model, self.watch.seconds(model, self.build), loss)
        self._tell(candidate)
        return candidate

    def _tell_rejected(self, rejected: Sequence[Candidate]) -> None:
        baseline = self.watch.seconds(self.clean, self.build).seconds
        self.notes.extend(
            f"{c.plan} ({c.seconds.seconds / baseline:.2f}x of clean) lost {100 * c.loss:.2f} points on the "
            f"search samples; the search may spend {100 * SEARCH_SHARE * self.max_drop:.2f}"
            for c in rejected
        )

    def _worth_knobs(self, bases: Sequence[Candidate]) -> list[Candidate]:
        """The fastest bases that leave room in the budget for knobs; the clean model when none does."""
        roomy = [c for c in bases if c.loss <= STATIC_SHARE * SEARCH_SHARE * self.max_drop]
        return sorted(roomy, key=lambda c: c.seconds.seconds)[: self.knob_bases]

    def _adaptive(self, base: Candidate, allowed: float) -> Iterator[Candidate]:
        for step in self.families:
            if not has_knobs(step):
                continue
            if self.out_of_time():
                self.notes.append("time limit: fewer settings of run-time knobs were tried")
                return
            choices = self._usable(step, base.model)
            candidate = self._tuned(base, step, choices, allowed) if choices else None
            if candidate is not None:
                self._tell(candidate)
                yield candidate

    def _tuned(
        self, base: Candidate, step: BudgetedPass, choices: tuple[Choice, ...], allowed: float
    ) -> Candidate | None:
        """Fit all sites, see which ones pay, then fit and tune again with those alone."""
        everywhere = self._round(base, Part(step, choices), allowed)
        if everywhere is None:
            return None
        used = tuple(c for c in choices if c.site in everywhere.points[-1].sites)
        if not used or used == choices:
            return everywhere
        return self._round(base, Part(step, used), allowed) or everywhere

    def _round(self, base: Candidate, part: Part, allowed: float) -> Candidate | None:
        model = self._fitted(base.model, Plan((part,)))
        points = part.step.tune(model, _SearchServices(self, model), allowed)
        if not points:
            return None
        seconds = Cost(points[-1].expected_seconds, base.seconds.trust)
        return Candidate(base.plan.with_part(part), model, seconds, points[-1].loss, points)

    def _usable(self, step: BudgetedPass, model: ir.Model) -> tuple[Choice, ...]:
        """One setting a site, the first one whose results do not depend on the neighbours in a batch."""
        first: dict[str, Choice] = {}
        for choice in step.propose(model, FactCache(model)).choices:
            if choice.batch_invariant:
                first.setdefault(choice.site, choice)
        return tuple(first.values())

    def _damage(self, step: BudgetedPass, choices: Sequence[Choice]) -> dict[str, float]:
        def compute() -> dict[str, float]:
            report = self.progress.step
            return damages(
                self.clean, step, choices, fit=self.fit, samples=self.damage_samples, report=report
            )

        key = f"{digest(self.clean)}|{step}|{[c.key for c in choices]}|{self.fingerprint}"
        return self.store.values("damage", key, compute)

    def _fitted(self, model: ir.Model, plan: Plan) -> ir.Model:
        described = [(str(part.step), [c.key for c in part.choices]) for part in plan.parts]
        key = f"{digest(model)}|{described}|{self.fingerprint}"
        check = [self.fit.feeds(i) for i in range(min(CHECKED_FEEDS, len(self.fit)))]
        return self.store.model("fitted", key, lambda: apply_plan(model, plan, fit=self.fit, check=check))

    def _predict(self, model: ir.Model) -> Array:
        key = f"{digest(model)}|{self.fingerprint}"
        return self.store.array(
            "outputs", key, lambda: predict(model, self.judge.samples, threads=self.threads)
        )

    def _tell(self, candidate: Candidate) -> None:
        baseline = self.watch.seconds(self.clean, self.build).seconds
        self.progress.best(
            f"{candidate.plan}: {candidate.seconds.seconds / baseline:.2f}x of clean, "
            f"search loss {100 * candidate.loss:+.2f} points"
        )


@dataclass(frozen=True, slots=True)
class _SearchServices:
    """See ``adapass.budgeted.Services``."""

    search: Search
    model: ir.Model

    @property
    def samples(self) -> Samples:
        return self.search.judge.samples

    def losses(self, output: Array) -> npt.NDArray[np.float64]:
        return self.search.judge.losses(output)

    def seconds(self, model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> float:
        return self.search.watch.piece(model, inputs, outputs, self.search.build).seconds


def has_knobs(step: BudgetedPass) -> bool:
    """Whether the family can be tuned at run time."""
    return type(step).tune is not BudgetedPass.tune
