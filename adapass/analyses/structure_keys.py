"""Names for pieces of a graph that do not depend on names: equal structure, equal key.

The key of a value is a hash over the operator, its attributes and the keys of its inputs, down to the
inputs of the piece (type and shape) and the constants (type and shape, or their bytes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import onnx_ir as ir

from adapass.analyses.dataflow import Dataflow
from adapass.analyses.shapes import Shapes
from adapass.graph.edit import constant_tensor

WHOLE = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})
SMALL = 64
"""Whole numbers up to this many are structure (axes, pads, target shapes); 8-bit ones are weights."""


@dataclass(slots=True)
class Keys:
    """Hashes values of one piece; ``sizes`` and ``weights`` choose how much goes into the hash."""

    flow: Dataflow
    shapes: Shapes
    sizes: bool
    """Whether shapes of inputs and constants count."""
    weights: bool
    """Whether the bytes of constants count."""
    _constants: dict[ir.Value, str] = field(default_factory=dict[ir.Value, str])

    def piece(self, nodes: Sequence[int], inputs: Sequence[str], outputs: Sequence[str]) -> str:
        """The key of the nodes between ``inputs`` and ``outputs``."""
        known = {name: self._input_key(name) for name in inputs}
        for index in sorted(nodes):
            node = self.flow.nodes[index]
            operands = [self._operand(value, known) for value in node.inputs]
            captured = [
                self._operand(value, known) for value in self.flow.reads[index] if value not in node.inputs
            ]
            key = _digest(node.domain, node.op_type, *self._attributes(node), *operands, "|", *captured)
            known.update(
                {
                    value.name: _digest(key, str(place))
                    for place, value in enumerate(node.outputs)
                    if value.name
                }
            )
        return _digest(*sorted(known[name] for name in outputs))

    def _input_key(self, name: str) -> str:
        dtype = self.shapes.dtypes.get(name)
        dims = self.shapes.of(name)
        return _digest("input", str(dtype), str(dims) if self.sizes else str(dims is None or len(dims)))

    def _operand(self, value: ir.Value | None, known: dict[str, str]) -> str:
        if value is None:
            return "absent"
        if value.name in known:
            return known[value.name]
        if value not in self._constants:
            self._constants[value] = self._constant(value)
        return self._constants[value]

    def _constant(self, value: ir.Value) -> str:
        tensor = constant_tensor(value)
        if tensor is not None:
            return self._stored(tensor)
        node = value.producer()
        if node is None:
            return _digest("outside", str(value.dtype))
        if node.op_type == "Identity":  # how some exporters share weights between layers
            return self._operand(node.inputs[0], {})
        operands = [self._operand(operand, {}) for operand in node.inputs]
        return _digest(node.domain, node.op_type, str(value.index()), *self._attributes(node), *operands)

    def _stored(self, tensor: ir.TensorProtocol) -> str:
        shape = tuple(tensor.shape.numpy())
        is_structure = tensor.dtype in WHOLE and int(np.prod(shape)) <= SMALL
        if self.weights or (is_structure and self.sizes):
            return _digest(
                str(tensor.dtype), str(shape), blake2b(tensor.tobytes(), digest_size=16).hexdigest()
            )
        return _digest(str(tensor.dtype), str(shape) if self.sizes else str(len(shape)))

    def _attributes(self, node: ir.Node) -> list[str]:
        attributes = sorted(node.attributes.items())
        if not self.sizes:
            return [name for name, _ in attributes]
        return [f"{name}:{self._attribute(attribute)}" for name, attribute in attributes]

    def _attribute(self, attribute: ir.Attr) -> str:
        if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
            return self._stored(attribute.as_tensor())  # without the name it may carry
        return ir.to_proto(attribute).SerializeToString(deterministic=True).hex()


def _digest(*parts: str) -> str:
    hasher = blake2b(digest_size=16)
    for part in parts:
        hasher.update(f"{len(part)}:".encode())
        hasher.update(part.encode())
    return hasher.hexdigest()
