"""The safest plan of a size: within the bytes, never worse than uniform ones, tried by the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import BudgetedPass, Choice, Together
from adapass.certify.losses import Metric
from adapass.data import Dataset, load_data
from adapass.facts import FactCache
from adapass.graph.tensors import tensor_bytes
from adapass.graph.text import parse
from adapass.progress import Silent
from adapass.search.candidates import Search
from adapass.search.rounds import Rounds
from adapass.search.sized import sized_plans
from adapass.search.statics import StaticOption, with_choices
from adapass.search.trials import Trials
from adapass.text_form import parse_pass
from tests.passes.rows import literal, weight

STEP = cast("BudgetedPass", parse_pass('quantize-weights{settings=["int8", "int4-g16"] min-elements=1}'))
OTHER = cast("BudgetedPass", parse_pass("quantize-8bit{min-matmul-elements=1}"))
MODEL = f"""
<ir_version: 10, opset_import: ["" : 21]>
g (float[N, 16] x) => (float[N, 4] y) <
  float[16, 16] wa = {literal(weight(1, 16, 16) / 4)}, float[16, 16] wb = {literal(weight(2, 16, 16) / 400)},
  float[16, 16] wc = {literal(weight(3, 16, 16) / 4)}, float[16, 4] wd = {literal(weight(4, 16, 4))}
> {{
  a = MatMul (x, wa)
  b = MatMul (a, wb)
  h = Add (a, b)
  k = Relu (h)
  c = MatMul (k, wc)
  y = MatMul (c, wd)
}}
"""


@pytest.fixture(scope="module")
def clean() -> ir.Model:
    return parse(MODEL)


@pytest.fixture(scope="module")
def data(clean: ir.Model) -> Dataset:
    return load_data({"x": np.random.default_rng(0).normal(size=(96, 16)).astype(np.float32)}, clean)


@pytest.fixture(scope="module")
def options(clean: ir.Model, data: Dataset) -> tuple[StaticOption, ...]:
    choices = STEP.propose(clean, FactCache(clean)).choices
    damages = STEP.damages(clean, FactCache(clean), choices, data)
    assert damages is not None
    return tuple(
        StaticOption(STEP, choice, 0.0, damages[choice.key], 0.0, freed(clean, choice)) for choice in choices
    )


def freed(clean: ir.Model, choice: Choice) -> int:
    return tensor_bytes(clean) - tensor_bytes(with_choices(clean, STEP, [choice]))


def everywhere(options: Sequence[StaticOption], setting: str) -> list[StaticOption]:
    return [option for option in options if option.choice.setting == setting]


def measure(clean: ir.Model, options: Sequence[StaticOption], data: Dataset) -> Together:
    found = STEP.together(clean, FactCache(clean), [option.choice for option in options], data)
    assert found is not None
    return found


def test_no_worse_than_one_setting_everywhere(
    clean: ir.Model, options: tuple[StaticOption, ...], data: Dataset
) -> None:
    uniform = everywhere(options, "int4-g16")
    size = float(sum(option.saved_bytes for option in uniform))

    (plan,) = sized_plans(clean, options, -size + 200.0, data, classes=True)

    assert sum(option.saved_bytes for option in plan) >= size - 200.0
    together = measure(clean, options, data)
    damages = [together.damage([o.choice for o in each]).additive(classes=True) for each in (plan, uniform)]
    assert damages[0] < damages[1]
    # b hardly adds to h, so that it is the one to stay in 4 bits
    assert {option.choice.site: option.choice.setting for option in plan}["b"] == "int4-g16"


def test_only_where_something_has_to_become_smaller_and_can(
    clean: ir.Model, options: tuple[StaticOption, ...], data: Dataset
) -> None:
    assert list(sized_plans(clean, options, 0.0, data, classes=True)) == []
    assert list(sized_plans(clean, options, -1e9, data, classes=True)) == []


def test_families_that_cannot_be_measured_give_no_plan(
    clean: ir.Model, options: tuple[StaticOption, ...], data: Dataset
) -> None:
    assert OTHER.together(clean, FactCache(clean), (), data) is None
    others = [StaticOption(OTHER, Choice(OTHER.name, "a", "static"), 0.0, options[0].damage, 0.0, 700)]

    assert list(sized_plans(clean, others, -500.0, data, classes=True)) == []


def test_stops_when_it_is_told_to(clean: ir.Model, options: tuple[StaticOption, ...], data: Dataset) -> None:
    def check() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        list(sized_plans(clean, options, -100.0, data, classes=True, check=check))


@dataclass
class Tried:
    """What stands for the trials: it only remembers plans."""

    evaluations: SimpleNamespace
    found: list[object] = field(default_factory=list[object])
    tried: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    judge: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(metric=Metric.ACCURACY))
    deadline: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(check=lambda: None))

    def try_plan(self, statics: Sequence[StaticOption], knobs: BudgetedPass | None) -> None:
        assert knobs is None
        self.tried.append({option.choice.site: option.choice.setting for option in statics})


@pytest.mark.parametrize(("max_bytes", "plans"), [(-2000.0, 1), (None, 0)])
def test_the_search_tries_it_where_a_size_is_asked_for(
    clean: ir.Model,
    options: tuple[StaticOption, ...],
    data: Dataset,
    max_bytes: float | None,
    plans: int,
) -> None:
    trials = Tried(SimpleNamespace(clean=clean, fit=data))
    work = Search(
        cast("Trials", trials),
        (STEP,),
        Rounds(repairs=0, shares=(), corrections=0),
        Silent(),
        max_bytes=max_bytes,
    )
    work.statics = options
    work.try_safest_of_the_size()

    assert len(trials.tried) == plans
