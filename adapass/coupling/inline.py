"""Functions of a model are followed by putting their bodies in the place of their calls."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from adapass.graph.edit import mark_roots
from adapass.ops import DOMAIN


def inline_functions(model: ir.Model) -> None:
    """Inline every function but the adaptive operators, which have a rule of their own; in place."""
    if has_functions(model):
        InlinePass(criteria=lambda function: function.domain != DOMAIN)(model)
        mark_roots(model)


def has_functions(model: ir.Model) -> bool:
    return any(function.domain != DOMAIN for function in model.functions.values())
