"""Rewritten models to judge predictions on: narrowed, in 8 bits, with exits. Fitted on few samples.

Only latency is judged, so a narrowed layer keeps its first channels; nothing is healed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, BudgetedPass
from adapass.cost.predict import Exits
from adapass.data import Dataset
from adapass.errors import UsageError
from adapass.facts import FactCache
from adapass.graph.edit import constant_array
from adapass.graph.shapes import infer_shapes
from adapass.ops import EXIT_THRESHOLDS
from adapass.passes.exits.tuning import collect
from adapass.text_form import parse_pass

WIDTHS = (100, 75, 62, 50, 37, 25)
QUANTIZE = "quantize-8bit{calibration-samples=4}"
BETWEEN = frozenset({"Add", "Relu", "Gelu"})


@dataclass(frozen=True, slots=True)
class Setup:
    """One configuration."""

    exits: int
    width: str
    """Percent of every pair's channels that stay, or ``mixed``: drawn for each pair."""
    precision: str
    """``float``; ``8bit``; ``half``: 8 bits in the second half of the sites; ``second``: in second layers."""
    leave: float = 0.0
    """Share of the samples that come by an exit and leave there."""
    staged: bool = False

    def __str__(self) -> str:
        how = f"exits={self.exits}" + (f"/{self.leave:.2f}" if self.exits else "")
        return f"{how} width={self.width} {self.precision}" + (" staged" if self.staged else "")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two products with nothing but a bias and an activation between them."""

    first: ir.Node
    between: tuple[ir.Node, ...]
    second: ir.Node

    @property
    def channels(self) -> int:
        array = _array(self.second.inputs[1])
        return int(array.shape[_inner_axis(self.second)])


def rewritten(clean: ir.Model, setup: Setup, fit: Dataset, *, seed: int) -> ir.Model:
    """A copy of ``clean`` as ``setup`` says."""
    model = clean.clone()
    random = np.random.default_rng(seed)
    pairs = list(find_pairs(model))
    second = frozenset(pair.second.outputs[0].name or "" for pair in pairs)
    for pair in pairs:
        percent = random.choice(WIDTHS) if setup.width == "mixed" else int(setup.width)
        narrow(pair, int(percent))
    infer_shapes(model)
    if setup.precision != "float":
        quantize(model, setup.precision, second, fit)
    if setup.exits:
        add_exits(model, setup.exits, fit)
    return model


def find_pairs(model: ir.Model) -> Iterator[Pair]:
    """All pairs in execution order."""
    for node in model.graph:
        between: list[ir.Node] = []
        reader = _only_reader(node) if _is_product(node) else None
        while reader is not None and reader.op_type in BETWEEN and _has_one_activation(reader):
            between.append(reader)
            reader = _only_reader(reader)
        if reader is not None and between and _is_product(reader) and reader.op_type == node.op_type:
            yield Pair(node, tuple(between), reader)


def narrow(pair: Pair, percent: int) -> None:
    """Keep the first channels between the two products, in place: really smaller tensors."""
    kept = kept_channels(pair.channels, percent)
    if kept == pair.channels:
        return
    _cut(pair.first, 1, _outer_axis(pair.first), kept)
    if len(pair.first.inputs) > 2:
        _cut(pair.first, 2, 0, kept)
    for node in pair.between:
        for place, value in enumerate(node.inputs):
            if value is not None and constant_array(value) is not None:
                _cut(node, place, -1, kept)
    _cut(pair.second, 1, _inner_axis(pair.second), kept)


def kept_channels(channels: int, percent: int) -> int:
    return max(1, round(channels * percent / 100))


def widths_for(model: ir.Model, percent: int) -> set[tuple[int, ...]]:
    """Shapes that the second weights of all pairs have at a width."""
    shapes: set[tuple[int, ...]] = set()
    for pair in find_pairs(model):
        shape = list(_array(pair.second.inputs[1]).shape)
        shape[_inner_axis(pair.second)] = kept_channels(pair.channels, percent)
        shapes.add(tuple(shape))
    return shapes


def quantize(model: ir.Model, precision: str, second: frozenset[str], fit: Dataset) -> None:
    """8 bits everywhere, behind the middle, or in the second layers of pairs."""
    step = _budgeted(QUANTIZE)
    facts = FactCache(model)
    choices = [choice for choice in step.propose(model, facts).choices if choice.setting == "static"]
    if precision == "half":
        choices = choices[len(choices) // 2 :]
    elif precision == "second":
        choices = [choice for choice in choices if choice.site in second]
    step.apply(model, facts, choices)
    step.fit(model, fit)
    infer_shapes(model)


def add_exits(model: ir.Model, count: int, fit: Dataset) -> None:
    """Linear heads on means, spread over the depth."""
    step = _budgeted(f"insert-exits{{head=linear features=mean min-saving=0.1 max-exits={count}}}")
    facts = FactCache(model)
    step.apply(model, facts, step.propose(model, facts).choices)
    step.fit(model, fit)


def traced(model: ir.Model, samples: Dataset, leave: float) -> Exits:
    """Set the thresholds so that ``leave`` of who comes by leaves; which exit each sample took."""
    confidence = collect(model, samples).confidence
    exits = confidence.shape[1]
    taken = np.full(len(confidence), exits, np.int64)
    limits = np.full(exits, np.inf, np.float32)
    for index in range(exits):
        left = taken == exits
        limits[index] = np.quantile(confidence[left, index], 1 - leave)
        taken[left & (confidence[:, index] >= limits[index])] = index
    model.graph.initializers[EXIT_THRESHOLDS].const_value = ir.tensor(limits, name=EXIT_THRESHOLDS)
    return taken


def _budgeted(text: str) -> BudgetedPass:
    step = parse_pass(text)
    if not isinstance(step, BudgetedPass):
        raise UsageError(f"{text} is no budgeted pass")
    return step


def _is_product(node: ir.Node) -> bool:
    return node.op_type in ("Conv", "MatMul") and constant_array(node.inputs[1]) is not None


def _only_reader(node: ir.Node) -> ir.Node | None:
    uses = list(node.outputs[0].uses())
    return uses[0].node if len(uses) == 1 else None


def _has_one_activation(node: ir.Node) -> bool:
    return sum(value is not None and constant_array(value) is None for value in node.inputs) == 1


def _outer_axis(node: ir.Node) -> int:
    return 0 if node.op_type == "Conv" else 1


def _inner_axis(node: ir.Node) -> int:
    return 1 if node.op_type == "Conv" else 0


def _array(value: ir.Value | None) -> Array:
    array = None if value is None else constant_array(value)
    if array is None:
        raise UsageError("a product without a stored weight cannot be narrowed")
    return array


def _cut(node: ir.Node, place: int, axis: int, kept: int) -> None:
    value = node.inputs[place]
    array = _array(value)
    if value is None or not array.ndim or array.shape[axis] <= kept:
        return
    value.const_value = ir.tensor(np.ascontiguousarray(array.take(range(kept), axis)), name=value.name)
    value.shape = ir.Shape(value.const_value.shape.numpy())
