"""Targets: descriptions of hardware as data, one TOML file each, a source for every number.

A pass or a cost model takes numbers about hardware from here and nowhere else. Rates are dense (no
structured sparsity) peaks of the whole device; an unknown number is absent, never zero.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias, cast

from adapass.errors import TargetError

SCHEMA: Final = 1
MAX_FILE_BYTES: Final = 64 * 1024
DETECTED: Final = MappingProxyType(
    {
        "cpu": "the processor of this machine, detected",
        "cuda": "the NVIDIA GPU of this machine, detected; where there is none, cuda-h200, modelled",
    }
)
DTYPES: Final = frozenset({"f64", "f32", "tf32", "f16", "bf16", "f8_e4m3", "f8_e5m2", "i8", "i4"})

Value: TypeAlias = str | bool | int | float | tuple[str, ...]
Table: TypeAlias = Mapping[str, Value]
Numbers: TypeAlias = Mapping[str, float]

_VALUE_TABLES = ("arch", "features", "tvm")
_NUMBER_TABLES = ("compute", "memory", "overhead")
_WORDS = ("name", "kind", "description")
_UNITS = ("_bytes", "_bytes_per_second", "_bytes_per_block", "_seconds")
_REQUIRED = (
    "arch.family",
    "compute.f32",
    "memory.dram_bytes",
    "memory.dram_bytes_per_second",
    "overhead.launch_seconds",
)


class TargetKind(StrEnum):
    """What sort of device a target is."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class Target:
    """A device, as far as adapass needs to know it."""

    name: str
    kind: TargetKind
    description: str
    arch: Table
    """``family`` (``x86_64``, ``aarch64``, ``sm_90``, ...), ``model``, ``vendor``, ``isa`` (flags as Linux
    names them), ``cores`` or ``multiprocessors``, ``clock_hz``. ``any_model``: any GPU of the family."""
    codegen: tuple[str, ...]
    """Generators worth trying, preferred first."""
    tvm: Table
    """The TVM target dictionary, where one is known."""
    compute: Numbers
    """Peak flop/s (op/s for integers) by number format, all cores together."""
    memory: Numbers
    """Sizes in bytes, rates in bytes per second. ``l1d_bytes`` and ``l2_bytes`` of a CPU are one core's."""
    overhead: Numbers
    """``launch_seconds``: to start one operator (a kernel on a GPU, a dispatch of the runtime on a CPU)."""
    features: Table
    """``int8`` is the arithmetic: ``u8s8-vnni``, ``u8s8-saturating``, ``s8s8-dotprod``,
    ``s8s8-widening``, ``tensor-core``."""
    source: Mapping[str, str]
    """Where each number comes from, by dotted name; globs allowed."""
    notes: tuple[str, ...] = ()
    """What the user should be told about this description, in plain words."""
    schema: int = SCHEMA

    def peak(self, dtype: str, *, threads: int | None = None) -> float | None:
        """Peak rate for a number format, ``None`` when unknown; on a CPU the share of ``threads`` cores."""
        rate = self.compute.get(dtype)
        if rate is None or threads is None or self.kind is TargetKind.GPU:
            return rate
        return rate * min(threads, self.cores) / self.cores

    def bandwidth(self, *, threads: int | None = None) -> float:
        """Bytes per second to main memory; fewer CPU threads than cores may not fill it."""
        whole = self.memory["dram_bytes_per_second"]
        one_core = self.memory.get("core_dram_bytes_per_second")
        if threads is None or one_core is None:
            return whole
        return min(whole, threads * one_core)

    @property
    def launch_seconds(self) -> float:
        return self.overhead["launch_seconds"]

    @property
    def cores(self) -> int:
        """CPU cores or GPU multiprocessors, at least 1."""
        count = self.arch.get("cores", self.arch.get("multiprocessors", 1))
        return max(1, count) if isinstance(count, int) else 1

    @property
    def isa(self) -> frozenset[str]:
        flags = self.arch.get("isa", ())
        return frozenset(flags) if isinstance(flags, tuple) else frozenset()

    def source_of(self, number: str) -> str:
        """Where the number with this dotted name (``compute.f32``) comes from."""
        return _source_of(number, self.source) or ""

    def placeholders(self) -> tuple[str, ...]:
        """Dotted names of the numbers whose source admits that they are placeholders."""
        return tuple(n for n in _number_names(self) if "placeholder" in self.source_of(n))

    def device_here(self) -> bool:
        """Whether this machine has the device, or one that runs the same code: running here measures it."""
        from adapass.detect import has_device

        return has_device(self)

    def to_json(self) -> dict[str, object]:
        """The description as JSON values, as it goes into a manifest."""
        tables = {k: dict(getattr(self, k)) for k in (*_VALUE_TABLES, *_NUMBER_TABLES, "source")}
        words: dict[str, object] = {
            "name": self.name,
            "kind": str(self.kind),
            "description": self.description,
        }
        lists: dict[str, object] = {"codegen": list(self.codegen), "notes": list(self.notes)}
        return {"schema": self.schema, **words, **lists, **tables}


