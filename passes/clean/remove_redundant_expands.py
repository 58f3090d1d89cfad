"""Leave broadcasting to the operator that broadcasts anyway.

    y = Add(Expand(b, {8, 16}), x)   ->   y = Add(b, x)        # x: [8, 16]

Saves writing the expanded copy. The operator reads the same numbers; not one bit changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

from adapass.graph.broadcasting import BINARY
from adapass.passes.clean.adopted import AdoptedRules, Rule
from adapass.rewrite import Exactness


@dataclass(frozen=True, kw_only=True)
class RemoveRedundantExpands(AdoptedRules):
    """Drop an Expand in front of a broadcasting operator when the result has the same shape without it.

    Not in front of PRelu, whose slope may be broadcast but whose input may not.
    """

    name: ClassVar[str] = "remove-redundant-expands"
    exactness: ClassVar[Exactness] = Exactness.BITWISE
    root_ops: ClassVar[frozenset[str]] = BINARY

    def rules(self) -> Sequence[Rule]:
        return tuple(import_module("onnxscript.rewriter.rules.common").expand_before_binary_op_rules)
