"""Fold a batch normalisation into the weights in front of it.

    y = BatchNormalization(Conv(x, w, b), scale, shift, mean, var)   ->   y = Conv(x, w', b')

with ``f = scale / sqrt(var + epsilon)``, ``w' = w * f`` along the output channels and
``b' = (b - mean) * f + shift``. Saves a pass over the activation. At inference a batch normalisation is
one multiplication and one addition per channel, which the linear operator absorbs; only rounding differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.constants import constant_array
from adapass.graph.edit import new_constant
from adapass.rewrite import Exactness, Reject, Replacement, Rewrite

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FoldBatchNorm(Rewrite):
    """Absorb BatchNormalization into a Conv, ConvTranspose, Gemm or MatMul whose weight is constant.

    Left alone in training mode, when the unnormalised value has another reader, when a statistic or
    the weight is computed at run time, and when the folded weight is not finite.
    """

    name: ClassVar[str] = "fold-batch-norm"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    root_ops: ClassVar[frozenset[str]] = frozenset({"BatchNormalization"})

    def rewrite(self, root: ir.Node, facts: FactCache) -> Replacement:
        del facts
        linear = _linear(root)
        factor, shift = _affine(root)
        weight, bias = constant_array(linear.inputs[1]), _bias(linear, factor.size)
        if weight is None or bias is None:
            raise Reject("the weight or the bias is not constant")
        with np.errstate(all="ignore"):
            scaled = (weight.astype(np.float64) * _along_outputs(linear, weight, factor)).astype(weight.dtype)
            shifted = (bias * factor + shift).astype(weight.dtype)
        if not (np.isfinite(scaled).all() and np.isfinite(shifted).all()):
            raise Reject("the folded weight is not finite")
        return _rebuild(linear, scaled, shifted)


def _linear(root: ir.Node) -> ir.Node:
    """The operator in front, when folding into it is possible."""
    if root.attributes.get_int("training_mode", 0) == 1 or len(root.outputs) > 1:
        raise Reject("the normalisation is in training mode")
    data = root.inputs[0]
    linear = data.producer() if data is not None else None
    if data is None or linear is None or linear.domain != "" or linear.op_type not in _OUTPUT_AXIS:
        raise Reject("nothing linear computes the normalised value")
    if len(data.uses()) > 1 or data.is_graph_output():
        raise Reject("the unnormalised value has another reader")
    if linear.op_type == "MatMul" and (data.shape is None or data.shape.rank() != 2):
        raise Reject("the channels of the normalisation are not the columns of the product")
    return linear


def _affine(root: ir.Node) -> tuple[Floats, Floats]:
    arrays = [constant_array(value) for value in root.inputs[1:5]]
    if any(array is None for array in arrays):
        raise Reject("a statistic of the normalisation is not constant")
    scale, shift, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    epsilon = root.attributes.get_float("epsilon", 1e-5)
    factor = scale / np.sqrt(variance + epsilon)
    return factor, shift - mean * factor


def _bias(linear: ir.Node, channels: int) -> Floats | None:
    """The bias as a vector; zeros when there is none; ``None`` when it is not constant."""
    value = linear.inputs[2] if len(linear.inputs) > 2 else None
    if value is None:
        return np.zeros(channels)
    array = constant_array(value)
    if array is None or array.size not in {1, channels} or (array.size > 1 and array.shape[-1] != channels):
        return None
    beta = linear.attributes.get_float("beta", 1.0) if linear.op_type == "Gemm" else 1.0
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (channels,)) * beta


def _along_outputs(linear: ir.Node, weight: npt.NDArray[np.generic], factor: Floats) -> Floats:
    """``factor`` shaped so that multiplying scales the output channels of ``weight``."""
    if linear.op_type == "ConvTranspose":
        groups = linear.attributes.get_int("group", 1)
        if weight.shape[1] * groups != factor.size:
            raise Reject("the weight has another number of output channels")
        per_group = factor.reshape(groups, 1, -1)
        rows = np.repeat(per_group, weight.shape[0] // groups, axis=1).reshape(weight.shape[0], -1)
        return rows.reshape(rows.shape + (1,) * (weight.ndim - 2))
    axis = _OUTPUT_AXIS[linear.op_type]
    if linear.op_type == "Gemm" and linear.attributes.get_int("transB", 0) == 1:
        axis = 0
    if weight.ndim < 2 or weight.shape[axis] != factor.size:
        raise Reject("the weight has another number of output channels")
    return factor.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])


def _rebuild(linear: ir.Node, weight: npt.NDArray[np.generic], bias: npt.NDArray[np.generic]) -> Replacement:
    base = linear.outputs[0].name or "folded"
    new_weight = new_constant(f"{base}_weight", weight)
    new_bias = new_constant(f"{base}_bias", bias)
    stored = [new_weight, new_bias]
    if linear.op_type == "MatMul":
        product = ir.Node("", "MatMul", [linear.inputs[0], new_weight], num_outputs=1)
        total = ir.Node("", "Add", [product.outputs[0], new_bias], num_outputs=1)
        return Replacement(nodes=[product, total], outputs=total.outputs, initializers=stored)
    attributes = [a for a in linear.attributes.values() if a.name != "beta"]
    node = ir.Node("", linear.op_type, [linear.inputs[0], new_weight, new_bias], attributes, num_outputs=1)
    return Replacement(nodes=[node], outputs=node.outputs, initializers=stored)


_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
