"""The TVM generator: machine code for one kind of processor, its own kernels where work is heavy.

Options of a variant: ``lowering`` (``none``, ``if``, ``staged``, ``masked``), ``threads`` (0 = the whole
budget). A build is

    tvm.json                    how to open it
    model.so                    lowering none, if, masked
    stage_K.so, stages.json     lowering staged

A library runs with TVM's runtime alone. It is machine code: see ``adapass.codegen.tvm.trust``. Builds of
equal models compute the same, but LLVM may order a few instructions in another way: the bytes may differ.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import onnx_ir as ir

from adapass.codegen.defaults import restored
from adapass.codegen.feeds import FeedCheck
from adapass.codegen.files import Lowering, lowered, read_wiring, why_not_split, write_wiring
from adapass.codegen.runner import SessionRunner, StagedRunner
from adapass.codegen.tvm.acceptance import Part, accept, accept_stages
from adapass.codegen.tvm.compile import compiled, write_library
from adapass.codegen.tvm.importer import Imported, import_model
from adapass.codegen.tvm.kernels.kernel import vectors_of
from adapass.codegen.tvm.library import missing
from adapass.codegen.tvm.plan import PLAN_FILE, Library, Plan, plan_from, read_plan
from adapass.codegen.tvm.session import TvmSession
from adapass.codegen.tvm.support import reasons_against
from adapass.codegen.tvm.trust import digest, sign
from adapass.errors import ArtifactError, UsageError
from adapass.generator import Options, Runner, Support, Variant
from adapass.lowering.exits import has_exits
from adapass.lowering.stages import lower_to_stages
from adapass.target import Target, load_target

logger = logging.getLogger(__name__)

LIBRARY_FILE = "model.so"


class Tvm:
    """See ``adapass.generator.Generator``."""

    name: ClassVar[str] = "tvm"

    def available(self) -> str | None:
        return missing()

    def supports(self, model: ir.Model, target: Target) -> Support:
        """Import the model.

        Raises:
            UsageError: TVM is not installed.

        """
        return Support(reasons_against(model, target))

    def variants(self, model: ir.Model, target: Target, *, threads: int, batch: int) -> Sequence[Variant]:
        """One for each way to lower exits."""
        del target, threads, batch
        if not has_exits(model):
            return (_variant(Lowering.NONE),)
        if (reason := why_not_split(model)) is not None:
            logger.info("only masked compute for this model, which saves nothing: %s", reason)
            return (_variant(Lowering.MASKED),)
        return (_variant(Lowering.STAGED), _variant(Lowering.IF))

    def build(self, model: ir.Model, target: Target, folder: Path, options: Options) -> None:
        """Compile into ``folder``, and check the numbers of every kernel and output.

        Raises:
            UsageError: an option is unknown, the lowering does not fit the model, or no linker is there.
            ModelError: TVM does not take the model, or computes it wrongly.

        """
        plan = plan_from(options, model, target)
        if (plan.lowering is Lowering.NONE) == has_exits(model):
            wanted = "if, staged or masked" if has_exits(model) else "none"
            raise UsageError(f"tvm option lowering is {plan.lowering}, expected {wanted} for this model")
        here = load_target("cpu")  # elsewhere it is compiled, but cannot be tried
        runs_here = target.isa <= here.isa and target.arch.get("family") == here.arch.get("family")
        if plan.lowering is Lowering.STAGED:
            stages = lower_to_stages(model)
            write_wiring(stages.wiring, folder)
            built = _stages(stages.models, target, folder)
            if runs_here:
                accept_stages([each.opened() for each in built], stages.wiring, model)
        else:
            built = [_build(lowered(model, plan.lowering), target, folder / LIBRARY_FILE, {})]
            if runs_here:
                accept(built[0].opened())
        plan.model_copy(update={"libraries": tuple(each.library for each in built)}).write(folder)

    def load(self, folder: Path, *, threads: int) -> Runner:
        """Open a build.

        Raises:
            ArtifactError: a file is missing, damaged, a link, not trusted, or for another processor.
            UsageError: TVM is not installed, or ``threads`` is below 1.

        """
        if threads < 1:
            raise UsageError(f"threads is {threads}, expected at least 1")
        plan = read_plan(folder)
        _require_processor(plan, folder)
        own = threads if plan.threads is None else min(threads, plan.threads)
        check = FeedCheck(plan.inputs, restored(plan.defaults, folder / PLAN_FILE))
        if plan.lowering is not Lowering.STAGED:
            if len(plan.libraries) != 1:
                raise ArtifactError(f"{folder / PLAN_FILE} names {len(plan.libraries)} libraries, expected 1")
            session = TvmSession(folder / LIBRARY_FILE, plan.libraries[0], threads=own)
            return SessionRunner(session, plan.outputs, check)
        wiring = read_wiring(folder, len(plan.libraries))
        sessions = [
            TvmSession(folder / _stage_file(index), library, threads=own)
            for index, library in enumerate(plan.libraries)
        ]
        return StagedRunner(sessions, wiring, check)

    def device_present(self, target: Target) -> bool:
        return target.device_here()


def _variant(lowering: Lowering) -> Variant:
    name = "plain" if lowering is Lowering.NONE else str(lowering)
    return Variant(name, MappingProxyType({"lowering": str(lowering), "threads": 0}))


def _stage_file(index: int) -> str:
    return f"stage_{index}.so"


@dataclass(frozen=True, slots=True)
class _Built:
    """A library that nobody has tried yet."""

    file: Path
    library: Library
    model: ir.Model
    imported: Imported

    def opened(self) -> Part:
        return Part(TvmSession(self.file, self.library, threads=1), self.model, self.imported.kernels)


def _stages(models: Sequence[ir.Model], target: Target, folder: Path) -> list[_Built]:
    sizes: dict[str, tuple[int | str, ...]] = {}
    built: list[_Built] = []
    for index, model in enumerate(models):
        built.append(_build(model, target, folder / _stage_file(index), sizes))
        sizes.update(built[-1].imported.sizes)
    return built


def _build(model: ir.Model, target: Target, file: Path, sizes: Mapping[str, tuple[int | str, ...]]) -> _Built:
    """Import, compile and write one model; ``sizes``: inputs that hold sizes."""
    imported = import_model(model, vectors_of(target), sizes)
    write_library(compiled(imported, target), file, target)
    sha256 = digest(file)
    library = Library(
        sha256=sha256,
        size_bytes=file.stat().st_size,
        signature=sign(sha256),
        inputs=tuple(value.name or "" for value in model.graph.inputs),
        outputs=tuple(value.name or "" for value in model.graph.outputs),
        sites=imported.sites,
    )
    return _Built(file, library, model, imported)


def _require_processor(plan: Plan, folder: Path) -> None:
    here = load_target("cpu")
    absent = sorted(set(plan.isa) - here.isa)
    if plan.family != here.arch.get("family") or absent:
        needs = ", ".join(absent) or plan.family
        raise ArtifactError(
            f"{folder} was compiled for another processor: this one has no {needs}; build it for this machine"
        )
