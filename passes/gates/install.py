"""Run a branch on the live rows only.

    y = Add(x, f(x))       ->    rows = LiveRows(live)
                                 some = GatherRows(x, rows)
                                 y = ScatterRows(Add(x, bias), rows, Add(some, f(some)))

The products inside keep the names of their results, and so does the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.graph.constants import constant_array
from adapass.graph.edit import fresh_name, insert_before, new_initializer, remove_if_dead
from adapass.ops import DOMAIN, GATHER_ROWS, LIVE_ROWS, SCATTER_ROWS, add_function
from adapass.passes.gates.deciders import Decider, Decision, Draft, Scope, decide
from adapass.passes.gates.row_branches import LAST_AXIS, NORMS, RowBranch


@dataclass(frozen=True, slots=True)
class Gate:
    """One gated branch, by the names of its values."""

    decision: Decision
    rows: str
    """Positions of the live rows."""
    result: str
    """[n, C]: what the branch adds at the live rows."""
    bias: str | None
    """[C]: what the others get instead."""

    @property
    def fitted(self) -> tuple[str, ...]:
        """Initializers that are fitted."""
        names = (self.decision.weight, self.decision.threshold, self.bias)
        return tuple(name for name in names if name is not None)


def install(model: ir.Model, row: RowBranch, decider: Decider, scope: Scope, *, bias: bool) -> Gate:
    """Gate one branch in place; all rows are live, and the bias is zero, until they are fitted."""
    for name in (LIVE_ROWS, GATHER_ROWS, SCATTER_ROWS):
        add_function(model, name)
    graph, branch = model.graph, row.branch
    before = Draft(graph, row.site)
    decision = decide(before, row, decider, scope)
    rows = before.add(LIVE_ROWS, [decision.live], "rows", dtype=ir.DataType.INT64, domain=DOMAIN)
    gathered: dict[ir.Value, ir.Value] = {}
    for value in row.entries:
        assert value.dtype is not None  # a row of tokens has a type
        gathered[value] = before.add(
            GATHER_ROWS, [value, rows], f"{value.name}_live", dtype=value.dtype, domain=DOMAIN
        )
    insert_before(branch.nodes[0], before.nodes)
    for node in branch.nodes:
        _flatten(graph, node, gathered)
    behind = Draft(graph, row.site)
    added, stream = branch.result, row.stream
    summands = [gathered[stream], added]
    total = behind.add("Add", _as_before(summands, branch.place), "sum_live", dtype=branch.dtype)
    rest, shift = stream, None
    if bias:
        shift = new_initializer(graph, f"{row.site}_rest", np.zeros(branch.channels, branch.dtype.numpy()))
        rest = behind.add("Add", [rest, shift], "rest_sum", dtype=branch.dtype)
    result = behind.add(SCATTER_ROWS, [rest, rows, total], "scattered", dtype=branch.dtype, domain=DOMAIN)
    insert_before(branch.add, behind.nodes)
    _take_the_place(branch.add, result)
    return Gate(decision, rows.name or "", added.name or "", shift.name if shift is not None else None)


def _as_before(values: Sequence[ir.Value], place: int) -> list[ir.Value]:
    """The stream at the input where it was: fusions look at the order."""
    return list(values) if place == 0 else list(reversed(values))


def _take_the_place(add: ir.Node, result: ir.Value) -> None:
    """``result`` becomes what ``add`` computed, under its name, also where that is an output of the model."""
    old = add.outputs[0]
    name = old.name
    result.shape, result.type = old.shape, old.type
    graph = add.graph
    assert graph is not None  # it was found in one
    old.name = fresh_name(graph, f"{name}_all")
    result.name = name
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    remove_if_dead(add)


def _flatten(graph: ir.Graph, node: ir.Node, gathered: dict[ir.Value, ir.Value]) -> None:
    """Let ``node`` work on [n, C] instead of [B, T, C]."""
    for place, value in enumerate(node.inputs):
        if value is None:
            continue
        if value in gathered:
            node.replace_input_with(place, gathered[value])
        elif node.op_type != "MatMul" and value.shape is not None and len(value.shape) > 1:
            array = constant_array(value)
            assert array is not None  # check_by_row
            node.replace_input_with(
                place, new_initializer(graph, f"{value.name}_row", array.reshape(array.shape[-1:]))
            )
    if node.op_type in NORMS | LAST_AXIS and "axis" in node.attributes:
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
    for value in node.outputs:
        value.shape = None
