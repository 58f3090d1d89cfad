"""A plan: which choices of which families are applied, in which order. A value that a recipe can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import onnx_ir as ir
from pydantic import BaseModel, Field, ValidationError

from adapass.budgeted import BudgetedPass, Choice, Feeds, Samples, SiteFit
from adapass.errors import RecipeError
from adapass.facts import FactCache
from adapass.observe import Observer
from adapass.pipeline import Pipeline
from adapass.rewrite import PassResult, with_methods
from adapass.text_form import build_pass


@dataclass(frozen=True, slots=True)
class Part:
    """The choices of one family."""

    step: BudgetedPass
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Parts in the order they are applied; the empty plan is the clean model itself."""

    parts: tuple[Part, ...] = ()

    @property
    def knobs(self) -> Part | None:
        """The part with run-time knobs."""
        return next((part for part in self.parts if tunes(part.step)), None)

    @property
    def statics(self) -> tuple[Part, ...]:
        """All other parts."""
        return tuple(part for part in self.parts if not tunes(part.step))

    def __str__(self) -> str:
        return " + ".join(f"{part.step.name} x{len(part.choices)}" for part in self.parts) or "clean"


def tunes(step: BudgetedPass) -> bool:
    """Whether the family can be tuned at run time."""
    return type(step).tune is not BudgetedPass.tune


def apply_plan(
    clean: ir.Model,
    plan: Plan,
    *,
    fit: Samples,
    check: Sequence[Feeds] | None = None,
    fits: Mapping[str, Mapping[str, SiteFit]] | None = None,
    observers: Sequence[Observer] = (),
    verify: bool = True,
) -> ir.Model:
    """Apply and fit a plan on a copy of the clean model, verified like any pipeline unless told not to.

    ``fits`` (by the text of a pass, then by site) is what separable families need not fit again.

    Raises:
        PassError: a family broke the model.

    """
    known = fits or {}
    pipeline = Pipeline([chosen(part.step, part.choices, known.get(str(part.step))) for part in plan.parts])
    return pipeline.run(clean, data=fit, feeds=check, observers=observers, verify=verify).model


def chosen(
    step: BudgetedPass, choices: Sequence[Choice], fits: Mapping[str, SiteFit] | None = None
) -> BudgetedPass:
    """The same pass, made to apply exactly these choices, and to install these fits where they are known."""
    kind = type(step)
    picked = tuple(choices)

    def run(
        self: BudgetedPass, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None
    ) -> PassResult:
        return kind.apply(self, model, facts, [c for c in picked if only is None or c.site in only])

    def fit(self: BudgetedPass, model: ir.Model, data: Samples | None) -> None:
        if fits is None:
            kind.fit(self, model, data)
        else:
            self.install_fits(model, fits)

    return with_methods(step, run=run, fit=fit)


def plan_to_recipe(plan: Plan) -> list[dict[str, object]]:
    """Plain data for ``recipe.yaml``, every option written out."""
    return [
        {
            "pass": part.step.name,
            "options": {key.replace("_", "-"): plain(value) for key, value in part.step.options().items()},
            "choices": [{"site": c.site, "setting": str(c.setting)} for c in part.choices],
        }
        for part in plan.parts
    ]


def plan_from_recipe(entries: object) -> Plan:
    """Read what ``plan_to_recipe`` wrote.

    Raises:
        RecipeError: an entry is malformed or names an unknown pass or option.

    """
    if not isinstance(entries, list):
        raise RecipeError(f"'families' of a recipe must be a list, found {type(entries).__name__}")
    return Plan(tuple(_part(entry) for entry in cast("list[object]", entries)))


def plain(value: object) -> object:
    """Options as plain YAML values."""
    if isinstance(value, frozenset):
        return sorted(cast("Iterable[Any]", [plain(v) for v in cast("Iterable[object]", value)]))
    if isinstance(value, tuple | list):
        return [plain(v) for v in cast("Iterable[object]", value)]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)


def _part(entry: object) -> Part:
    try:
        family = _Family.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(place) for place in first["loc"])
        raise RecipeError(
            f"a family of the recipe, '{where}': {first['msg']}, found {first['input']!r}"
        ) from error
    step = build_pass(family.name, family.options)
    if not isinstance(step, BudgetedPass):
        raise RecipeError(f"'{step.name}' under 'families' is no budgeted pass; put it under 'clean'")
    return Part(step, tuple(Choice(step.name, choice.site, choice.setting) for choice in family.choices))


class _Site(BaseModel):
    site: str
    setting: str


class _Family(BaseModel):
    name: str = Field(alias="pass")
    options: dict[str, Any] = {}
    choices: list[_Site]
