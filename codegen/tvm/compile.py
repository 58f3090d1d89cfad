"""From a module of Relax to a library: fusion, schedules, machine code."""

from __future__ import annotations

import platform
import warnings
from pathlib import Path
from typing import Any

from adapass.codegen.tvm.importer import Imported
from adapass.codegen.tvm.kernels.kernel import vectors_of
from adapass.codegen.tvm.library import compiler
from adapass.codegen.tvm.schedule import refuse_unscheduled, schedule
from adapass.errors import ModelError, UsageError
from adapass.target import Target

_OPAQUE = 8


def machine(target: Target) -> Any:
    """TVM's description of the processor, from the file of the target or else from its instructions."""
    table = {key: value for key, value in target.tvm.items() if key != "num-cores"}
    table.setdefault("kind", "llvm")
    if target.arch.get("family") == "x86_64":
        table.setdefault("mcpu", _x86_level(target))
    return compiler().target.Target(table)


def _x86_level(target: Target) -> str:
    if {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= target.isa:
        return "x86-64-v4"
    return "x86-64-v3" if {"avx2", "fma"} <= target.isa else "x86-64-v2"


def compiled(imported: Imported, target: Target) -> Any:
    """An executable of TVM's virtual machine.

    Raises:
        ModelError: TVM fails, or a heavy loop nest has no schedule.

    """
    tvm, relax = compiler(), compiler("tvm.relax")
    passes = relax.transform
    described = machine(target)
    legal = [relax.backend.DispatchSortScan(), passes.LegalizeOps()]
    fuse = [
        passes.AnnotateTIROpPattern(),
        passes.ConvertToDataflow(),
        passes.FoldConstant(),
        passes.FuseOps(),
        passes.FuseTIR(),
        passes.DeadCodeElimination(),
    ]
    lower = [
        passes.RewriteDataflowReshape(),
        passes.ToNonDataflow(),
        passes.RemovePurityChecking(),
        passes.CallTIRRewrite(),
        passes.StaticPlanBlockMemory(),
        passes.LowerAllocTensor(),
        passes.KillAfterLastUse(),
        passes.LowerRuntimeBuiltin(),
        passes.ComputePrimValue(),
        passes.VMShapeLower(),
        passes.AttachGlobalSymbol(),
    ]
    try:
        with warnings.catch_warnings(), described:
            warnings.simplefilter("ignore")
            simple = _sizes_apart(tvm.transform.Sequential(legal)(imported.module))
            fused = tvm.transform.Sequential(fuse)(simple)
            ready = schedule(fused, vectors_of(target).lanes)
            refuse_unscheduled(ready)
            lowered = tvm.transform.Sequential(lower)(ready)
            return tvm.compile(lowered, target=described, relax_pipeline=None)
    except ModelError:
        raise
    except Exception as error:  # TVM has no public base class for its errors
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"TVM does not compile the model: {lines[-1] if lines else error}") from error


def _sizes_apart(module: Any) -> Any:
    """Keep functions that take a size as a number out of fusion, which loses track of where it is known."""
    function_type, number = compiler("tvm.tirx").PrimFunc, compiler("tvm.ir.type").PrimType
    for variable, function in list(module.functions.items()):
        if not isinstance(function, function_type):
            continue
        if any(isinstance(each.ty, number) for each in function.params):
            module.update_func(variable, function.with_attr("op_pattern", _OPAQUE))
    return module


def linker(target: Target) -> str | None:
    """The compiler on the path that links for a processor of another family; ``None``: the usual one."""
    if target.arch.get("family") == platform.machine():
        return None
    return f"{target.tvm.get('mtriple', target.arch.get('family'))}-g++"


def write_library(executable: Any, file: Path, target: Target) -> None:
    """Raises ``UsageError`` where no C++ compiler is there to link with."""
    cross = linker(target)
    options = {} if cross is None else {"cc": cross}
    try:
        executable.export_library(str(file), **options)
    except (RuntimeError, TypeError, OSError) as error:
        raise UsageError(
            f"TVM cannot write {file.name}; it needs a C++ compiler ({cross or 'g++'}): {error}"
        ) from error
