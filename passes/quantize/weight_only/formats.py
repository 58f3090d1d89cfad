"""Formats of stored weights: their names, what they cost, and who runs them faster.

    int8             one scale an output            int4-g32         one scale for 32 inputs of an output
    int4-g32-rank8   and a thin float branch for what rounding lost
    float16          half precision, cast back      binary-3         three signs and scales for 32 inputs

Which runtime computes with what is stored was read off the graphs they execute, not off their documents:
ONNX Runtime turns a product behind ``DequantizeLinear`` into one ``MatMulNBits``, OpenVINO into one fully
connected layer with compressed weights. Convolutions behind it are computed in float by both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Self

import onnx_ir as ir


class Kind(StrEnum):
    """How numbers are stored."""

    INTEGER = "int"
    HALF = "float16"
    BRAIN = "bfloat16"
    BINARY = "binary"


GROUPS = (16, 32, 64, 128, 256)
"""Inputs that share a scale, as a setting may ask for: what the fused kernels take."""
MOST_GROUP = 256
BITS = (2, 4, 8)
MOST_CODES = 4
MOST_RANK = 1024
BINARY_GROUP = 32
SCALE_BITS = 32
_INTEGER = re.compile(r"int(?P<bits>[248])(-g(?P<group>[1-9][0-9]{0,3}))?(-rank(?P<rank>[1-9][0-9]{0,3}))?")
_BINARY = re.compile(r"binary-(?P<codes>[1-9])")


@dataclass(frozen=True, slots=True)
class Format:
    """One way to store a weight."""

    kind: Kind
    bits: int
    """Of an integer; codes of a binary format; 16 for half precision."""
    group: int | None = None
    """Inputs that share a scale; ``None``: all of an output."""
    rank: int = 0
    """Of the float branch that makes up for what rounding lost."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The format of a name.

        Raises:
            ValueError: there is none of that name.

        """
        if text in (Kind.HALF, Kind.BRAIN):
            return cls(Kind(text), 16)
        if (found := _BINARY.fullmatch(text)) and int(found["codes"]) <= MOST_CODES:
            return cls(Kind.BINARY, int(found["codes"]), BINARY_GROUP)
        found = _INTEGER.fullmatch(text)
        group = int(found["group"]) if found and found["group"] else None
        rank = int(found["rank"]) if found and found["rank"] else 0
        if not found or (group is not None and group > MOST_GROUP) or rank > MOST_RANK:
            raise ValueError(
                f"no format of stored weights is called '{text}'; expected int8, int4-g32, int4-g128-rank8, "
                f"float16, bfloat16 or binary-2 (bits of {list(BITS)}, groups up to {MOST_GROUP}, "
                f"ranks up to {MOST_RANK}, up to {MOST_CODES} binary codes)"
            )
        return cls(Kind.INTEGER, int(found["bits"]), group, rank)

    @property
    def text(self) -> str:
        if self.kind is Kind.BINARY:
            return f"binary-{self.bits}"
        if self.kind is not Kind.INTEGER:
            return str(self.kind)
        group = "" if self.group is None else f"-g{self.group}"
        return f"int{self.bits}{group}{f'-rank{self.rank}' if self.rank else ''}"

    def block(self, inputs: int) -> int:
        """Inputs under one scale, in a weight with so many."""
        return inputs if self.group is None else min(self.group, inputs)

    def for_convolution(self, inputs: int) -> Self:
        """With a group that divides the inputs: no kernel asks for a power of two, and OpenVINO for this."""
        if self.group is None or self.kind is not Kind.INTEGER:
            return self
        return replace(self, group=max(size for size in range(1, self.group + 1) if inputs % size == 0))

    @property
    def opset(self) -> int:
        """The first opset whose operators can say it."""
        if self.kind is not Kind.INTEGER:
            return 13
        if self.bits == 2:
            return 25
        return 13 if self.bits == 8 and self.group is None else 21

    def stored_bits(self, inputs: int, outputs: int, *, symmetric: bool) -> float:
        """Bits for each weight of a matrix of this size, scales, zero points and branch included."""
        blocks = -(-inputs // self.block(inputs))
        if self.kind is Kind.BINARY:
            return self.bits * (-(-inputs // 8) * 8 + blocks * SCALE_BITS) / inputs
        if self.kind is not Kind.INTEGER:
            return 16.0
        each = SCALE_BITS + (0 if symmetric else self.bits)
        branch = self.rank * (inputs + outputs) * 32 / (inputs * outputs)
        return self.bits + blocks * each / inputs + branch


@dataclass(frozen=True, slots=True)
class Use:
    """What a runtime does with a format."""

    faster: frozenset[str]
    """Operators it computes with the stored form; the others are restored to float first."""
    note: str


NOTHING: frozenset[str] = frozenset()
PRODUCTS = frozenset({"MatMul", "Gemm"})
_LOADED = Use(NOTHING, "restored once when the model is loaded: a smaller file, the same speed and memory")
_FUSED = Use(PRODUCTS, "MatMulNBits; by default it rounds activations to 8 bits by block (accuracy level 4)")
_COMPRESSED = Use(
    PRODUCTS, "fully connected with compressed weights (groups must divide the inputs); activations likewise"
)
_AGAIN = Use(NOTHING, "restored in every run: a smaller file, and slower")
_UNREAD = Use(NOTHING, "not read: its importer does not know the type")

USES: Mapping[tuple[str, str], Use] = MappingProxyType(
    {
        ("onnxruntime", "int2"): _FUSED,
        ("onnxruntime", "int4"): _FUSED,
        ("onnxruntime", "int8"): _FUSED,
        ("onnxruntime", "float16"): _LOADED,
        ("onnxruntime", "bfloat16"): _LOADED,
        ("onnxruntime", "binary"): _LOADED,
        ("openvino", "int2"): _UNREAD,
        ("openvino", "int4"): _COMPRESSED,
        ("openvino", "int8"): _COMPRESSED,
        ("openvino", "float16"): _LOADED,
        ("openvino", "bfloat16"): _LOADED,
        ("openvino", "binary"): _AGAIN,
    }
)
"""(generator, format) -> what it does on CPUs."""


def use_of(generator: str, format_: Format) -> Use | None:
    """What is known about a generator; ``None``: nothing."""
    kind = f"int{format_.bits}" if format_.kind is Kind.INTEGER else str(format_.kind)
    return USES.get((generator, kind))


def faster_on(format_: Format, operator: str, inputs: int) -> tuple[str, ...]:
    """Generators that compute products of this operator with what is stored; empty: it only saves bytes."""
    generators = sorted({generator for generator, _ in USES})
    uses = {generator: use_of(generator, format_) for generator in generators}
    takes = [name for name, use in uses.items() if use is not None and operator in use.faster]
    whole = inputs % format_.block(inputs) == 0
    return tuple(name for name in takes if whole or name != "openvino")


def integer_type(bits: int, *, symmetric: bool) -> ir.DataType:
    """The ONNX type that holds such integers: signed where there is no zero point."""
    return ir.DataType[f"{'INT' if symmetric else 'UINT'}{bits}"]
