"""What happens to each value when finished samples leave the batch.

FIXED     does not depend on the batch: used as it is
ROWS      has one entry a sample along an axis: the entries of finished samples are dropped
SIZED     depends on the batch size alone (a shape to reshape to, row numbers): computed again
MIXED     an entry depends on several samples or on its position in the batch: cannot be cut
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import onnx_ir as ir

from adapass.analyses.axes import Axes
from adapass.facts import FactCache
from adapass.lowering.exits import reads

_COUNTS_ROWS = frozenset({"Range", "NonZero", "EyeLike", "CumSum"})
_LOOKS_UP = frozenset({"Gather", "GatherND", "GatherElements"})
_SHAPE_OF = frozenset({"Shape", "Size"})


class Kind(StrEnum):
    FIXED = "fixed"
    ROWS = "rows"
    SIZED = "sized"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Rows:
    """The kind of every value of a graph, and the batch axis of those of kind ``ROWS``."""

    kinds: dict[ir.Value, Kind]
    axes: dict[ir.Value, int]

    def kind(self, value: ir.Value) -> Kind:
        return self.kinds.get(value, Kind.FIXED)


@dataclass(frozen=True, slots=True)
class _Trace:
    """How a value came to depend on the batch."""

    data: bool
    """Through the contents of a batch, not only its size."""
    numbered: bool
    """It contains row numbers, which change when rows leave."""


def classify(model: ir.Model) -> Rows:
    """Classify every value of the main graph of a prepared model."""
    axes = FactCache(model).get(Axes)
    rows = Rows({}, {})
    traces: dict[ir.Value, _Trace] = {}
    for value in model.graph.inputs:
        if axes.batch_axis(value.name or "") is not None:
            _settle(value, _Trace(data=True, numbered=False), axes, rows, traces)
    for node in model.graph:
        if (trace := _trace_of(node, traces)) is not None:
            for value in node.outputs:
                _settle(value, trace, axes, rows, traces)
    return rows


def is_fixed_at_one(stop: ir.Value) -> bool:
    """Whether the batch size is fixed at 1: then nobody can leave, the batch ends or goes on."""
    return stop.shape is not None and len(stop.shape) == 1 and stop.shape[0] == 1


def _trace_of(node: ir.Node, traces: dict[ir.Value, _Trace]) -> _Trace | None:
    """The trace of what ``node`` computes; ``None`` when it does not depend on the batch."""
    found = [traces[value] for value in reads(node) if value in traces]
    if not found:
        return None
    if node.domain == "" and node.op_type in _SHAPE_OF:
        return _Trace(data=False, numbered=False)
    data = any(trace.data for trace in found)
    if node.domain == "" and node.op_type in _COUNTS_ROWS:
        return _Trace(data, numbered=True)
    if node.domain == "" and node.op_type in _LOOKS_UP:
        table = node.inputs[0]
        # Row numbers used to look something up in a batch are gone in what was found.
        numbered = table in traces and traces[table].numbered
        numbered |= table not in traces and any(trace.numbered for trace in found)
        return _Trace(data, numbered)
    return _Trace(data, any(trace.numbered for trace in found))


def _settle(value: ir.Value, trace: _Trace, axes: Axes, rows: Rows, traces: dict[ir.Value, _Trace]) -> None:
    name = value.name or ""
    axis = axes.batch_axis(name)
    if axis is not None and axes.is_batch_sized(name):
        trace = _Trace(trace.data, numbered=True)
    sized_only = (
        not trace.data and not trace.numbered and value.dtype is not None and value.dtype.is_integer()
    )
    if sized_only and axis is None and not axes.is_batch_sized(name):
        return  # the length of another axis, read from the same shape
    traces[value] = trace
    if axis is not None and not trace.numbered:
        rows.kinds[value] = Kind.ROWS
        rows.axes[value] = axis
    elif not trace.data:
        rows.kinds[value] = Kind.SIZED
    else:
        rows.kinds[value] = Kind.MIXED


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
