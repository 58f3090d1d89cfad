"""Put a fitted scale and shift into stored numbers in front of them, where nobody else reads what is there.

    Add(Mul(LayerNormalization(x, g, c), s), b)   ->   LayerNormalization(x, g * s, c * s + b)
    Add(Add(x, Add(MatMul(h, w), c)), b)          ->   Add(x, Add(MatMul(h, w), c + b))

Exact over the reals. What cannot be folded stays as one or two cheap operators.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.graph.edit import constant_array, remove_if_dead, replace_uses
from adapass.graph.stand_ins import note_stand_in
from adapass.passes.prune.linear_ops import store
from adapass.passes.prune.remove_blocks_rewrite import Affine

Doubles = npt.NDArray[np.float64]


def fold(model: ir.Model, node: ir.Node, affine: Affine) -> bool:
    """Fold what ``node`` is the last operator of; whether it could be."""
    stream = affine.first.inputs[0]
    maker = stream.producer() if stream is not None else None
    if stream is None or maker is None or len(stream.uses()) != 1 or stream.is_graph_output():
        return False
    if node.op_type != "Add" or node.outputs[0].is_graph_output():
        return False
    shift = _numbers(model, affine.shift)
    scale = np.ones_like(shift) if affine.scale is None else _numbers(model, affine.scale)
    if maker.op_type == "LayerNormalization":
        folded = _into_norm(model, maker, scale, shift)
    else:
        folded = affine.scale is None and _into_bias(model, maker, shift)
    if folded:
        if first := [use.node for use in node.outputs[0].uses() if use.idx == 0]:
            note_stand_in(first[0], node.outputs[0].name or "")
        replace_uses(node.outputs[0], stream)
        remove_if_dead(node)
    return folded


def _into_norm(model: ir.Model, norm: ir.Node, scale: Doubles, shift: Doubles) -> bool:
    if len(norm.inputs) != 3:
        return False
    gain, bias = (_own(value, scale.size) for value in norm.inputs[1:])
    if gain is None or bias is None:
        return False
    _put(model, norm.inputs[1], gain * scale)
    _put(model, norm.inputs[2], bias * scale + shift)
    return True


def _into_bias(model: ir.Model, add: ir.Node, shift: Doubles) -> bool:
    """Into the bias of either summand of a residual addition."""
    for value in add.inputs if add.op_type == "Add" and add.domain == "" else ():
        maker = value.producer() if value is not None and len(value.uses()) == 1 else None
        if maker is None or maker.op_type != "Add" or maker.domain != "":
            continue
        for constant in maker.inputs:
            bias = _own(constant, shift.size)
            if bias is not None:
                _put(model, constant, bias + shift)
                return True
    return False


def _own(value: ir.Value | None, size: int) -> Doubles | None:
    """A vector of this size that only one operator reads."""
    array: Array | None = constant_array(value)
    if value is None or array is None or not value.is_initializer() or len(value.uses()) != 1:
        return None
    return array.astype(np.float64) if array.shape == (size,) else None


def _numbers(model: ir.Model, name: str) -> Doubles:
    array = constant_array(model.graph.initializers[name])
    assert array is not None  # made by ``take_out``
    return array.astype(np.float64).reshape(-1)


def _put(model: ir.Model, value: ir.Value | None, numbers: Doubles) -> None:
    assert value is not None  # looked at by ``_own``
    old = constant_array(value)
    assert old is not None
    store(model, value.name or "", numbers.astype(old.dtype))
