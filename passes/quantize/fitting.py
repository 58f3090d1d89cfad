"""Turn the placeholders of the static layout into scales.

Calibration watches the activations of the graph without its conversions (weights already rounded), one
sample at a time, so that padding never widens a range and memory stays that of one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Samples
from adapass.errors import DataError
from adapass.execution import Session
from adapass.graph.edit import constant_array, insert_before, new_initializer, remove_dead_nodes, replace_uses
from adapass.graph.stand_ins import note_stand_in
from adapass.passes.quantize.layout import BIAS, MARK, OWN_SCALE
from adapass.passes.quantize.ranges import Histogram, RangeMethod, activation_scale
from adapass.passes.quantize.weights import Floats, QuantizedWeight, widen_for_bias


def pending(model: ir.Model) -> list[ir.Node]:
    """The marked nodes, in order: conversions without a scale and products without an integer bias."""
    return [node for node in model.graph if MARK in node.metadata_props]


def fit_scales(
    model: ir.Model,
    data: Samples,
    *,
    method: RangeMethod,
    percentile: float,
    samples: int,
    correct: Callable[[], None] | None = None,
) -> None:
    """Finish every marked node in place, then remove the marks.

    ``correct`` is called when all scales are known and the biases are not rounded yet.

    Raises:
        DataError: there are no samples, or they do not fit the model.

    """
    marked = pending(model)
    names = [_watched(node) for node in marked if node.metadata_props[MARK] == OWN_SCALE]
    seen = observe(
        without_conversions(model), names, data, samples=samples, exact=method is not RangeMethod.MIN_MAX
    )
    for node in marked:
        if node.metadata_props[MARK] == OWN_SCALE:
            _write_scale(node, seen[_watched(node)].range(method, percentile))
    if correct is not None:
        correct()
    for node in marked:
        if node.metadata_props.pop(MARK) == BIAS:
            _quantize_bias(model.graph, node)
        elif node.op_type == "QuantizeLinear":
            _drop_redundant_relu(node)
    remove_dead_nodes(model)


def observe(
    model: ir.Model, names: Sequence[str], data: Samples, *, samples: int, exact: bool = True
) -> Mapping[str, Histogram]:
    """What the values ``names`` of the main graph take on evenly spaced samples.

    With ``exact=False`` only the extremes are kept, which is faster.
    """
    if len(data) == 0:
        raise DataError("the data has no samples to calibrate activation ranges on; give at least one")
    seen = {name: Histogram() for name in names}
    inputs = {value.name for value in model.graph.inputs}
    session = Session(model, outputs=[name for name in seen if name not in inputs])
    for index in spread(len(data), samples):
        feeds = data.feeds(index)
        results = session.run(feeds) if session.outputs else {}
        for name, histogram in seen.items():
            histogram.add((feeds if name in inputs else results)[name], bins=exact)
    return seen


def spread(total: int, count: int) -> list[int]:
    """At most ``count`` evenly spaced indices below ``total``."""
    return [int(i) for i in np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))]


def without_conversions(model: ir.Model) -> ir.Model:
    """A float copy: marked conversions bypassed, 8-bit weights as the floats they stand for."""
    copy = model.clone()
    for node in list(copy.graph):
        if node.op_type == "DequantizeLinear" and constant_array(node.inputs[0]) is not None:
            name = f"{node.outputs[0].name}_float"
            floats = new_initializer(copy.graph, name, _stored_weight(node).dequantized())
            replace_uses(node.outputs[0], floats)
    for node in pending(copy):
        source = node.inputs[0]
        if node.op_type != "QuantizeLinear" or source is None:
            continue
        for use in list(node.outputs[0].uses()):
            _bypass(use.node.outputs[0], source)
    remove_dead_nodes(copy)
    return copy


def _bypass(restored: ir.Value, source: ir.Value) -> None:
    """Let all nodes read ``source``. An output of the graph stays: replacing it would rename ``source``."""
    if not restored.is_graph_output():
        replace_uses(restored, source)
        return
    for use in list(restored.uses()):
        use.node.replace_input_with(use.idx, source)


def _watched(node: ir.Node) -> str:
    value = node.inputs[0]
    return value.name or "" if value is not None else ""


def _write_scale(node: ir.Node, limits: tuple[float, float]) -> None:
    found = activation_scale(*limits)
    _store(node.inputs[1], np.asarray(found.scale))
    _store(node.inputs[2], np.asarray(found.zero_point))


def _drop_redundant_relu(node: ir.Node) -> None:
    """With zero point 0 the conversion to unsigned numbers cuts negative ones by itself."""
    relu = node.inputs[0].producer() if node.inputs[0] is not None else None
    zero = constant_array(node.inputs[2])
    if relu is None or relu.op_type != "Relu" or relu.domain != "" or zero is None or zero.any():
        return
    if len(relu.outputs[0].uses()) == 1 and not relu.outputs[0].is_graph_output():
        note_stand_in(node, relu.outputs[0].name or "")
        node.replace_input_with(0, relu.inputs[0])


def _quantize_bias(graph: ir.Graph, node: ir.Node) -> None:
    """Store the bias as 32-bit integers at the scale of the products it is added to."""
    data, restored_weight = _producer(node.inputs[0]), _producer(node.inputs[1])
    bias = _array(node.inputs[2]).astype(np.float32)
    input_scale = float(_array(data.inputs[1]))
    weight = _widened(restored_weight, bias, input_scale)
    product = np.minimum(input_scale * weight.scale.astype(np.float64), np.finfo(np.float32).max)
    scale = np.broadcast_to(product.astype(np.float32), bias.shape)
    integers = np.rint(bias.astype(np.float64) / scale).astype(np.int32)
    name = node.outputs[0].name or ""
    inputs = [
        new_initializer(graph, f"{name}_bias_int32", integers),
        new_initializer(graph, f"{name}_bias_scale", scale),
        new_initializer(graph, f"{name}_bias_zero_point", np.zeros(scale.shape, np.int32)),
    ]
    restore = ir.node("DequantizeLinear", inputs, {"axis": 0})
    restore.outputs[0].type, restore.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(bias.shape)
    insert_before(node, [restore])
    node.replace_input_with(2, restore.outputs[0])


def _widened(restore: ir.Node, bias: Floats, input_scale: float) -> QuantizedWeight:
    """The stored weight, with channels rescaled where the bias would not fit (written back to the graph)."""
    stored = _stored_weight(restore)
    widened = widen_for_bias(stored, bias, input_scale)
    if widened is not stored:
        _store(restore.inputs[0], widened.values)
        _store(restore.inputs[1], widened.scale)
    return widened


def _store(value: ir.Value | None, array: Array) -> None:
    assert value is not None  # laid out with all inputs
    value.const_value = ir.tensor(array, name=value.name)


def _producer(value: ir.Value | None) -> ir.Node:
    node = value.producer() if value is not None else None
    assert node is not None  # the layout puts a DequantizeLinear there
    return node


def _stored_weight(node: ir.Node) -> QuantizedWeight:
    values, scale, zero = (_array(value) for value in node.inputs[:3])
    axis = node.attributes.get_int("axis", 1) if scale.ndim else None
    return QuantizedWeight(values.astype(np.int8), scale.astype(np.float32), zero.astype(np.int8), axis)


def _array(value: ir.Value | None) -> Array:
    array = constant_array(value)
    assert array is not None  # scales and weights of the layout are initializers
    return array
