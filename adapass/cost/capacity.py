"""What a number format can hold, without data: its error on normal numbers.

The loss of a model trained in a compressed form follows from one property of the form: the mean squared
error it makes on standard normal numbers ("GMSE"; Panferov et al. 2025, "Unified scaling laws for compressed
representations", arXiv:2506.01863). That is a prior for a layer nobody has measured: where the weight is off
by a share of its size, so is about the result.

    int8, int4-g32, int2-g16             symmetric integers; the largest of a row or group decides the scale
    float16, bfloat16                    as they are
    float8-e4m3, float8-e5m2, fp4-g32    scaled like integers
    sparse-2:4, sparse-0.5               the smallest are zero: 2 of 4, or a share
    binary-2                             two signs, each with a scale, for every 32
    sparse-2:4+int8                      one behind the other
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from adapass.budgeted import Choice, Damage
from adapass.errors import UsageError

NUMBERS: Final = 1 << 17
ROW: Final = 1024
"""Numbers that share a scale where no group is named: the row of a weight."""
Doubles = npt.NDArray[np.float64]
_FORM: Final = re.compile(r"(int[2-8]|float8-e4m3|float8-e5m2|fp4)(?:-g(\d+))?|(float16|bfloat16|float32)")
_SPARSE: Final = re.compile(r"sparse-(?:(\d+):(\d+)|(0?\.\d+))")
_BINARY: Final = re.compile(r"binary-([1-8])")
_BINARY_GROUP: Final = 32
_MINIFLOATS: Final = {
    "float8-e4m3": (np.dtype(ml_dtypes.float8_e4m3fn), 448.0),
    "float8-e5m2": (np.dtype(ml_dtypes.float8_e5m2), 57344.0),
    "fp4": (np.dtype(ml_dtypes.float4_e2m1fn), 6.0),
}
"""With the largest number that each can hold."""
_FLOATS: Final = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
}
_EIGHT_BIT: Final = frozenset({"static", "dynamic"})
"""Settings of families that round weights and activations to 8 bits."""


@lru_cache(maxsize=256)
def relative_error(form: str) -> float:
    """Mean squared error of standard normal numbers in ``form``; their mean square is 1.

    Raises:
        UsageError: no such form.

    """
    numbers = _normal()
    found = numbers
    for step in _steps(form):
        found = step(found)
    return float(((found - numbers) ** 2).mean())


def capacity_bits(form: str) -> float:
    """The bits that an ideal code would need for the same error: ``log4(1 / relative_error)``.

    Raises:
        UsageError: no such form.

    """
    error = relative_error(form)
    return -0.5 * math.log2(error) if error > 0.0 else math.inf


def predicted_damage(weights: str, activations: str | None = None) -> Damage:
    """Of one layer on its own result: errors of weights and activations are independent and add up.

    How much of that reaches the outputs is not known without data.
    """
    forms = [weights] if activations is None else [weights, activations]
    return Damage(math.sqrt(sum(relative_error(form) for form in forms)))


def predicted_for(choice: Choice) -> Damage | None:
    """The prior for a choice whose setting (or ``detail['form']``) names a form; ``None`` for others."""
    named = choice.detail.get("form", choice.setting)
    form = "int8" if named in _EIGHT_BIT else str(named)
    sparse = f"sparse-{form.removeprefix('unstructured-')}"
    form = sparse if _SPARSE.fullmatch(sparse) else form
    if not all(any(kind.fullmatch(word) for kind in (_FORM, _SPARSE, _BINARY)) for word in form.split("+")):
        return None
    return predicted_damage(form, "int8" if named in _EIGHT_BIT else None)


@lru_cache(maxsize=1)
def _normal() -> Doubles:
    """The quantiles of the normal distribution in a fixed scrambled order: the same on every machine."""
    from scipy.special import ndtri

    quantiles = ndtri((np.arange(NUMBERS) + 0.5) / NUMBERS)
    return np.asarray(quantiles[np.argsort(_scrambled(np.arange(NUMBERS, dtype=np.uint64)))], np.float64)


def _scrambled(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele et al. 2014); it maps no two numbers to the same."""
    x = numbers + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _steps(form: str) -> list[Callable[[Doubles], Doubles]]:
    return [_step(word, form) for word in form.split("+")]


def _step(word: str, form: str) -> Callable[[Doubles], Doubles]:
    if (sparse := _SPARSE.fullmatch(word)) is not None:
        return _sparse(sparse, form)
    if (binary := _BINARY.fullmatch(word)) is not None:
        return lambda numbers: _binary(numbers, int(binary[1]))
    if (dense := _FORM.fullmatch(word)) is None:
        raise UsageError(
            f"'{word}' in '{form}' is no number format; expected int2 to int8, float8-e4m3, float8-e5m2 or "
            "fp4 (with -gN for groups), float16, bfloat16, float32, binary-N, sparse-N:M or "
            "sparse-SHARE"
        )
    if dense[3] is not None:
        dtype = _FLOATS[dense[3]]
        return lambda numbers: numbers.astype(dtype).astype(np.float64)
    group = int(dense[2] or ROW)
    if not 1 < group <= NUMBERS:
        raise UsageError(f"'{form}' has groups of {group}, 2 to {NUMBERS} expected")
    return lambda numbers: _grouped(numbers, group, dense[1])


def _grouped(numbers: Doubles, group: int, name: str) -> Doubles:
    whole = len(numbers) // group * group
    rows = numbers[:whole].reshape(-1, group)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    if name.startswith("int"):
        top = float(2 ** (int(name[3:]) - 1) - 1)
        near = np.clip(np.rint(rows / largest * top), -top, top) / top * largest
    else:
        dtype, top = _MINIFLOATS[name]
        near = (rows / largest * top).astype(dtype).astype(np.float64) / top * largest
    # the rest of an incomplete group is left as the others are on average
    return np.concatenate([near.ravel(), numbers[whole:]])


def _binary(numbers: Doubles, codes: int) -> Doubles:
    """Greedy: each sign and scale is the best for what the ones before left over."""
    left = numbers.reshape(-1, _BINARY_GROUP)
    for _ in range(codes):
        left = left - np.sign(left) * np.abs(left).mean(axis=1, keepdims=True)
    return numbers - left.ravel()


def _sparse(match: re.Match[str], form: str) -> Callable[[Doubles], Doubles]:
    if match[3] is not None:
        share = float(match[3])
        return lambda numbers: np.where(np.abs(numbers) < np.quantile(np.abs(numbers), share), 0.0, numbers)
    kept, of = int(match[1]), int(match[2])
    if not 0 < kept < of or NUMBERS % of:
        raise UsageError(f"'{form}' keeps {kept} of {of}; fewer than all, of 2, 4, 8, ... expected")

    def step(numbers: Doubles) -> Doubles:
        rows = numbers.reshape(-1, of)
        order = np.argsort(-np.abs(rows), axis=1, kind="stable")
        found = rows.copy()
        np.put_along_axis(found, order[:, kept:], 0.0, axis=1)
        return found.ravel()

    return step
