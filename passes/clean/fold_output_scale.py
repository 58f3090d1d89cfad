"""Fold a constant factor on the output of a linear operator into its weight.

    y = Mul(MatMul(x, w), s)   ->   y = MatMul(x, w')        # w' = w * s

Saves a pass over the activation; ``w'`` is computed once. Exact over the reals, because scaling the
columns of ``w`` scales the columns of the product. The multiplication moves before the sum, so results
differ by rounding. Division by a constant is multiplication by its inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.constants import constant_array, constant_tensor
from adapass.graph.edit import new_constant
from adapass.rewrite import Exactness, Reject, Replacement, Rewrite

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FoldOutputScale(Rewrite):
    """Absorb ``Mul`` or ``Div`` by a constant into the MatMul, Gemm or Conv in front.

    Left alone when the product has another reader, when the weight, the bias or the factor is
    computed at run time, when the factor does not scale whole output channels, or when the scaled
    weight overflows.
    """

    name: ClassVar[str] = "fold-output-scale"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    root_ops: ClassVar[frozenset[str]] = frozenset({"Mul", "Div"})

    max_weight_elements: int = 1 << 28
    """Skip weights above this size: folding stores a second copy."""

    def rewrite(self, root: ir.Node, facts: FactCache) -> Replacement:
        del facts
        product, scale = _operands(root)
        linear = product.producer()
        if linear is None or linear.domain != "" or linear.op_type not in {"MatMul", "Gemm", "Conv"}:
            raise Reject("the scaled value is not a linear operator")
        if len(product.uses()) > 1 or product.is_graph_output():
            raise Reject("the unscaled product has another reader")
        if product.shape is None or scale.ndim > product.shape.rank():
            raise Reject("the factor does not scale whole output channels")
        stored = linear.inputs[1:]
        if any(value is not None and constant_tensor(value) is None for value in stored):
            raise Reject("the weight or the bias is not constant")
        weight = constant_tensor(stored[0])
        if weight is None or weight.size > self.max_weight_elements:
            raise Reject("the weight is above max_weight_elements")
        factor = 1.0 / scale if root.op_type == "Div" else scale
        return _rebuild(linear, factor)


def _operands(root: ir.Node) -> tuple[ir.Value, Floats]:
    """The computed operand and the constant one."""
    left, right = root.inputs
    if left is None or right is None:
        raise Reject("no constant factor")
    constant = constant_array(right)
    if constant is not None:
        return left, constant.astype(np.float64)
    constant = constant_array(left)
    if constant is None or root.op_type == "Div":
        raise Reject("no constant factor")
    return right, constant.astype(np.float64)


def _rebuild(linear: ir.Node, factor: Floats) -> Replacement:
    weight, *bias = [constant_array(value) for value in linear.inputs[1:] if value is not None]
    if weight is None:
        raise Reject("the weight or the bias is not constant")
    per_output = _per_output(linear, weight, factor)
    scaled = [_scaled(weight, _on_weight(linear, weight, per_output))]
    scaled += [_scaled(array, per_output.reshape(-1)) for array in bias if array is not None]
    base = linear.outputs[0].name or "scaled"
    constants = [
        new_constant(f"{base}_{part}", array) for part, array in zip(("weight", "bias"), scaled, strict=False)
    ]
    inputs = [linear.inputs[0], *constants]
    node = ir.Node("", linear.op_type, inputs, list(linear.attributes.values()), num_outputs=1)
    return Replacement(nodes=[node], outputs=node.outputs, initializers=constants)


def _per_output(linear: ir.Node, weight: Array, factor: Floats) -> Floats:
    """The factor as one number, or as one for each output channel."""
    if factor.size == 1 and factor.ndim <= (2 if linear.op_type != "Conv" else weight.ndim):
        return factor.reshape(())
    channels = weight.shape[0] if linear.op_type == "Conv" else weight.shape[-1]
    if linear.op_type == "Gemm" and linear.attributes.get_int("transB", 0) == 1:
        channels = weight.shape[0]
    wanted = (channels,) + (1,) * (weight.ndim - 2) if linear.op_type == "Conv" else (channels,)
    if factor.shape not in {wanted, (1, *wanted)} or weight.ndim < 2:
        raise Reject("the factor does not scale whole output channels")
    return factor.reshape(-1)


def _on_weight(linear: ir.Node, weight: Array, per_output: Floats) -> Floats:
    first = linear.op_type == "Conv" or linear.attributes.get_int("transB", 0) == 1
    if per_output.ndim == 0 or not first:
        return per_output
    return per_output.reshape(-1, *(1 for _ in weight.shape[1:]))


def _scaled(array: Array, factor: Floats) -> Array:
    with np.errstate(all="ignore"):
        result: Array = (array.astype(np.float64) * factor).astype(array.dtype)
    if not np.isfinite(result).all():
        raise Reject("the scaled weight overflows")
    return result
