"""Check a quantized model value by value, each computed from the exact values before it.

Noise of 8 bits adds up through a deep model until it hides a lost bias or a wrong axis. Here nothing adds
up: every value that both models have is computed from what the float model has in its place.

    before:  a -> b -> c            after, as checked:  a -> b',  b -> c'

Where the quantized model has new nodes between two such values, ``c'`` may differ by the rounding of one
site. Everywhere else it must be equal up to floating-point rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.errors import VerificationError
from adapass.execution import Session
from adapass.graph.edit import constant_array
from adapass.graph.shapes import infer_shapes

SAME = 1e-4
"""Largest relative error (root mean square) of a value computed by the same node from the same numbers."""
PRODUCT, CONVOLUTION = 0.25, 0.1
"""Largest relative error of a rewritten value. With one scale a channel, trained encoders reached 0.16 (a
few outliers stretch the range of their activations) and convolutional networks 0.03."""
_GIVEN = "__given"
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def check_locally(
    before: ir.Model, after: ir.Model, feeds: Sequence[Feeds], *, looseness: float = 1.0
) -> None:
    """Compare all values of the main graphs that have the same name.

    ``looseness`` multiplies what rewritten values may differ by: above 1 for coarser scales.

    Raises:
        VerificationError: naming the first value that is off, in execution order.

    """
    _check_scales(after)
    shared = _shared_values(before, after)
    if not shared:
        return
    original, forced = Session(before, outputs=shared), Forced(after, shared)
    rewritten = _rewritten(before, after, frozenset(shared))
    for case in feeds:
        given = original.run(case)
        found = forced.run(case, given)
        for name in shared:
            allowed = rewritten.get(name, SAME)
            error = _relative_error(given[name], found[name], by_row=allowed == PRODUCT)
            _judge(name, error, allowed * (looseness if name in rewritten else 1.0))


def _judge(name: str, error: float, allowed: float) -> None:
    if not error <= allowed:
        raise VerificationError(
            f"'{name}' is off by {error:.3g} of its size when computed from exact values, "
            f"at most {allowed:g} is expected"
        )


def _check_scales(model: ir.Model) -> None:
    """A negative scale can cancel out in a pair of conversions, yet kernels need not take it."""
    for node in model.graph:
        if node.op_type not in _CONVERSIONS or node.domain != "":
            continue
        scale = constant_array(node.inputs[1])
        if scale is not None and not all(0.0 < float(number) < np.inf for number in scale.ravel()):
            raise VerificationError(f"the scale of '{node.outputs[0].name}' is not positive")


def _shared_values(before: ir.Model, after: ir.Model) -> tuple[str, ...]:
    names = {value.name for node in before.graph for value in node.outputs if value.name}
    return tuple(value.name or "" for node in after.graph for value in node.outputs if value.name in names)


def _rewritten(before: ir.Model, after: ir.Model, shared: frozenset[str]) -> dict[str, float]:
    """What a shared value may be off by when something new is between it and the shared ones before it.

    New are nodes, and constants under a new name (a bias that makes up for a mean error).
    """
    known = frozenset(before.graph.initializers)
    new = {value for name, value in after.graph.initializers.items() if name not in known}
    touched: dict[str, float] = {}
    for node in after.graph:
        fresh = any(value.name not in shared for value in node.outputs)
        if not fresh and any(value in new for value in node.inputs):
            allowed = CONVOLUTION if node.op_type == "Conv" else PRODUCT
            touched.update((value.name or "", allowed) for value in node.outputs)
        if fresh:
            new.update(node.outputs)
    return touched


class Forced:
    """A model in which every reader of the ``shared`` values reads what it is given instead."""

    def __init__(self, model: ir.Model, shared: Sequence[str]) -> None:
        copy = model.clone()
        infer_shapes(copy)
        values = {value.name: value for node in copy.graph for value in node.outputs}
        self._inputs: dict[str, str] = {}
        for name in shared:
            value = values[name]
            source = ir.Value(name=f"{name}{_GIVEN}", type=value.type, shape=value.shape)
            self._inputs[name] = f"{name}{_GIVEN}"
            copy.graph.inputs.append(source)
            for use in list(value.uses()):
                use.node.replace_input_with(use.idx, source)
        self._session = Session(copy, outputs=list(shared))

    def run(self, feeds: Feeds, given: Mapping[str, Array]) -> Mapping[str, Array]:
        return self._session.run({**feeds, **{self._inputs[name]: given[name] for name in self._inputs}})


def _relative_error(expected: Array, found: Array, *, by_row: bool) -> float:
    """Root mean square of the error over that of the value; infinite for another shape, type or infinity.

    ``by_row`` takes the lower quartile of the rows (tokens): padding leaves the calibrated ranges, and does
    not matter, while a mistake hits every row.
    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return float("inf")
    if expected.dtype.kind != "f" or expected.size == 0:
        return 0.0 if np.array_equal(expected, found) else float("inf")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    shape = (-1, a.shape[-1]) if by_row and a.ndim > 1 else (1, -1)
    size = np.mean(np.where(finite, a, 0.0).reshape(shape) ** 2, axis=1)
    change = np.subtract(a, b, out=np.zeros_like(a), where=finite)
    error = np.mean(change.reshape(shape) ** 2, axis=1)
    ratios = np.sqrt(np.divide(error, size, out=np.where(error > 0.0, np.inf, 0.0), where=size > 0.0))
    return float(np.quantile(ratios, 0.25, method="lower")) if ratios.size else 0.0
