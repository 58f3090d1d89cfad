"""Bring a model into operators that have a twin: calls are inlined, operators that ONNX composes expanded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir as ir
from onnx import defs, inliner
from onnx_ir.passes.common import InlinePass

from adapass.errors import ModelError
from adapass.graph.tensors import graphs_everywhere
from adapass.twin.dtypes import is_known
from adapass.twin.registry import accepts, find, is_translated, most_inputs, required


def prepared(model: ir.Model) -> ir.Model:
    """``model`` itself, or a copy with everything inlined that has to be; names of values stay.

    Raises:
        ModelError: an operator has no twin; the message names it and its node.

    """
    if model.functions:
        model = model.clone()
        InlinePass()(model)
    expandable = sorted(
        {(n.domain, n.op_type) for n in _nodes(model) if _why_not(model, n) and _is_defined(model, n)}
    )
    if expandable:
        model = _expanded(model, expandable)
    for node in _nodes(model):
        if reason := _why_not(model, node):
            where = f"node '{node.name or node.outputs[0].name}'"
            raise ModelError(f"{where}: operator '{_full_name(node)}' {reason}; it has no torch twin")
    return model


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    for graph in graphs_everywhere(model):
        yield from graph


def _full_name(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _why_not(model: ir.Model, node: ir.Node) -> str:
    """In plain words; empty where the node can be translated."""
    if node.op_type == "Scan" and model.opset_imports.get("", 1) < 9:
        return "is that of opset 8, which scans batches; opset 9 expected"
    if not is_translated(node):
        return "is not among those translated"
    if refers := [a.name for a in node.attributes.values() if a.is_ref()]:
        return f"takes its attribute '{refers[0]}' from a call that does not give it"
    for value in (*node.inputs, *node.outputs):
        if value is not None and (reason := _untold(node, value)):
            return reason
    compute = find(node)
    if compute is None:
        return _why_no_constant(node)
    odd = [name for name in node.attributes if not accepts(compute, name) and not _is_plain(node, name)]
    if odd:
        return f"has the attribute '{odd[0]}', which is not translated"
    missing = [name for name in required(compute) if name not in node.attributes]
    if missing:
        return f"lacks the attribute '{missing[0]}'"
    most = most_inputs(compute)
    if most is not None and len(node.inputs) > most:
        return f"has {len(node.inputs)} inputs, at most {most} are translated"
    codes = [
        node.attributes[name].value for name in ("to", "dtype", "output_dtype") if name in node.attributes
    ]
    unknown = [code for code in codes if code and not is_known(ir.DataType(code))]
    return f"makes values of type {ir.DataType(unknown[0]).name}, which torch cannot hold" if unknown else ""


def _is_plain(node: ir.Node, name: str) -> bool:
    """An attribute that says what is done anyway."""
    plain = {"left_window_size": -1, "right_window_size": -1, "round_mode": "up", "storage_order": 0}
    return name in plain and node.attributes[name].value == plain[name]


def _untold(node: ir.Node, value: ir.Value) -> str:
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        return f"reads or makes '{value.name}', which is no tensor but {value.type}"
    # Bytes stand in for 4 bits where they are only read, not where something is rounded to them.
    maker = value.producer()
    stored = value.is_initializer() or (maker is not None and maker.op_type == "Constant")
    if not is_known(value.dtype, stored=stored and node.op_type in ("Constant", "DequantizeLinear")):
        return f"reads or makes '{value.name}' of type {value.dtype}, which torch cannot hold"
    return ""


def _why_no_constant(node: ir.Node) -> str:
    if node.op_type != "Constant":
        return ""
    kinds = {"value", "value_float", "value_floats", "value_int", "value_ints"}
    odd = [name for name in node.attributes if name not in kinds]
    if len(node.attributes) != 1:
        return f"has {len(node.attributes)} attributes, 1 expected"
    return f"has the attribute '{odd[0]}', which is not translated" if odd else ""


def _is_defined(model: ir.Model, node: ir.Node) -> bool:
    """Whether ONNX itself defines the operator by a function of simpler ones."""
    version = model.opset_imports.get(node.domain, 1)
    try:
        schema: Any = defs.get_schema(node.op_type, version, node.domain)
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _expanded(model: ir.Model, operators: list[tuple[str, str]]) -> ir.Model:
    proto: onnx.ModelProto = ir.to_proto(model)
    try:
        inlined = inliner.inline_selected_functions(proto, operators, inline_schema_functions=True)
    except RuntimeError:
        return model  # ONNX cannot expand it here: the operator is named by the caller
    result = ir.from_proto(inlined)
    if result.functions:
        InlinePass()(result)
    return result
