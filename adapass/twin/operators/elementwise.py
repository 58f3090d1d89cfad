"""Operators that treat every element alone: arithmetic, comparisons, logic, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce, wraps
from typing import Final

from adapass.twin.dtypes import lacks_arithmetic, torch_type
from adapass.twin.torch_import import Tensor, functional, torch

Compute = Callable[..., Tensor]


def _widened(compute: Compute) -> Compute:
    """Compute unsigned integers that torch only stores in 64 bits, and wrap the result around."""

    @wraps(compute)
    def apply(*inputs: Tensor, **attributes: object) -> Tensor:
        dtype = inputs[0].dtype
        if not lacks_arithmetic(dtype):
            return compute(*inputs, **attributes)
        wide = [x if x is None else x.to(torch.int64) for x in inputs]
        result = compute(*wide, **attributes)
        return result.to(dtype) if result.dtype == torch.int64 else result

    return apply


def _unary(name: str, compute: Compute) -> Compute:
    def apply(x: Tensor) -> Tensor:
        return compute(x)

    apply.__name__ = name
    return apply


def _binary(name: str, compute: Compute) -> Compute:
    def apply(a: Tensor, b: Tensor) -> Tensor:
        return compute(a, b)

    apply.__name__ = name
    return _widened(apply)


def _variadic(name: str, compute: Compute) -> Compute:
    def apply(*inputs: Tensor) -> Tensor:
        return reduce(compute, inputs)

    apply.__name__ = name
    return _widened(apply)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Integers are divided towards zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """``fmod`` takes the sign of ``a``, otherwise of ``b``."""
    if fmod:
        return torch.fmod(a, b)
    rest = torch.remainder(a, b)
    if not a.is_floating_point():
        return rest
    # torch has no answer for a divisor of infinity; a, or the infinity where the signs differ.
    return torch.where(torch.isinf(b) & torch.isfinite(a), torch.where(a * b < 0, b, a), rest)


def mean(*inputs: Tensor) -> Tensor:
    return reduce(torch.add, inputs) / len(inputs)


def clip(
    x: Tensor,
    low: Tensor | None = None,
    high: Tensor | None = None,
    *,
    min: float | None = None,  # noqa: A002  (names of the attributes before opset 11)
    max: float | None = None,  # noqa: A002
) -> Tensor:
    if min is not None or max is not None:
        return torch.clamp(x, min, max)
    if low is None and high is None:
        return x
    return torch.clamp(x, low, high)


def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


def shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    return torch.bitwise_left_shift(a, b) if direction == "LEFT" else torch.bitwise_right_shift(a, b)


def is_infinite(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    return (torch.isposinf(x) & bool(detect_positive)) | (torch.isneginf(x) & bool(detect_negative))


def cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    """``saturate`` only concerns 8-bit floats, which are not translated."""
    del saturate
    return x.to(torch_type(to))


def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1) -> Tensor:
    del saturate
    return x.to(like.dtype)


def identity(x: Tensor) -> Tensor:
    return x


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return torch.where(x < 0, x * alpha, x)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x < 0, alpha * torch.expm1(x.clamp(max=0)), x)


def selu(
    x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    return gamma * elu(x, alpha=alpha)


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.celu(x, alpha)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    smaller = torch.where(x > lambd, x - bias, torch.zeros_like(x))
    return torch.where(x < -lambd, x + bias, smaller)


def softplus(x: Tensor) -> Tensor:
    return (
        functional.softplus(x, threshold=math.inf)
        if x.dtype == torch.float16
        else torch.logaddexp(x, torch.zeros_like(x))
    )


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def hard_swish(x: Tensor) -> Tensor:
    return x * hard_sigmoid(x, alpha=1 / 6, beta=0.5)


def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return functional.gelu(x, approximate=approximate)


def softsign(x: Tensor) -> Tensor:
    return x / (1 + x.abs())


def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(softplus(x))


OPERATORS: Final[Mapping[str, Compute]] = {
    "Abs": _widened(_unary("absolute", torch.abs)),
    "Acos": _unary("acos", torch.acos),
    "Acosh": _unary("acosh", torch.acosh),
    "Add": _binary("add", torch.add),
    "And": _binary("logical_and", torch.logical_and),
    "Asin": _unary("asin", torch.asin),
    "Asinh": _unary("asinh", torch.asinh),
    "Atan": _unary("atan", torch.atan),
    "Atanh": _unary("atanh", torch.atanh),
    "BitShift": _widened(shift),
    "BitwiseAnd": _binary("bitwise_and", torch.bitwise_and),
    "BitwiseNot": _widened(_unary("bitwise_not", torch.bitwise_not)),
    "BitwiseOr": _binary("bitwise_or", torch.bitwise_or),
    "BitwiseXor": _binary("bitwise_xor", torch.bitwise_xor),
    "Cast": cast,
    "CastLike": cast_like,
    "Ceil": _unary("ceil", torch.ceil),
    "Celu": celu,
    "Clip": _widened(clip),
    "Cos": _unary("cos", torch.cos),
    "Cosh": _unary("cosh", torch.cosh),
    "Div": _widened(divide),
    "Elu": elu,
    "Equal": _binary("equal", torch.eq),
    "Erf": _unary("erf", torch.erf),
    "Exp": _unary("exp", torch.exp),
    "Floor": _unary("floor", torch.floor),
    "Gelu": gelu,
    "Greater": _binary("greater", torch.gt),
    "GreaterOrEqual": _binary("greater_or_equal", torch.ge),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Identity": identity,
    "IsInf": is_infinite,
    "IsNaN": _unary("is_nan", torch.isnan),
    "LeakyRelu": leaky_relu,
    "Less": _binary("less", torch.lt),
    "LessOrEqual": _binary("less_or_equal", torch.le),
    "Log": _unary("log", torch.log),
    "Max": _variadic("maximum", torch.maximum),
    "Mean": mean,
    "Min": _variadic("minimum", torch.minimum),
    "Mish": mish,
    "Mod": _widened(modulo),
    "Mul": _binary("multiply", torch.mul),
    "Neg": _unary("negative", torch.neg),
    "Not": _unary("logical_not", torch.logical_not),
    "Or": _binary("logical_or", torch.logical_or),
    "PRelu": _widened(prelu),
    "Pow": _widened(power),
    "Reciprocal": _unary("reciprocal", torch.reciprocal),
    "Relu": _unary("relu", torch.relu),
    "Round": _unary("round_half_even", torch.round),
    "Selu": selu,
    "Shrink": shrink,
    "Sigmoid": _unary("sigmoid", torch.sigmoid),
    "Sign": _widened(_unary("sign", torch.sign)),
    "Sin": _unary("sin", torch.sin),
    "Sinh": _unary("sinh", torch.sinh),
    "Softplus": softplus,
    "Softsign": softsign,
    "Sqrt": _unary("sqrt", torch.sqrt),
    "Sub": _binary("subtract", torch.sub),
    "Sum": _variadic("total", torch.add),
    "Swish": swish,
    "Tan": _unary("tan", torch.tan),
    "Tanh": _unary("tanh", torch.tanh),
    "ThresholdedRelu": thresholded_relu,
    "Where": where,
    "Xor": _binary("logical_xor", torch.logical_xor),
}
