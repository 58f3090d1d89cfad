"""Shapes of all values as functions of the batch size and the number of tokens.

A model with symbolic dimensions is run on made-up feeds at two batch sizes and two lengths, and each
dimension is fitted as ``constant + b * batch + t * tokens + bt * batch * tokens``. That is exact for
what exporters produce (flattened batches, added class tokens, halved lengths). A model with fixed
dimensions needs no run: shape inference knows everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Self

import numpy as np
import onnx_ir as ir

from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.probe import Array, Observation, Symbols, input_shape, observe, read_symbols
from adapass.facts import Fact, FactCache
from adapass.graph.shapes import infer_shapes

BATCHES = (2, 3)
TOKENS = (8, 16)


@dataclass(frozen=True, slots=True)
class Dim:
    """One dimension: ``constant + batch * B + tokens * T + both * B * T``."""

    constant: Fraction
    batch: Fraction = Fraction(0)
    tokens: Fraction = Fraction(0)
    both: Fraction = Fraction(0)

    def at(self, batch: int, tokens: int) -> int:
        return int(self.constant + self.batch * batch + self.tokens * tokens + self.both * batch * tokens)

    @property
    def is_batch(self) -> bool:
        """Whether this dimension counts samples, one each."""
        return self.batch == 1 and self.constant == self.tokens == self.both == 0

    @property
    def follows_tokens(self) -> bool:
        """Whether this dimension grows with the tokens and not with the batch."""
        return self.tokens > 0 and self.batch == 0 and self.both == 0


@dataclass(frozen=True, slots=True)
class Shapes(Fact):
    """Shapes and types of the live values of the main graph, by name."""

    dims: Mapping[str, tuple[Dim, ...]] = field(repr=False)
    dtypes: Mapping[str, ir.DataType] = field(repr=False)
    by_position: frozenset[str]
    """Integer values whose content depends on the size of the batch or the position in it."""
    symbols: Symbols
    probed: bool
    """Whether the shapes were seen in runs (else inferred)."""

    @property
    def dynamic_batch(self) -> bool:
        return bool(self.symbols.batch)

    @property
    def dynamic_tokens(self) -> bool:
        return bool(self.symbols.tokens)

    def of(self, name: str) -> tuple[Dim, ...] | None:
        """The dimensions of a value; ``None`` when unknown."""
        return self.dims.get(name)

    def at(self, name: str, batch: int, tokens: int) -> tuple[int, ...] | None:
        """The concrete shape under a binding; ``None`` when unknown."""
        dims = self.dims.get(name)
        return None if dims is None else tuple(dim.at(batch, tokens) for dim in dims)

    def is_float(self, name: str) -> bool:
        return name in self.dtypes and self.dtypes[name].is_floating_point()

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        flow = facts.get(Dataflow)
        twin = model.clone()
        infer_shapes(twin)
        known = {value.name: value for value in _values(twin.graph)}
        tensors = [
            name_of(value)
            for value in flow.values()
            if isinstance(known[value.name].type, ir.TensorType | None)
        ]
        symbols = read_symbols(model.graph.inputs)
        dtypes = _complete_types(
            flow, {name: dtype for name in tensors if (dtype := known[name].dtype) is not None}
        )
        inferred = {name: dims for name in tensors if (dims := _inferred(known[name], symbols)) is not None}
        runs: tuple[Observation, ...] = ()
        if len(inferred) < len(tensors) or symbols.batch or symbols.tokens:
            runs = observe(twin, tensors, _sizes(symbols))
        seen = {name: dims for name in tensors if runs and (dims := _fit(runs, name)) is not None}
        return cls(
            dims=MappingProxyType(seen if runs else inferred),
            dtypes=MappingProxyType(dtypes),
            by_position=frozenset(_by_position(runs)),
            symbols=symbols,
            probed=bool(runs),
        )


def _complete_types(flow: Dataflow, known: dict[str, ir.DataType]) -> dict[str, ir.DataType]:
    """Where inference gave up, a node passes on the type of its first input, as most operators do."""
    for node in flow.nodes:
        first = name_of(node.inputs[0]) if node.inputs and node.inputs[0] is not None else ""
        for value in node.outputs:
            if value.name and first in known and node.op_type not in ("Cast", "CastLike", "Shape"):
                known.setdefault(value.name, known[first])
    return known


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _sizes(symbols: Symbols) -> list[tuple[int, int]]:
    batches = BATCHES if symbols.batch else (1,)
    tokens = TOKENS if symbols.tokens else (1,)
    return [(batch, length) for batch in batches for length in tokens]


def _inferred(value: ir.Value, symbols: Symbols) -> tuple[Dim, ...] | None:
    """Dimensions from shape inference; ``None`` unless each is a number or a known symbol."""
    if value.shape is None:
        return None
    found: list[Dim] = []
    for axis, dim in enumerate(value.shape):
        if isinstance(dim, int):
            found.append(Dim(Fraction(dim)))
        elif dim.value in symbols.batch or f"{value.name}@{axis}" in symbols.batch:
            found.append(Dim(Fraction(0), batch=Fraction(1)))
        elif dim.value in symbols.tokens or f"{value.name}@{axis}" in symbols.tokens:
            found.append(Dim(Fraction(0), tokens=Fraction(1)))
        elif dim.value in symbols.other or f"{value.name}@{axis}" in symbols.other:
            found.append(Dim(Fraction(input_shape(value, symbols.other)[axis])))
        else:
            return None
    return tuple(found)


def _fit(runs: tuple[Observation, ...], name: str) -> tuple[Dim, ...] | None:
    seen = {(run.batch, run.tokens): run.shapes[name] for run in runs}
    if len({len(shape) for shape in seen.values()}) != 1:
        return None
    rank = len(next(iter(seen.values())))
    return tuple(_fit_dim({size: shape[axis] for size, shape in seen.items()}) for axis in range(rank))


def _fit_dim(seen: Mapping[tuple[int, int], int]) -> Dim:
    """The bilinear function through the two or four points of a probe grid."""
    batches = sorted({batch for batch, _ in seen})
    lengths = sorted({length for _, length in seen})
    low_batch, high_batch, low, high = batches[0], batches[-1], lengths[0], lengths[-1]
    step_batch, step = max(1, high_batch - low_batch), max(1, high - low)
    origin = seen[low_batch, low]
    by_batch = Fraction(seen[high_batch, low] - origin, step_batch)
    by_length = Fraction(seen[low_batch, high] - origin, step)
    corner = seen[high_batch, high] - seen[high_batch, low] - seen[low_batch, high] + origin
    both = Fraction(corner, step_batch * step)
    batch, tokens = by_batch - both * low, by_length - both * low_batch
    return Dim(origin - batch * low_batch - tokens * low - both * low_batch * low, batch, tokens, both)


def _by_position(runs: tuple[Observation, ...]) -> Iterable[str]:
    """All samples of a probe are equal, so equal rows and equal contents say: depends on no position."""
    by_size = {(run.batch, run.tokens): run for run in runs}
    pairs = [
        (run, by_size[larger])
        for size, run in by_size.items()
        if (larger := (size[0] + 1, size[1])) in by_size
    ]
    for small, large in pairs:
        for name, content in small.integers.items():
            if _depends_on_position(content, large.integers[name], small.batch):
                yield name


def _depends_on_position(small: Array, large: Array, batch: int) -> bool:
    if small.shape == large.shape:
        return not np.array_equal(small, large)
    axes = [
        axis
        for axis, pair in enumerate(zip(small.shape, large.shape, strict=False))
        if pair == (batch, batch + 1)
    ]
    if small.ndim != large.ndim or len(axes) != 1:
        return True
    rows = np.moveaxis(large, axes[0], 0)
    return not np.array_equal(rows, np.broadcast_to(rows[:1], rows.shape))
