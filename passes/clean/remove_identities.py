"""Remove operators that return their input.

    y = Identity(x); z = Relu(y)   ->   z = Relu(x)

Besides Identity: Cast to the same type, Transpose without movement, Reshape and Expand to the same
shape, Dropout at inference, Slice of everything, Pad by nothing, Concat and Sum of one value,
multiplication and division by one, subtraction of zero. Each costs a dispatch and often a copy. Not one
bit changes; adding a floating-point zero is left alone, because it turns -0 into 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.constants import constant_array, constant_tensor
from adapass.graph.edit import can_carry_output
from adapass.graph.elements import dim_element, elements
from adapass.rewrite import Exactness, Reject, Replacement, Rewrite

MAX_CONSTANT_ELEMENTS = 1 << 16
"""Larger constants are not searched for zeros and ones."""
_Test = Callable[[ir.Node, ir.Value], bool]


@dataclass(frozen=True, kw_only=True)
class RemoveIdentities(Rewrite):
    """Let the readers of a no-op read its input.

    Left alone when it does something, and when it is what gives an output of a graph its name
    (the input is itself an input, a constant or another output).
    """

    name: ClassVar[str] = "remove-identities"
    exactness: ClassVar[Exactness] = Exactness.BITWISE
    root_ops: ClassVar[frozenset[str]]

    def rewrite(self, root: ir.Node, facts: FactCache) -> Replacement:
        del facts
        kept = _kept_input(root)
        if kept is None or not _TESTS[root.op_type](root, kept):
            raise Reject("the operator does something")
        if any(value.uses() or value.is_graph_output() for value in root.outputs[1:]):
            raise Reject("a second output is read")
        output = root.outputs[0]
        if output.is_graph_output() and not can_carry_output(output, kept):
            raise Reject("it gives an output of the graph its name")
        return Replacement(nodes=(), outputs=[kept, *root.outputs[1:]])


def _kept_input(root: ir.Node) -> ir.Value | None:
    """The input that comes through: the first, or the one that is not a constant."""
    if not root.inputs:
        return None
    if root.op_type == "Mul" and constant_tensor(root.inputs[0]) is not None:
        return root.inputs[1]
    return root.inputs[0]


def _always(root: ir.Node, kept: ir.Value) -> bool:
    del root, kept
    return True


def _only_input(root: ir.Node, kept: ir.Value) -> bool:
    del kept
    return len(root.inputs) == 1


def _same_type(root: ir.Node, kept: ir.Value) -> bool:
    return kept.dtype is not None and int(kept.dtype) == root.attributes.get_int("to", -1)


def _like_same_type(root: ir.Node, kept: ir.Value) -> bool:
    like = root.inputs[1]
    return kept.dtype is not None and like is not None and kept.dtype == like.dtype


def _no_movement(root: ir.Node, kept: ir.Value) -> bool:
    if "perm" not in root.attributes:
        return kept.shape is not None and kept.shape.rank() < 2
    perm = root.attributes["perm"].as_ints()
    return tuple(perm) == tuple(range(len(perm)))


def _same_shape(root: ir.Node, kept: ir.Value) -> bool:
    """Every entry of the target is the dimension itself; one may be -1, which then has to be."""
    target = elements(root.inputs[1])
    if kept.shape is None or target is None or len(target) != kept.shape.rank():
        return False
    copies = root.attributes.get_int("allowzero", 0) == 0
    others = 0
    for axis, entry in enumerate(target):
        dim = dim_element(kept, axis)
        if (entry == 0 and copies) or (entry is not None and entry == dim):
            continue
        if entry != -1:
            return False
        others += 1
    return others <= 1


def _expands_nothing(root: ir.Node, kept: ir.Value) -> bool:
    target = elements(root.inputs[1])
    if kept.shape is None or target is None or len(target) > kept.shape.rank():
        return False
    offset = kept.shape.rank() - len(target)
    return all(
        entry == 1 or (entry is not None and entry == dim_element(kept, axis + offset))
        for axis, entry in enumerate(target)
    )


def _inference(root: ir.Node, kept: ir.Value) -> bool:
    del kept
    if len(root.inputs) < 3 or root.inputs[2] is None:
        return root.attributes.get_int("is_test", 1) == 1
    training = constant_array(root.inputs[2])
    return training is not None and not training.any()


def _takes_all(root: ir.Node, kept: ir.Value) -> bool:
    if kept.shape is None or len(root.inputs) < 4:
        return False
    starts, ends, axes = (elements(root.inputs[index]) for index in (1, 2, 3))
    steps = elements(root.inputs[4]) if len(root.inputs) > 4 and root.inputs[4] is not None else None
    if starts is None or ends is None or axes is None or (steps is not None and set(steps) != {1}):
        return False
    return all(
        start == 0 and isinstance(axis, int) and _reaches(end, dim_element(kept, axis))
        for start, end, axis in zip(starts, ends, axes, strict=True)
    )


def _reaches(end: int | str | None, dim: int | str | None) -> bool:
    if isinstance(end, int):
        return end >= np.iinfo(np.int32).max if not isinstance(dim, int) else end >= dim
    return end is not None and end == dim


def _pads_nothing(root: ir.Node, kept: ir.Value) -> bool:
    del kept
    if len(root.inputs) < 2:
        return "pads" in root.attributes and not any(root.attributes["pads"].as_ints())
    found = constant_array(root.inputs[1])
    return found is not None and not found.any()


def _flat_already(root: ir.Node, kept: ir.Value) -> bool:
    return kept.shape is not None and kept.shape.rank() == 2 and root.attributes.get_int("axis", 1) in {1, -1}


def _with(neutral: int, *, floats: bool) -> _Test:
    """The other operand is a constant full of ``neutral`` that does not broaden the result."""

    def test(root: ir.Node, kept: ir.Value) -> bool:
        other = root.inputs[1] if root.inputs[0] is kept else root.inputs[0]
        tensor = constant_tensor(other)
        if tensor is None or kept.shape is None or tensor.size > MAX_CONSTANT_ELEMENTS:
            return False
        if not floats and not tensor.dtype.is_integer():
            return False
        shape = tuple(tensor.shape.numpy())
        offset = kept.shape.rank() - len(shape)
        if offset < 0 or any(n != 1 and n != dim_element(kept, i + offset) for i, n in enumerate(shape)):
            return False
        array = constant_array(other)
        return array is not None and bool(np.all(array == neutral))

    return test


_TESTS: Mapping[str, _Test] = MappingProxyType(
    {
        "Identity": _always,
        "Cast": _same_type,
        "CastLike": _like_same_type,
        "Transpose": _no_movement,
        "Reshape": _same_shape,
        "Expand": _expands_nothing,
        "Dropout": _inference,
        "Slice": _takes_all,
        "Pad": _pads_nothing,
        "Concat": _only_input,
        "Sum": _only_input,
        "Max": _only_input,
        "Min": _only_input,
        "Mean": _only_input,
        "Flatten": _flat_already,
        "Add": _with(0, floats=False),
        "Sub": _with(0, floats=True),
        "Mul": _with(1, floats=True),
        "Div": _with(1, floats=True),
    }
)
RemoveIdentities.root_ops = frozenset(_TESTS)
