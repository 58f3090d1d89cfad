"""Trials: a plan applied, fitted, tuned and judged on the search samples. Each plan is tried once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, BudgetedPass, Feeds, OperatingPoint, Samples, Span
from adapass.cost.model import Cost
from adapass.cost.predict import Predictor
from adapass.generator import Options
from adapass.graph.digest import structure_key
from adapass.progress import Progress
from adapass.search.deadline import Deadline
from adapass.search.evaluations import Evaluations, one_setting_a_site
from adapass.search.joint import beside, plan_of
from adapass.search.judge import Judge
from adapass.search.plan import Part, Plan
from adapass.search.risk import bound_of, cautious, discordance, expected_bound
from adapass.search.statics import StaticOption
from adapass.search.stopwatch import Stopwatch


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
    discordance: float = 0.0
    """Share of the verdicts on the search samples that change, knobs neutral."""
    risk: float = 0.0
    """The drop that certification is expected to bound it by, knobs neutral; 0 for exact rewrites."""
    point_risks: tuple[float, ...] = ()
    """The same at each of ``points``."""

    def settings(self) -> Iterator[tuple[OperatingPoint | None, float, float]]:
        """Every setting with its expected seconds and its risk; of a model with knobs those of its path."""
        if not self.points:
            yield None, self.seconds.seconds, self.risk
        for point, risk in zip(self.points, self.point_risks, strict=True):
            yield point, point.expected_seconds, risk

    @property
    def expected_loss(self) -> float:
        """Without what may have been luck."""
        return cautious(self.loss, self.discordance)


@dataclass(frozen=True, slots=True)
class Proving:
    """What candidates will have to pass."""

    max_drop: float
    samples: int
    """Of the certify part."""
    confidence: float = 0.95


BOLDEST = 1.25
"""Of the budget, what a plan that is worth a try may be expected to be bounded by: safer ones go first."""
LEAST_SHARE = 0.1
"""Of a measured part, when less than nothing would be left of it."""


@dataclass
class Trials:
    """Tries plans and keeps what came out."""

    evaluations: Evaluations
    judge: Judge
    watch: Stopwatch
    predictor: Predictor
    build: Options
    """The plain variant latencies are measured with."""
    allowed: float
    """Mean loss that settings of knobs may have on the search samples."""
    proving: Proving
    deadline: Deadline
    progress: Progress
    base: Candidate | None = None
    """What the search begins with where that is no exact rewrite of the original: a healed model."""
    found: list[Candidate] = field(default_factory=list[Candidate])
    notes: list[str] = field(default_factory=list[str])
    tried: dict[str, Candidate | None] = field(default_factory=dict[str, "Candidate | None"])
    """By ``describe(plan)``; ``None``: too lossy, or its knobs do not pay."""
    settled: dict[str, Candidate] = field(default_factory=dict[str, Candidate])
    """By the text of a knob family: its best candidate on the clean model."""

    def clean(self) -> Candidate:
        """The clean model itself, or the healed one the search begins with; measured once."""
        if (known := self.tried.get(describe(Plan()))) is not None:
            return known
        if self.base is not None:
            return self._keep(Plan(), replace(self.base, plan=Plan()))
        model = self.evaluations.clean
        return self._keep(Plan(), Candidate(Plan(), model, self.watch.seconds(model, self.build), 0.0))

    def try_plan(self, statics: Sequence[StaticOption], knobs: BudgetedPass | None) -> Candidate | None:
        """The candidate, ``None`` when the plan is too lossy, or when none of its knobs pays.

        Raises:
            TimeUpError: the deadline passed; nothing is kept of this plan.

        """
        part = None if knobs is None else self._sites_beside(statics, knobs)
        if knobs is not None and part is None:
            return None
        return self._try(plan_of(statics, part))

    def trimmed(self, candidate: Candidate) -> Candidate:
        """The same plan without the sites that do nothing at its boldest setting."""
        knobs = candidate.plan.knobs
        if not candidate.points or knobs is None:
            return candidate
        kept = tuple(choice for choice in knobs.choices if choice.site in candidate.points[-1].sites)
        if not kept or kept == knobs.choices:
            return candidate
        parts = [Part(p.step, kept) if p is knobs else p for p in candidate.plan.parts]
        return self._try(Plan(tuple(parts))) or candidate

    def keeps(self, candidate: Candidate) -> bool:
        """Whether a candidate has a chance to be certified; settings of knobs are tried one by one anyway."""
        if candidate.points and candidate.loss > self.allowed:
            return False
        return candidate.loss <= self.proving.max_drop and candidate.risk <= BOLDEST * self.proving.max_drop

    def settle(self, knobs: BudgetedPass) -> Candidate | None:
        """Try a knob family on the clean model; later plans use only the sites that did something there.

        A site that does nothing still costs its part of the way to the next one.
        """
        everywhere = self.try_plan((), knobs)
        if everywhere is None:
            return None
        trimmed = self.trimmed(everywhere)
        best = min((everywhere, trimmed), key=lambda c: c.seconds.seconds)
        self.settled[str(knobs)] = best
        return best

    def seconds(self, question: str, models: Mapping[str, ir.Model]) -> Mapping[str, float]:
        """Mean seconds of a call of each model, timed in turns; modelled where the device is not here."""
        watch = self.watch
        if not watch.measures:
            return {name: watch.seconds(model, self.build).seconds for name, model in models.items()}
        content = f"{question}|{structure_key(self.evaluations.clean)}"
        return watch.together(content, lambda: models, watch.feeds, self.build)

    @property
    def services(self) -> SearchServices:
        """What families tune with."""
        call = self.predictor.call_seconds
        return SearchServices(self.judge, self.watch, self.build, self.deadline, call)

    def was_tried(self, statics: Sequence[StaticOption], knobs: BudgetedPass | None) -> bool:
        part = None if knobs is None else self._sites_beside(statics, knobs)
        return describe(plan_of(statics, part)) in self.tried

    def _try(self, plan: Plan) -> Candidate | None:
        if describe(plan) in self.tried:
            return self.tried[describe(plan)]
        self.deadline.check()
        model = self.evaluations.fitted([plan])[0]
        if isinstance(model, str):
            self.notes.append(f"{plan} was dropped: it {model}")
            self.tried[describe(plan)] = None
            return None
        knobs = plan.knobs
        candidate = self._judged(plan, model) if knobs is None else self._tuned(plan, knobs, model)
        if candidate is None:
            self.tried[describe(plan)] = None
            return None
        return self._keep(plan, candidate)

    def _judged(self, plan: Plan, model: ir.Model) -> Candidate:
        losses = self.judge.losses(self.evaluations.outputs(model))
        self.deadline.check()
        seconds = self.watch.seconds(model, self.build)
        risk = self.risk(losses)
        return Candidate(plan, model, seconds, float(np.mean(losses)), (), discordance(losses), risk)

    def risk(self, losses: npt.NDArray[np.float64]) -> float:
        """The bound that certification is expected to give."""
        return expected_bound(losses, samples=self.proving.samples, confidence=self.proving.confidence)

    def _tuned(self, plan: Plan, knobs: Part, model: ir.Model) -> Candidate | None:
        step = knobs.step
        services = self.services
        judged = f"{self.judge.metric}|{self.judge.threshold}|{self.allowed}"
        timed = self.watch.key("", self.watch.feeds, self.build).to_json()
        known = self._known(knobs)
        before = [{name: np.asarray(value).tolist() for name, value in p.knobs.items()} for p in known]
        entry = self.evaluations.points(model, f"{step}|{judged}|{timed}|{before}")
        points = entry.get(lambda: step.tune(model, services, self.allowed, known=known))
        if not points:
            self.notes.append(f"{plan}: no setting of its knobs is both faster and within the budget")
            return None
        boldest = points[-1]
        expected = self.predictor.estimate(model, taken=_taken(boldest))
        # A family adds up its own pieces; the predictor knows what the whole costs beside them.
        factor = expected.seconds / boldest.expected_seconds
        points = tuple(replace(p, expected_seconds=factor * p.expected_seconds) for p in points)
        cost = Cost(expected.seconds, expected.trust)
        risks = tuple(self._point_risk(point) for point in points)
        if len(plan.parts) == 1 and self.base is None:
            return Candidate(plan, model, cost, boldest.loss, points, point_risks=risks)
        losses = self.judge.losses(self.evaluations.outputs(model))  # as built, knobs are neutral
        changed, risk = discordance(losses), self.risk(losses)
        return Candidate(plan, model, cost, boldest.loss, points, changed, risk, risks)

    def _point_risk(self, point: OperatingPoint) -> float:
        proving = self.proving
        return bound_of(point.loss, point.changed, samples=proving.samples, confidence=proving.confidence)

    def _known(self, part: Part) -> tuple[OperatingPoint, ...]:
        """Settings found on the clean model, if it has the same sites."""
        settled = self.settled.get(str(part.step))
        return settled.points if settled is not None and settled.plan.knobs == part else ()

    def _keep(self, plan: Plan, candidate: Candidate) -> Candidate:
        self.tried[describe(plan)] = candidate
        self.found.append(candidate)
        if plan.parts:
            share = candidate.seconds.seconds / self.found[0].seconds.seconds
            points = f"search loss {100 * candidate.loss:+.2f} points"
            self.progress.best(f"{plan}: {share:.2f}x of clean, {points}")
        return candidate

    def _sites_beside(self, statics: Sequence[StaticOption], knobs: BudgetedPass) -> Part | None:
        part = self._every_site(knobs)
        return None if part is None else beside(part, statics)

    def _every_site(self, knobs: BudgetedPass) -> Part | None:
        """Of a separable family the sites that are fitted by now; of a settled one those that pay."""
        if str(knobs) in self.settled:
            return self.settled[str(knobs)].plan.knobs
        choices = one_setting_a_site(knobs, self.evaluations.clean)
        if choices and knobs.separable:
            fitted = self.evaluations.site_fits(knobs)
            choices = tuple(choice for choice in choices if choice.site in fitted)
        return Part(knobs, choices) if choices else None


def _taken(point: OperatingPoint) -> npt.NDArray[np.int64] | None:
    """Exits taken by as many samples as show the shares to a thousandth."""
    if not point.leaves:
        return None
    counts = np.rint(1000.0 * np.asarray(point.leaves)).astype(np.int64)
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def describe(plan: Plan) -> str:
    """Equal for equal plans."""
    return repr([(str(part.step), [choice.key for choice in part.choices]) for part in plan.parts])


@dataclass(frozen=True, slots=True)
class SearchServices:
    """See ``adapass.budgeted.Services``. Taking samples and measuring look at the clock."""

    judge: Judge
    watch: Stopwatch
    build: Options
    deadline: Deadline
    call_seconds: float
    """What a call costs that computes nothing."""

    @property
    def samples(self) -> Samples:
        return _Watched(self.judge.samples, self.deadline.check)

    def losses(self, output: Array) -> npt.NDArray[np.float64]:
        return self.judge.losses(output)

    def seconds(self, model: ir.Model, spans: Sequence[Span]) -> list[float]:
        """Without what a call of the runtime costs: parts of one model share it."""
        alone = [cost.seconds for cost in self.watch.pieces(model, spans, self.build)]
        return [max(seconds - self.call_seconds, LEAST_SHARE * seconds) for seconds in alone]


@dataclass(frozen=True, slots=True)
class _Watched:
    """Samples that look at the clock whenever some are taken."""

    samples: Samples
    check: Callable[[], None]

    def __len__(self) -> int:
        return len(self.samples)

    def feeds(self, index: int) -> Feeds:
        self.check()
        return self.samples.feeds(index)

    def batch(self, indices: Sequence[int]) -> Feeds:
        self.check()
        return self.samples.batch(indices)

    @property
    def labels(self) -> Array | None:
        return self.samples.labels
