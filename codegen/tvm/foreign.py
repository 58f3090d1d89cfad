"""Operators that TVM's own ONNX importer converts one by one; what reads at indices is held inside first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import onnx
import onnx_ir as ir

from adapass.codegen.tvm.indices import guarded
from adapass.codegen.tvm.library import compiler
from adapass.codegen.tvm.scope import Scope, attribute, shape_of
from adapass.errors import ModelError

_FRONTEND: Final = "tvm.relax.frontend.onnx.onnx_frontend"
_ALONG_AXIS: Final = frozenset({"GatherElements", "ScatterElements", "Scatter"})
_BY_POSITION: Final = frozenset({"GatherND", "ScatterND"})
_PYTHON_AT_RUN_TIME: Final = frozenset({"Unique", "NonZero", "Compress", "NonMaxSuppression"})
"""Their conversions call back into Python and numpy, which a deployed artifact does not have."""


def convert(scope: Scope, node: ir.Node, opset: int) -> Sequence[Any]:
    """The outputs of ``node``.

    Raises:
        ModelError: TVM has no conversion, or only one that does not run without the compiler.

    """
    frontend = compiler(_FRONTEND)
    if node.op_type in _PYTHON_AT_RUN_TIME:
        raise ModelError("TVM computes it by a call into Python, which artifacts do not make")
    if (converter := _converters().get(node.op_type)) is None:
        raise ModelError("there is no conversion")
    inputs = frontend.onnx_input()
    inputs.extend(None if value is None else scope.tensor(value) for value in node.inputs)
    if node.op_type in _ALONG_AXIS | _BY_POSITION:
        inputs[1] = _safe(scope, node, inputs[0], inputs[1])
    proto: onnx.NodeProto = ir.to_proto(node)
    attributes = frontend.ONNXGraphImporter._parse_attr(None, proto.attribute)
    attributes["tvm_custom"] = {"name": node.name or "", "num_outputs": len(node.outputs)}
    found = converter.get_converter(opset)(scope.builder, inputs, attributes, [{}, {}])
    relax = compiler("tvm.relax")
    found = scope.builder.normalize(found)
    if isinstance(found, relax.Tuple):
        return list(found)
    if isinstance(found.ty, relax.TupleType):
        held = scope.emit(found)
        return [scope.emit(relax.TupleGetItem(held, i)) for i in range(len(found.ty.fields))]
    return [found]


@cache
def _converters() -> dict[str, Any]:
    return dict(compiler(_FRONTEND)._get_convert_map())


def _safe(scope: Scope, node: ir.Node, data: Any, index: Any) -> Any:
    sizes = list(shape_of(data))
    if node.op_type in _ALONG_AXIS:
        return guarded(scope, node, index, [sizes[int(attribute(node, "axis", 0))]])
    count = shape_of(index)[-1]
    if not isinstance(count, int):
        raise ModelError("the number of axes it reads along is known only when it runs")
    batch = int(attribute(node, "batch_dims", 0))
    return guarded(scope, node, index, sizes[batch : batch + count])
