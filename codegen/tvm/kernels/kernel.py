"""What a kernel is: TIR, the same in numpy to hold it against, and how it ends (its epilogue)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import erf

from adapass.codegen.tvm.kernels.maths import UNARY, Expr, real
from adapass.codegen.tvm.library import compiler
from adapass.target import Target

Floats: TypeAlias = npt.NDArray[np.float32]
Reference: TypeAlias = Callable[..., Floats]
"""From the arrays that the kernel reads to the one it writes."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One function of a module. Equal names mean equal kernels."""

    name: str
    function: Any
    reference: Reference


@dataclass(frozen=True, slots=True)
class Vectors:
    """How the registers of a processor are used by the two product kernels."""

    lanes: int
    """float32 numbers in one register."""
    rows: int
    """Of a tile of a matrix product."""
    columns: int
    channels: int
    """Of a tile of a convolution."""
    positions: int


AVX512: Final = Vectors(lanes=16, rows=6, columns=64, channels=8, positions=32)
AVX2: Final = Vectors(lanes=8, rows=6, columns=16, channels=4, positions=24)
PLAIN: Final = Vectors(lanes=4, rows=4, columns=16, channels=4, positions=16)


def vectors_of(target: Target) -> Vectors:
    if "avx512f" in target.isa:
        return AVX512
    return AVX2 if "avx2" in target.isa else PLAIN


class Ending(StrEnum):
    """What is done to each number of a product before it is stored."""

    BIAS = "bias"
    """Plus one number a column (or channel)."""
    SCALE = "scale"
    """Times one number a column (or channel)."""
    ADD = "add"
    """Plus a tensor of the shape of the result."""
    ERF = "erf"
    EXP = "exp"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    SIGMOID = "sigmoid"
    SILU = "silu"
    TANH = "tanh"

    @property
    def reads(self) -> bool:
        return self in (Ending.BIAS, Ending.SCALE, Ending.ADD)


Load: TypeAlias = Callable[[], Expr]


def finish(value: Expr, endings: Sequence[Ending], loads: Sequence[Load]) -> Expr:
    """``value`` after all endings; ``loads`` gives what those that read add or multiply, in order."""
    left = iter(loads)
    for ending in endings:
        if ending is Ending.SCALE:
            value = value * next(left)()
        elif ending.reads:
            value = value + next(left)()
        else:
            value = UNARY[str(ending)](value)
    return value


def finished(value: Floats, endings: Sequence[Ending], extras: Sequence[Floats]) -> Floats:
    """The same in numpy; ``extras`` broadcast against ``value``."""
    left = iter(extras)
    for ending in endings:
        if ending is Ending.SCALE:
            value = value * next(left)
        elif ending.reads:
            value = value + next(left)
        else:
            value = _NUMPY[ending](value)
    return value


def _erf(x: Floats) -> Floats:
    return np.asarray(erf(x), np.float32)


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)), np.float32)


def _gelu(x: Floats) -> Floats:
    return np.asarray(0.5 * x * (1 + erf(x * np.sqrt(0.5))), np.float32)


def _gelu_tanh(x: Floats) -> Floats:
    return np.asarray(0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3))), np.float32)


def _exp(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(x), np.float32)


def _tanh(x: Floats) -> Floats:
    return np.asarray(np.tanh(x), np.float32)


def _relu(x: Floats) -> Floats:
    return np.maximum(x, np.float32(0))


def _silu(x: Floats) -> Floats:
    return x * _sigmoid(x)


_NUMPY: Final[Mapping[Ending, Callable[[Floats], Floats]]] = {
    Ending.ERF: _erf,
    Ending.EXP: _exp,
    Ending.GELU: _gelu,
    Ending.GELU_TANH: _gelu_tanh,
    Ending.RELU: _relu,
    Ending.SIGMOID: _sigmoid,
    Ending.SILU: _silu,
    Ending.TANH: _tanh,
}


class Body:
    """The TIR builder with what the kernels need of it. One at a time in a thread."""

    def __init__(self) -> None:
        self.t: Any = compiler("tvm.tirx.script.builder")
        self._tirx: Any = compiler("tvm.tirx")

    def symbol(self, name: str) -> Expr:
        return self._tirx.Var(name, "int64")

    def argument(self, name: str, shape: Sequence[Expr], dtype: str = "float32") -> Any:
        """A buffer that need not be aligned: what comes from outside may lie anywhere."""
        handle = self.t.arg(name, self.t.handle())
        return self.t.match_buffer(handle, tuple(shape), dtype, align=4)

    def local(self, *shape: Expr) -> Any:
        return self.t.alloc_buffer(shape, "float32", scope="local")

    def scratch(self, *shape: Expr) -> Any:
        return self.t.alloc_buffer(shape, "float32", scope="global")

    def store(self, buffer: Any, value: Expr, *at: Expr) -> None:
        self.t.buffer_store(buffer, value, list(at))

    def serial(self, count: Expr) -> Any:
        return self.t.serial(0, count)

    def unroll(self, count: int) -> Any:
        return self.t.unroll(0, count)

    def parallel(self, count: Expr) -> Any:
        return self.t.parallel(0, count)

    def vector(self, count: int) -> Any:
        return self.t.vectorized(0, count)

    def fill(self, buffer: Any, rows: int, columns: int, value: float = 0.0) -> None:
        with self.unroll(rows) as i, self.vector(columns) as j:
            self.store(buffer, real(value), i, j)

    def least(self, a: Expr, b: Expr) -> Expr:
        return self._tirx.min(a, b)

    def most(self, a: Expr, b: Expr) -> Expr:
        return self._tirx.max(a, b)

    def both(self, a: Expr, b: Expr) -> Expr:
        return self._tirx.all(a, b)

    @contextmanager
    def when(self, condition: Expr) -> Generator[None]:
        with self.t.If(condition), self.t.Then():
            yield


def build(name: str, write: Callable[[Body], None]) -> Any:
    """The TIR function that ``write`` emits."""
    builder: Any = compiler("tvm.script.ir_builder").IRBuilder
    body = Body()
    with builder() as collected, body.t.prim_func(s_tir=True):
        body.t.func_name(name)
        # Opaque: neither fusion nor the schedule rules may touch what is written by hand.
        body.t.func_attr({"tirx.noalias": True, "op_pattern": 8, "adapass.kernel": True})
        write(body)
    function = collected.get()
    s_tir, tirx = compiler("tvm.s_tir"), compiler("tvm.tirx")
    # Passes of TVM look for a block around the body of every function.
    root = s_tir.SBlock([], [], [], "root", function.body)
    return function.with_body(s_tir.SBlockRealize([], tirx.const(True, "bool"), root))
