"""Cast once instead of twice.

    y = Cast<to=double>(Cast<to=float>(h))   ->   y = Cast<to=double>(h)        # h: float16

Only when the first cast keeps every number of its input, so the second one sees what it saw. Saves a
pass over the value; not one bit changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from adapass.facts import FactCache
from adapass.rewrite import Exactness, Reject, Replacement, Rewrite

D = ir.DataType
WIDENING = frozenset(
    {
        (D.FLOAT16, D.FLOAT),
        (D.FLOAT16, D.DOUBLE),
        (D.BFLOAT16, D.FLOAT),
        (D.BFLOAT16, D.DOUBLE),
        (D.FLOAT, D.DOUBLE),
        (D.INT8, D.INT16),
        (D.INT8, D.INT32),
        (D.INT8, D.INT64),
        (D.INT16, D.INT32),
        (D.INT16, D.INT64),
        (D.INT32, D.INT64),
        (D.UINT8, D.INT32),
        (D.UINT8, D.INT64),
        (D.BOOL, D.INT32),
        (D.BOOL, D.INT64),
        (D.BOOL, D.FLOAT),
    }
)
"""(from, to) pairs of types where the second holds every number of the first."""


@dataclass(frozen=True, kw_only=True)
class MergeCasts(Rewrite):
    """Skip a widening cast in front of another cast."""

    name: ClassVar[str] = "merge-casts"
    exactness: ClassVar[Exactness] = Exactness.BITWISE
    root_ops: ClassVar[frozenset[str]] = frozenset({"Cast"})

    def rewrite(self, root: ir.Node, facts: FactCache) -> Replacement:
        del facts
        between = root.inputs[0]
        first = between.producer() if between is not None else None
        if between is None or first is None or first.domain != "" or first.op_type != "Cast":
            raise Reject("no other cast comes before")
        source = first.inputs[0]
        if source is None or source.dtype is None or (source.dtype, between.dtype) not in WIDENING:
            raise Reject("the first cast may change numbers")
        node = ir.Node("", "Cast", [source], list(root.attributes.values()), num_outputs=1)
        return Replacement(nodes=[node], outputs=node.outputs)
