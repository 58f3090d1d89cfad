"""Find what can run at the end of a product: bias, scale, residual, activation, each read by the next alone.

    Add(Relu(Add(MatMul(x, w), b)), r)   ->   one kernel, x @ w -> (+ b) -> relu -> (+ r)

The kernel is emitted where the last operator of the chain was, so everything it reads is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import onnx_ir as ir

from adapass.codegen.tvm.kernels.kernel import Ending
from adapass.codegen.tvm.scope import attribute

ROOTS: Final = frozenset({"MatMul", "Gemm", "Conv"})
_ACTIVATIONS: Final[Mapping[str, Ending]] = MappingProxyType(
    {
        "Erf": Ending.ERF,
        "Exp": Ending.EXP,
        "Relu": Ending.RELU,
        "Sigmoid": Ending.SIGMOID,
        "Tanh": Ending.TANH,
    }
)


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of a chain; ``operand`` is what it adds or multiplies."""

    ending: Ending
    operand: ir.Value | None
    node: ir.Node


@dataclass(frozen=True, slots=True)
class Chain:
    """A product and what follows it, in order."""

    root: ir.Node
    steps: tuple[Step, ...]

    @property
    def last(self) -> ir.Node:
        return self.steps[-1].node if self.steps else self.root


def constant_values(graph: ir.Graph, outer: AbstractSet[ir.Value]) -> frozenset[ir.Value]:
    """Values that do not depend on an input."""
    found = set(outer)
    found |= {value for value in graph.initializers.values() if not value.is_graph_input()}
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type == "Constant" or (inputs and all(value in found for value in inputs)):
            found.update(node.outputs)
    return frozenset(found)


def chains(graph: ir.Graph, constants: AbstractSet[ir.Value]) -> dict[ir.Node, Chain]:
    """All chains, by their last node. No node is in two."""
    found: dict[ir.Node, Chain] = {}
    taken: set[ir.Node] = set()
    for node in graph:
        if node.op_type not in ROOTS or node.domain or not _weighted(node, constants):
            continue
        steps: list[Step] = []
        curved = False
        while True:
            last = steps[-1].node if steps else node
            step = _next(last, node, constants, taken, curved=curved)
            if step is None:
                break
            steps.append(step)
            taken.add(step.node)
            curved = curved or not (step.ending.reads or step.ending is Ending.RELU)
        chain = Chain(node, tuple(steps))
        found[chain.last] = chain
    return found


def _weighted(node: ir.Node, constants: AbstractSet[ir.Value]) -> bool:
    weight = node.inputs[1]
    return weight in constants and node.outputs[0].dtype is ir.DataType.FLOAT


def _next(
    node: ir.Node,
    root: ir.Node,
    constants: AbstractSet[ir.Value],
    taken: AbstractSet[ir.Node],
    *,
    curved: bool,
) -> Step | None:
    value = node.outputs[0]
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1 or uses[0].node.graph is not node.graph:
        return None
    reader = uses[0].node
    if reader in taken or reader.domain or reader.outputs[0].dtype is not ir.DataType.FLOAT:
        return None
    if reader.op_type in ("Gelu", *_ACTIVATIONS) and reader.op_type != "Relu" and curved:
        return None  # nested, each would be computed once for every use in the next
    if reader.op_type in _ACTIVATIONS:
        return Step(_ACTIVATIONS[reader.op_type], None, reader)
    if reader.op_type == "Gelu":
        rough = attribute(reader, "approximate", "none") == "tanh"
        return Step(Ending.GELU_TANH if rough else Ending.GELU, None, reader)
    if reader.op_type not in ("Add", "Mul"):
        return None
    other = reader.inputs[1 - uses[0].idx]
    if other is None or other is value:
        return None
    if other in constants:
        fits = _per_column(other, root)
        return Step(Ending.SCALE if reader.op_type == "Mul" else Ending.BIAS, other, reader) if fits else None
    same = reader.op_type == "Add" and _same_shape(other, value)
    return Step(Ending.ADD, other, reader) if same else None


def _per_column(value: ir.Value, root: ir.Node) -> bool:
    """Whether a constant is one number, or one for every column (channel) of the product."""
    shape, result = value.shape, root.outputs[0].shape
    if shape is None or result is None or any(not isinstance(dim, int) for dim in shape):
        return False
    sizes = [int(dim) for dim in shape if isinstance(dim, int)]
    if all(size == 1 for size in sizes):
        return len(sizes) <= len(result)
    axis = len(result) - 3 if root.op_type == "Conv" else len(result) - 1
    place = axis - (len(result) - len(sizes))
    if place < 0:
        return False
    return sizes[place] == result[axis] and all(s == 1 for i, s in enumerate(sizes) if i != place)


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    pairs = zip(a.shape, b.shape, strict=True)
    return all(x == y and (isinstance(x, int) or x.value is not None) for x, y in pairs)
