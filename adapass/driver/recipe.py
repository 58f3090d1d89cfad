"""``recipe.yaml``: the decisions of a run, every default written out, so that they can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from adapass.artifact.recipe_file import read_recipe
from adapass.budgeted import Array, OperatingPoint
from adapass.driver.finals import Build
from adapass.driver.request import Request
from adapass.errors import RecipeError
from adapass.pipeline import Pipeline
from adapass.search.plan import Plan, plain, plan_from_recipe, plan_to_recipe

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a recipe fixes: the search is skipped, everything else runs as usual."""

    plan: Plan
    knobs: Mapping[str, tuple[float, ...]]
    backend: str | None
    variant: str | None


def write_plan(
    request: Request, steps: Pipeline, plan: Plan, build: Build | None, point: OperatingPoint | None
) -> dict[str, object]:
    """Plain data for ``recipe.yaml``."""
    knobs: Mapping[str, Array] = {} if point is None else point.knobs
    return {
        "schema": SCHEMA,
        "seed": request.seed,
        "target": request.target,
        "threads": request.threads,
        "batch": request.batch,
        "max-drop": request.max_drop,
        "confidence": request.confidence,
        "metric": request.metric,
        "mode": str(request.mode),
        "clean": [
            {
                "pass": step.name,
                "options": {key.replace("_", "-"): plain(v) for key, v in step.options().items()},
            }
            for step in steps.passes
        ],
        "families": plan_to_recipe(plan),
        "knobs": {name: _numbers(value) for name, value in knobs.items()},
        "build": None
        if build is None
        else {
            "backend": build.generator.name,
            "variant": build.variant.name,
            "options": dict(build.variant.options),
        },
    }


def read_plan(path: Path) -> Decisions:
    """Read the decisions of a recipe.

    Raises:
        RecipeError: malformed, too new, or naming unknown passes or options.

    """
    recipe = read_recipe(path)
    schema = recipe.get("schema")
    if schema != SCHEMA:
        raise RecipeError(f"recipe {path}: schema is {schema!r}, this adapass reads {SCHEMA}")
    build = recipe.get("build")
    named: Mapping[str, Any] = cast("Mapping[str, Any]", build) if isinstance(build, Mapping) else {}
    backend, variant = named.get("backend"), named.get("variant")
    return Decisions(
        plan_from_recipe(recipe.get("families", [])),
        _knobs(recipe.get("knobs") or {}, path),
        None if backend is None else str(backend),
        None if variant is None else str(variant),
    )


def _numbers(value: object) -> list[float | str]:
    return [float(v) if np.isfinite(v) else "inf" for v in np.atleast_1d(np.asarray(value, np.float64))]


def _knobs(knobs: object, path: Path) -> dict[str, tuple[float, ...]]:
    if not isinstance(knobs, Mapping):
        raise RecipeError(f"recipe {path}: 'knobs' must map names to lists of numbers")
    found: dict[str, tuple[float, ...]] = {}
    for name, numbers in cast("Mapping[str, Any]", knobs).items():
        try:
            found[name] = tuple(float(number) for number in numbers)
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"recipe {path}: knob '{name}' is {numbers!r}, expected a list of numbers"
            ) from error
    return found
