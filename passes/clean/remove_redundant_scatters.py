"""Remove a ScatterND that overwrites all of its data.

    y = ScatterND(data, {[0],[1],[2]}, updates)   ->   y = updates        # data has 3 rows

What exporters leave of ``x[:] = y``. Saves a copy of ``data``; not one bit changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

from adapass.passes.clean.adopted import AdoptedRules, Rule
from adapass.rewrite import Exactness


@dataclass(frozen=True, kw_only=True)
class RemoveRedundantScatters(AdoptedRules):
    """Replace a ScatterND whose indices are all rows in order by its updates."""

    name: ClassVar[str] = "remove-redundant-scatters"
    exactness: ClassVar[Exactness] = Exactness.BITWISE
    root_ops: ClassVar[frozenset[str]] = frozenset({"ScatterND"})

    def rules(self) -> Sequence[Rule]:
        common = import_module("onnxscript.rewriter.rules.common")
        return (common.no_op_static_scatter_nd_rule, common.no_op_dynamic_scatter_nd_rule)
