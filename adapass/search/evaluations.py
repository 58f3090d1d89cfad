"""What the search computes about models: damages, fits, fitted plans, outputs; each once, stored by content.

Work is cut into groups that depend on the model and the options alone, never on how many workers there
are or on what is stored already: results are the same bits however they came about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar, cast

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, BudgetedPass, Choice, Damage, SiteFit
from adapass.data import Dataset
from adapass.executor import Executor, Shared, TimeUpError
from adapass.facts import FactCache
from adapass.graph.digest import digest
from adapass.graph.packed import PackedModel, pack_model, unpack_model
from adapass.progress import Progress
from adapass.search import tasks
from adapass.search.deadline import Deadline
from adapass.search.plan import Part, Plan, tunes
from adapass.search.point_files import Points
from adapass.search.store import Entry, Fits, Store

SITES_EACH = 3
"""Sites fitted in one task. They share one run of the network up to the last of them."""
CHOICES_EACH = 8
"""Choices whose damage is measured in one task."""
ROWS_EACH = 128

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Evaluations:
    """Results for one clean model on fixed samples."""

    clean: ir.Model
    fit: Dataset
    samples: Dataset
    """The search samples."""
    damage_samples: int
    fingerprint: str
    """Of the data, the seed and the effort: part of every key."""
    executor: Executor
    store: Store
    progress: Progress
    deadline: Deadline
    _fits: dict[str, dict[str, SiteFit]] = field(default_factory=dict[str, dict[str, SiteFit]])

    def damages(
        self, step: BudgetedPass, choices: Sequence[Choice], deadline: Deadline | None = None
    ) -> dict[str, Damage]:
        """Of each choice alone, by its key.

        Raises:
            TimeUpError: the deadline passed.

        """
        wanted = [tasks.PackedPart.of(Part(step, group)) for group in _groups(choices, CHOICES_EACH)]
        made = [tasks.DamageTask(self._clean, self._fit, self.damage_samples, part) for part in wanted]
        entries = [self.store.numbers("damage", f"{self._key}|{part}") for part in wanted]
        found = self._run(tasks.measure_damage, made, entries, "damage of choices", deadline)
        return {key: tasks.read_damage(numbers) for group in found for key, numbers in group.items()}

    def site_fits(self, step: BudgetedPass, deadline: Deadline | None = None) -> Mapping[str, SiteFit]:
        """Of every site ``step`` proposes on the clean model; when time is up, of those that are finished."""
        step = step.fitting
        if str(step) in self._fits:
            return self._fits[str(step)]
        # The middle of the network first: exits there save much and are right often.
        groups = _from_the_middle(_groups(one_setting_a_site(step, self.clean), SITES_EACH))
        wanted = [tasks.PackedPart.of(Part(step, group)) for group in groups]
        made = [tasks.SitesTask(self._clean, self._fit, part) for part in wanted]
        entries = [self.store.fits("sites", f"{self._key}|{part}") for part in wanted]
        try:
            found = self._run(tasks.fit_sites, made, entries, f"fit {step.name}", deadline)
        except TimeUpError as error:
            found = list(cast("Mapping[int, Fits]", error.done).values())
        self._fits[str(step)] = {site: fit for group in found for site, fit in group.items()}
        return self._fits[str(step)]

    def fitted(self, plans: Sequence[Plan]) -> list[ir.Model | str]:
        """The clean model with each plan applied and fitted; why, where it moves the output too far.

        Raises:
            TimeUpError: the deadline passed.

        """
        made = [self._plan_task(plan) for plan in plans]
        keys = [f"{self._key}|{[tasks.PackedPart.of(part) for part in plan.parts]}" for plan in plans]
        entries = [self.store.packed("fitted", key) for key in keys]
        found = self._run(tasks.fit_plan, made, entries, "apply and fit plans")
        return [packed if isinstance(packed, str) else unpack_model(packed) for packed in found]

    def outputs(self, model: ir.Model) -> Array:
        """The first output on every search sample, [N, ...]."""
        rows = _groups(range(len(self.samples)), ROWS_EACH)
        key = f"{digest(model)}|{self.fingerprint}"
        entries = [self.store.array("outputs", f"{key}|{index}") for index in range(len(rows))]
        known = [found for entry in entries if (found := entry.read()) is not None]
        if len(known) == len(rows):
            return np.concatenate(known)
        shared = self.executor.share(pack_model(model))
        made = [tasks.OutputsTask(shared, self._samples, tuple(chunk)) for chunk in rows]
        return np.concatenate(self._run(tasks.run_samples, made, entries, "run on the search samples"))

    def points(self, model: ir.Model, how: str) -> Entry[Points]:
        """Where the operating points of a fitted model are kept, by how they were tuned."""
        return self.store.points("points", f"{digest(model)}|{self.fingerprint}|{how}")

    def _plan_task(self, plan: Plan) -> tasks.PlanTask:
        fits = {
            str(part.step): {c.site: self.site_fits(part.step)[c.site] for c in part.choices}
            for place, part in enumerate(plan.parts)
            # What comes first is fitted on the clean model; so are heads of exits, whatever tokens they see.
            if part.step.separable and (place == 0 or tunes(part.step))
        }
        parts = tuple(tasks.PackedPart.of(part) for part in plan.parts)
        return tasks.PlanTask(self._clean, self._fit, parts, fits)

    def _run(
        self,
        function: Callable[[T], R],
        made: Sequence[T],
        entries: Sequence[Entry[R]],
        what: str,
        deadline: Deadline | None = None,
    ) -> list[R]:
        """Results of all tasks; what is stored is not done again, what is done is stored at once."""
        known = [entry.read() for entry in entries]
        missing = [index for index, result in enumerate(known) if result is None]
        limit = (deadline or self.deadline).at
        stored = {index: result for index, result in enumerate(known) if result is not None}
        try:
            fresh = self.executor.map(
                function,
                [made[index] for index in missing],
                report=partial(self._report, what),
                each=lambda place, result: entries[missing[place]].write(result),
                deadline=limit,
            )
        except TimeUpError as error:
            done = cast("Mapping[int, R]", error.done)
            finished = {missing[place]: result for place, result in done.items()}
            raise TimeUpError(str(error), {**stored, **finished}) from error
        results = dict(zip(missing, fresh, strict=True))
        return [results[i] if result is None else result for i, result in enumerate(known)]

    def _report(self, what: str, done: int, total: int) -> None:
        self.progress.step(done, total, what)

    @cached_property
    def _key(self) -> str:
        return f"{digest(self.clean)}|{self.fingerprint}"

    @cached_property
    def _clean(self) -> Shared[PackedModel]:
        return self.executor.share(pack_model(self.clean))

    @cached_property
    def _fit(self) -> Shared[Dataset]:
        return self.executor.share(self.fit.compact())

    @cached_property
    def _samples(self) -> Shared[Dataset]:
        return self.executor.share(self.samples.compact())


def offered(step: BudgetedPass, model: ir.Model) -> tuple[Choice, ...]:
    """What a static family offers: all settings whose results do not depend on the neighbours in a batch."""
    return tuple(c for c in step.propose(model, FactCache(model)).choices if c.batch_invariant)


def one_setting_a_site(step: BudgetedPass, model: ir.Model) -> tuple[Choice, ...]:
    """The first setting of each site whose results do not depend on the neighbours in a batch."""
    first: dict[str, Choice] = {}
    for choice in step.propose(model, FactCache(model)).choices:
        if choice.batch_invariant:
            first.setdefault(choice.site, choice)
    return tuple(first.values())


def _groups(items: Sequence[K], size: int) -> list[tuple[K, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def _from_the_middle(groups: Sequence[K]) -> list[K]:
    middle = (len(groups) - 1) / 2
    return [groups[i] for i in sorted(range(len(groups)), key=lambda i: (abs(i - middle), i))]
