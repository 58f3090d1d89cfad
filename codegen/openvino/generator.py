"""The OpenVINO generator: the same files of standard operators as for ONNX Runtime, compiled when loaded.

Options of a variant: ``lowering`` (``none``, ``if``, ``staged``, ``masked``), ``precision`` (``f32``, or
``bf16`` for the floating-point operators), ``threads`` (0 = the whole budget). A build is

    openvino.json               how to open it
    model.onnx                  lowering none, if, masked
    stage_K.onnx, stages.json   lowering staged

ONNX files, not OpenVINO's own form: equal models give equal bytes, and a model without exits shares its
file with the portable form. Reading one takes a fraction of compiling it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import onnx_ir as ir

from adapass.artifact.external import external_files
from adapass.codegen.defaults import restored
from adapass.codegen.feeds import FeedCheck
from adapass.codegen.files import (
    MODEL_FILE,
    Lowering,
    lowered,
    own_file,
    read_wiring,
    save_stage,
    stage_file,
    why_not_split,
    write_wiring,
)
from adapass.codegen.openvino.plan import PLAN_FILE, Plan, Precision, plan_from, read_plan
from adapass.codegen.openvino.session import OpenVinoSession, missing
from adapass.codegen.openvino.support import reasons_against
from adapass.codegen.runner import SessionRunner, StagedRunner
from adapass.errors import UsageError
from adapass.generator import Options, Runner, Support, Variant
from adapass.graph.save import save_model
from adapass.lowering.exits import has_exits
from adapass.lowering.stages import lower_to_stages
from adapass.target import Target

logger = logging.getLogger(__name__)

_BF16 = frozenset({"amx_bf16", "avx512_bf16"})
"""Processors with products in bfloat16; others would convert back and forth."""


class OpenVino:
    """See ``adapass.generator.Generator``."""

    name: ClassVar[str] = "openvino"

    def available(self) -> str | None:
        return missing()

    def supports(self, model: ir.Model, target: Target) -> Support:
        """Ask OpenVINO on this machine; the processor of ``target`` need not be here for that.

        Raises:
            UsageError: OpenVINO is not installed.

        """
        return Support(reasons_against(model, target))

    def variants(self, model: ir.Model, target: Target, *, threads: int, batch: int) -> Sequence[Variant]:
        """At most six; bfloat16 only for processors that have it."""
        del batch
        settings = [(Precision.F32, 0)]
        settings += [(Precision.F32, 1)] if threads > 1 else []
        settings += [(Precision.BF16, 0)] if target.isa & _BF16 else []
        if not has_exits(model):
            lowerings = [Lowering.NONE]
        elif (reason := why_not_split(model)) is not None:
            logger.info("only masked compute for this model, which saves nothing: %s", reason)
            lowerings = [Lowering.MASKED]
        else:
            lowerings = [Lowering.IF, Lowering.STAGED]
        return tuple(_variant(lowering, *setting) for lowering in lowerings for setting in settings)

    def build(self, model: ir.Model, target: Target, folder: Path, options: Options) -> None:
        """Write the files into ``folder``; needs no OpenVINO.

        Raises:
            UsageError: an option is unknown, or the lowering does not fit the model.
            ModelError: the exits cannot be lowered this way.

        """
        del target
        plan = plan_from(options, model)
        if (plan.lowering is Lowering.NONE) == has_exits(model):
            wanted = "if, staged or masked" if has_exits(model) else "none"
            raise UsageError(f"openvino option lowering is {plan.lowering}, expected {wanted} for this model")
        if plan.lowering is Lowering.STAGED:
            plan = _write_stages(model, folder, plan)
        else:
            save_model(_without_defaults(lowered(model, plan.lowering)), folder / MODEL_FILE)
        plan.write(folder)

    def load(self, folder: Path, *, threads: int) -> Runner:
        """Open a build.

        Raises:
            ArtifactError: a file is missing, damaged, a link, or written by a newer adapass.
            ModelError: OpenVINO does not take a model file.
            UsageError: OpenVINO is not installed, or ``threads`` is below 1.

        """
        if threads < 1:
            raise UsageError(f"threads is {threads}, expected at least 1")
        plan = read_plan(folder)
        check = FeedCheck(plan.inputs, restored(plan.defaults, folder / PLAN_FILE))
        if plan.lowering is not Lowering.STAGED:
            return SessionRunner(_open(folder / MODEL_FILE, plan.outputs, plan, threads), plan.outputs, check)
        wiring = read_wiring(folder, plan.stages)
        sessions = [
            _open(folder / stage_file(index), stage.outputs, plan, threads)
            for index, stage in enumerate(wiring.stages)
        ]
        return StagedRunner(sessions, wiring, check)

    def device_present(self, target: Target) -> bool:
        return target.device_here()


def _variant(lowering: Lowering, precision: Precision, threads: int) -> Variant:
    words = ["plain" if lowering is Lowering.NONE else str(lowering)]
    words += [] if precision is Precision.F32 else [str(precision)]
    words += [] if threads == 0 else [f"{threads}-thread"]
    options: dict[str, str | int | float] = {
        "lowering": str(lowering),
        "precision": str(precision),
        "threads": threads,
    }
    return Variant("-".join(words), MappingProxyType(options), exact=precision is Precision.F32)


def _write_stages(model: ir.Model, folder: Path, plan: Plan) -> Plan:
    stages = lower_to_stages(model)
    for index, stage in enumerate(stages.models):
        save_stage(_without_defaults(stage), folder, index)
    write_wiring(stages.wiring, folder)
    return plan.model_copy(update={"stages": len(stages.models)})


def _without_defaults(model: ir.Model) -> ir.Model:
    """Inputs that always come from outside: OpenVINO would take a default for a constant."""
    for value in model.graph.inputs:
        if value.is_initializer():
            del model.graph.initializers[value.name or ""]
            value.const_value = None
    return model


def _open(file: Path, outputs: Sequence[str], plan: Plan, threads: int) -> OpenVinoSession:
    own = threads if plan.threads is None else min(threads, plan.threads)
    external_files(own_file(file))  # refuses weights outside the folder before OpenVINO opens them
    return OpenVinoSession(file, outputs, threads=own, precision=plan.precision)
