"""What ``build`` tells ``load``: a small JSON file beside the models."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field

from adapass.codegen.files import Lowering, read_plan_as
from adapass.codegen.inputs import Input, inputs_of
from adapass.errors import UsageError
from adapass.generator import Options

SCHEMA = 1
PLAN_FILE = "onnxruntime.json"


class Spin(StrEnum):
    """What idle threads of the pool do."""

    ALWAYS = "always"
    """Wait busily for the next run: lowest latency, burns the cores."""
    RUNNING = "running"
    """Wait busily inside a run only."""
    NEVER = "never"


class Norms(StrEnum):
    """Whether the addition in front of a layer normalisation runs inside its kernel."""

    FUSED = "fused"
    """ONNX Runtime's default, and the slower of the two on some processors: its fused kernel shares out rows
    only and goes over them more often (45 us against 31 us for 23 rows of 384 numbers)."""
    APART = "apart"


class Plan(BaseModel):
    """How to open what was built."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int = SCHEMA
    lowering: Lowering = Field(strict=False)
    threads: int | None = Field(default=None, ge=1)
    """At most this many threads; ``None``: the whole budget."""
    spin: Spin = Field(strict=False)
    norms: Norms = Field(default=Norms.FUSED, strict=False)
    gpu: bool = False
    stages: int = Field(default=1, ge=1)
    inputs: tuple[Input, ...] = Field(strict=False)

    def write(self, folder: Path) -> None:
        (folder / PLAN_FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_plan(folder: Path) -> Plan:
    """Raises ``ArtifactError`` when the plan is missing, damaged or newer than this version."""
    return read_plan_as(Plan, folder / PLAN_FILE, schema=SCHEMA)


def plan_from(options: Options, model: ir.Model, *, gpu: bool) -> Plan:
    """Options of a variant, with defaults, as a plan.

    Raises:
        UsageError: an option is unknown or has no such value.

    """
    unknown = sorted(set(options) - {"lowering", "norms", "threads", "spin"})
    if unknown:
        raise UsageError(f"unknown onnxruntime option '{unknown[0]}'; known: lowering, norms, spin, threads")
    try:
        return Plan(
            lowering=Lowering(str(options.get("lowering", Lowering.NONE))),
            threads=_threads(options.get("threads", 0)),
            spin=Spin(str(options.get("spin", Spin.ALWAYS))),
            norms=Norms(str(options.get("norms", Norms.FUSED))),
            gpu=gpu,
            inputs=inputs_of(model),
        )
    except ValueError as error:
        raise UsageError(f"onnxruntime options {dict(options)}: {error}") from error


def _threads(value: str | float) -> int | None:
    """0 stands for the whole budget: options have no null."""
    threads = int(value)
    if threads < 0:
        raise UsageError(f"onnxruntime option threads is {threads}, expected 0 (all) or more")
    return threads or None
