"""Does ONNX Runtime take a model? Asked with a model whose large weights are left out."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import onnx_ir as ir
from onnx import defs

from adapass.codegen.onnxruntime.plan import Spin
from adapass.codegen.onnxruntime.session import open_session
from adapass.codegen.weightless import without_weights
from adapass.errors import ModelError, VerificationError
from adapass.execution import Session


def reasons_against(model: ir.Model) -> tuple[str, ...]:
    """Why ONNX Runtime does not run ``model`` on this machine; empty when it does.

    Creating a session is the only full answer (types, attributes, shapes), and cheap without
    weights. Kernels that insist on constant weights get a second try with all of them.
    """
    try:
        open_session(without_weights(model), threads=1, spin=Spin.NEVER, gpu=False, optimize=False)
    except ModelError:
        pass
    else:
        return ()
    try:
        Session(model)
    except VerificationError as error:
        return _missing_kernels(model) or (str(error),)
    return ()


def _missing_kernels(model: ir.Model) -> tuple[str, ...]:
    known = _kernel_names()
    own = {(function.domain, function.name) for function in model.functions.values()}
    opsets = model.opset_imports
    reasons: dict[str, None] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        operator = (node.domain, node.op_type)
        if operator in own or operator in known or _has_body(node, opsets.get(node.domain, 1)):
            continue
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        reasons[f"onnxruntime has no kernel for operator {name}"] = None
    return tuple(reasons)


def _kernel_names() -> frozenset[tuple[str, str]]:
    state: Any = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return frozenset((kernel.domain, kernel.op_name) for kernel in state.get_all_opkernel_def())


def _has_body(node: ir.Node, opset: int) -> bool:
    """Whether the standard defines the operator by simpler ones."""
    if not defs.has(node.op_type, node.domain):
        return False
    try:
        schema: Any = defs.get_schema(node.op_type, opset, node.domain)
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)
