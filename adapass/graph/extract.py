"""Cut a standalone model out of a larger one."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from adapass.errors import UsageError
from adapass.graph.shapes import infer_shapes


def extract(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """The part of the main graph that computes ``outputs`` from ``inputs``, as a model of its own.

    Weights are shared with ``model``. The new inputs take type and shape from inference. Inputs that
    the part does not need stay inputs.

    Raises:
        UsageError: a name is unknown, a type is unknown, or the part needs more than ``inputs``.

    """
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    for name in (*inputs, *outputs):
        if name not in values:
            raise UsageError(f"the graph has no value '{name}'; names are those of the ONNX text form")
    for name in inputs:
        if values[name].type is None:
            raise UsageError(
                f"the type of '{name}' is unknown, so it cannot become an input; run infer_shapes first"
            )
    try:
        graph = ir.convenience.extract(model.graph, list(inputs), list(outputs))
    except ValueError as error:
        raise UsageError(f"cannot cut from {list(inputs)} to {list(outputs)}: {error}") from error
    _order_initializers(graph, model.graph)
    part = ir.Model(
        graph,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        functions=[function.clone() for function in model.functions.values()],
    )
    infer_shapes(part)
    return part


def _order_initializers(graph: ir.Graph, original: ir.Graph) -> None:
    """Restore the order of the source: the extraction collects initializers in a set."""
    found = dict(graph.initializers.items())
    graph.initializers.clear()
    for name in original.initializers:
        if name in found:
            graph.initializers.add(found[name])
