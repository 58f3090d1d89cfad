"""Run a model on small made-up feeds to see the shapes it really produces.

Shape inference gives up where an exporter computes a shape at run time; running the model does not.
Only the shapes come back (a ``Shape`` node per value), and the contents of integer values, so that
a large model costs one small forward pass and no memory for its activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from adapass.graph.save import to_bytes

Array = npt.NDArray[np.generic]
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64})


@dataclass(frozen=True, slots=True)
class Symbols:
    """What the symbolic dimensions of the graph inputs stand for."""

    batch: frozenset[str]
    tokens: frozenset[str]
    other: Mapping[str, int]
    """Every other symbol, with the size it gets in a probe."""

    def bind(self, batch: int, tokens: int) -> dict[str, int]:
        return {**self.other, **dict.fromkeys(self.tokens, tokens), **dict.fromkeys(self.batch, batch)}


@dataclass(frozen=True, slots=True)
class Observation:
    """One run: shapes of all tensors, and contents of the integer ones."""

    batch: int
    tokens: int
    shapes: Mapping[str, tuple[int, ...]]
    integers: Mapping[str, Array]


def read_symbols(inputs: Sequence[ir.Value]) -> Symbols:
    """Batch = symbolic first axes; tokens = symbolic second axes of inputs of rank 2 and 3."""
    batch: set[str] = set()
    tokens: set[str] = set()
    other: dict[str, int] = {}
    for value in inputs:
        rank = 0 if value.shape is None else len(value.shape)
        for axis, name in ((axis, dim_symbol(value, axis)) for axis in range(rank)):
            if name is None:
                continue
            if axis == 0:
                batch.add(name)
            elif axis == 1 and rank <= 3:
                tokens.add(name)
            else:
                other[name] = 64 if rank == 4 else 8
    tokens -= batch
    return Symbols(
        frozenset(batch),
        frozenset(tokens),
        {key: size for key, size in other.items() if key not in batch | tokens},
    )


def dim_symbol(value: ir.Value, axis: int) -> str | None:
    """The symbol of a dimension; unnamed ones get a name of their own; ``None`` for a number."""
    if value.shape is None or isinstance(value.shape[axis], int):
        return None
    dim = value.shape[axis]
    text = dim.value if isinstance(dim, ir.SymbolicDim) else None
    return text if isinstance(text, str) and text else f"{value.name}@{axis}"


def observe(
    model: ir.Model, names: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> tuple[Observation, ...]:
    """Run ``model`` once per (batch, tokens) and look at the values ``names`` of the main graph.

    All samples of a batch are equal: a value whose rows differ depends on the position in the batch.
    Returns nothing when ONNX Runtime cannot run the model on the feeds tried.
    """
    symbols = read_symbols(model.graph.inputs)
    watched, shape_of, whole = _watch(model, names)
    try:
        session = _session(watched)
    except (*RUNTIME_ERRORS, ValueError):
        return ()
    for fill in (1, 0):
        feeds = [_feeds(model.graph.inputs, symbols.bind(*size), fill) for size in sizes]
        try:
            results = [session.run([*shape_of.values(), *whole], feed) for feed in feeds]
        except RUNTIME_ERRORS:
            continue
        return tuple(
            _observation(size, list(shape_of), whole, [np.asarray(array) for array in result])
            for size, result in zip(sizes, results, strict=True)
        )
    return ()


def _observation(
    size: tuple[int, int], names: list[str], whole: list[str], arrays: list[Array]
) -> Observation:
    shapes = {
        name: tuple(int(dim) for dim in array)
        for name, array in zip(names, arrays[: len(names)], strict=True)
    }
    return Observation(size[0], size[1], shapes, dict(zip(whole, arrays[len(names) :], strict=True)))


def _watch(model: ir.Model, names: Sequence[str]) -> tuple[ir.Model, dict[str, str], list[str]]:
    """A copy of ``model`` whose outputs are the shapes of ``names``, then the integer values among them."""
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    values.update({value.name: value for value in copy.graph.inputs})
    shape_of: dict[str, str] = {}
    outputs: list[ir.Value] = []
    for number, name in enumerate(names):
        shape = ir.node("Shape", [values[name]]).outputs[0]
        shape.name = f"adapass_probe_{number}"
        shape.type, shape.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([None])
        shape_of[name] = shape.name
        outputs.append(shape)
    copy.graph.extend([node for shape in outputs if (node := shape.producer()) is not None])
    integers = [values[name] for name in names if values[name].dtype in INTEGERS]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend([*outputs, *integers])
    return copy, shape_of, [value.name or "" for value in integers]


def _session(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])


def _feeds(inputs: Sequence[ir.Value], binding: Mapping[str, int], fill: int) -> dict[str, Array]:
    return {value.name or "": _array(value, binding, fill) for value in inputs if not value.is_initializer()}


def _array(value: ir.Value, binding: Mapping[str, int], fill: int) -> Array:
    shape = input_shape(value, binding)
    dtype = value.dtype if value.dtype is not None else ir.DataType.FLOAT
    if not dtype.is_floating_point():
        return np.full(shape, fill, dtype.numpy())
    generator = np.random.default_rng(0)
    row = generator.standard_normal(shape[1:]) if shape else generator.standard_normal(())
    return np.broadcast_to(row, shape).astype(dtype.numpy())


def input_shape(value: ir.Value, binding: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a graph input under ``binding``; expressions of known symbols are evaluated."""
    return tuple(_size(value, axis, dim, binding) for axis, dim in enumerate(value.shape or ()))


def _size(value: ir.Value, axis: int, dim: int | ir.SymbolicDim, binding: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    text = dim_symbol(value, axis) or ""
    try:
        free = dim.free_symbols() if dim.value is not None else frozenset[str]()
    except ValueError:
        return binding.get(text, 1)  # a name that is no expression, such as "past length"
    if free and all(symbol in binding for symbol in free):
        return int(dim.evaluate({symbol: binding[symbol] for symbol in free}) or 1)
    return binding.get(text, 1)
