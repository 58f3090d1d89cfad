"""Where a model that somebody else quantized leaves its float original, value by value.

Values are matched by name. A tool that keeps integers between layers names them after the float value
(``NAME_quantized``, ``NAME_QuantizeLinear_Output``); such values are brought back to floats with the scale
their producer wrote them at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Samples
from adapass.errors import DataError, UsageError
from adapass.execution import Session
from adapass.graph.constants import constant_array
from adapass.passes.quantize.chains import ABSORBED, settled
from adapass.passes.quantize.fitting import spread

JUMP_FACTOR = 3.0
"""A layer adds to what it was given; that its error is so many times that of its inputs is its own doing."""
JUMP_ERROR = 0.05
FLOOR = 0.01
"""Errors below are those of healthy 8 bits: growth is counted from here."""
INTEGER_NAMES = ("{}_quantized", "{}_QuantizeLinear_Output")
_SCALE_AT = {
    "QuantizeLinear": 1,
    "QLinearConv": 6,
    "QLinearMatMul": 6,
    "QLinearAdd": 6,
    "QLinearMul": 6,
    "QGemm": 7,
    "QLinearConcat": 0,
    "QLinearAveragePool": 3,
    "QLinearGlobalAveragePool": 3,
    "QLinearReduceMean": 3,
    "QLinearLeakyRelu": 3,
    "QLinearSigmoid": 3,
    "QLinearSoftmax": 3,
}
"""Where an operator's inputs say at which scale it writes; the zero point is the next one."""
_MOVING = frozenset({"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather"})
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Step:
    """One value that both models compute."""

    value: str
    operator: str
    error: float
    """Relative root mean square error: of the whole value, or of its median channel where that is worse."""
    error_before: float
    """The largest error among the nearest matched values it is computed from; 0 where it reads inputs."""

    @property
    def growth(self) -> float:
        return max(self.error, FLOOR) / max(self.error_before, FLOOR)

    @property
    def jumps(self) -> bool:
        return self.growth >= JUMP_FACTOR and self.error >= JUMP_ERROR


@dataclass(frozen=True, slots=True)
class Walked:
    """Matched values in execution order."""

    steps: tuple[Step, ...]
    unmatched: tuple[str, ...]
    """Float values that the other model does not have under a known name (fused, renamed)."""

    @property
    def first_jump(self) -> Step | None:
        return next((step for step in self.steps if step.jumps), None)


def walk(original: ir.Model, quantized: ir.Model, samples: Samples, *, count: int = 32) -> Walked:
    """Compare both models on ``count`` evenly spaced samples.

    Raises:
        UsageError: the models do not take the same inputs, or share no values but their outputs.
        DataError: there are no samples.

    """
    _same_inputs(original, quantized)
    if len(samples) == 0:
        raise DataError("the data has no samples to compare on; give at least one")
    floats = _float_values(original)
    readers = _matches(floats, quantized)
    ends = {value.name for value in original.graph.outputs}
    if not set(readers) - ends:
        raise UsageError(
            "the two models share no inner values by name, so no layer can be named; quantize this file "
            "itself, or give the preprocessed file that was quantized"
        )
    errors = _errors(original, quantized, readers, samples, count)
    return Walked(_steps(floats, errors), tuple(name for name in floats if name not in errors))


def _same_inputs(original: ir.Model, quantized: ir.Model) -> None:
    first, second = (
        {value.name or "" for value in model.graph.inputs if not value.is_initializer()}
        for model in (original, quantized)
    )
    if first != second:
        raise UsageError(
            f"the models take different inputs: {sorted(first)} and {sorted(second)}; "
            "give the float model that was quantized"
        )


def _float_values(model: ir.Model) -> dict[str, ir.Value]:
    """What nodes of the main graph compute from inputs, in execution order."""
    constant: set[ir.Value] = set()
    found: dict[str, ir.Value] = {}
    for node in model.graph:
        read = [value for value in node.inputs if value is not None]
        if all(value in constant or constant_array(value) is not None for value in read):
            constant.update(node.outputs)
            continue
        for value in node.outputs:
            if value.name and value.dtype is not None and value.dtype.is_floating_point():
                found[value.name] = value
    return found


@dataclass(frozen=True, slots=True)
class _Match:
    """A value of the quantized model, and how its integers become floats (``None``: they are floats)."""

    name: str
    scale: Doubles | None = None
    zero: Doubles | None = None

    def floats(self, array: Array) -> Doubles:
        numbers = array.astype(np.float64)
        if self.scale is None or self.zero is None:
            return numbers
        return np.asarray((numbers - self.zero) * self.scale, np.float64)


