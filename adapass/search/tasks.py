"""What the search has done elsewhere: plain tasks and the functions that do them, for an ``Executor``.

Tasks hold texts, bytes and arrays only. A function computes on one thread and looks at nothing but its
task, so that its result is the same in this process, in a worker and on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from adapass.budgeted import Array, BudgetedPass, Choice, Damage, SiteFit
from adapass.data import Dataset
from adapass.errors import UsageError
from adapass.executor import Shared
from adapass.facts import FactCache
from adapass.graph.packed import PackedModel, pack_model, unpack_model
from adapass.graph.text import clone
from adapass.pipeline import TooLossyError
from adapass.search.damage import damages
from adapass.search.judge import predict, spread_indices
from adapass.search.plan import Part, Plan, apply_plan
from adapass.text_form import parse_pass

CHECKED_FEEDS = 3


@dataclass(frozen=True, slots=True)
class PackedPart:
    """A part of a plan as texts: the pass with its options, and (site, setting) pairs."""

    step: str
    choices: tuple[tuple[str, str], ...]

    @staticmethod
    def of(part: Part) -> PackedPart:
        return PackedPart(str(part.step), tuple((c.site, c.setting) for c in part.choices))

    def unpack(self) -> Part:
        step = parse_pass(self.step)
        if not isinstance(step, BudgetedPass):
            raise UsageError(f"'{step.name}' is no budgeted pass; only those have choices")
        return Part(step, tuple(Choice(step.name, site, setting) for site, setting in self.choices))


@dataclass(frozen=True, slots=True)
class SitesTask:
    """Fit some sites of a separable family."""

    model: Shared[PackedModel]
    data: Shared[Dataset]
    part: PackedPart


def fit_sites(task: SitesTask) -> dict[str, dict[str, Array]]:
    """What was fitted at each site, by site."""
    part = task.part.unpack()
    model = clone(unpack_model(task.model.get()))
    part.step.apply(model, FactCache(model), part.choices)
    fits = part.step.fit_sites(model, task.data.get())
    return {site: dict(fit) for site, fit in fits.items()}


@dataclass(frozen=True, slots=True)
class DamageTask:
    """Measure what some choices of a family do to the output, each alone."""

    model: Shared[PackedModel]
    fit: Shared[Dataset]
    samples: int
    """How many of the fit samples to measure on, evenly spread."""
    part: PackedPart


def measure_damage(task: DamageTask) -> dict[str, tuple[float, float | None]]:
    """(distortion, divergence) of each choice, by its key."""
    part, fit = task.part.unpack(), task.fit.get()
    some = fit.subset(list(spread_indices(len(fit), max(task.samples, part.step.damage_samples))))
    model = unpack_model(task.model.get())
    found = damages(model, part.step, part.choices, fit=fit, samples=some)
    return {key: (damage.distortion, damage.divergence) for key, damage in found.items()}


def read_damage(numbers: Sequence[float | None]) -> Damage:
    distortion, divergence = numbers
    return Damage(distortion or 0.0, divergence)


@dataclass(frozen=True, slots=True)
class PlanTask:
    """Apply and fit a whole plan on the clean model, verified."""

    model: Shared[PackedModel]
    data: Shared[Dataset]
    parts: tuple[PackedPart, ...]
    fits: Mapping[str, Mapping[str, SiteFit]]
    """What separable families found before, by the text of the pass and site."""


def fit_plan(task: PlanTask) -> PackedModel | str:
    """The fitted model, or a text that says why not.

    A plan may move the output further than is allowed; or an earlier part of it may have taken away, in a way
    no family foresaw, what a later one wanted to change.
    """
    data = task.data.get()
    check = [data.feeds(i) for i in range(min(CHECKED_FEEDS, len(data)))]
    plan = Plan(tuple(part.unpack() for part in task.parts))
    clean = unpack_model(task.model.get())
    try:
        return pack_model(apply_plan(clean, plan, fit=data, check=check, fits=task.fits))
    except TooLossyError as error:
        return error.why
    except UsageError as error:
        return f"cannot be made: {error}"


@dataclass(frozen=True, slots=True)
class OutputsTask:
    """Run a model on some samples."""

    model: Shared[PackedModel]
    samples: Shared[Dataset]
    rows: tuple[int, ...]


def run_samples(task: OutputsTask) -> Array:
    """The first output of each sample alone, [len(rows), ...]."""
    model: ir.Model = unpack_model(task.model.get())
    return predict(model, task.samples.get().subset(task.rows), threads=1)
