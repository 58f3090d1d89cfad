"""One problem over all families: static choices, and schedules of run-time knobs (early exits).

A schedule is one setting of the knobs: what it saves and loses was measured on the clean model. What a
static choice saves at a depth that only a share of the samples reaches counts with that share: an
interaction between the choice and the schedule. Damage of static choices is turned into expected loss by
one factor, corrected whenever a plan has been measured; so is their saving.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from adapass.budgeted import BudgetedPass, OperatingPoint
from adapass.search.allocate import Allocation, Interaction, Option, Problem, maximize_saving, minimize_damage
from adapass.search.plan import Part, Plan
from adapass.search.statics import StaticOption, overlap
from adapass.search.structural import decides_by_data

MAX_SCHEDULES = 8
KNOBS = "run-time knobs"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A setting of the knobs of a family."""

    step: BudgetedPass
    point: OperatingPoint
    saving: float
    """Seconds against the model without knobs, static choices the same."""

    def reach(self, depth: float) -> float:
        """Share of the samples that do the work at ``depth``."""
        shares = [share for place, share in self.point.reach if place <= depth]
        return shares[-1] if shares else 1.0


@dataclass(frozen=True, slots=True)
class Rates:
    """What turns predictions into what was measured."""

    loss_per_damage: float
    saving_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Chosen:
    """A solution: which static options, which knob family if any, and what that is predicted to do."""

    statics: tuple[StaticOption, ...]
    schedule: Schedule | None
    saving: float
    loss: float

    @property
    def knobs(self) -> BudgetedPass | None:
        return None if self.schedule is None else self.schedule.step


