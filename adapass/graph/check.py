"""Is this graph well formed? Asked after every pass."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import onnx
import onnx_ir as ir
from onnx import shape_inference

from adapass.errors import AdapassError, VerificationError
from adapass.graph.shapes import drop_derived, skeleton
from adapass.graph.tensors import subgraphs_of

checker: Any = import_module("onnx.checker")
NOT_INFERABLE = frozenset({"MeanVarianceNormalization"})
"""ONNX (1.23) defines it by a function that fails its own strict shape inference."""


def check_structure(model: ir.Model) -> None:
    """ONNX checker and strict shape inference, plus what they leave out.

    Raises:
        VerificationError: names the value or node at fault.

    """
    _check_names(model)
    _check_ownership(model)
    proto = skeleton(model)
    drop_derived(proto.graph)
    check_proto(proto, full=True, error=VerificationError, origin="the model")


def check_proto(proto: onnx.ModelProto, *, full: bool, error: type[AdapassError], origin: str) -> None:
    """Run ONNX's own checker on a (skeleton) protobuf; ``full`` adds strict shape inference."""
    strict = full and not any(node.op_type in NOT_INFERABLE for node in proto.graph.node)
    try:
        checker.check_model(proto, full_check=strict)
    except (checker.ValidationError, shape_inference.InferenceError) as found:
        first_line = str(found).strip().splitlines()[0]
        raise error(f"{origin} is not valid ONNX: {first_line}") from found


def _check_names(model: ir.Model) -> None:
    for top in (model.graph, *(function.graph for function in model.functions.values())):
        seen: dict[str, ir.Value] = {}
        for value in _values(top):
            if not value.name:
                continue
            if seen.setdefault(value.name, value) is not value:
                raise VerificationError(f"two values of graph '{top.name}' are called '{value.name}'")


def _values(graph: ir.Graph) -> list[ir.Value]:
    found = [*graph.inputs, *graph.initializers.values()]
    found += [value for node in graph for value in node.outputs]
    return found


def _check_ownership(model: ir.Model) -> None:
    """Every input of a node must be computed, fed or stored in its own graph or one around it."""
    for top in (model.graph, *(function.graph for function in model.functions.values())):
        _check_scope(top, frozenset())


def _check_scope(graph: ir.Graph, outer: frozenset[ir.Value]) -> None:
    known = set(outer) | set(graph.inputs) | set(graph.initializers.values())
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in known:
                raise VerificationError(
                    f"node '{node.op_type}' computing '{node.outputs[0].name}' reads '{value.name}', "
                    "which nothing before it computes"
                )
        for subgraph in subgraphs_of(node):
            _check_scope(subgraph, frozenset(known))
        known.update(node.outputs)
    for value in graph.outputs:
        if value not in known:
            raise VerificationError(f"graph output '{value.name}' of '{graph.name}' is computed nowhere")
