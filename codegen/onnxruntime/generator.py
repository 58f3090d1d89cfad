"""The ONNX Runtime generator: files of standard operators, sessions tuned by options.

Options of a variant: ``lowering`` (``none``, ``if``, ``staged``, ``masked``), ``threads`` (0 = the whole
budget), ``spin`` (``always``, ``running``, ``never``), ``norms`` (``fused``, ``apart``). A build is

    onnxruntime.json            how to open it
    model.onnx                  lowering none, if, masked: portable, runs without adapass
    stage_K.onnx, stages.json   lowering staged
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import onnx_ir as ir

from adapass.artifact.external import external_files
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
from adapass.codegen.halves import store_halves
from adapass.codegen.onnxruntime import session
from adapass.codegen.onnxruntime.plan import Norms, Plan, Spin, plan_from, read_plan
from adapass.codegen.onnxruntime.support import reasons_against
from adapass.codegen.runner import SessionRunner, StagedRunner
from adapass.errors import UsageError
from adapass.generator import Options, Runner, Support, Variant
from adapass.graph.save import save_model
from adapass.lowering.exits import has_exits
from adapass.lowering.stages import lower_to_stages
from adapass.target import Target, TargetKind

logger = logging.getLogger(__name__)


class OnnxRuntime:
    """See ``adapass.generator.Generator``."""

    name: ClassVar[str] = "onnxruntime"

    def available(self) -> str | None:
        return None if find_spec("onnxruntime") else "ONNX Runtime is not installed: pip install onnxruntime"

    def supports(self, model: ir.Model, target: Target) -> Support:
        """Ask ONNX Runtime on this machine; a GPU target needs no GPU for that."""
        del target
        return Support(reasons_against(model))

    def variants(self, model: ir.Model, target: Target, *, threads: int, batch: int) -> Sequence[Variant]:
        """At most eight; the first is one portable file with ONNX Runtime's default settings."""
        del batch
        cpu = target.kind is TargetKind.CPU
        several, norms = threads > 1 and cpu, cpu and _has_added_norms(model)
        if not has_exits(model):
            return _tuned("plain", Lowering.NONE, several=several, norms=norms)
        if (reason := why_not_split(model)) is not None:
            logger.info("only masked compute for this model, which saves nothing: %s", reason)
            return _tuned("masked", Lowering.MASKED, several=several, norms=norms)
        return (
            *_tuned("if", Lowering.IF, several=several, norms=norms),
            *_tuned("staged", Lowering.STAGED, several=several, norms=norms),
        )

    def build(self, model: ir.Model, target: Target, folder: Path, options: Options) -> None:
        """Write the files into ``folder``.

        Raises:
            UsageError: an option is unknown, or the lowering does not fit the model.
            ModelError: the exits cannot be lowered this way.

        """
        plan = plan_from(options, model, gpu=target.kind is TargetKind.GPU)
        if (plan.lowering is Lowering.NONE) == has_exits(model):
            wanted = "if, staged or masked" if has_exits(model) else "none"
            raise UsageError(
                f"onnxruntime option lowering is {plan.lowering}, expected {wanted} for this model"
            )
        if plan.lowering is Lowering.STAGED:
            plan = _write_stages(model, folder, plan)
        else:
            whole = lowered(model, plan.lowering)
            store_halves(whole)
            save_model(whole, folder / MODEL_FILE)
        plan.write(folder)

    def load(self, folder: Path, *, threads: int) -> Runner:
        """Open a build.

        Raises:
            ArtifactError: a file is missing, damaged, a link, or written by a newer adapass.
            ModelError: ONNX Runtime does not take a model file.

        """
        if threads < 1:
            raise UsageError(f"threads is {threads}, expected at least 1")
        plan = read_plan(folder)
        if plan.gpu and session.CUDA not in session.providers(gpu=True):
            logger.warning(
                "%s was built for a GPU that ONNX Runtime cannot use here; running on the CPU", folder
            )
        check = FeedCheck(plan.inputs)
        if plan.lowering is not Lowering.STAGED:
            opened = _open(folder / MODEL_FILE, plan, threads)
            return SessionRunner(opened, [each.name for each in opened.get_outputs()], check)
        wiring = read_wiring(folder, plan.stages)
        sessions = [_open(folder / stage_file(index), plan, threads) for index in range(plan.stages)]
        return StagedRunner(sessions, wiring, check)

    def device_present(self, target: Target) -> bool:
        if target.kind is TargetKind.GPU and session.CUDA not in session.providers(gpu=True):
            return False
        return target.device_here()


def _has_added_norms(model: ir.Model) -> bool:
    """Whether a layer normalisation reads a sum: what ONNX Runtime would fuse."""
    norms = (node for node in model.graph if node.op_type == "LayerNormalization" and node.inputs)
    sources = (norm.inputs[0].producer() for norm in norms if norm.inputs[0] is not None)
    return any(source is not None and source.op_type == "Add" for source in sources)


def _tuned(name: str, lowering: Lowering, *, several: bool, norms: bool) -> tuple[Variant, ...]:
    """One lowering with the settings worth trying."""
    # Pools of several sessions that spin take the cores from each other.
    spin = Spin.RUNNING if lowering is Lowering.STAGED else Spin.ALWAYS
    first = spin if several else Spin.NEVER
    settings: list[tuple[str, int, Spin, Norms]] = [(name, 0, first, Norms.FUSED)]
    if norms:
        settings.append((f"{name}-norms-apart", 0, first, Norms.APART))
    if several:
        same = Norms.APART if norms else Norms.FUSED
        settings += [(f"{name}-quiet", 0, Spin.NEVER, same), (f"{name}-1-thread", 1, Spin.NEVER, same)]
    return tuple(
        Variant(label, MappingProxyType(_options(lowering, count, how, apart)))
        for label, count, how, apart in settings
    )


def _options(lowering: Lowering, threads: int, spin: Spin, norms: Norms) -> dict[str, str | int]:
    return {"lowering": str(lowering), "threads": threads, "spin": str(spin), "norms": str(norms)}


def _write_stages(model: ir.Model, folder: Path, plan: Plan) -> Plan:
    stages = lower_to_stages(model)
    for index, stage in enumerate(stages.models):
        store_halves(stage)
        save_stage(stage, folder, index)
    write_wiring(stages.wiring, folder)
    return plan.model_copy(update={"stages": len(stages.models)})


def _open(file: Path, plan: Plan, threads: int) -> session.OrtSession:
    own = threads if plan.threads is None else min(threads, plan.threads)
    external_files(own_file(file))  # refuses weights outside the folder before ONNX Runtime opens them
    return session.open_session(file, threads=own, spin=plan.spin, gpu=plan.gpu, norms=plan.norms)
