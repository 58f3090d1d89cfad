"""What ``build`` tells ``load``: a small JSON file beside the models."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapass.errors import ArtifactError, UsageError
from adapass.generator import Options

SCHEMA = 1
MAX_BYTES = 4 * 1024 * 1024
PLAN_FILE = "onnxruntime.json"
WIRING_FILE = "stages.json"
MODEL_FILE = "model.onnx"


class Lowering(StrEnum):
    """How exits are run."""

    NONE = "none"
    IF = "if"
    STAGED = "staged"
    MASKED = "masked"


class Spin(StrEnum):
    """What idle threads of the pool do."""

    ALWAYS = "always"
    """Wait busily for the next run: lowest latency, burns the cores."""
    RUNNING = "running"
    """Wait busily inside a run only."""
    NEVER = "never"


class Input(BaseModel):
    """An input of the model as the user sees it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    dtype: str | None
    """Name of a numpy type; ``None`` for what is not a tensor."""
    shape: tuple[int | str | None, ...] | None = Field(default=None, strict=False)
    optional: bool = False


class Plan(BaseModel):
    """How to open what was built."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int = SCHEMA
    lowering: Lowering = Field(strict=False)
    threads: int | None = Field(default=None, ge=1)
    """At most this many threads; ``None``: the whole budget."""
    spin: Spin = Field(strict=False)
    gpu: bool = False
    stages: int = Field(default=1, ge=1)
    inputs: tuple[Input, ...] = Field(strict=False)

    def write(self, folder: Path) -> None:
        (folder / PLAN_FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_plan(folder: Path) -> Plan:
    """Raises ``ArtifactError`` when the plan is missing, damaged or newer than this version."""
    text = read_small(folder / PLAN_FILE)
    try:
        plan = Plan.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{folder / PLAN_FILE} is damaged at '{place}': {first['msg']}") from error
    if plan.schema_version != SCHEMA:
        raise ArtifactError(
            f"{folder / PLAN_FILE} has schema {plan.schema_version}, expected {SCHEMA}; update adapass"
        )
    return plan


def read_small(file: Path) -> str:
    """The text of a file of the artifact; links and large files are refused."""
    own_file(file)
    if (size := file.stat().st_size) > MAX_BYTES:
        raise ArtifactError(f"{file} has {size} bytes, expected at most {MAX_BYTES}; the artifact is damaged")
    return file.read_text(encoding="utf-8")


def own_file(file: Path) -> Path:
    """``file``, if it is a regular file inside its folder and no link."""
    if file.is_symlink() or not file.is_file():
        raise ArtifactError(f"{file} is missing or not a regular file; build the artifact again")
    return file


def stage_file(index: int) -> str:
    return f"stage_{index}.onnx"


def inputs_of(model: ir.Model) -> tuple[Input, ...]:
    return tuple(_input(value) for value in model.graph.inputs)


def plan_from(options: Options, model: ir.Model, *, gpu: bool) -> Plan:
    """Options of a variant, with defaults, as a plan.

    Raises:
        UsageError: an option is unknown or has no such value.

    """
    unknown = sorted(set(options) - {"lowering", "threads", "spin"})
    if unknown:
        raise UsageError(f"unknown onnxruntime option '{unknown[0]}'; known: lowering, spin, threads")
    try:
        return Plan(
            lowering=Lowering(str(options.get("lowering", Lowering.NONE))),
            threads=_threads(options.get("threads", 0)),
            spin=Spin(str(options.get("spin", Spin.ALWAYS))),
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


def _input(value: ir.Value) -> Input:
    dtype = value.dtype if isinstance(value.type, ir.TensorType) else None
    dims = None if value.shape is None else tuple(_dim(dim) for dim in value.shape)
    return Input(
        name=value.name or "",
        dtype=None if dtype is None else _dtype_name(dtype),
        shape=dims,
        optional=value.is_initializer(),
    )


def _dtype_name(dtype: ir.DataType) -> str:
    return "str" if dtype is ir.DataType.STRING else dtype.numpy().name


def _dim(dim: int | ir.SymbolicDim) -> int | str | None:
    return dim if isinstance(dim, int) else dim.value
