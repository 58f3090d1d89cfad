"""The two layouts ONNX Runtime fuses, written in standard operators.

Static (scales from data; one sample does not see the others):

    y = MatMul(x, w)   ->   q = QuantizeLinear(x, s, z)         unsigned 8 bits, shared by all readers of x
                            d = DequantizeLinear(q, s, z)
                            v = DequantizeLinear(w8, ws)        signed 8 bits, one scale an output channel
                            y = MatMul(d, v)

Convolutions and Gemm look the same, with the bias as 32-bit integers at scale ``s * ws``; the result of
a convolution is converted too. Dynamic (scale from the batch at hand, matrix products only):

    y = MatMul(x, w)   ->   q, s, z = DynamicQuantizeLinear(x)
                            i = MatMulInteger(q, w8, z)
                            y = Mul(Cast(i), Mul(s, ws))

Signed activations and one dynamic scale a row were tried: ONNX Runtime runs both slower than float.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from adapass.graph.edit import (
    apply_replacement,
    fresh_name,
    insert_after,
    insert_before,
    new_initializer,
    replace_uses,
)
from adapass.passes.quantize.chains import find_chains
from adapass.passes.quantize.sites import Site
from adapass.passes.quantize.weights import QuantizedWeight
from adapass.rewrite import Replacement

MARK = "adapass.quantize"
"""Metadata key on nodes that ``fit`` has to finish; removed there."""
OWN_SCALE, SHARED_SCALE, BIAS = "own-scale", "shared-scale", "bias"


def lay_out_static(graph: ir.Graph, sites: Sequence[tuple[Site, QuantizedWeight]]) -> None:
    """Put conversions around the sites, with scale 1 for activations until ``fit``."""
    nodes = frozenset(site.node for site, _ in sites)
    chains = find_chains(graph, _convolutions(nodes, graph), nodes)
    scales: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for value, origin in chains.scale_of.items():
        shared = origin is not value
        scale = scales[origin] if shared else _placeholder(graph, value)
        scales[value] = scale
        _convert_for_all(graph, value, scale, SHARED_SCALE if shared else OWN_SCALE)
    converted: dict[ir.Value, ir.Value] = {}
    for site, weight in sites:
        _convert_input(graph, site.node, frozenset(scales), converted)
        _put_weight(graph, site, weight)


def _convolutions(nodes: frozenset[ir.Node], graph: ir.Graph) -> Iterable[ir.Value]:
    return [node.outputs[0] for node in graph if node in nodes and node.op_type == "Conv"]


def _placeholder(graph: ir.Graph, value: ir.Value) -> tuple[ir.Value, ir.Value]:
    scale = new_initializer(graph, f"{value.name}_scale", np.array(1.0, np.float32))
    return scale, new_initializer(graph, f"{value.name}_zero_point", np.array(128, np.uint8))


def _pair(
    graph: ir.Graph, value: ir.Value, scale: tuple[ir.Value, ir.Value], mark: str
) -> tuple[ir.Node, ir.Node]:
    quantize = ir.node("QuantizeLinear", [value, *scale], metadata_props={MARK: mark})
    _describe(graph, quantize.outputs[0], f"{value.name}_quantized", ir.DataType.UINT8, value.shape)
    restore = ir.node("DequantizeLinear", [quantize.outputs[0], *scale])
    _describe(graph, restore.outputs[0], f"{value.name}_restored", ir.DataType.FLOAT, value.shape)
    return quantize, restore


def _describe(
    graph: ir.Graph, value: ir.Value, name: str, dtype: ir.DataType, shape: ir.Shape | None
) -> None:
    value.name = fresh_name(graph, name)
    value.type = ir.TensorType(dtype)
    value.shape = None if shape is None else shape.copy()


def _convert_for_all(graph: ir.Graph, value: ir.Value, scale: tuple[ir.Value, ir.Value], mark: str) -> None:
    producer = value.producer()
    assert producer is not None  # chains start at results of nodes
    quantize, restore = _pair(graph, value, scale, mark)
    insert_after(producer, [quantize, restore])
    replace_uses(value, restore.outputs[0])
    quantize.replace_input_with(0, value)


def _convert_input(
    graph: ir.Graph, node: ir.Node, done: frozenset[ir.Value], converted: dict[ir.Value, ir.Value]
) -> None:
    """Let this site alone read 8 bits where the value itself stays in float for its other readers."""
    value = node.inputs[0]
    assert value is not None  # a site has both operands
    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear" and producer.inputs[0] is not None:
        origin = producer.inputs[0].producer()
        if origin is not None and origin.inputs[0] in done:
            return
    if value not in converted:
        quantize, restore = _pair(graph, value, _placeholder(graph, value), OWN_SCALE)
        if producer is None:
            insert_before(graph[0], [quantize, restore])
        else:
            insert_after(producer, [quantize, restore])
        converted[value] = restore.outputs[0]
    node.replace_input_with(0, converted[value])


def _put_weight(graph: ir.Graph, site: Site, weight: QuantizedWeight) -> None:
    restore = _stored(graph, site.name, weight)
    insert_before(site.node, [restore])
    site.node.replace_input_with(1, restore.outputs[0])
    for name in ("alpha", "beta"):
        site.node.attributes.pop(name, None)
    if site.bias is None:
        return
    site.node.resize_inputs(3)
    site.node.replace_input_with(2, new_initializer(graph, f"{site.name}_bias", site.bias))
    site.node.metadata_props[MARK] = BIAS


def _stored(graph: ir.Graph, name: str, weight: QuantizedWeight) -> ir.Node:
    inputs = [
        new_initializer(graph, f"{name}_weight", weight.values),
        new_initializer(graph, f"{name}_weight_scale", weight.scale),
        # written out even when it is 0: without it some kernels are not matched
        new_initializer(graph, f"{name}_weight_zero_point", weight.zero_point),
    ]
    node = ir.node("DequantizeLinear", inputs, {} if weight.axis is None else {"axis": weight.axis})
    shape = ir.Shape(weight.values.shape)
    _describe(graph, node.outputs[0], f"{name}_weight_restored", ir.DataType.FLOAT, shape)
    return node


def lay_out_dynamic(graph: ir.Graph, sites: Sequence[tuple[Site, QuantizedWeight]]) -> None:
    """Replace each site by an integer product; needs no data."""
    measured: dict[ir.Value, ir.Node] = {}
    for site, weight in sites:
        value = site.node.inputs[0]
        assert value is not None  # a site has both operands
        if value not in measured:
            measured[value] = _measure(graph, value)
        nodes = _integer_product(graph, site, weight, measured[value])
        apply_replacement(site.node, Replacement(nodes, nodes[-1].outputs))


def _measure(graph: ir.Graph, value: ir.Value) -> ir.Node:
    node = ir.node("DynamicQuantizeLinear", [value], num_outputs=3)
    quantized, scale, zero = node.outputs
    _describe(graph, quantized, f"{value.name}_quantized", ir.DataType.UINT8, value.shape)
    _describe(graph, scale, f"{value.name}_scale", ir.DataType.FLOAT, ir.Shape([]))
    _describe(graph, zero, f"{value.name}_zero_point", ir.DataType.UINT8, ir.Shape([]))
    producer = value.producer()
    if producer is None:
        insert_before(graph[0], [node])
    else:
        insert_after(producer, [node])
    return node


def _integer_product(
    graph: ir.Graph, site: Site, weight: QuantizedWeight, measured: ir.Node
) -> list[ir.Node]:
    quantized, scale, zero = measured.outputs
    name, shape = site.name, site.node.outputs[0].shape
    values = weight.values.T if site.channel_axis == 0 else weight.values
    inputs = [quantized, new_initializer(graph, f"{name}_weight", values), zero]
    if not weight.symmetric:
        inputs.append(new_initializer(graph, f"{name}_weight_zero_point", weight.zero_point))
    product = ir.node("MatMulInteger", inputs)
    _describe(graph, product.outputs[0], f"{name}_integer", ir.DataType.INT32, shape)
    unscaled = ir.node("Cast", product.outputs, {"to": ir.DataType.FLOAT})
    _describe(graph, unscaled.outputs[0], f"{name}_unscaled", ir.DataType.FLOAT, shape)
    scales = ir.node("Mul", [scale, new_initializer(graph, f"{name}_weight_scale", weight.scale)])
    _describe(graph, scales.outputs[0], f"{name}_scale", ir.DataType.FLOAT, ir.Shape(weight.scale.shape))
    scaled = ir.node("Mul", [unscaled.outputs[0], scales.outputs[0]])
    if site.bias is None:
        return [product, unscaled, scales, scaled]
    _describe(graph, scaled.outputs[0], f"{name}_scaled", ir.DataType.FLOAT, shape)
    total = ir.node("Add", [scaled.outputs[0], new_initializer(graph, f"{name}_bias", site.bias)])
    return [product, unscaled, scales, scaled, total]