def load_target(name: str | Path) -> Target:
    """A target by name (``cpu``, ``cuda-h200``, ...) or by the path of a TOML file of one's own.

    Raises:
        TargetError: unknown name (the message lists near ones), or a file that is not a valid description.

    """
    if isinstance(name, Path) or name.endswith(".toml"):
        return _read(Path(name))
    if name in DETECTED:
        return detect_target(name)
    shipped = _shipped()
    if name in shipped:
        return shipped[name]
    known = list_targets()
    near = get_close_matches(name, known, n=3) or known
    raise TargetError(
        f"unknown target '{name}' (did you mean {' or '.join(near)}?); "
        "`adapass targets list` shows them all, and the path of a .toml file is taken too"
    )


def list_targets() -> tuple[str, ...]:
    """Names that ``load_target`` knows: the detected ones first, then those described by files."""
    return (*DETECTED, *sorted(_shipped()))


def detect_target(name: str = "cpu", *, measure: bool = False) -> Target:
    """The device of this machine: ``cpu`` or ``cuda``. ``measure`` takes a second to time memory bandwidth.

    Raises:
        TargetError: the processor is of a family no description ships for.

    """
    from adapass.detect import detect_cpu, detect_cuda

    if name not in DETECTED:
        raise TargetError(f"cannot detect '{name}'; what can be detected: {', '.join(DETECTED)}")
    return detect_cuda() if name == "cuda" else detect_cpu(measure=measure)


