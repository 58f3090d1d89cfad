"""Names for pieces: equal key, equal time; equal kind, the same operators at perhaps other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import onnx_ir as ir

from adapass.analyses.dataflow import Dataflow, name_of
from adapass.graph.edit import constant_tensor
from adapass.graph.tensors import subgraphs_of

_WHOLE = frozenset({ir.DataType.INT64, ir.DataType.BOOL})
_SMALL = 64
"""Whole numbers up to this many are structure: axes, pads, target shapes. (32-bit ones are biases.)"""


@dataclass(frozen=True, slots=True)
class Description:
    """What ``describe`` finds."""

    key: str
    kind: str
    sizes: tuple[int, ...]


def describe(
    flow: Dataflow, nodes: Sequence[int], inputs: Sequence[str], outputs: Sequence[str]
) -> Description:
    """Key, kind and sizes of the nodes between ``inputs`` and ``outputs``; names and weights do not count."""
    words = _Words()
    for name in inputs:
        words.number(name)
    for index in nodes:
        _node(words, flow.nodes[index])
    words.structure.append(f"out {[words.number(name) for name in outputs]}")
    by_name = {name_of(value): value for index in nodes for value in flow.reads[index]}
    for name in inputs:
        value = by_name[name]
        words.structure.append(f"in {words.number(name)} {value.dtype}")
        words.sizes += [dim if isinstance(dim, int) else -1 for dim in value.shape or ()]
    kind = _digest(words.structure)
    return Description(_digest([kind, repr(words.sizes)]), kind, tuple(words.sizes))


@dataclass(slots=True)
class _Words:
    structure: list[str] = field(default_factory=list[str])
    sizes: list[int] = field(default_factory=list[int])
    numbers: dict[str, int] = field(default_factory=dict[str, int])

    def number(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))


def _node(words: _Words, node: ir.Node) -> None:
    words.structure.append(f"{node.domain}.{node.op_type}.{len(node.outputs)}")
    for value in node.inputs:
        _operand(words, value)
    for name in sorted(node.attributes):
        _attribute(words, node.attributes[name])
    for graph in subgraphs_of(node):
        words.structure.append("(")
        for inner in graph:
            _node(words, inner)
        words.structure.append(")")
    words.structure += [f"= {words.number(name_of(value))}" for value in node.outputs]


def _operand(words: _Words, value: ir.Value | None) -> None:
    if value is None:
        words.structure.append("absent")
        return
    tensor = constant_tensor(value)
    if tensor is not None:
        _tensor(words, tensor)
        return
    maker = value.producer()
    if maker is not None and name_of(value) not in words.numbers and not any(_runtime(maker)):
        # A constant computed from constants (a conversion of weights) happens at load time.
        _node(words, maker)
    words.structure.append(f"{words.number(name_of(value))}")


def _runtime(node: ir.Node) -> Iterator[bool]:
    """Whether each input comes from outside of the stored constants."""
    for value in node.inputs:
        if value is None or constant_tensor(value) is not None:
            continue
        maker = value.producer()
        yield maker is None or any(_runtime(maker))


def _tensor(words: _Words, tensor: ir.TensorProtocol) -> None:
    shape = tuple(tensor.shape.numpy())
    words.structure.append(f"const {tensor.dtype} {len(shape)}")
    words.sizes += shape
    if tensor.dtype in _WHOLE and tensor.size <= _SMALL:
        words.sizes += [int(number) for number in tensor.numpy().ravel()]


def _attribute(words: _Words, attribute: ir.Attr) -> None:
    if attribute.is_ref() or attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
        return
    words.structure.append(attribute.name)
    if attribute.type == ir.AttributeType.INT:
        words.sizes.append(attribute.as_int())
    elif attribute.type == ir.AttributeType.INTS:
        words.structure.append(f"{len(attribute.as_ints())}")
        words.sizes += attribute.as_ints()
    elif attribute.type == ir.AttributeType.TENSOR:
        _tensor(words, attribute.as_tensor())
    elif attribute.type == ir.AttributeType.STRING:
        words.structure.append(attribute.as_string())


def _digest(words: Sequence[str]) -> str:
    return blake2b("\n".join(words).encode(), digest_size=16).hexdigest()
