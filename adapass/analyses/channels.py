"""Which axis of an activation holds its channels: read off what its readers, then its makers, do with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import onnx_ir as ir

from adapass.analyses.dataflow import Dataflow

LAST = frozenset(
    {
        "LayerNormalization",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "MatMul",
        "Gemm",
        "MatMulInteger",
    }
)
SECOND = frozenset(
    {
        "Conv", "ConvTranspose", "QLinearConv", "ConvInteger", "BatchNormalization", "InstanceNormalization",
        "GroupNormalization", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LRN", "PRelu",
    }
)  # fmt: skip
MOVING = frozenset(
    {
        "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gather", "Slice", "Concat", "Expand",
        "ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2", "ReduceMin", "ArgMax",
    }
)  # fmt: skip
"""After these an axis may have another number: the search does not go on behind them."""
MOST_STEPS = 64


def channel_axis(flow: Dataflow, value: ir.Value, rank: int, batch_axis: int) -> int:
    """The channel axis of a float value of rank 2, 3 or 4."""
    usual = {2: 1 - batch_axis if batch_axis in (0, 1) else 1, 3: 2, 4: 1}[rank]
    if rank == 2:
        return usual
    for index in (*_ahead(flow, value), *_behind(flow, value)):
        kind = flow.nodes[index].op_type
        if kind in LAST or _reduces_last(flow.nodes[index], rank):
            return rank - 1
        if kind in SECOND:
            return 1
    return usual


def _ahead(flow: Dataflow, value: ir.Value) -> Iterator[int]:
    """Readers of ``value``, nearest first, through operators that leave every axis in its place."""
    queue = deque(flow.readers.get(value, ()))
    seen: set[int] = set()
    while queue and len(seen) < MOST_STEPS:
        index = queue.popleft()
        if index in seen:
            continue
        seen.add(index)
        yield index
        if flow.nodes[index].op_type in MOVING:
            continue
        queue.extend(flow.graph.successors(index))


def _behind(flow: Dataflow, value: ir.Value) -> Iterator[int]:
    queue = deque([flow.producer[value]] if value in flow.producer else [])
    seen: set[int] = set()
    while queue and len(seen) < MOST_STEPS:
        index = queue.popleft()
        if index in seen:
            continue
        seen.add(index)
        yield index
        if flow.nodes[index].op_type in MOVING:
            continue
        queue.extend(flow.graph.predecessors(index))


def _reduces_last(node: ir.Node, rank: int) -> bool:
    """A normalisation written out: the mean over the last axis alone, kept."""
    if node.op_type != "ReduceMean":
        return False
    axes = tuple(node.attributes.get_ints("axes", ())) or _axes_input(node)
    return axes in ((-1,), (rank - 1,)) and node.attributes.get_int("keepdims", 1) == 1


def _axes_input(node: ir.Node) -> tuple[int, ...]:
    tensor = (
        ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    )
    return () if tensor is None else tuple(int(axis) for axis in tensor.numpy().reshape(-1))
