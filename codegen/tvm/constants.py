"""Operators on constants, computed once while importing, by ONNX's own evaluator."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from adapass.budgeted import Array
from adapass.codegen.tvm.scope import Scope

MAX_FOLDED: Final = 1 << 26
"""Entries of a constant that is computed while importing."""
_NEVER_FOLDED: Final = frozenset(
    {"If", "Loop", "Scan", "RandomNormal", "RandomUniform", "Multinomial", "Bernoulli"}
)

logger = logging.getLogger(__name__)


def folded_outputs(scope: Scope, node: ir.Node, opset: int) -> Sequence[Array] | None:
    """The results of a node that reads constants alone; ``None`` where it does not, or they are too large."""
    if node.op_type in _NEVER_FOLDED:
        return None
    given = [None if value is None else scope.constant(value) for value in node.inputs]
    if any(g is None and v is not None for g, v in zip(given, node.inputs, strict=True)):
        return None
    if node.op_type != "Constant" and not any(g is not None for g in given):
        return None
    if any(_entries(value) > MAX_FOLDED for value in node.outputs):
        return None
    return _evaluated(node, given, opset)


def _entries(value: ir.Value) -> float:
    """Infinite where the size is not known: it might be anything."""
    if value.shape is None or any(not isinstance(dim, int) for dim in value.shape):
        return float("inf")
    return float(np.prod(value.shape.numpy()))


def _evaluated(node: ir.Node, given: Sequence[Array | None], opset: int) -> Sequence[Array] | None:
    if node.op_type == "Constant" and (tensor := node.attributes.get("value")) is not None:
        return [np.asarray(tensor.as_tensor().numpy())]
    proto: onnx.NodeProto = ir.to_proto(node)
    pairs = zip(proto.input, given, strict=True)
    feeds = {name: array for name, array in pairs if array is not None}
    types = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feeds.items()
    ]
    results = [onnx.ValueInfoProto(name=name) for name in proto.output]
    graph = onnx.helper.make_graph([proto], "constant", types, results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        evaluator: Any = ReferenceEvaluator(model)
        return [np.asarray(each) for each in evaluator.run(None, feeds)]
    except Exception as error:  # noqa: BLE001, RUF100  (the evaluator raises what its NumPy code raises)
        logger.debug("%s is left to the run: %s", proto.op_type, error)
        return None
