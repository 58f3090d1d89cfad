"""Does OpenVINO take a model, and compute it as it is meant? Asked before anything is written."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from adapass.codegen.files import Lowering, lowered
from adapass.codegen.openvino.plan import Precision
from adapass.codegen.openvino.session import OpenVinoSession
from adapass.codegen.ports import against_ports
from adapass.codegen.weightless import without_weights
from adapass.errors import ModelError
from adapass.graph.edit import constant_array
from adapass.graph.save import to_bytes
from adapass.target import Target, TargetKind

_FAMILIES = frozenset({"x86_64", "aarch64"})
_OTHER = frozenset({ir.DataType.DOUBLE, ir.DataType.STRING, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128})
_WIDE = frozenset({ir.DataType.INT64, ir.DataType.UINT64, ir.DataType.UINT32})
_WHOLE = np.iinfo(np.int32)


def reasons_against(model: ir.Model, target: Target) -> tuple[str, ...]:
    """Every reason found before the first expensive question; then OpenVINO's own."""
    found = (*_against_target(target), *against_ports(model, "openvino", _OTHER), *_against_constants(model))
    if found:
        return found
    try:
        plain = lowered(model, Lowering.MASKED)
    except ModelError as error:
        return (str(error),)
    names = [value.name or "" for value in plain.graph.outputs]
    # Kernels that insist on constant weights get a second try with all of them.
    for read in (without_weights, to_bytes):
        try:
            OpenVinoSession(read(plain), names, threads=1, precision=Precision.F32)
        except ModelError as error:
            said = str(error)
        else:
            return ()
    return (said,)


def _against_target(target: Target) -> Iterator[str]:
    if target.kind is not TargetKind.CPU:
        yield f"openvino is used for processors only, and {target.name} is a {target.kind}"
    elif target.arch.get("family") not in _FAMILIES:
        yield f"openvino does not run on {target.arch.get('family')}"


def _against_constants(model: ir.Model) -> Iterator[str]:
    """OpenVINO computes whole numbers in 32 bits. Ends of slices may be larger: they mean "to the end"."""
    stored = list(model.graph.initializers.values())
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    made = [node.outputs[0] for node in nodes if node.op_type == "Constant" and node.domain == ""]
    for value in (*stored, *made):
        tensor = value.const_value
        if tensor is None or tensor.dtype not in _WIDE or not tensor.size:
            continue
        numbers = constant_array(value)
        if numbers is None or (numbers.min() >= _WHOLE.min and numbers.max() <= _WHOLE.max):
            continue
        if any(use.node.op_type != "Slice" or use.idx == 0 for use in value.uses()):
            yield f"constant '{value.name}' needs 64 bits, and openvino computes whole numbers in 32"