def parse_target(text: str, origin: str) -> Target:
    """Read a description. ``origin`` is what error messages call it.

    Raises:
        TargetError: not TOML, an unknown or missing key, a wrong type, or a number without a source.

    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"{origin}: not TOML: {error}") from error
    target = _build(raw, origin)
    _check_numbers(target, origin)
    return target


@cache
def _shipped() -> Mapping[str, Target]:
    folder = files("adapass.targets")
    texts = {p.name: p.read_text(encoding="utf-8") for p in folder.iterdir() if p.name.endswith(".toml")}
    return MappingProxyType({n.removesuffix(".toml"): parse_target(t, n) for n, t in sorted(texts.items())})


def _read(path: Path) -> Target:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TargetError(f"target file {path}: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise TargetError(
            f"target file {path}: larger than {MAX_FILE_BYTES} bytes; a description is a few hundred"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TargetError(f"target file {path}: not UTF-8 text: {error}") from error
    return parse_target(text, str(path))


def _build(raw: Mapping[str, object], origin: str) -> Target:
    schema = raw.get("schema")
    if schema != SCHEMA:
        raise TargetError(f"{origin}: schema is {schema!r}, expected {SCHEMA}; a newer adapass may read it")
    known = {"schema", "codegen", "source", *_WORDS, *_VALUE_TABLES, *_NUMBER_TABLES}
    if unknown := sorted(set(raw) - known):
        raise TargetError(f"{origin}: unknown key '{unknown[0]}'; known: {', '.join(sorted(known))}")
    words = {key: _word(raw, key, origin) for key in _WORDS}
    if words["kind"] not in tuple(TargetKind):
        raise TargetError(f"{origin}: kind is '{words['kind']}', expected one of {', '.join(TargetKind)}")
    source = _table(raw, "source", origin)
    codegen = _value(raw.get("codegen", []), "codegen", origin)
    if not isinstance(codegen, tuple):
        raise TargetError(f"{origin}: codegen is {codegen!r}, expected a list of generator names")
    return Target(
        name=words["name"],
        kind=TargetKind(words["kind"]),
        description=words["description"],
        codegen=codegen,
        arch=_table(raw, "arch", origin),
        features=_table(raw, "features", origin),
        tvm=_table(raw, "tvm", origin),
        compute=_numbers(raw, "compute", origin),
        memory=_numbers(raw, "memory", origin),
        overhead=_numbers(raw, "overhead", origin),
        source=MappingProxyType({key: str(value) for key, value in source.items()}),
    )


def _check_numbers(target: Target, origin: str) -> None:
    names = tuple(_number_names(target))
    for required in _REQUIRED:
        table, _, key = required.partition(".")
        if key not in cast("Table", getattr(target, table)):
            raise TargetError(f"{origin}: '{required}' is missing; every target needs it")
    for name in names:
        if not _source_of(name, target.source):
            raise TargetError(f"{origin}: the number '{name}' has no source; name one under [source]")
    for pattern in target.source:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise TargetError(
                f"{origin}: the source '{pattern}' matches no number; remove it or mend the name"
            )
    for dtype in target.compute:
        if dtype not in DTYPES:
            raise TargetError(
                f"{origin}: unknown number format 'compute.{dtype}'; known: {', '.join(sorted(DTYPES))}"
            )
    for name in (n for n in names if n.startswith(("memory.", "overhead."))):
        if not name.endswith(_UNITS):
            raise TargetError(
                f"{origin}: '{name}' does not end in its unit; expected one of {', '.join(_UNITS)}"
            )


def _number_names(target: Target) -> Iterator[str]:
    for table in (*_VALUE_TABLES, *_NUMBER_TABLES):
        for key, value in cast("Table", getattr(target, table)).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield f"{table}.{key}"


def _source_of(number: str, source: Mapping[str, str]) -> str | None:
    matching = [pattern for pattern in source if fnmatchcase(number, pattern)]
    # The longest pattern says most: "compute.i8" wins over "compute.*".
    best = max(matching, key=lambda pattern: (pattern == number, len(pattern)), default=None)
    return None if best is None else source[best].strip()


def _word(raw: Mapping[str, object], key: str, origin: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value.strip():
        raise TargetError(f"{origin}: {key} is {value!r}, expected a text")
    return value


def _table(raw: Mapping[str, object], key: str, origin: str) -> Table:
    table = raw.get(key, {})
    if not isinstance(table, dict):
        raise TargetError(f"{origin}: {key} is {table!r}, expected a table [{key}]")
    items = cast("dict[str, object]", table)
    return MappingProxyType({name: _value(value, f"{key}.{name}", origin) for name, value in items.items()})


def _value(value: object, name: str, origin: str) -> Value:
    if isinstance(value, list):
        parts = cast("list[object]", value)
        if all(isinstance(part, str) for part in parts):
            return tuple(cast("list[str]", parts))
    if isinstance(value, str | bool | int | float):
        return value
    raise TargetError(
        f"{origin}: {name} is {value!r}, expected a text, a number, true/false or a list of texts"
    )


def _numbers(raw: Mapping[str, object], key: str, origin: str) -> Numbers:
    numbers: dict[str, float] = {}
    for name, value in _table(raw, key, origin).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise TargetError(
                f"{origin}: {key}.{name} is {value!r}, expected a positive number; leave it out if unknown"
            )
        numbers[name] = float(value)
    return MappingProxyType(numbers)
