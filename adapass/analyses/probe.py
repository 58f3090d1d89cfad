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

from adapass.analyses.dataflow import name_of
from adapass.errors import ModelError, VerificationError
from adapass.execution import Session
from adapass.ops import EXPECTED_SHARE, SELECT_TOKENS

Array = npt.NDArray[np.generic]
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
        session = Session(watched)
    except VerificationError:
        return ()
    for fill in (1, 0):
        feeds = [_feeds(model.graph.inputs, symbols.bind(*size), fill) for size in sizes]
        try:
            results = [session.run(feed) for feed in feeds]
        except VerificationError:
            continue
        return tuple(
            Observation(
                batch=batch,
                tokens=tokens,
                shapes={
                    name: tuple(int(dim) for dim in result[probe].flat) for name, probe in shape_of.items()
                },
                integers={name: result[name] for name in whole},
            )
            for (batch, tokens), result in zip(sizes, results, strict=True)
        )
    return ()


def _watch(model: ir.Model, names: Sequence[str]) -> tuple[ir.Model, dict[str, str], list[str]]:
    """A copy of ``model`` whose outputs are the shapes of ``names``, then the integer values among them."""
    copy = model.clone()
    _reckon(copy)
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
    return copy, shape_of, [name_of(value) for value in integers]


def _reckon(model: ir.Model) -> None:
    """Let counts of tokens that depend on the content follow the number of tokens, as they do on average."""
    for node in list(model.graph):
        score, share = node.inputs[:1], node.metadata_props.get(EXPECTED_SHARE)
        if node.op_type != SELECT_TOKENS or share is None or score[0] is None:
            continue
        per_mille = round(1000 * _share(node, share))
        one, two, scale, most, whole = (_constant(number) for number in (1, 2, per_mille, 999, 1000))
        shape, samples = ir.node("Shape", [score[0]]), ir.node("Shape", [node.inputs[1]])
        tokens = ir.node("Slice", [shape.outputs[0], one.outputs[0], two.outputs[0]])
        scaled = ir.node("Mul", [tokens.outputs[0], scale.outputs[0]])
        raised = ir.node("Add", [scaled.outputs[0], most.outputs[0]])
        share_of = ir.node("Div", [raised.outputs[0], whole.outputs[0]])
        count = ir.node("Expand", [share_of.outputs[0], samples.outputs[0]])
        added = [one, two, scale, most, whole, shape, samples, tokens, scaled, raised, share_of, count]
        for number, each in enumerate(added):
            each.outputs[0].name = f"adapass_reckoned_{node.outputs[0].name}_{number}"
        model.graph.insert_before(node, added)
        node.replace_input_with(1, count.outputs[0])


def _share(node: ir.Node, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 < share <= 1.0:
        raise ModelError(
            f"'{EXPECTED_SHARE}' of '{name_of(node.outputs[0])}' is '{text}', expected a share above 0 "
            "up to 1"
        )
    return share


def _constant(number: int) -> ir.Node:
    return ir.node("Constant", [], {"value": ir.tensor(np.array([number], np.int64))})


def _feeds(inputs: Sequence[ir.Value], binding: Mapping[str, int], fill: int) -> dict[str, Array]:
    return {name_of(value): _array(value, binding, fill) for value in inputs if not value.is_initializer()}


def _array(value: ir.Value, binding: Mapping[str, int], fill: int) -> Array:
    shape = input_shape(value, binding)
    dtype = value.dtype if value.dtype is not None else ir.DataType.FLOAT
    if dtype == ir.DataType.STRING:
        return np.full(shape, "a", dtype=object)
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
        size = dim.evaluate({symbol: binding[symbol] for symbol in free})
        return size if isinstance(size, int) else 1
    return binding.get(text, 1)
