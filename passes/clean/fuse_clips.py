"""Merge chains of Relu, Clip, Min and Max by constants.

    y = Min(Relu(x), {6})   ->   y = Clip(x, {0}, {6})

Each of them is a clamp, and a clamp of a clamp is a clamp whose bounds are the inner bounds, clamped.
Saves a pass over the activation each; every result is picked from the same numbers. (The rules of
onnxscript intersect the bounds instead, which is wrong when the ranges do not meet.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.constants import Array, constant_array
from adapass.graph.edit import new_constant
from adapass.rewrite import Exactness, Reject, Replacement, Rewrite

FIRST_OPSET = 12
"""Since then Clip takes its bounds as inputs, for integers too."""
_Bounds = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class FuseClips(Rewrite):
    """One Relu or Clip where there are two clamps in a row."""

    name: ClassVar[str] = "fuse-clips"
    exactness: ClassVar[Exactness] = Exactness.BITWISE
    root_ops: ClassVar[frozenset[str]] = frozenset({"Relu", "Clip", "Min", "Max"})

    def rewrite(self, root: ir.Node, facts: FactCache) -> Replacement:
        if facts.model.opset_imports.get("", 0) < FIRST_OPSET:
            raise Reject("the opset has no Clip with bounds as inputs")
        outer, inner_value = _clamp(root)
        inner_node = inner_value.producer()
        if inner_node is None or inner_node.domain != "" or inner_node.op_type not in self.root_ops:
            raise Reject("no other clamp comes before")
        if len(inner_value.uses()) > 1 or inner_value.is_graph_output():
            raise Reject("the value between has another reader")
        inner, source = _clamp(inner_node)
        low, high = (float(np.clip(bound, *outer)) for bound in inner)
        return _write(root, source, low, high)


def _clamp(node: ir.Node) -> tuple[_Bounds, ir.Value]:
    """The bounds of a clamp and what it clamps."""
    value = node.inputs[0]
    bounds = (-np.inf, np.inf)
    if node.op_type == "Relu":
        bounds = (0.0, np.inf)
    elif node.op_type == "Clip":
        bounds = (_bound(node, 1, -np.inf), _bound(node, 2, np.inf))
    elif len(node.inputs) == 2 and all(v is not None and v.shape is not None for v in node.inputs):
        left, right = node.inputs
        value = right if constant_array(left) is not None else left
        limit = _scalar(left if value is right else right)
        bounds = (-np.inf, limit) if node.op_type == "Min" else (limit, np.inf)
    else:
        raise Reject("a bound is not one constant number")
    if value is None or value.dtype is None or bounds[0] > bounds[1]:
        raise Reject("a bound is not one constant number")
    return bounds, value


def _bound(node: ir.Node, index: int, default: float) -> float:
    if index >= len(node.inputs) or node.inputs[index] is None:
        return default
    return _scalar(node.inputs[index])


def _scalar(value: ir.Value | None) -> float:
    array = constant_array(value)
    if array is None or array.size != 1 or array.ndim > 1 or array.dtype.kind not in "fiu":
        raise Reject("a bound is not one constant number")
    number = float(array.item())
    if np.isnan(number) or abs(number) > 2**53:
        raise Reject("a bound is not one constant number")
    return number


def _write(root: ir.Node, source: ir.Value, low: float, high: float) -> Replacement:
    dtype = source.dtype
    if dtype is None:
        raise Reject("a bound is not one constant number")
    if low == 0.0 and high == np.inf:
        relu = ir.Node("", "Relu", [source], num_outputs=1)
        return Replacement(nodes=[relu], outputs=relu.outputs)
    name = root.outputs[0].name or "clip"

    def stored(bound: float, suffix: str) -> ir.Value | None:
        array: Array = np.array(bound, dtype.numpy())
        return None if np.isinf(bound) else new_constant(f"{name}_{suffix}", array)

    bounds = [stored(low, "low"), stored(high, "high")]
    clip = ir.Node("", "Clip", [source, *bounds], num_outputs=1)
    return Replacement(nodes=[clip], outputs=clip.outputs, initializers=[b for b in bounds if b is not None])
