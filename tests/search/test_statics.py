"""Prices of static choices: by kind, once, and adding up to what all of them save together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import BudgetedPass, Choice, Damage
from adapass.facts import FactCache
from adapass.graph.text import parse
from adapass.search.statics import StaticOption, one_a_site, priced, with_choices
from adapass.text_form import parse_pass

STEP = cast("BudgetedPass", parse_pass("quantize-8bit{min-matmul-elements=1}"))


def _weight(name: str, rows: int, columns: int) -> str:
    numbers = np.random.default_rng(len(name)).normal(size=rows * columns).round(2)
    return f"float[{rows}, {columns}] {name} = {{{', '.join(map(str, numbers))}}}"


MODEL = f"""
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 8] x) => (float[N, 4] y) <
  {_weight("wa", 8, 8)}, {_weight("wb", 8, 8)}, {_weight("wc", 8, 8)},
  {_weight("wd", 8, 8)}, {_weight("we", 8, 8)}, {_weight("wf", 8, 4)}
> {{
  s = MatMul (x, we)
  a = MatMul (s, wa)
  b = MatMul (s, wb)
  ab = Add (a, b)
  h = Relu (ab)
  c = MatMul (h, wc)
  d = MatMul (h, wd)
  cd = Add (c, d)
  k = Relu (cd)
  y = MatMul (k, wf)
}}
"""


def _price(saving: Sequence[float]) -> tuple[list[StaticOption], list[int]]:
    """Options, and the 8-bit values in each priced model; ``saving`` answers one call after the other."""
    model, asked = parse(MODEL), list[int]()

    def answer(changed: ir.Model) -> float:
        asked.append(sum(node.op_type == "DequantizeLinear" for node in changed.graph))
        return saving[len(asked) - 1]

    choices = one_a_site(STEP.propose(model, FactCache(model)).choices)
    damages = {choice.key: Damage(0.1) for choice in choices}
    return priced(model, STEP, choices, damages, answer, report=lambda done, total: None, sized=True), asked


def _by_site(options: Sequence[StaticOption]) -> dict[str, float]:
    return {option.choice.site: option.saving for option in options}


def test_a_kind_is_priced_once_and_everything_adds_up() -> None:
    # The first product; two equal ones a region, twice, priced together; the last one; everything.
    options, asked = _price([3.0, 4.0, 1.0, 24.0])

    assert len(asked) == 4
    assert asked[0] < asked[1] < asked[3]
    found = _by_site(options)
    assert sum(found.values()) == pytest.approx(24.0)
    assert found["a"] == found["b"] == found["c"] == found["d"] == pytest.approx(4.0)
    assert found["s"] == pytest.approx(6.0)
    assert found["y"] == pytest.approx(2.0)


def test_what_costs_time_is_not_made_to_save() -> None:
    found = _by_site(_price([0.0, 4.0, -1.0, 8.0])[0])

    assert found["y"] == -1.0
    assert found["a"] == pytest.approx(2.0)


def test_when_nothing_is_saved_together_prices_stay_as_they_are() -> None:
    found = _by_site(_price([1.0, 4.0, 1.0, -2.0])[0])

    assert (found["a"], found["y"]) == (2.0, 1.0)


def test_depth_and_size_are_told() -> None:
    options = {option.choice.site: option for option in _price([1.0, 4.0, 1.0, 18.0])[0]}

    assert options["s"].depth == 0.0
    assert 0.0 < options["a"].depth < options["c"].depth < options["y"].depth < 1.0
    assert options["a"].slot != options["b"].slot
    assert len({option.key for option in options.values()}) == 6
    # 64 floats become 64 bytes; scales and zero points are the price.
    assert 0 < options["a"].saved_bytes < 3 * 64


def test_the_clean_model_is_left_alone() -> None:
    model = parse(MODEL)
    before = [node.op_type for node in model.graph]
    changed = with_choices(model, STEP, [Choice("quantize-8bit", "a", "static")])

    assert [node.op_type for node in model.graph] == before
    assert any(node.op_type == "QuantizeLinear" for node in changed.graph)
