"""Does TVM take a model for a target? Asked by importing it, weights and all; nothing is compiled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import onnx_ir as ir

from adapass.codegen.files import Lowering, lowered
from adapass.codegen.ports import against_ports
from adapass.codegen.tvm.compile import linker
from adapass.codegen.tvm.importer import import_model
from adapass.codegen.tvm.kernels.kernel import vectors_of
from adapass.errors import ModelError
from adapass.target import Target, TargetKind

_OTHER = frozenset({ir.DataType.STRING, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128})


def reasons_against(model: ir.Model, target: Target) -> tuple[str, ...]:
    """Why ``model`` is not built for ``target``; empty when it is."""
    if found := (*_against_target(target), *against_ports(model, "tvm", _OTHER)):
        return found
    try:
        import_model(lowered(model, Lowering.MASKED), vectors_of(target))
    except ModelError as error:
        return (str(error),)
    return ()


def _against_target(target: Target) -> Iterator[str]:
    if target.kind is not TargetKind.CPU:
        yield f"tvm is used for processors only so far, and {target.name} is a {target.kind}"
    elif (cross := linker(target)) is not None and shutil.which(cross) is None:
        yield f"{target.name} is of another family than this machine, and there is no {cross} to link with"
