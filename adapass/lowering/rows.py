"""What happens to each value when finished samples leave the batch.

FIXED     does not depend on the batch: used as it is
ROWS      has one entry a sample along an axis: the entries of finished samples are dropped
SIZED     depends on the batch size alone (a shape to reshape to, row numbers): computed again
LOCAL     the batch is folded into another axis, or row numbers went into it: computed again
MIXED     the batch was summed up: what it says about the samples cannot be cut
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import onnx_ir as ir

from adapass.analyses.axes import Axes
from adapass.analyses.shapes import Shapes
from adapass.errors import ModelError
from adapass.facts import FactCache
from adapass.graph.edit import constant_array
from adapass.lowering.closed_rows import ClosedRows
from adapass.lowering.exits import reads
from adapass.lowering.mixing import mixes_samples
from adapass.ops import SELECT_TOKENS, is_token_operator

_COUNTS_ROWS = frozenset({"Range", "NonZero", "EyeLike", "CumSum"})
_LOOKS_UP = frozenset({"Gather", "GatherND", "GatherElements"})
_OWN_SCALE = "DynamicQuantizeLinear"
"""Takes one scale from whoever is in the batch. Integers that were made with a scale keep it when samples
leave; made later, they get the scale of who is left, which serves them as well."""
_SHAPE_OF = frozenset({"Shape", "Size"})


class Kind(StrEnum):
    FIXED = "fixed"
    ROWS = "rows"
    SIZED = "sized"
    LOCAL = "local"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Rows:
    """The kind of every value of a graph, and the batch axis of those of kind ``ROWS``."""

    kinds: dict[ir.Value, Kind]
    axes: dict[ir.Value, int]
    mixing: set[ir.Node]
    """Nodes that work across samples: they may run before the first exit only."""

    def kind(self, value: ir.Value) -> Kind:
        return self.kinds.get(value, Kind.FIXED)

    @classmethod
    def none(cls) -> Rows:
        """When the batch size is fixed at 1, nothing depends on it."""
        return cls({}, {}, set())


@dataclass(frozen=True, slots=True)
class _Trace:
    """How a value came to depend on the batch."""

    data: bool
    """Through the contents of a batch, not only its size."""
    numbered: bool
    """It contains row numbers, which change when rows leave."""


def classify(model: ir.Model) -> Rows:
    """Classify every value of the main graph of a prepared model."""
    facts = FactCache(model)
    return _Classifier(facts.get(Axes), facts.get(Shapes)).run(model)


def is_fixed_at_one(stop: ir.Value) -> bool:
    """Whether the batch size is fixed at 1: then nobody can leave, the batch ends or goes on.

    Raises:
        ModelError: the batch size is fixed at something else.

    """
    if stop.shape is None or len(stop.shape) != 1 or not isinstance(stop.shape[0], int):
        return False
    if stop.shape[0] != 1:
        raise ModelError(
            f"the batch size is fixed at {stop.shape[0]}, so finished samples cannot leave;"
            " export the model with a dynamic batch or a batch of 1, or use the masked lowering"
        )
    return True


class _Classifier:
    def __init__(self, axes: Axes, shapes: Shapes) -> None:
        self._axes = axes
        self._shapes = shapes
        self._closed = ClosedRows(frozenset(), frozenset())
        self._traces: dict[ir.Value, _Trace] = {}
        self._rows = Rows.none()

    def run(self, model: ir.Model) -> Rows:
        opset = model.opset_imports.get("", 1)
        self._closed = ClosedRows.of(model.graph)
        for value in model.graph.inputs:
            if self._axes.batch_axis(value.name or "") is not None:
                self._settle(value, _Trace(data=True, numbered=False))
        for node in model.graph:
            if (trace := self._trace_of(node)) is None:
                continue
            if node in self._closed.inside:
                self._rows.kinds.update(dict.fromkeys(node.outputs, Kind.LOCAL))
                self._traces.update(dict.fromkeys(node.outputs, trace))
                continue
            if mixes_samples(node, self._dependent, opset):
                self._rows.mixing.add(node)
            first_only = node.op_type == _OWN_SCALE or self._selects_as_many_for_all(node)
            for value in node.outputs[:1] if first_only else node.outputs:
                self._settle(value, trace)
        return self._rows

    def _trace_of(self, node: ir.Node) -> _Trace | None:
        """The trace of what ``node`` computes; ``None`` when it does not depend on the batch."""
        traces = self._traces
        if (put_back := self._put_back(node)) is not None:
            return put_back
        found = [traces[value] for value in reads(node) if value in traces]
        if not found:
            return None
        if node.domain == "" and node.op_type in _SHAPE_OF:
            return _Trace(data=False, numbered=False)
        data = any(trace.data for trace in found)
        if node.domain == "" and node.op_type in _COUNTS_ROWS and not self._sums_within_rows(node):
            return _Trace(data, numbered=True)
        if node.domain == "" and node.op_type in _LOOKS_UP:
            # Row numbers used to look something up in a batch are gone in what was found.
            table = traces.get(node.inputs[0]) if node.inputs[0] is not None else None
            counts = any(trace.numbered for trace in found) if table is None else table.numbered
            return _Trace(data, counts)
        return _Trace(data, any(trace.numbered for trace in found))

    def _selects_as_many_for_all(self, node: ir.Node) -> bool:
        """Whether which places are valid depends on no sample."""
        return (
            is_token_operator(node) and node.op_type == SELECT_TOKENS and node.inputs[1] not in self._traces
        )

    def _sums_within_rows(self, node: ir.Node) -> bool:
        """Whether a ``CumSum`` runs along another axis than that of the batch."""
        axis = constant_array(node.inputs[1]) if node.op_type == "CumSum" else None
        dims = self._shapes.of(node.outputs[0].name or "")
        if axis is None or dims is None or node.inputs[0] is None:
            return False
        return int(axis.ravel()[0]) % len(dims) not in self._dependent(node.inputs[0])

    def _put_back(self, node: ir.Node) -> _Trace | None:
        """What rows are put back into by their numbers is as it was before those were given."""
        rest = node.inputs[0] if node in self._closed.ends else None
        trace = self._traces.get(rest) if rest is not None else None
        return trace if trace is not None and trace.data else None

    def _settle(self, value: ir.Value, trace: _Trace) -> None:
        name = value.name or ""
        axis, sized = self._axes.batch_axis(name), self._axes.is_batch_sized(name)
        numbered = trace.numbered or (sized and axis is not None)
        is_integer = value.dtype is not None and value.dtype.is_integer()
        if is_integer and not (trace.data or numbered or sized or axis is not None):
            return  # the length of another axis, read from the same shape
        self._traces[value] = _Trace(trace.data, numbered)
        dependent = self._dependent(value)
        if axis is not None and not numbered and dependent <= {axis}:
            self._rows.axes[value] = axis
            self._rows.kinds[value] = Kind.ROWS
        elif not trace.data:
            self._rows.kinds[value] = Kind.SIZED
        else:
            self._rows.kinds[value] = Kind.LOCAL if dependent else Kind.MIXED

    def _dependent(self, value: ir.Value) -> frozenset[int]:
        name = value.name or ""
        if (dims := self._shapes.of(name)) is None or not self._shapes.probed:
            axis = self._axes.batch_axis(name)
            return frozenset() if axis is None else frozenset({axis})
        return frozenset(axis for axis, dim in enumerate(dims) if dim.batch or dim.both)


class Relabel:
    """Shapes of values after samples left the batch: the same, with new symbols for what may have shrunk.

    Runtimes plan memory by symbols of equal name, and fuse where shapes are known to be equal. Symbols
    that were equal for every batch size stay equal to each other.
    """

    def __init__(self, graph: ir.Graph, rows: Rows) -> None:
        self._axes = rows.axes
        self._fixed: set[str] = set()
        for value in graph.inputs:
            dims = enumerate(value.shape or ())
            symbols = [
                dim.value for axis, dim in dims if not isinstance(dim, int) and axis != rows.axes.get(value)
            ]
            self._fixed.update(symbol for symbol in symbols if symbol)

    def rows(self, part: int) -> ir.SymbolicDim:
        return ir.SymbolicDim(f"adapass_rows_{part}")

    def shape(self, value: ir.Value, part: int) -> ir.Shape | None:
        if value.shape is None:
            return None
        batch = self._axes.get(value)
        return ir.Shape(
            [
                self.rows(part) if axis == batch else self._renamed(dim, part)
                for axis, dim in enumerate(value.shape)
            ]
        )

    def _renamed(self, dim: int | ir.SymbolicDim, part: int) -> int | ir.SymbolicDim:
        if isinstance(dim, int) or not dim.value or dim.value in self._fixed:
            return dim
        return ir.SymbolicDim(f"{dim.value}_rows_{part}")
