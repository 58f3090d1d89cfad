"""Past runs for the tests of the recipe advisor, and options to advise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from adapass.budgeted import BudgetedPass, Choice, Damage
from adapass.cache import Cache
from adapass.search.advisor import (
    Advice,
    ModelFeatures,
    Outcome,
    WorkShares,
    advise,
    remember,
)
from adapass.search.statics import StaticOption
from adapass.text_form import parse_pass

EIGHT = "quantize-8bit"
EXITS = "insert-exits{max-exits=14}"
FAMILIES = (EIGHT, EXITS)
QUANTIZE = cast("BudgetedPass", parse_pass(EIGHT))
KNOBS = cast("BudgetedPass", parse_pass(EXITS))
HERE = "machine a"

BASE = ModelFeatures(
    work=WorkShares(matmul=0.9, attention=0.1),
    log_weights=7.0,
    log_flops=9.0,
    cut_points=15,
    has_token_axis=True,
    has_image_input=False,
    has_vector_input=False,
    target="cpu",
    generator="onnxruntime",
    threads=2,
    batch=1,
    max_drop=0.01,
    metric="accuracy",
)


def away(size: float) -> ModelFeatures:
    """Features at this distance from ``BASE``."""
    return replace(BASE, log_flops=BASE.log_flops + 4.0 * size)


def won(
    knobs: str | None = None,
    shares: Mapping[str, float] | None = None,
    *,
    ratio: float = 0.5,
    lost: tuple[str, ...] = (),
    loss: float = 0.002,
) -> Outcome:
    return Outcome(knobs=knobs, shares=shares or {}, lost=lost, ratio=ratio, search_loss=loss)


def remembering(folder: Path, *runs: tuple[ModelFeatures, Outcome]) -> Cache:
    cache = Cache(folder)
    for index, (features, outcome) in enumerate(runs):
        remember(cache, features, outcome, model=f"model {index}", machine=HERE)
    return cache


def advised(cache: Cache, features: ModelFeatures = BASE, families: tuple[str, ...] = FAMILIES) -> Advice:
    advice = advise(cache, features, families=families, machine=HERE)
    assert advice is not None
    return advice


def option(
    site: str, saving: float, damage: float, *, setting: str = "static", **more: object
) -> StaticOption:
    choice = replace(Choice(EIGHT, site, setting), **more)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return StaticOption(QUANTIZE, choice, saving, Damage(damage, damage), 0.5, saved_bytes=100)