def _matches(floats: Mapping[str, ir.Value], quantized: ir.Model) -> dict[str, _Match]:
    there = {value.name or "": value for node in quantized.graph for value in node.outputs}
    found: dict[str, _Match] = {}
    for name, value in floats.items():
        match = next((m for c in _names(name) if c in there and (m := _match(there[c])) is not None), None)
        if match is None:
            continue
        absorbed = match.scale is not None and not _is_activated(there[match.name])
        found[settled(value).name or "" if absorbed else name] = match
    return found


def _is_activated(integers: ir.Value) -> bool:
    """Whether a Relu or Clip still reads them; without one, their range does what it did."""
    readers = [use.node for use in integers.uses()]
    floats = [value for node in readers if node.op_type == "DequantizeLinear" for value in node.outputs]
    readers += [use.node for value in floats for use in value.uses()]
    return any(node.op_type in ABSORBED for node in readers)


def _names(name: str) -> tuple[str, ...]:
    return (*(pattern.format(name) for pattern in INTEGER_NAMES), name)


def _match(value: ir.Value) -> _Match | None:
    if value.dtype is not None and value.dtype.is_floating_point():
        return _Match(value.name or "")
    scales = _scales(value)
    return None if scales is None else _Match(value.name or "", *scales)


def _scales(value: ir.Value | None) -> tuple[Doubles, Doubles] | None:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in _MOVING:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type not in _SCALE_AT:
        return None
    place = _SCALE_AT[node.op_type]
    pair = [constant_array(v) for v in node.inputs[place : place + 2]]
    scale = pair[0] if pair else None
    zero = pair[1] if len(pair) > 1 else None
    if scale is None or scale.size != 1:
        return None
    zero_point = np.zeros(()) if zero is None else zero.astype(np.float64).reshape(())
    return scale.astype(np.float64).reshape(()), zero_point


def _errors(
    original: ir.Model, quantized: ir.Model, matches: Mapping[str, _Match], samples: Samples, count: int
) -> dict[str, float]:
    """Of every value whose shapes agree in both models."""
    first = Session(original, outputs=list(matches))
    second = Session(quantized, outputs=list(dict.fromkeys(match.name for match in matches.values())))
    sums: dict[str, list[Doubles]] = {}
    odd: set[str] = set()
    for index in spread(len(samples), count):
        feeds = samples.feeds(index)
        exact, near = first.run(feeds), second.run(feeds)
        for name, match in matches.items():
            a, b = exact[name].astype(np.float64), match.floats(near[match.name])
            if a.shape != b.shape or not np.isfinite(a).all():
                odd.add(name)
                continue
            _add(sums.setdefault(name, []), a, np.nan_to_num(b - a, nan=np.inf))
    return {name: _relative(*total) for name, total in sums.items() if name not in odd}


def _add(total: list[Doubles], exact: Doubles, change: Doubles) -> None:
    """Sums of squares of both by channel: the second axis of images, the last one of everything else."""
    axis = 1 if exact.ndim == 4 else -1
    rows = [np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (exact, change)] if exact.ndim else []
    squares = [(row**2).sum(axis=1) for row in rows] or [exact.reshape(1) ** 2, change.reshape(1) ** 2]
    if total and len(total[0]) != len(squares[0]):  # a length that changes: one number for all of it
        total[:] = [part.sum(keepdims=True) for part in total]
    if total and len(total[0]) == 1:
        squares = [part.sum(keepdims=True) for part in squares]
    total[:] = [a + b for a, b in zip(total, squares, strict=True)] if total else squares


def _relative(squares: Doubles, errors: Doubles) -> float:
    if not squares.any():
        return 0.0 if not errors.any() else float("inf")
    whole = float(np.sqrt(errors.sum() / squares.sum()))
    alive = squares > 0.0
    return max(whole, float(np.median(np.sqrt(errors[alive] / squares[alive]))))


def _steps(floats: Mapping[str, ir.Value], errors: Mapping[str, float]) -> tuple[Step, ...]:
    steps: list[Step] = []
    seen: dict[ir.Value, float] = {}
    for name, value in floats.items():
        node = value.producer()
        assert node is not None  # only what nodes compute is there
        before = max((seen[read] for read in _known(node.inputs, seen)), default=0.0)
        if name in errors:
            steps.append(Step(name, node.op_type, errors[name], before))
        seen[value] = errors.get(name, before)
    return tuple(steps)


def _known(inputs: Sequence[ir.Value | None], seen: Mapping[ir.Value, float]) -> list[ir.Value]:
    return [value for value in inputs if value is not None and value in seen]
