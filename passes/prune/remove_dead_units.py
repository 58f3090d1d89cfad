"""Remove units that cannot matter: nobody reads them, or they are always zero.

    y = MatMul (Relu (MatMul (x, w1)), w2)  ->  without hidden unit i, where w2[i] = 0, or w1[:, i] = 0

Faster because the products are smaller. Right by the weights alone, whatever the input: what is read with
weight zero adds zero, and what is written with weight zero stays zero through operators that keep zero.
(A unit that merely was silent on some data is not dead; ``prune-structures`` finds those cheap.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.coupling.groups import Coupling, Group, Place
from adapass.coupling.remove import remove
from adapass.facts import FactCache
from adapass.graph.constants import constant_array
from adapass.rewrite import Exactness, Pass, PassResult

Marks = npt.NDArray[np.bool_]

KEEP_ZERO = frozenset(
    {
        "Abs", "AveragePool", "Cast", "Elu", "Erf", "Flatten", "Gelu", "GlobalAveragePool", "GlobalMaxPool",
        "HardSwish", "Identity", "LeakyRelu", "MaxPool", "Mish", "Mul", "Neg", "PRelu", "ReduceMean",
        "ReduceSum", "Relu", "Reshape", "Squeeze", "Tanh", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators whose result is zero wherever their first input is."""
PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, kw_only=True)
class RemoveDeadUnits(Pass):
    """Remove channels, neurons and heads whose weights say that they do nothing.

    At least one unit of a group stays. Groups that a normalisation runs over are left alone: there even a
    zero counts.
    """

    name: ClassVar[str] = "remove-dead-units"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    source: ClassVar[str] = "dead-neuron analysis"

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        kept: dict[str, list[int]] = {}
        rejected: Counter[str] = Counter()
        for group in facts.get(Coupling).groups:
            if only is not None and group.key not in only:
                continue
            if not group.exact:
                rejected["a normalisation runs over the units"] += 1
                continue
            dead = _unread(model, group) | _always_zero(model, group)
            if not dead.any():
                rejected["all units do something"] += 1
                continue
            kept[group.key] = [int(unit) for unit in np.flatnonzero(~dead)] or [0]
        if kept:
            remove(model, kept)
            facts.keep_only(())
        return PassResult(len(kept), MappingProxyType(dict(rejected)), tuple(kept))


def _unread(model: ir.Model, group: Group) -> Marks:
    """Units that everybody reads with weight zero."""
    if not group.read:
        return np.zeros(group.units, np.bool_)
    return _in_all([_zero(model, place) for place in group.read])


def _always_zero(model: ir.Model, group: Group) -> Marks:
    """Units that everybody writes with weight zero, and nothing on the way makes anything else of."""
    if not group.written or not _zero_stays(model, group):
        return np.zeros(group.units, np.bool_)
    return _in_all([_zero(model, place) for place in group.written])


def _in_all(marks: Sequence[Marks]) -> Marks:
    return np.asarray(np.stack(marks).all(axis=0))


def _zero(model: ir.Model, place: Place) -> Marks:
    array = constant_array(model.graph.initializers.get(place.value))
    if array is None or array.dtype.kind != "f":
        return np.zeros(len(place.positions), np.bool_)
    others = tuple(axis for axis in range(array.ndim) if axis != place.axis)
    quiet = (array == 0.0).all(axis=others) if others else array == 0.0
    return np.array([bool(quiet[list(unit)].all()) for unit in place.positions])


def _zero_stays(model: ir.Model, group: Group) -> bool:
    """Whether every value that carries the units is made by a product or by what keeps zero."""
    written = {place.value for place in group.written}
    carried = {place.value for place in group.places if place.role == "carries"}
    makers = {value.name: node for node in model.graph for value in node.outputs}
    return all(name in makers and _keeps_zero(makers[name], written, carried) for name in carried)


def _keeps_zero(node: ir.Node, written: set[str], carried: set[str]) -> bool:
    if node.domain != "":
        return False
    names = [value.name or "" for value in node.inputs if value is not None]
    if node.op_type in PRODUCTS:
        return all(name in written for name in names[1:])
    if node.op_type == "Add":
        return all(name in written or name in carried for name in names)
    return node.op_type in KEEP_ZERO and names[0] in carried
