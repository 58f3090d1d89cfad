"""Transcendental functions as short arithmetic programs: the calls of the C library are not vectorised.

Everything is float32. The errors stated are the largest over all finite floats (see the tests).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from adapass.codegen.tvm.library import compiler

Expr: TypeAlias = Any

_LOG2_E: Final = 1.4426950408889634
_LN2_HIGH: Final = 0.693359375
_LN2_LOW: Final = -2.12194440e-4
_EXP: Final = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
"""Cephes, ``expf``."""
_TANH_UP: Final = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_DOWN: Final = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
"""Eigen, ``generic_fast_tanh_float``: a ratio of polynomials in the square."""
_ERF_UP: Final = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_DOWN: Final = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
"""Eigen, ``generic_fast_erf_float``."""
_TANH_END: Final = 8.9
_ERF_END: Final = 3.92
"""From here on it is one up to rounding, and has to be just that: GELU multiplies what is missing."""
_ROOT_HALF: Final = 0.7071067811865476


def real(value: float) -> Expr:
    return compiler("tvm.tirx").const(value, "float32")


def exp(x: Expr) -> Expr:
    """Within 1.3e-7 of its size; infinity, zero and numbers below the normal ones included."""
    t = compiler("tvm.tirx")
    clamped = t.max(t.min(x, real(89.0)), real(-104.0))
    whole = t.floor(clamped * real(_LOG2_E) + real(0.5))
    rest = clamped - whole * real(_LN2_HIGH) - whole * real(_LN2_LOW)
    y = _polynomial(rest, _EXP) * rest * rest + rest + real(1.0)
    # In two steps: the power of two alone may be too large or too small for a float.
    power = t.Cast("int32", whole)
    half = power // t.const(2, "int32")
    return _unless_nan(x, y * _power(half) * _power(power - half))


def tanh(x: Expr) -> Expr:
    """Within 5e-7 of its size."""
    return _odd_ratio(x, _TANH_UP, _TANH_DOWN, end=_TANH_END)


def erf(x: Expr) -> Expr:
    """Within 3e-7."""
    return _odd_ratio(x, _ERF_UP, _ERF_DOWN, end=_ERF_END)


def sigmoid(x: Expr) -> Expr:
    return real(1.0) / (real(1.0) + exp(real(0.0) - x))


def gelu(x: Expr) -> Expr:
    return real(0.5) * x * (real(1.0) + erf(x * real(_ROOT_HALF)))


def gelu_tanh(x: Expr) -> Expr:
    inner = real(0.7978845608028654) * (x + real(0.044715) * x * x * x)
    return real(0.5) * x * (real(1.0) + tanh(inner))


def relu(x: Expr) -> Expr:
    t = compiler("tvm.tirx")
    return _unless_nan(x, t.max(x, real(0.0)))


def silu(x: Expr) -> Expr:
    return x * sigmoid(x)


UNARY: Final[Mapping[str, Callable[[Expr], Expr]]] = MappingProxyType(
    {
        "erf": erf,
        "exp": exp,
        "gelu": gelu,
        "gelu_tanh": gelu_tanh,
        "relu": relu,
        "sigmoid": sigmoid,
        "silu": silu,
        "tanh": tanh,
    }
)


def _polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Highest power first."""
    found = real(coefficients[0])
    for each in coefficients[1:]:
        found = found * x + real(each)
    return found


def _power(exponent: Expr) -> Expr:
    t = compiler("tvm.tirx")
    bits = (exponent + t.const(127, "int32")) * t.const(1 << 23, "int32")
    return t.reinterpret("float32", bits)


def _odd_ratio(x: Expr, up: Sequence[float], down: Sequence[float], *, end: float) -> Expr:
    t = compiler("tvm.tirx")
    small = t.max(t.min(x, real(end)), real(-end))
    square = small * small
    ratio = small * _polynomial(square, up) / _polynomial(square, down)
    low = t.Select(x <= real(-end), real(-1.0), ratio)
    return _unless_nan(x, t.Select(x >= real(end), real(1.0), low))


def _unless_nan(x: Expr, y: Expr) -> Expr:
    t = compiler("tvm.tirx")
    return t.Select(t.isnan(x), x, y)
