"""What running in sections costs, measured on tiny models with exits through the generator in question.

How a generator leaves a model early (branches, sessions, rows gathered and put back) is its own affair. The
tiny model computes next to nothing, so its latency by number of exits is the price of leaving.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Feeds
from adapass.cost.model import Cost
from adapass.ops import DOMAIN, EXIT_INDEX, EXIT_THRESHOLDS, VERSION, add_function

FEW, MANY = 1, 4
NARROW, WIDE = 4, 4096

Measure = Callable[[ir.Model, Feeds], Cost]


@dataclass(frozen=True, slots=True)
class SectionOverhead:
    """Seconds for every section after the first: ``fixed_seconds``, and for what is carried into it."""

    fixed_seconds: float
    seconds_per_byte: float

    def of(self, carried_bytes: float) -> float:
        return self.fixed_seconds + self.seconds_per_byte * carried_bytes


def measure_overhead(measure: Measure, batch: int) -> SectionOverhead:
    """From four tiny models: few and many exits, little and much to carry."""
    slopes = [_slope(measure, batch, width) for width in (NARROW, WIDE)]
    more_bytes = 4 * batch * (WIDE - NARROW)
    rate = max(0.0, (slopes[1] - slopes[0]) / more_bytes)
    return SectionOverhead(max(0.0, slopes[0] - rate * 4 * batch * NARROW), rate)


def _slope(measure: Measure, batch: int, width: int) -> float:
    few, many = (measure(tiny_model(exits, batch, width), tiny_feed(batch, width)) for exits in (FEW, MANY))
    return (many.seconds - few.seconds) / (MANY - FEW)


def tiny_feed(batch: int, width: int) -> Feeds:
    """Row numbers: the last rows leave first."""
    return {"x": np.repeat(np.arange(batch, dtype=np.float32)[:, None], width, axis=1)}


def tiny_model(exits: int, batch: int, width: int) -> ir.Model:
    """A chain of additions with exits; one row of the batch leaves at each of them, none of a single one."""
    steps = [_exit_text(index) for index in range(exits)]
    joins = [_join_text(index, exits) for index in range(exits - 1, -1, -1)]
    text = f"""
<ir_version: 10, opset_import: ["" : 17, "{DOMAIN}" : {VERSION}]>
tiny (float[batch, {width}] x, float[{exits}] {EXIT_THRESHOLDS})
  => (float[batch] s_0, int64[batch] {EXIT_INDEX})
{{
  one = Constant <value_float = 1.0> ()
  x_0 = Identity (x)
  {"".join(steps)}
  s_{exits} = ReduceMax <axes = [1], keepdims = 0> (x_{exits})
  i_{exits} = Constant <value_int = {exits}> ()
  {"".join(joins)}
}}"""
    model = ir.from_onnx_text(text)
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


def _exit_text(index: int) -> str:
    return f"""
  c_{index} = ReduceMax <axes = [1], keepdims = 0> (x_{index})
  k_{index} = Constant <value_int = {index}> ()
  t_{index} = Gather ({EXIT_THRESHOLDS}, k_{index})
  stop_{index} = GreaterOrEqual (c_{index}, t_{index})
  x_{index + 1} = Add (x_{index}, one)"""


def _join_text(index: int, exits: int) -> str:
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
