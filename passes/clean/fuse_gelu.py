"""Recognise a GELU written out.

    y = Mul(Mul(x, Add(Erf(Div(x, {1.4142135})), {1})), {0.5})   ->   y = Gelu(x)

Five passes over the activation become one. Both orders of the factors and the multiplied form
``x * 0.7071`` are known. Gelu is a standard operator from opset 20 on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.constants import constant_array
from adapass.rewrite import Exactness, Reject, Replacement, Rewrite

FIRST_OPSET = 20
TOLERANCE = 1e-3
"""Relative: exporters round the square root of two, some to half precision."""


@dataclass(frozen=True, kw_only=True)
class FuseGelu(Rewrite):
    """Replace ``0.5 * x * (1 + erf(x / sqrt(2)))`` by Gelu."""

    name: ClassVar[str] = "fuse-gelu"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    root_ops: ClassVar[frozenset[str]] = frozenset({"Mul"})

    def rewrite(self, root: ir.Node, facts: FactCache) -> Replacement:
        factors = list(_factors(root))
        halves = [index for index, value in enumerate(factors) if _is_constant(value, 0.5)]
        if len(factors) != 3 or len(halves) != 1:
            raise Reject("not a product of one half and two values")
        first, second = (value for index, value in enumerate(factors) if index != halves[0])
        for x, shifted in ((first, second), (second, first)):
            if _erf_input(shifted) is x and _same_rank(x, root.outputs[0]):
                return self._gelu(root, x, facts)
        raise Reject("the other factor is not one plus an error function")

    def _gelu(self, root: ir.Node, x: ir.Value, facts: FactCache) -> Replacement:
        if facts.model.opset_imports.get("", 0) < FIRST_OPSET:
            raise Reject("the opset has no Gelu")
        node = ir.Node("", "Gelu", [x], num_outputs=1)
        return Replacement(nodes=[node], outputs=node.outputs)


def _same_rank(x: ir.Value, y: ir.Value) -> bool:
    """Constants with more dimensions than ``x`` would add some."""
    return x.shape is not None and y.shape is not None and x.shape.rank() == y.shape.rank()


def _factors(root: ir.Node) -> Iterator[ir.Value]:
    """The factors of a product of up to three, through one private inner product."""
    inner = next((value for value in root.inputs if _is_private_product(value)), None)
    for value in root.inputs:
        if value is inner and value is not None:
            producer = value.producer()
            yield from (v for v in (producer.inputs if producer else ()) if v is not None)
        elif value is not None:
            yield value


def _is_private_product(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    return (
        node is not None
        and node.op_type == "Mul"
        and node.domain == ""
        and value is not None
        and _private(value)
    )


def _private(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _erf_input(shifted: ir.Value) -> ir.Value | None:
    """``x`` when ``shifted`` is ``1 + erf(x / sqrt(2))``."""
    erf = _without_constant(shifted, "Add", 1.0)
    node = erf.producer() if erf is not None else None
    if node is None or node.op_type != "Erf" or node.inputs[0] is None:
        return None
    scaled = node.inputs[0]
    divided = _without_constant(scaled, "Div", math.sqrt(2), ordered=True)
    return divided if divided is not None else _without_constant(scaled, "Mul", math.sqrt(0.5))


def _without_constant(
    value: ir.Value, op_type: str, constant: float, *, ordered: bool = False
) -> ir.Value | None:
    """The other operand, when ``value`` is ``op_type`` of something and ``constant``."""
    node = value.producer()
    if node is None or node.op_type != op_type or node.domain != "":
        return None
    left, right = node.inputs
    if right is not None and _is_constant(right, constant):
        return left
    return right if not ordered and left is not None and _is_constant(left, constant) else None


def _is_constant(value: ir.Value, wanted: float) -> bool:
    array = constant_array(value)
    return (
        array is not None and array.size == 1 and math.isclose(float(array.item()), wanted, rel_tol=TOLERANCE)
    )
