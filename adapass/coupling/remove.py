"""Real removal: smaller dense tensors, and every attribute and stored or computed shape consistent.

    conv1.weight [64, 3, 3, 3]     ->  [45, 3, 3, 3]
    conv2.weight [64, 64, 3, 3]    ->  [64, 45, 3, 3]
    Reshape(x, [-1, 197, 12, 64])  ->  Reshape(x, [-1, 197, 9, 64])

Sizes that a model computes at run time (``Shape``) keep the values they had, so that arithmetic on
them (a scale by the square root of the width of a head) means what it meant; where they are used as
the shape of something that shrank, the new numbers are put in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from adapass.analyses.shapes import Shapes
from adapass.coupling.cut import Cut, Positions, plan_cut
from adapass.coupling.flow import Dims, Flow
from adapass.coupling.inline import has_functions, inline_functions
from adapass.coupling.rewrite_sizes import (
    rewrite_counted,
    rewrite_frozen,
    rewrite_permuted,
    rewrite_sized,
)
from adapass.coupling.walk import Walked
from adapass.errors import UsageError
from adapass.facts import FactCache
from adapass.graph.constants import constant_tensor
from adapass.graph.edit import fresh_name, mark_roots, new_constant, remove_dead_nodes
from adapass.graph.shapes import infer_shapes
from adapass.graph.tensors import reopened
from adapass.graph.text import clone

LARGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RemovalCounts:
    """What a removal did."""

    groups: int
    """Groups that lost units."""
    units: int
    """Units removed."""
    tensors: int
    """Stored tensors that became smaller."""
    elements: int
    """Numbers that are no longer stored."""


def remove(
    model: ir.Model, kept: Mapping[str, Sequence[int]], facts: FactCache | None = None
) -> RemovalCounts:
    """Keep, of every group in ``kept`` (by key), only the units listed; in place.

    Groups that are not named stay whole. Inputs and outputs of the model keep their shapes. Functions of
    the model are inlined first. ``facts`` of the model as it is save walking over it again.

    Raises:
        UsageError: an unknown key or unit, or nothing would be left of an axis. The model is unchanged.

    """
    mark_roots(model)
    if has_functions(model):
        _check_first(model, kept)
        inline_functions(model)
        facts = None
    facts = FactCache(model) if facts is None else facts
    flow = facts.get(Walked).flow
    cut = plan_cut(flow, kept)
    if not cut.kept:
        return RemovalCounts(0, 0, 0, 0)
    _require_rest(flow, cut)
    rewrite_counted(flow, cut)
    rewrite_sized(flow, cut, facts.get(Shapes).dtypes)
    rewrite_frozen(flow, cut)
    rewrite_permuted(flow, cut)
    tensors, elements = _cut_tensors(flow, cut)
    remove_dead_nodes(model)
    infer_shapes(model)
    units = sum(dim.size[0] - len(stay) for dim, stay in cut.kept.items())
    return RemovalCounts(cut.groups, units, tensors, elements)


def _check_first(model: ir.Model, kept: Mapping[str, Sequence[int]]) -> None:
    """Refuse what makes no sense before the model is touched."""
    twin = clone(model)
    inline_functions(twin)
    flow = FactCache(twin).get(Walked).flow
    _require_rest(flow, plan_cut(flow, kept))


def _require_rest(flow: Flow, cut: Cut) -> None:
    for value, dims in flow.dims.items():
        for axis, dim in enumerate(dims):
            if cut.touches(dim) and cut.size(dim) == 0:
                raise UsageError(
                    f"nothing would be left of axis {axis} of '{value.name}': "
                    "keep more units of the groups that lie on it"
                )


def _cut_tensors(flow: Flow, cut: Cut) -> tuple[int, int]:
    tensors = elements = 0
    for value, dims in list(flow.dims.items()):
        tensor = constant_tensor(value)
        if tensor is None or not any(cut.touches(dim) for dim in dims):
            continue
        smaller = _take(tensor, dims, cut)
        tensors += 1
        elements += tensor.size - smaller.size
        _store(value, smaller)
    shared, rest = _cut_shared(flow, cut)
    return tensors + shared, elements + rest


def _cut_shared(flow: Flow, cut: Cut) -> tuple[int, int]:
    """Vectors that several nodes read: each reader gets what it needs; equal ones stay shared."""
    made: dict[tuple[ir.Value, tuple[bytes, ...]], ir.Value] = {}
    tensors = elements = 0
    for (node, index), dims in flow.own.items():
        value = node.inputs[index]
        tensor = constant_tensor(value)
        if value is None or tensor is None or not any(cut.touches(dim) for dim in dims):
            continue
        key = value, tuple(cut.positions(dim).tobytes() for dim in dims)
        if key not in made:
            smaller = _take(tensor, dims, cut)
            made[key] = _new_value(node, value, smaller)
            tensors += 1
            elements += tensor.size - smaller.size
        node.replace_input_with(index, made[key])
    return tensors, elements


def _take(tensor: ir.TensorProtocol, dims: Dims, cut: Cut) -> ir.TensorProtocol:
    """What stays of a tensor; of a large one in a file only where it lies there, until it is used."""
    kept = {axis: cut.positions(dim) for axis, dim in enumerate(dims) if cut.touches(dim)}
    if isinstance(tensor, ir.ExternalTensor | ir.LazyTensor) and tensor.nbytes >= LARGE_BYTES:
        shape = [len(kept[axis]) if axis in kept else size for axis, size in enumerate(tensor.shape.numpy())]
        return ir.LazyTensor(partial(_taken, tensor, kept), tensor.dtype, ir.Shape(shape), name=tensor.name)
    return _taken(tensor, kept)


def _taken(tensor: ir.TensorProtocol, kept: Mapping[int, Positions]) -> ir.TensorProtocol:
    array = reopened(tensor).numpy()
    for axis, positions in kept.items():
        array = array.take(positions, axis=axis)
    return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)


def _store(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Put a smaller tensor where the larger one was: an initializer, or the attribute of a ``Constant``."""
    node = value.producer()
    if node is None:
        value.const_value = tensor
    else:
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", tensor)
        value.const_value = None
    value.shape = ir.Shape(tensor.shape.numpy())


def _new_value(node: ir.Node, old: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
    graph = node.graph
    if graph is None:
        raise ValueError(f"node '{node.op_type}' is in no graph")
    value = new_constant(fresh_name(graph, f"{old.name}_cut"), tensor.numpy())
    value.const_value, value.type = tensor, ir.TensorType(tensor.dtype)
    graph.register_initializer(value)
    return value
