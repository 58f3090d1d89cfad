"""Where the nodes of one part run, and how they reach values computed before finished samples left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.errors import ModelError
from adapass.graph.tensors import subgraphs_of
from adapass.lowering.exits import Parts, reads, redirect
from adapass.lowering.rows import Kind, Rows

_HEAVY = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU", "RNN", "Attention"})
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Cast"})


class Names:
    """Hands out names that no value, node or graph of the model has, at any depth."""

    def __init__(self, model: ir.Model) -> None:
        self._used: set[str] = set()
        for graph in (model.graph, *model.graph.subgraphs()):
            self._used.update(value.name or "" for value in (*graph.inputs, *graph.initializers.values()))
            for node in graph:
                self._used.add(node.name or "")
                self._used.update(value.name or "" for value in node.outputs)

    def fresh(self, base: str) -> str:
        name, count = base, 1
        while name in self._used:
            count += 1
            name = f"{base}_{count}"
        self._used.add(name)
        return name


class Scope(ABC):
    """Runs part ``index`` of a model on the samples that are still there.

    Nodes it had to add before and after those of the part are in ``prologue`` and ``epilogue``, new
    initializers in ``constants``.
    """

    def __init__(self, index: int, parts: Parts, rows: Rows, names: Names) -> None:
        self.index = index
        self.prologue: list[ir.Node] = []
        self.epilogue: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self._rows = rows
        self._names = names
        self._inputs = parts.inputs
        self._here = {value for node in parts.nodes[index] for value in node.outputs}
        self._known: dict[ir.Value, ir.Value] = {}
        self._count: ir.Value | None = None

    @abstractmethod
    def fixed(self, value: ir.Value) -> ir.Value:
        """A value that does not depend on the batch, as this scope sees it."""

    @abstractmethod
    def carry(self, value: ir.Value, axis: int) -> ir.Value:
        """The rows of ``value`` that are still there. Asked once a value."""

    @abstractmethod
    def count_rows(self) -> ir.Value:
        """How many samples are still there, int64 ``[1]``. Asked at most once."""

    @abstractmethod
    def shape_before(self, value: ir.Value) -> ir.Value | None:
        """``value`` with any number of rows, for its shape alone; ``None`` where that is no cheaper."""

    def see(self, value: ir.Value) -> ir.Value:
        """``value`` as nodes of this part must read it.

        Raises:
            ModelError: the value depends on several samples at once, or its cone is expensive.

        """
        if value in self._known:
            return self._known[value]
        if value in self._here:
            return value
        kind = self._rows.kind(value)
        if kind is Kind.FIXED:
            seen = self.fixed(value)
        elif kind is Kind.ROWS:
            seen = self.carry(value, self._rows.axes[value])
        elif kind in (Kind.SIZED, Kind.LOCAL):
            seen = self._compute_again(value)
        else:
            raise ModelError(_mixed(value))
        self._known[value] = seen
        return seen

    def adopt(self, nodes: Sequence[ir.Node]) -> list[ir.Node]:
        """Make ``nodes`` of this part read what this scope sees; returns those still needed."""
        kept: list[ir.Node] = []
        for node in nodes:
            self.refuse_mixed(node)
            if (shape := self._cheap_shape(node)) is not None:
                self._known[node.outputs[0]] = shape
                continue
            for value in tuple(dict.fromkeys(reads(node))):
                seen = self._for_shape(node, value) or self.see(value)
                if seen is not value:
                    redirect(node, value, seen)
            kept.append(node)
        return kept

    def axis(self, value: ir.Value) -> int | None:
        """The batch axis of ``value``; ``None`` when it has none."""
        return self._rows.axes.get(value)

    @property
    def count(self) -> ir.Value:
        if self._count is None:
            self._count = self.count_rows()
        return self._count

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, int | ir.Graph] | None = None,
        *,
        like: ir.Value | None = None,
        dtype: ir.DataType = ir.DataType.INT64,
        late: bool = False,
    ) -> ir.Value:
        """Add a node before the part (``late``: after it); returns its one output, typed like ``like``."""
        base = like.name if like is not None and like.name else "adapass_rows"
        name = self._names.fresh(f"{base}_{op_type.lower()}_{self.index}")
        node = ir.node(op_type, inputs, attributes or {}, name=name)
        node.outputs[0].name = name
        node.outputs[0].type = like.type if like is not None else ir.TensorType(dtype)
        (self.epilogue if late else self.prologue).append(node)
        return node.outputs[0]

    def constant(self, *numbers: int) -> ir.Value:
        """A new int64 initializer of rank 1 in this scope."""
        return self.new_constant(f"adapass_const_{self.index}", np.array(numbers, np.int64))

    def new_constant(self, base: str, array: Array) -> ir.Value:
        name = self._names.fresh(base)
        tensor = ir.tensor(array, name=name)
        shape = ir.Shape(array.shape)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        self.constants.append(value)
        return value

    def refuse_mixed(self, node: ir.Node) -> None:
        for value in node.outputs:
            if node in self._rows.mixing or self._rows.kind(value) is Kind.MIXED:
                raise ModelError(_mixed(value))

    def _is_cheap(self, node: ir.Node, value: ir.Value) -> bool:
        if node.op_type in _HEAVY or subgraphs_of(node):
            return False
        is_float = value.dtype is not None and value.dtype.is_floating_point()
        return self._rows.kind(value) is Kind.SIZED or not is_float or node.op_type in _VIEWS

    def _compute_again(self, value: ir.Value) -> ir.Value:
        node = value.producer()
        if node is None or not self._is_cheap(node, value):
            raise ModelError(
                f"'{value.name}' is needed after an exit, has no axis with one entry a sample, and is costly"
                " to compute again; use the masked lowering, or move the exit"
            )
        if (shape := self._cheap_shape(node)) is not None:
            return shape
        inputs = [None if read is None else self.see(read) for read in self._inputs[node]]
        base = node.outputs[0].name or node.op_type
        again = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            tuple(node.attributes.values()),
            num_outputs=len(node.outputs),
            version=node.version,
            name=self._names.fresh(f"{base}_again_{self.index}"),
        )
        for old, new in zip(node.outputs, again.outputs, strict=True):
            new.name = self._names.fresh(f"{old.name}_again_{self.index}")
            new.type = old.type
            self._known[old] = new
        self.prologue.append(again)
        return self._known[value]

    def _cheap_shape(self, node: ir.Node) -> ir.Value | None:
        """What a ``Shape`` node of a value from before the exit is now, without carrying that value."""
        source = next(iter(self._inputs[node]), None)
        if source is None or not self._is_shape_of_before(node, source):
            return None
        if source.shape is None or self._rows.kind(node.outputs[0]) is not Kind.SIZED:
            return None
        axis, (start, end) = self._rows.axes[source], _slice_of(node, len(source.shape))
        if (start, end) == (axis, axis + 1):
            return self.count
        if (before := self.shape_before(source)) is None:
            return None
        left = self._piece(before, node, start, min(axis, end))
        right = self._piece(before, node, max(axis + 1, start), end)
        middle = [self.count] if start <= axis < end else []
        return self.add("Concat", [*left, *middle, *right], {"axis": 0}, like=node.outputs[0])

    def _for_shape(self, node: ir.Node, source: ir.Value) -> ir.Value | None:
        """Where a ``Shape`` node may look instead of at the rows that are left of ``source``."""
        return self.shape_before(source) if self._is_shape_of_before(node, source) else None

    def _is_shape_of_before(self, node: ir.Node, source: ir.Value) -> bool:
        if node.domain != "" or node.op_type != "Shape" or self._rows.kind(source) is not Kind.ROWS:
            return False
        return self.index > 0 and source not in self._here and source not in self._known

    def _piece(self, before: ir.Value, node: ir.Node, first: int, last: int) -> list[ir.Value]:
        if first >= last:
            return []
        shape = self.add("Shape", [before], like=node.outputs[0])
        bounds = [self.constant(first), self.constant(last)]
        return [self.add("Slice", [shape, *bounds], like=node.outputs[0])]


def _slice_of(shape: ir.Node, rank: int) -> tuple[int, int]:
    start = shape.attributes.get_int("start", 0)
    end = shape.attributes.get_int("end", rank)
    first, last, _ = slice(start, end).indices(rank)
    return first, last


def _mixed(value: ir.Value) -> str:
    return (
        f"'{value.name}' depends on several samples of a batch, or on the place of a sample in it, and is"
        " needed after an exit, so samples cannot leave; use the masked lowering, or move the exit"
    )