@dataclass(frozen=True, slots=True)
class JointProblem:
    """Everything known so far, ready to be solved at any bound."""

    statics: tuple[StaticOption, ...]
    schedules: tuple[Schedule, ...]
    rates: Rates
    classes: bool
    """Whether damage is counted as divergence of class probabilities."""

    def fastest(self, max_loss: float, *, max_bytes: float | None = None) -> Chosen:
        """The largest predicted saving at a predicted loss of at most ``max_loss``."""
        limits = {} if max_bytes is None else {"bytes": max_bytes}
        return self._chosen(maximize_saving(self.possible().problem, max_damage=max_loss, limits=limits))

    def safest(self, min_saving: float) -> Chosen:
        """The least predicted loss that saves at least so many seconds.

        Raises:
            InfeasibleError: nothing saves as much.

        """
        return self._chosen(minimize_damage(self.possible().problem, min_saving=min_saving))

    @property
    def problem(self) -> Problem:
        options = [
            Option(
                option.key,
                option.slot,
                self._saving(option),
                self._loss(option),
                {"bytes": -float(option.saved_bytes)},
            )
            for option in self.statics
        ]
        options += [
            Option(_key(i), KNOBS, s.saving, max(s.point.loss, 0.0)) for i, s in enumerate(self.schedules)
        ]
        return Problem(
            tuple(options),
            exclusions=tuple(self._exclusions()),
            implications=tuple(self._implications()),
            interactions=tuple(self._interactions()),
        )

    def _interactions(self) -> Iterator[Interaction]:
        for index, schedule in enumerate(self.schedules):
            for option in self.statics:
                lost = self._saving(option) * (1.0 - schedule.reach(option.depth))
                if lost != 0.0:
                    yield Interaction(_key(index), option.key, saving=-lost)

        for one, other in self._meeting():
            yield Interaction(one.key, other.key, saving=-overlap(one, other) * self._saving(other))

    def _meeting(self) -> Iterator[tuple[StaticOption, StaticOption]]:
        """Pairs of which the first, a structural one, takes away some of what the second saves."""
        structural = [option for option in self.statics if option.effect is not None]
        others = [option for option in self.statics if option.effect is None]
        for index, one in enumerate(structural):
            for other in (*structural[index + 1 :], *others):
                if one.slot != other.slot and overlap(one, other) > 0.0:
                    yield one, other

    def _exclusions(self) -> Iterator[tuple[str, str]]:
        seen: set[frozenset[str]] = set()
        for option in self.statics:
            for other in self._named(option.choice.excludes):
                pair = frozenset((option.key, other.key))
                if other.slot != option.slot and pair not in seen:
                    seen.add(pair)
                    yield option.key, other.key
        for one, other in self._meeting():
            pair = frozenset((one.key, other.key))
            if (
                max(overlap(one, other), overlap(other, one)) >= 1.0 and pair not in seen
            ):  # nothing is left to choose it for
                seen.add(pair)
                yield one.key, other.key

    def _implications(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        for option in self.statics:
            if option.choice.needs:
                yield option.key, tuple(o.key for o in self._named(option.choice.needs))

    def _named(self, pairs: frozenset[tuple[str, str]]) -> list[StaticOption]:
        if not pairs:
            return []
        return [o for o in self.statics if (o.choice.family, o.choice.site) in pairs]

    def possible(self) -> JointProblem:
        """Without options that need something nobody offers."""
        kept = tuple(o for o in self.statics if not o.choice.needs or self._named(o.choice.needs))
        return self if kept == self.statics else replace(self, statics=kept).possible()

    def allows(self, statics: Sequence[StaticOption]) -> bool:
        """Whether these can be chosen together."""
        return self.problem.allows([option.key for option in statics])

    def _saving(self, option: StaticOption) -> float:
        return option.saving * self.rates.saving_scale

    def _loss(self, option: StaticOption) -> float:
        return option.damage.additive(classes=self.classes) * self.rates.loss_per_damage

    def _chosen(self, allocation: Allocation) -> Chosen:
        taken = frozenset(allocation.chosen)
        schedules = [s for index, s in enumerate(self.schedules) if _key(index) in taken]
        return Chosen(
            tuple(option for option in self.statics if option.key in taken),
            schedules[0] if schedules else None,
            allocation.saving,
            allocation.damage,
        )


def plan_of(statics: Sequence[StaticOption], knobs: Part | None) -> Plan:
    """What leaves out work by the data, knobs, what else is structural, precision: in this order.

    Tokens are followed to the end of the model, where later there are exits. Heads of exits were fitted on
    the clean model, and what comes later leaves them alone. Fits of structural choices see floats, and
    scales are taken of what is left.
    """
    ordered = sorted(statics, key=lambda option: not option.step.structural)
    steps = dict.fromkeys(option.step for option in ordered)
    parts = [Part(step, tuple(o.choice for o in statics if o.step == step)) for step in steps]
    first = [part for part in parts if decides_by_data(part.step)]
    rest = [part for part in parts if not decides_by_data(part.step)]
    return Plan((*first, *(() if knobs is None else (knobs,)), *rest))


def beside(knobs: Part, statics: Sequence[StaticOption]) -> Part | None:
    """What is left of ``knobs`` without the sites that ``statics`` exclude; ``None``: nothing."""
    hidden = frozenset(pair for option in statics for pair in option.choice.excludes)
    left = tuple(choice for choice in knobs.choices if (choice.family, choice.site) not in hidden)
    return Part(knobs.step, left) if left else None


def schedules_of(step: BudgetedPass, points: Sequence[OperatingPoint], seconds: float) -> list[Schedule]:
    """At most ``MAX_SCHEDULES`` settings, spread over the path; ``seconds`` is the model without knobs."""
    count = min(MAX_SCHEDULES, len(points))
    places = sorted({round(i * (len(points) - 1) / max(count - 1, 1)) for i in range(count)})
    return [Schedule(step, points[i], seconds - points[i].expected_seconds) for i in places]


def _key(index: int) -> str:
    return f"{KNOBS} {index}"


def without_statics(
    schedule: Schedule, body: Sequence[StaticOption], rates: Rates, *, classes: bool
) -> Schedule:
    """A schedule measured on a model with ``body`` applied, with the share of ``body`` taken out again."""
    saved = sum(o.saving * rates.saving_scale * schedule.reach(o.depth) for o in body)
    lost = sum(o.damage.additive(classes=classes) * rates.loss_per_damage for o in body)
    point = replace(schedule.point, loss=schedule.point.loss - lost)
    return replace(schedule, point=point, saving=schedule.saving - saved)
