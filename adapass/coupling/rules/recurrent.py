"""LSTM, GRU and RNN: the states of all gates and directions shrink together.

W [directions, gates x states, inputs], R [directions, gates x states, states],
B [directions, 2 x gates x states].
"""

from __future__ import annotations

import onnx_ir as ir

from adapass.coupling.dims import Dim, fix, mark
from adapass.coupling.flow import Dims, Flow, Read, Refused, Sized
from adapass.coupling.relations import split, unify

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DIRECTIONS = "it counts the directions of a recurrent cell"
PEEPHOLES = 3


def recurrent(flow: Flow, node: ir.Node) -> None:
    gates = GATES[node.op_type]
    data, weight, recurrence = flow.of(node, 0), flow.of(node, 1), flow.of(node, 2)
    flow.contract(node, (0, 2), (1, 2))
    states = recurrence[2]
    mark(states, "states")
    for index, count in ((1, gates), (2, gates), (3, 2 * gates), (7, PEEPHOLES)):
        stored = flow.maybe(node, index) if index < len(node.inputs) else None
        if stored is None:
            continue
        fix(stored[0], DIRECTIONS)
        _unify_gates(flow, stored[1], count, states)
        flow.plays(node, index, stored[1], "writes")
    flow.plays(node, 2, states, "reads")
    flow.reads.append(Read(node, 2, 2))
    flow.sized.append(Sized(node, None, "hidden_size", ((states,),)))
    _first_states(flow, node, states)
    _outputs(flow, node, data, weight[0], states)


def _unify_gates(flow: Flow, dim: Dim, count: int, states: Dim) -> None:
    parts = split(dim, flow.constant(count))
    if parts is None:
        raise Refused("the gates of a recurrent cell are made of unlike parts")
    fix(parts[0], "it counts the gates of a recurrent cell")
    unify(parts[1], states)


def _first_states(flow: Flow, node: ir.Node, states: Dim) -> None:
    for index in (5, 6):
        first = flow.maybe(node, index)
        if first is not None:
            unify(first[2], states)


def _outputs(flow: Flow, node: ir.Node, data: Dims, directions: Dim, states: Dim) -> None:
    """Y [steps, directions, batch, states], Y_h and Y_c without the steps; layout 1 puts the batch first."""
    is_batch_first = node.attributes.get_int("layout", 0) == 1
    for index, value in enumerate(node.outputs):
        if not value.name:
            continue
        if index == 0:
            dims = (*data[:2], directions) if is_batch_first else (data[0], directions, data[1])
        else:
            dims = (data[0], directions) if is_batch_first else (directions, data[1])
        flow.give(node, [*dims, states], index)
