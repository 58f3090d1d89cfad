"""What ``build`` tells ``load``: a small JSON file beside the models."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field

from adapass.codegen.defaults import Default, defaults_of
from adapass.codegen.files import Lowering, read_plan_as
from adapass.codegen.inputs import Input, inputs_of
from adapass.errors import UsageError
from adapass.generator import Options

SCHEMA = 1
PLAN_FILE = "openvino.json"


class Precision(StrEnum):
    """What floating-point operators compute in; 8-bit ones do not change."""

    F32 = "f32"
    BF16 = "bf16"


class Plan(BaseModel):
    """How to open what was built."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int = SCHEMA
    lowering: Lowering = Field(strict=False)
    precision: Precision = Field(strict=False)
    threads: int | None = Field(default=None, ge=1)
    """At most this many threads; ``None``: the whole budget."""
    stages: int = Field(default=1, ge=1)
    inputs: tuple[Input, ...] = Field(strict=False)
    outputs: tuple[str, ...] = Field(strict=False)
    """Of the model, in order."""
    defaults: dict[str, Default] = Field(default_factory=dict)
    """Values of optional inputs. OpenVINO knows none, so they are fed with every call."""

    def write(self, folder: Path) -> None:
        (folder / PLAN_FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_plan(folder: Path) -> Plan:
    """Raises ``ArtifactError`` when the plan is missing, damaged or newer than this version."""
    return read_plan_as(Plan, folder / PLAN_FILE, schema=SCHEMA)


def plan_from(options: Options, model: ir.Model) -> Plan:
    """Options of a variant, with defaults, as a plan.

    Raises:
        UsageError: an option is unknown or has no such value.

    """
    if unknown := sorted(set(options) - {"lowering", "precision", "threads"}):
        raise UsageError(f"unknown openvino option '{unknown[0]}'; known: lowering, precision, threads")
    try:
        return Plan(
            lowering=Lowering(str(options.get("lowering", Lowering.NONE))),
            precision=Precision(str(options.get("precision", Precision.F32))),
            threads=_threads(options.get("threads", 0)),
            inputs=inputs_of(model),
            outputs=tuple(value.name or "" for value in model.graph.outputs),
            defaults=defaults_of(model),
        )
    except ValueError as error:
        raise UsageError(f"openvino options {dict(options)}: {error}") from error


def _threads(value: str | float) -> int | None:
    """0 stands for the whole budget: options have no null."""
    threads = int(value)
    if threads < 0:
        raise UsageError(f"openvino option threads is {threads}, expected 0 (all) or more")
    return threads or None
