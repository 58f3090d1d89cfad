"""Compute at compile time what does not depend on the input.

    w = Cast<to=float>(w16); y = MatMul(x, w)   ->   y = MatMul(x, w')        # w' stored in float

Also settles sizes that are known although the tensor is not: Shape and what is computed from it, when
every dimension that matters is a number. The values are computed by ONNX Runtime without graph
optimisations, the runtime that would compute them anyway. (The constant folder of onnxscript computes with
NumPy, whose exp and erf round differently.) Still only equal up to rounding: a weight that is stored
may be packed for the matrix product, and the packed product sums in another order.

A folded value may be larger than the constants it replaces only within bounds, so that a weight
written as ConstantOfShape does not blow up the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from adapass.errors import VerificationError
from adapass.execution import Array, Session
from adapass.facts import FactCache
from adapass.graph.constants import RESTORES, constant_tensor
from adapass.graph.edit import mark_roots, new_initializer, remove_dead_nodes
from adapass.graph.elements import elements
from adapass.graph.shapes import infer_shapes
from adapass.graph.tensors import subgraphs_of
from adapass.passes.clean.merge_common_subexpressions import RANDOM
from adapass.rewrite import Exactness, Pass, PassResult

LEFT_ALONE = RANDOM | {"Constant", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
"""Random operators; constants themselves; and quantization, which is meant to stay in the graph."""
TOO_LARGE = "the result is too large to store"
UNKNOWN_SIZE = "the size of the result is unknown"
NOT_COMPUTABLE = "ONNX Runtime cannot compute it"
STORED_SMALLER = "it restores a weight that is stored in fewer bytes"
IS_OUTPUT = "the result is an output of the graph"


@dataclass(frozen=True, kw_only=True)
class FoldConstants(Pass):
    """Store what constants compute, and sizes that shape inference knows.

    Outputs of a graph stay computed: a stored output would lose its place in the graph. Functions
    are left alone.
    """

    name: ClassVar[str] = "fold-constants"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    max_added_bytes: int = 65536
    """A folded value may exceed ``max_growth`` times its constants by this much."""
    max_growth: float = 2.0
    """Half precision to single precision doubles a weight."""

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        infer_shapes(model)
        mark_roots(model)
        search = _Search(self, only)
        search.visit(model.graph)
        values = search.frontier()
        computed = [value for value in values if value not in search.sizes]
        arrays = _Calculator(model, search.nodes, search.sizes).compute(computed)
        sites: list[str] = []
        for value in values:
            array = search.sizes[value] if value in search.sizes else arrays.get(value)
            if array is None:
                search.rejected[NOT_COMPUTABLE] += 1
                continue
            sites.append(value.name or "")
            _store(value, array)
        if sites:
            remove_dead_nodes(model)
            infer_shapes(model)
            facts.keep_only(())
        return PassResult(
            applied=len(sites), rejected=MappingProxyType(dict(search.rejected)), sites=tuple(sites)
        )


class _Search:
    """Finds, in execution order, nodes whose inputs are constants or foldable themselves."""

    def __init__(self, options: FoldConstants, only: frozenset[str] | None) -> None:
        self.options = options
        self.only = only
        self.nodes: list[ir.Node] = []
        self.sizes: dict[ir.Value, Array] = {}
        self.rejected: Counter[str] = Counter()
        self._foldable: dict[ir.Value, None] = {}

    def visit(self, graph: ir.Graph) -> None:
        for node in graph:
            inner = subgraphs_of(node)
            for subgraph in inner:
                self.visit(subgraph)
            if not inner:
                self._consider(node)

    def frontier(self) -> list[ir.Value]:
        """Foldable values that something not foldable reads."""
        return [v for v in self._foldable if self._is_wanted(v) and self._read_from_outside(v)]

    def _is_wanted(self, value: ir.Value) -> bool:
        return self.only is None or (value.name or "") in self.only

    def _read_from_outside(self, value: ir.Value) -> bool:
        return any(not all(v in self._foldable for v in node.outputs) for node, _ in value.uses())

    def _consider(self, node: ir.Node) -> None:
        if node.domain != "" or node.op_type in LEFT_ALONE or not node.outputs:
            return
        if RESTORES in node.metadata_props:
            self.rejected[STORED_SMALLER] += 1
            return
        if any(value.is_graph_output() for value in node.outputs):
            if self._is_constant(node):
                self.rejected[IS_OUTPUT] += 1
            return
        size = _known_size(node)
        if size is not None and not self._is_constant(node):
            self.sizes[node.outputs[0]] = size
            self._foldable[node.outputs[0]] = None
            return
        if not self._is_constant(node):
            return
        reason = self._refusal(node)
        if reason is not None:
            self.rejected[reason] += 1
            return
        self.nodes.append(node)
        self._foldable |= dict.fromkeys(node.outputs)

    def _is_constant(self, node: ir.Node) -> bool:
        """Whether every input is a constant, or will be one."""
        return bool(node.inputs) and all(
            value is None or value in self._foldable or constant_tensor(value) is not None
            for value in node.inputs
        )

    def _refusal(self, node: ir.Node) -> str | None:
        allowed = self.options.max_growth * sum(_bytes(value) or 0 for value in node.inputs)
        for value in node.outputs:
            needed = _bytes(value)
            if needed is None:
                return UNKNOWN_SIZE
            if needed > allowed + self.options.max_added_bytes:
                return TOO_LARGE
        return None


def _bytes(value: ir.Value | None) -> float | None:
    if value is None:
        return 0
    tensor = constant_tensor(value)
    if tensor is not None:
        return tensor.nbytes
    if not isinstance(value.type, ir.TensorType) or value.dtype is None:
        return None
    if value.shape is None or not value.shape.is_static():
        return None
    if not (value.dtype.is_floating_point() or value.dtype.is_integer() or value.dtype == ir.DataType.BOOL):
        return None
    return float(np.prod(value.shape.numpy(), dtype=np.float64)) * value.dtype.itemsize


def _known_size(node: ir.Node) -> Array | None:
    """The content of a vector of sizes, when all of it is known."""
    output = node.outputs[0]
    dtype = output.dtype
    if dtype is None or dtype not in {ir.DataType.INT64, ir.DataType.INT32} or output.shape is None:
        return None
    if len(node.outputs) != 1 or output.shape.rank() > 1:
        return None
    found = elements(output)
    if found is None or not all(isinstance(entry, int) for entry in found):
        return None
    array = np.array(found, dtype.numpy())
    return array.reshape(()) if output.shape.rank() == 0 else array


def _store(value: ir.Value, array: Array) -> None:
    node = value.producer()
    if node is None or node.graph is None:
        raise ValueError(f"'{value.name}' is not computed by a node any more")
    name, value.name = value.name, None
    value.replace_all_uses_with(new_initializer(node.graph, name or "folded", array))


class _Calculator:
    """Computes values of the constant part, by a model made of nothing else."""

    def __init__(self, model: ir.Model, nodes: Sequence[ir.Node], sizes: Mapping[ir.Value, Array]) -> None:
        self._model = model
        self._nodes = nodes
        self._sizes = sizes

    def compute(self, wanted: Sequence[ir.Value]) -> dict[ir.Value, Array]:
        """All in one run; one by one when the runtime refuses that. What it cannot compute is left out."""
        if not wanted:
            return {}
        try:
            return self._run(wanted)
        except VerificationError:
            if len(wanted) == 1:
                return {}
        found: dict[ir.Value, Array] = {}
        for value in wanted:
            found |= self.compute([value])
        return found

    def _run(self, wanted: Sequence[ir.Value]) -> dict[ir.Value, Array]:
        copies: dict[ir.Value, ir.Value] = {}
        initializers: list[ir.Value] = []
        twins = [self._twin(node, copies, initializers) for node in self._needed(wanted)]
        graph = ir.Graph(
            [],
            [copies[value] for value in wanted],
            nodes=twins,
            initializers=initializers,
            opset_imports=dict(self._model.graph.opset_imports),
            name="constants",
        )
        results = Session(ir.Model(graph, ir_version=self._model.ir_version)).run({})
        return {value: results[copies[value].name or ""] for value in wanted}

    def _needed(self, wanted: Sequence[ir.Value]) -> list[ir.Node]:
        needed = set(wanted)
        kept: list[ir.Node] = []
        for node in reversed(self._nodes):
            if any(output in needed for output in node.outputs):
                kept.append(node)
                needed.update(value for value in node.inputs if value is not None)
        return kept[::-1]

    def _twin(self, node: ir.Node, copies: dict[ir.Value, ir.Value], initializers: list[ir.Value]) -> ir.Node:
        for value in node.inputs:
            if value is not None and value not in copies:
                copies[value] = self._stored(value, f"v{len(copies)}")
                initializers.append(copies[value])
        inputs = [None if value is None else copies[value] for value in node.inputs]
        attributes = list(node.attributes.values())
        twin = ir.Node("", node.op_type, inputs, attributes, num_outputs=len(node.outputs))
        for mine, original in zip(twin.outputs, node.outputs, strict=True):
            mine.name = f"v{len(copies)}" if original.name else ""
            mine.type, mine.shape = original.type, original.shape
            copies[original] = mine
        return twin

    def _stored(self, value: ir.Value, name: str) -> ir.Value:
        tensor = ir.tensor(self._sizes[value]) if value in self._sizes else constant_tensor(value)
        if tensor is None:
            raise ValueError(f"'{value.name}' is not a constant")
        shape = ir.Shape(tensor.shape.numpy())
        return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
