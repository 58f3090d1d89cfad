"""Store weights in half precision where that loses nothing: models are often trained, or kept, in halves.

    w [float]                  ->   w = Cast<to = float>(w16)

Rewrites want numbers they can compute with, so weights stored in half precision become single precision
first; most of them come out untouched, and a file must not be twice as large as the one it was made from.
Runtimes fold the conversion when they load the model: nothing is converted in a call.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from adapass.graph.edit import fresh_name
from adapass.graph.tensors import graphs_everywhere

SMALLEST_BYTES = 65536
"""Smaller tensors stay: the conversion itself takes space, and time to load."""


def store_halves(model: ir.Model) -> int:
    """Replace, in place, large float initializers of which every number is a half; returns how many.

    Those that are inputs or outputs of their graph stay as they are.
    """
    count = 0
    for graph in graphs_everywhere(model):
        for value in list(graph.initializers.values()):
            halves = _halves(value)
            if halves is not None:
                _convert(graph, value, halves)
                count += 1
    return count


def _halves(value: ir.Value) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]] | None:
    tensor = value.const_value
    if tensor is None or tensor.dtype is not ir.DataType.FLOAT or tensor.nbytes < SMALLEST_BYTES:
        return None
    if value.is_graph_input() or value.is_graph_output():
        return None
    array = np.ascontiguousarray(tensor.numpy())
    with np.errstate(over="ignore"):  # what is too large for a half shows up below
        halves = array.astype(np.float16)
    return halves if np.array_equal(halves.astype(np.float32).view(np.int32), array.view(np.int32)) else None


def _convert(
    graph: ir.Graph, value: ir.Value, halves: np.ndarray[tuple[int, ...], np.dtype[np.float16]]
) -> None:
    name = value.name or ""
    stored_name = fresh_name(graph, f"{name}_half")
    stored = ir.Value(name=stored_name, const_value=ir.tensor(halves, name=stored_name))
    stored.type, stored.shape = ir.TensorType(ir.DataType.FLOAT16), ir.Shape(halves.shape)
    del graph.initializers[name]
    graph.register_initializer(stored)
    node = ir.node("Cast", [stored], {"to": int(ir.DataType.FLOAT)})
    result = node.outputs[0]
    result.type, result.shape = value.type, value.shape
    value.replace_all_uses_with(result)
    value.name = None
    result.name = name
    first = next(iter(graph), None)
    if first is None:
        graph.append(node)
    else:
        graph.insert_before(first, node)
