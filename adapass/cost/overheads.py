"""What running in sections costs, measured on tiny models with exits through the generator in question.

How a generator leaves a model early (branches, sessions, rows gathered and put back) is its own affair. A
chain of additions with exits and the same chain without differ by the price of leaving. It depends on how
much is carried from section to section, so the chain is as wide as what the real model carries.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Feeds
from adapass.cost.model import Cost
from adapass.ops import DOMAIN, EXIT_INDEX, EXIT_THRESHOLDS, VERSION, add_function

FEW, MANY = 1, 4
NARROW, WIDEST = 4, 1 << 20

Measure = Callable[[ir.Model, Feeds, bool], Cost]
"""Seconds of a model on a feed; the last argument says whether it has exits."""


def width_for(bytes_a_sample: float) -> int:
    """Numbers a sample carries, rounded up to a power of two so that few widths are measured."""
    return min(WIDEST, max(NARROW, 1 << math.ceil(math.log2(max(1.0, bytes_a_sample / 4)))))


def measure_overhead(measure: Measure, batch: int, width: int) -> float:
    """Seconds for every section after the first, its own work and that of its exit not counted."""
    feed = tiny_feed(batch, width)
    with_exits, plain = (
        [measure(tiny_model(count, batch, width, leaves=leaves), feed, leaves) for count in (FEW, MANY)]
        for leaves in (True, False)
    )
    slopes = [(many.seconds - few.seconds) / (MANY - FEW) for few, many in (with_exits, plain)]
    return max(0.0, slopes[0] - slopes[1])


def tiny_feed(batch: int, width: int) -> Feeds:
    """Row numbers: the last rows leave first."""
    return {"x": np.repeat(np.arange(batch, dtype=np.float32)[:, None], width, axis=1)}


def tiny_model(exits: int, batch: int, width: int, *, leaves: bool = True) -> ir.Model:
    """A chain of additions with exits; one row of the batch leaves at each of them, none of a single one.

    Without ``leaves`` the same additions and confidences, and no exits.
    """
    steps = [_step_text(index, leaves=leaves) for index in range(exits)]
    joins = [_join_text(index) for index in range(exits - 1, -1, -1)]
    given = f", float[{exits}] {EXIT_THRESHOLDS}" if leaves else ""
    said = [f"c_{index}" for index in range(exits)]
    got = ["s_0", f"int64[batch] {EXIT_INDEX}"] if leaves else [f"s_{exits}", *said]
    outputs = ", ".join(each if " " in each else f"float[batch] {each}" for each in got)
    text = f"""
<ir_version: 10, opset_import: ["" : 17, "{DOMAIN}" : {VERSION}]>
tiny (float[batch, {width}] x{given}) => ({outputs})
{{
  one = Constant <value_float = 1.0> ()
  x_0 = Identity (x)
  {"".join(steps)}
  s_{exits} = ReduceMax <axes = [1], keepdims = 0> (x_{exits})
  i_{exits} = Constant <value_int = {exits}> ()
  {"".join(joins) if leaves else ""}
}}"""
    model = ir.from_onnx_text(text)
    if not leaves:
        return model
    add_function(model, "ExitSelect")
    limits = np.array([_limit(index, batch) for index in range(exits)], np.float32)
    thresholds = next(value for value in model.graph.inputs if value.name == EXIT_THRESHOLDS)
    thresholds.const_value = ir.tensor(limits, name=EXIT_THRESHOLDS)
    model.graph.register_initializer(thresholds)
    return model


def _limit(index: int, batch: int) -> float:
    """Row values grow by one at every step, and the largest row leaves while another stays."""
    last = batch - 1 - index
    return last + index - 0.5 if last > 0 else float("inf")


def _step_text(index: int, *, leaves: bool) -> str:
    decision = f"""
  k_{index} = Constant <value_int = {index}> ()
  t_{index} = Gather ({EXIT_THRESHOLDS}, k_{index})
  stop_{index} = GreaterOrEqual (c_{index}, t_{index})"""
    return f"""
  c_{index} = ReduceMax <axes = [1], keepdims = 0> (x_{index}){decision if leaves else ""}
  x_{index + 1} = Add (x_{index}, one)"""


def _join_text(index: int) -> str:
    index_output = EXIT_INDEX if index == 0 else f"i_{index}"
    return f"""
  s_{index} = {DOMAIN}.ExitSelect (stop_{index}, c_{index}, s_{index + 1})
  {index_output} = {DOMAIN}.ExitSelect (stop_{index}, k_{index}, i_{index + 1})"""


def empty_model(batch: int) -> ir.Model:
    """What a call costs that computes nothing."""
    shape = f"float[{batch}, {NARROW}]"
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]>\nempty ({shape} x) => ({shape} y) {{ y = Identity (x) }}'
    )
    return ir.from_onnx_text(text)
