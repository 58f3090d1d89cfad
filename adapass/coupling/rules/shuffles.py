"""Channel shuffle: a reshape, a transpose and a reshape that permute the entries of one axis.

    [B, 2 x C, H, W] -> [B, 2, C, H, W] -> [B, C, 2, H, W] -> [B, C x 2, H, W]

Followed as a permutation, every channel goes its own way, and removal may leave any of them: the three
nodes become one ``Gather``. The groups of convolutions before and behind it must shrink alike: see
``balance``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from adapass.coupling.dims import reason_of, total
from adapass.coupling.flow import Flow, Permuted
from adapass.coupling.relations import entries


def shuffle(flow: Flow, node: ir.Node) -> bool:
    """Follow the shuffle that begins with ``node``; ``False`` when none does."""
    chain = _chain(node)
    if chain is None or any(each.outputs[0] not in flow.sizes for each in (node, *chain)):
        return False
    moved, last = chain
    dims = list(flow.of(node, 0))
    axis = _axis(flow, node, moved, last)
    if axis is None or reason_of(dims[axis]) is not None or len(set(dims[axis].size)) > 1:
        return False
    before = dims[axis]
    parts = entries(before)
    if parts is None:
        return False
    outer, inner = (size[0] for size in flow.sizes[node.outputs[0]][axis : axis + 2])
    order = tuple(int(at) for at in np.arange(outer * inner).reshape(outer, inner).T.reshape(-1))
    dims[axis] = total([parts[at] for at in order])
    flow.permuted.append(Permuted(node, last, axis, before, dims[axis], order))
    flow.give(last, dims)
    flow.done.update((node, *chain))
    return True


def _chain(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    found: list[ir.Node] = []
    for kind in ("Transpose", "Reshape"):
        value = (found[-1] if found else node).outputs[0]
        uses = value.uses()
        if len(uses) != 1 or value.is_graph_output():
            return None
        reader, index = next(iter(uses))
        if reader.op_type != kind or index != 0 or reader.graph is not node.graph:
            return None
        found.append(reader)
    return found[0], found[1]


def _axis(flow: Flow, node: ir.Node, moved: ir.Node, last: ir.Node) -> int | None:
    """The axis that is divided in two, and whose two parts change places."""
    whole = tuple(dim.size for dim in flow.of(node, 0))
    apart = flow.sizes[node.outputs[0]]
    if flow.sizes[last.outputs[0]] != whole or len(apart) != len(whole) + 1:
        return None
    order = list(moved.attributes.get_ints("perm", ()))
    for axis in range(len(whole)):
        swapped = [*range(axis), axis + 1, axis, *range(axis + 2, len(apart))]
        around = (*whole[:axis], *whole[axis + 1 :]) == (*apart[:axis], *apart[axis + 2 :])
        if around and order == swapped and flow.ones not in apart[axis : axis + 2]:
            return axis
    return None
