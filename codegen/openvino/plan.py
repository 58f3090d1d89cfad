"""What ``build`` tells ``load``: a small JSON file beside the models."""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from pathlib import Path

import numpy as np
import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field

from adapass.budgeted import Array
from adapass.codegen.files import Lowering, read_plan_as
from adapass.codegen.inputs import Input, inputs_of
from adapass.errors import ArtifactError, UsageError
from adapass.generator import Options

SCHEMA = 1
PLAN_FILE = "openvino.json"
MAX_DEFAULT_BYTES = 64 * 1024
"""Of one input's default: thresholds of exits have a few bytes."""


class Precision(StrEnum):
    """What floating-point operators compute in; 8-bit ones do not change."""

    F32 = "f32"
    BF16 = "bf16"


class Default(BaseModel):
    """The value of an optional input. OpenVINO has none, so it is fed with every call."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dtype: str
    shape: tuple[int, ...] = Field(strict=False)
    data: str
    """The bytes, little-endian, in base64: exact, and with a place for infinity."""


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
            defaults={name: _stored(array) for name, array in defaults_of(model).items()},
        )
    except ValueError as error:
        raise UsageError(f"openvino options {dict(options)}: {error}") from error


def defaults_of(model: ir.Model) -> dict[str, Array]:
    """Values of the inputs that may be left out."""
    pairs = ((value.name or "", value.const_value) for value in model.graph.inputs)
    return {name: np.asarray(tensor.numpy()) for name, tensor in pairs if tensor is not None}


def restored(plan: Plan, file: Path) -> dict[str, Array]:
    """The defaults as arrays; ``file`` is what errors name."""
    try:
        return {name: _array(default) for name, default in plan.defaults.items()}
    except (ValueError, TypeError, binascii.Error) as error:
        raise ArtifactError(f"{file} is damaged at 'defaults': {error}; build it again") from error


def _stored(array: Array) -> Default:
    plain = np.ascontiguousarray(array)
    little = plain.astype(plain.dtype.newbyteorder("<"))
    return Default(
        dtype=plain.dtype.name, shape=array.shape, data=base64.b64encode(little.tobytes()).decode("ascii")
    )


def _array(default: Default) -> Array:
    dtype = np.dtype(default.dtype)
    if dtype.kind not in "biuf":
        raise ValueError(f"type {default.dtype} is not a number")
    data = base64.b64decode(default.data, validate=True)
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(default.shape)


def _threads(value: str | float) -> int | None:
    """0 stands for the whole budget: options have no null."""
    threads = int(value)
    if threads < 0:
        raise UsageError(f"openvino option threads is {threads}, expected 0 (all) or more")
    return threads or None
