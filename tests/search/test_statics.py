"""Prices of static choices: by kind, once, and adding up to what all of them save together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import BudgetedPass, Choice, Damage
from adapass.data import load_data
from adapass.graph.text import parse
from adapass.search.evaluations import one_setting_a_site
from adapass.search.statics import StaticOption, companies, priced, with_choices
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


ROWS = load_data({"x": np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)}, parse(MODEL))


def _price(**seconds: float) -> tuple[list[StaticOption], dict[str, int]]:
    """Options, and how many 8-bit values each timed model had, by its name."""
    model, asked = parse(MODEL), dict[str, int]()

    def answer(question: str, models: Mapping[str, ir.Model]) -> dict[str, float]:
        assert "quantize-8bit:a=static" in question
        for name, changed in models.items():
            asked[name] = sum(node.op_type == "DequantizeLinear" for node in changed.graph)
        return {name: seconds[name.replace(" ", "_")] for name in models}

    choices = one_setting_a_site(STEP, model)
    damages = {choice.key: Damage(0.1) for choice in choices}
    return priced(model, STEP, choices, damages, answer, fit=ROWS, sized=True), asked


def _by_site(options: Sequence[StaticOption]) -> dict[str, float]:
    return {option.choice.site: option.saving for option in options}


def test_kinds_are_priced_in_company_and_add_up_to_what_all_save() -> None:
    # Five equal products (s, a to d) and a smaller one (y). Taken back, they cost 10 and 2; all save 24.
    options, asked = _price(clean=100.0, all=76.0, without_kind_0=86.0, without_kind_1=78.0)

    assert list(asked) == ["clean", "all", "without kind 0", "without kind 1"]
    assert asked["clean"] == 0 < asked["without kind 0"] < asked["without kind 1"] < asked["all"]
    found = _by_site(options)
    assert sum(found.values()) == pytest.approx(24.0)
    assert found["s"] == found["a"] == found["d"] == pytest.approx(4.0)
    assert found["y"] == pytest.approx(4.0)


def test_what_costs_time_is_not_made_to_save() -> None:
    found = _by_site(_price(clean=100.0, all=92.0, without_kind_0=102.0, without_kind_1=91.0)[0])

    assert found["y"] == -1.0
    assert found["a"] == pytest.approx(8.0 / 5)


def test_when_nothing_is_saved_together_prices_stay_as_they_are() -> None:
    found = _by_site(_price(clean=100.0, all=101.0, without_kind_0=106.0, without_kind_1=102.0)[0])

    assert (found["a"], found["y"]) == (1.0, 1.0)


def test_depth_and_size_are_told() -> None:
    priced_options = _price(clean=100.0, all=76.0, without_kind_0=86.0, without_kind_1=78.0)[0]
    options = {option.choice.site: option for option in priced_options}

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


def test_models_are_timed_with_scales_of_real_samples() -> None:
    model = parse(MODEL)
    made = [Choice("quantize-8bit", "a", "static")]

    def scale(changed: ir.Model) -> float:
        node = next(node for node in changed.graph if node.op_type == "QuantizeLinear")
        value = node.inputs[1]
        assert value is not None
        assert value.const_value is not None
        return float(value.const_value.numpy())

    assert scale(with_choices(model, STEP, made)) != scale(with_choices(model, STEP, made, ROWS))


def test_companies_are_of_one_setting_a_site_the_preferred_ones_first() -> None:
    choices = [
        Choice("f", "a", "small"),
        Choice("f", "a", "smaller"),
        Choice("f", "b", "small"),
        Choice("f", "a", "least"),
        Choice("f", "b", "smaller"),
    ]

    assert [[(c.site, c.setting) for c in company] for company in companies(choices)] == [
        [("a", "small"), ("b", "small")],
        [("a", "smaller"), ("b", "smaller")],
        [("a", "least")],
    ]
    assert companies([]) == []
