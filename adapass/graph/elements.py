"""What is inside a small integer vector at run time: numbers, and sizes of symbolic dimensions.

Exporters compute the target of a Reshape with chains of Shape, Gather, Slice and Concat. Following
such a chain gives one element for each entry of the vector: a number, the name of a dimension, or
unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from adapass.graph.constants import constant_array, constant_tensor

Element = int | str | None
"""A number, the name of a symbolic dimension, or ``None`` for anything else."""
Elements = tuple[Element, ...]
MAX_ELEMENTS = 64
MAX_DEPTH = 32


def elements(value: ir.Value | None, depth: int = 0) -> Elements | None:
    """The content of an integer vector or scalar, entry by entry; ``None`` when its length is unknown."""
    if value is None or depth > MAX_DEPTH or (value.shape is not None and value.shape.rank() > 1):
        return None
    tensor = constant_tensor(value)
    if tensor is not None:
        return _constant(value, tensor)
    node = value.producer()
    if node is None or node.domain != "":
        return None
    follow = _FOLLOW.get(node.op_type)
    return None if follow is None else follow(node, depth + 1)


def dim_element(value: ir.Value, axis: int) -> Element:
    """One dimension of ``value``, as far as shape inference knows it."""
    if value.shape is None:
        return None
    dim = value.shape[axis]
    if isinstance(dim, int):
        return dim
    return None if dim.value is None else str(dim.value)


def _constant(value: ir.Value, tensor: ir.TensorProtocol) -> Elements | None:
    if not tensor.dtype.is_integer() or len(tensor.shape) > 1 or tensor.size > MAX_ELEMENTS:
        return None
    array = constant_array(value)
    return None if array is None else tuple(int(number) for number in np.atleast_1d(array))


def _shape(node: ir.Node, depth: int) -> Elements | None:
    del depth
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    dims = [dim_element(source, axis) for axis in range(source.shape.rank())]
    start = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", len(dims))
    return tuple(dims[start:end])


def _same(node: ir.Node, depth: int) -> Elements | None:
    return elements(node.inputs[0], depth)


def _cast(node: ir.Node, depth: int) -> Elements | None:
    """Sizes fit into 64 and 32 bits alike; anything narrower could change the number."""
    if node.attributes.get_int("to", 0) not in {int(ir.DataType.INT64), int(ir.DataType.INT32)}:
        return None
    return elements(node.inputs[0], depth)


def _concat(node: ir.Node, depth: int) -> Elements | None:
    parts: list[Element] = []
    for value in node.inputs:
        part = elements(value, depth)
        if part is None and value is not None and value.shape is not None and value.shape.is_static():
            part = (None,) * int(np.prod(value.shape.numpy()))
        if part is None:
            return None
        parts.extend(part)
    return tuple(parts)


def _gather(node: ir.Node, depth: int) -> Elements | None:
    source, indices = elements(node.inputs[0], depth), elements(node.inputs[1], depth)
    if source is None or indices is None or node.attributes.get_int("axis", 0) != 0:
        return None
    picked: list[Element] = []
    for index in indices:
        if not isinstance(index, int) or not -len(source) <= index < len(source):
            return None
        picked.append(source[index])
    return tuple(picked)


def _slice(node: ir.Node, depth: int) -> Elements | None:
    source = elements(node.inputs[0], depth)
    bounds = [_single(node, index, depth) for index in (1, 2)]
    axis, step = _single(node, 3, depth, 0), _single(node, 4, depth, 1)
    if source is None or axis not in {0, -1} or step is None or step == 0 or None in bounds:
        return None
    start, end = bounds
    if step < 0:
        return None
    return source[start:end:step]


def _single(node: ir.Node, index: int, depth: int, default: int | None = None) -> int | None:
    if index >= len(node.inputs) or node.inputs[index] is None:
        return default
    found = elements(node.inputs[index], depth)
    return found[0] if found is not None and len(found) == 1 and isinstance(found[0], int) else None


def _arithmetic(combine: Callable[[int, int], int]) -> Callable[[ir.Node, int], Elements | None]:
    def follow(node: ir.Node, depth: int) -> Elements | None:
        left, right = elements(node.inputs[0], depth), elements(node.inputs[1], depth)
        if left is None or right is None or not (len(left) == len(right) or 1 in (len(left), len(right))):
            return None
        length = max(len(left), len(right))
        pairs = zip(_widen(left, length), _widen(right, length), strict=True)
        return tuple(combine(a, b) if isinstance(a, int) and isinstance(b, int) else None for a, b in pairs)

    return follow


def _widen(part: Sequence[Element], length: int) -> Sequence[Element]:
    return part if len(part) == length else list(part) * length


_FOLLOW: Mapping[str, Callable[[ir.Node, int], Elements | None]] = MappingProxyType(
    {
        "Shape": _shape,
        "Identity": _same,
        "Squeeze": _same,
        "Unsqueeze": _same,
        "Cast": _cast,
        "Concat": _concat,
        "Gather": _gather,
        "Slice": _slice,
        "Add": _arithmetic(lambda a, b: a + b),
        "Sub": _arithmetic(lambda a, b: a - b),
        "Mul": _arithmetic(lambda a, b: a * b),
    }
)
