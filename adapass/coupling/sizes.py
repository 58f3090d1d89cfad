"""The size of every axis of every value, at each of a few batch sizes and lengths."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from adapass.analyses.probe import Observation, observe
from adapass.analyses.shapes import BATCHES, TOKENS, Shapes
from adapass.coupling.dims import Size
from adapass.graph.shapes import infer_shapes
from adapass.graph.text import clone

Sizes = Mapping[ir.Value, tuple[Size, ...]]
LONGER = ((256, 512), (1024, 2048), (8192, 16384))
"""Lengths for models that are too deep for short sequences: speech models make one frame of hundreds."""


def known_sizes(model: ir.Model, shapes: Shapes) -> tuple[int, Sizes]:
    """How many points there are, and the sizes of inputs and computed values; unknown ones are absent."""
    twin = clone(model)
    infer_shapes(twin)
    static = _static(model, twin)
    if shapes.probed:
        points = [(batch, tokens) for batch in BATCHES for tokens in TOKENS]
        return len(points), {**_repeated(static, len(points)), **_fitted(model, shapes, points)}
    for lengths in LONGER if shapes.symbols.tokens else ():
        points = [(batch, tokens) for batch in BATCHES for tokens in lengths]
        names = [value.name or "" for value in _values(twin) if isinstance(value.type, ir.TensorType)]
        if runs := observe(twin, names, points):
            return len(points), {**_repeated(static, len(points)), **_seen(model, runs)}
    return 1, {**_repeated(static, 1), **_fitted(model, shapes, [(1, 1)])}


def _values(model: ir.Model) -> list[ir.Value]:
    computed = [value for node in model.graph for value in node.outputs if value.name]
    return [*model.graph.inputs, *computed]


def _static(model: ir.Model, twin: ir.Model) -> dict[ir.Value, tuple[int, ...]]:
    """Shapes that inference knows to be the same in every run."""
    inferred = {value.name: value for value in _values(twin)}
    found: dict[ir.Value, tuple[int, ...]] = {}
    for value in _values(model):
        shape = inferred.get(value.name, value).shape
        if shape is not None and all(isinstance(dim, int) for dim in shape):
            found[value] = tuple(shape.numpy())
    return found


def _repeated(static: Mapping[ir.Value, tuple[int, ...]], points: int) -> Sizes:
    return {value: tuple((size,) * points for size in shape) for value, shape in static.items()}


def _fitted(model: ir.Model, shapes: Shapes, points: list[tuple[int, int]]) -> Sizes:
    found: dict[ir.Value, tuple[Size, ...]] = {}
    for value in _values(model):
        dims = shapes.of(value.name or "")
        if dims is not None:
            found[value] = tuple(tuple(dim.at(*point) for point in points) for dim in dims)
    return found


def _seen(model: ir.Model, runs: tuple[Observation, ...]) -> Sizes:
    found: dict[ir.Value, tuple[Size, ...]] = {}
    for value in _values(model):
        name = value.name or ""
        shapes = [run.shapes[name] for run in runs if name in run.shapes]
        if shapes and len({len(shape) for shape in shapes}) == 1:
            found[value] = tuple(zip(*shapes, strict=True))
    return found
