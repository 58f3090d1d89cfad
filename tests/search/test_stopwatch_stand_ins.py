"""Pieces of a model are found although 8 bits took the values at their ends out of the graph."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from adapass.budgeted import BudgetedPass
from adapass.cache import Cache
from adapass.cost.table import RegionTable
from adapass.data import load_data
from adapass.graph.packed import pack_model, unpack_model
from adapass.graph.stand_ins import stand_ins
from adapass.graph.text import parse
from adapass.registry import generator
from adapass.search.evaluations import one_setting_a_site
from adapass.search.plan import Part, Plan, apply_plan
from adapass.search.stopwatch import Stopwatch
from adapass.target import load_target
from adapass.text_form import parse_pass


def _weight(name: str) -> str:
    numbers = np.random.default_rng(len(name)).normal(size=36).round(2)
    return f"float[2, 2, 3, 3] {name} = {{{', '.join(map(str, numbers))}}}"


MODEL = f"""
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 2, 8, 8] x) => (float[N, 2, 8, 8] y) <{_weight("w")}, {_weight("ww")}> {{
  a = Conv <pads = [1, 1, 1, 1]> (x, w)
  r = Relu (a)
  y = Conv <pads = [1, 1, 1, 1]> (r, ww)
}}
"""


def test_a_relu_that_the_conversion_does_is_still_a_place_to_cut(tmp_path: Path) -> None:
    clean = parse(MODEL)
    rows = load_data({"x": np.random.default_rng(0).normal(size=(4, 2, 8, 8)).astype(np.float32)}, clean)
    step = cast("BudgetedPass", parse_pass("quantize-8bit{min-conv-elements=1}"))
    plan = Plan((Part(step, one_setting_a_site(step, clean)),))
    changed = unpack_model(pack_model(apply_plan(clean, plan, fit=rows)))
    target = load_target("cpu")
    watch = Stopwatch(
        generator("onnxruntime"), target, 1, [rows.feeds(0)], RegionTable(Cache(tmp_path)), "here"
    )

    assert "r" not in {value.name for node in changed.graph for value in node.outputs}
    assert stand_ins(changed)["r"] == "a"
    costs = watch.pieces(changed, [(["x"], ["r"]), (["r"], ["y"])], {})
    assert all(cost.seconds > 0.0 for cost in costs)
