"""What ``build`` tells ``load``: a small JSON file beside the libraries."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field

from adapass.codegen.defaults import Default, defaults_of
from adapass.codegen.files import Lowering, read_plan_as
from adapass.codegen.inputs import Input, inputs_of
from adapass.errors import UsageError
from adapass.generator import Options
from adapass.target import Target

SCHEMA = 1
PLAN_FILE = "tvm.json"


class Library(BaseModel):
    """One shared library of machine code, weights inside."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=1)
    signature: str
    """By the key of whoever built it: machine code from elsewhere is not run unasked."""
    inputs: tuple[str, ...] = Field(strict=False)
    """In the order of the arguments."""
    outputs: tuple[str, ...] = Field(strict=False)
    sites: tuple[str, ...] = Field(default=(), strict=False)
    """What reads at indices that come from a run, by number (from 1)."""


class Plan(BaseModel):
    """How to open what was built."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int = SCHEMA
    lowering: Lowering = Field(strict=False)
    threads: int | None = Field(default=None, ge=1)
    """At most this many threads; ``None``: the whole budget."""
    family: str
    isa: tuple[str, ...] = Field(strict=False)
    """Instructions that the code may use; elsewhere it would end the process."""
    inputs: tuple[Input, ...] = Field(strict=False)
    outputs: tuple[str, ...] = Field(strict=False)
    defaults: dict[str, Default] = Field(default_factory=dict)
    libraries: tuple[Library, ...] = Field(default=(), strict=False)

    def write(self, folder: Path) -> None:
        (folder / PLAN_FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_plan(folder: Path) -> Plan:
    """Raises ``ArtifactError`` when the plan is missing, damaged or newer than this version."""
    return read_plan_as(Plan, folder / PLAN_FILE, schema=SCHEMA)


def plan_from(options: Options, model: ir.Model, target: Target) -> Plan:
    """Options of a variant, with defaults, as a plan.

    Raises:
        UsageError: an option is unknown or has no such value.

    """
    if unknown := sorted(set(options) - {"lowering", "threads"}):
        raise UsageError(f"unknown tvm option '{unknown[0]}'; known: lowering, threads")
    try:
        return Plan(
            lowering=Lowering(str(options.get("lowering", Lowering.NONE))),
            threads=_threads(options.get("threads", 0)),
            family=str(target.arch.get("family", "")),
            isa=tuple(sorted(target.isa & _USED)),
            inputs=inputs_of(model),
            outputs=tuple(value.name or "" for value in model.graph.outputs),
            defaults=defaults_of(model),
        )
    except ValueError as error:
        raise UsageError(f"tvm options {dict(options)}: {error}") from error


_X86 = frozenset({"avx2", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
_USED = _X86 | {"asimd", "asimdhp", "asimddp"}


def _threads(value: str | float) -> int | None:
    """0 stands for the whole budget: options have no null."""
    threads = int(value)
    if threads < 0:
        raise UsageError(f"tvm option threads is {threads}, expected 0 (all) or more")
    return threads or None
