"""Recognise a layer normalisation written out.

    m = ReduceMean(x); d = Sub(x, m); v = ReduceMean(Mul(d, d)); n = Div(d, Sqrt(Add(v, eps)))
    y = Add(Mul(n, g), b)
    ->
    y = LayerNormalization<axis=-1, epsilon=eps>(x, g, b)

Seven passes over the activation become one. The same mean and variance, summed in another order.
The variance may be written with Pow, the division with Reciprocal. (The rule of onnxscript takes
anything that is multiplied or added, a residual for instance, for scale and bias.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.constants import constant_array, constant_tensor
from adapass.rewrite import Exactness, Reject, Replacement, Rewrite

FIRST_OPSET = 17


@dataclass(frozen=True, kw_only=True)
class FuseLayerNorm(Rewrite):
    """Replace written-out layer normalisation over the last axis, with constant scale and bias.

    The bias is taken along when it follows; without a scale nothing is fused.
    """

    name: ClassVar[str] = "fuse-layer-norm"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    root_ops: ClassVar[frozenset[str]] = frozenset({"Mul", "Add"})

    def rewrite(self, root: ir.Node, facts: FactCache) -> Replacement:
        if facts.model.opset_imports.get("", 0) < FIRST_OPSET:
            raise Reject("the opset has no LayerNormalization")
        scaled, bias = (root, None) if root.op_type == "Mul" else _with_bias(root)
        if root.op_type == "Mul" and _adds_bias(root):
            raise Reject("the bias that follows comes along when its turn comes")
        normalized, scale = _with_vector(scaled)
        source, epsilon = _normalized(normalized)
        if source.dtype not in {ir.DataType.FLOAT, ir.DataType.DOUBLE}:
            raise Reject("the values are not single or double precision")
        inputs = [source, scale, bias] if bias is not None else [source, scale]
        attributes = [ir.AttrInt64("axis", -1), ir.AttrFloat32("epsilon", epsilon)]
        node = ir.Node("", "LayerNormalization", inputs, attributes, num_outputs=1)
        return Replacement(nodes=[node], outputs=node.outputs)


def _with_bias(root: ir.Node) -> tuple[ir.Node, ir.Value]:
    product, bias = _with_vector(root)
    node = product.producer()
    if node is None or node.domain != "" or node.op_type != "Mul" or not _is_private(product):
        raise Reject("not a normalised value, scaled")
    return node, bias


def _adds_bias(scaled: ir.Node) -> bool:
    """Whether the only reader of the scaled value adds a constant vector."""
    if not _is_private(scaled.outputs[0]):
        return False
    reader = next(iter(scaled.outputs[0].uses())).node
    if reader.domain != "" or reader.op_type != "Add":
        return False
    try:
        _with_vector(reader)
    except Reject:
        return False
    return True


def _with_vector(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    """The computed operand and the constant one, a vector as long as the last axis."""
    for value, vector in (tuple(node.inputs), tuple(reversed(node.inputs))):
        tensor = constant_tensor(vector)
        if value is None or vector is None or tensor is None or len(tensor.shape) != 1:
            continue
        if value.shape is not None and value.shape.rank() > 0 and value.shape[-1] == tensor.shape[0]:
            return value, vector
    raise Reject("not scaled by a constant vector along the last axis")


def _normalized(value: ir.Value) -> tuple[ir.Value, float]:
    """``x`` and epsilon when ``value`` is ``(x - mean) / sqrt(variance + epsilon)``."""
    node = _producer(value, {"Div", "Mul"})
    left, right = node.inputs
    if left is None or right is None or not _is_private(value):
        raise Reject("not a normalised value, scaled")
    candidates = [(left, right)] if node.op_type == "Div" else [(left, right), (right, left)]
    for deviation, other in candidates:
        deviation_node = deviation.producer()
        if deviation_node is None or deviation_node.op_type != "Sub" or deviation_node.domain != "":
            continue
        root = _producer(other, {"Reciprocal"}).inputs[0] if node.op_type == "Mul" else other
        return _centred(deviation_node), _epsilon(_input(_producer(root, {"Sqrt"})), deviation)
    raise Reject("not a normalised value, scaled")


def _centred(deviation: ir.Node) -> ir.Value:
    source, mean = deviation.inputs
    if source is None or _mean_of(mean) is not source:
        raise Reject("what is subtracted is not the mean over the last axis")
    return source


def _epsilon(value: ir.Value, deviation: ir.Value) -> float:
    """Epsilon when ``value`` is the variance plus a constant."""
    total = _producer(value, {"Add"})
    for variance, constant in (tuple(total.inputs), tuple(reversed(total.inputs))):
        array = constant_array(constant)
        if array is None or array.size != 1 or array.ndim > 1 or variance is None:
            continue
        if _is_square(_mean_of(variance), deviation):
            return float(array.item())
    raise Reject("what is under the root is not the variance plus a constant")


def _is_square(value: ir.Value | None, deviation: ir.Value) -> bool:
    node = value.producer() if value is not None else None
    if node is None or node.domain != "" or node.inputs[0] is not deviation:
        return False
    if node.op_type == "Mul":
        return node.inputs[1] is deviation
    exponent = constant_array(node.inputs[1]) if node.op_type == "Pow" else None
    return exponent is not None and exponent.size == 1 and exponent.ndim < 2 and float(exponent.item()) == 2.0


def _mean_of(value: ir.Value | None) -> ir.Value | None:
    """What ``value`` is the mean of, over the last axis, which is kept."""
    node = value.producer() if value is not None else None
    if node is None or node.domain != "" or node.op_type != "ReduceMean":
        return None
    source = node.inputs[0]
    if source is None or source.shape is None or node.attributes.get_int("keepdims", 1) != 1:
        return None
    axes = _axes(node)
    return source if axes in ([-1], [source.shape.rank() - 1]) else None


def _axes(node: ir.Node) -> list[int] | None:
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    array = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if array is None else [int(axis) for axis in array.reshape(-1)]


def _producer(value: ir.Value | None, ops: set[str]) -> ir.Node:
    node = value.producer() if value is not None else None
    if node is None or node.domain != "" or node.op_type not in ops:
        raise Reject("not a normalised value, scaled")
    return node


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    if value is None:
        raise Reject("not a normalised value, scaled")
    return value


def _is_private(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()
