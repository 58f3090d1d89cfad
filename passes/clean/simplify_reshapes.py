"""Write Reshape targets as constants: copied dimensions as 0, at most one open one as -1.

    n = Shape<end=1>(ids); s = Shape<start=1,end=2>(ids)      # ids: [batch, seq]
    t = Concat(n, s, {12}, {-1}); y = Reshape(x, t)           # x: [batch, seq, 384]
    ->
    y = Reshape(x, {0, 0, 12, 32})

The chain that computed the target goes away with its dozen of tiny operators, and shape inference
sees through the Reshape again. Exact: an entry becomes 0 only when it is, by symbolic reasoning about
where it comes from, the dimension of ``x`` at that place; a number only when it is one; and -1 when
everything else is settled, so that it is the only size left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.edit import apply_replacement, new_constant, nodes_everywhere, remove_dead_nodes
from adapass.graph.elements import Element, dim_element, elements
from adapass.graph.shapes import infer_shapes
from adapass.rewrite import Exactness, Pass, PassResult, Reject, Replacement

SETTLED = "the target is as simple as it gets"


@dataclass(frozen=True, kw_only=True)
class SimplifyReshapes(Pass):
    """Make the target of every Reshape a constant where its entries can be proved.

    Left alone when the rank of the input or the length of the target is unknown, when two entries
    stay open, and when the target holds real zeros (``allowzero``). Empty tensors are assumed not to
    be reshaped along an open dimension: there -1 has no meaning.
    """

    name: ClassVar[str] = "simplify-reshapes"
    exactness: ClassVar[Exactness] = Exactness.BITWISE

    max_sweeps: int = 16
    """Settling one Reshape lets the next round of inference settle those behind it."""

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        sites: dict[str, None] = {}
        rejected: Counter[str] = Counter()
        for _ in range(self.max_sweeps):
            infer_shapes(model)
            rejected.clear()
            found = _sweep(model, only, rejected)
            sites |= dict.fromkeys(found)
            if not found:
                break
        if sites:
            remove_dead_nodes(model)
            facts.keep_only(())
        rejected[SETTLED] -= len(sites)
        return PassResult(applied=len(sites), rejected=_positive(rejected), sites=tuple(sites))


def _sweep(model: ir.Model, only: frozenset[str] | None, rejected: Counter[str]) -> list[str]:
    sites: list[str] = []
    for root in nodes_everywhere(model):
        site = root.outputs[0].name or ""
        if root.domain != "" or root.op_type != "Reshape" or (only is not None and site not in only):
            continue
        try:
            replacement = _simplified(root)
        except Reject as reason:
            rejected[str(reason)] += 1
            continue
        apply_replacement(root, replacement)
        sites.append(site)
    return sites


def _positive(counts: Counter[str]) -> MappingProxyType[str, int]:
    return MappingProxyType({reason: count for reason, count in counts.items() if count > 0})


def _simplified(root: ir.Node) -> Replacement:
    data, target = root.inputs[0], root.inputs[1]
    if data is None or data.shape is None:
        raise Reject("the rank of the input is unknown")
    wanted = elements(target)
    if wanted is None:
        raise Reject("the target is computed from values, not from shapes")
    keeps_zero = root.attributes.get_int("allowzero", 0) == 1
    if keeps_zero and 0 in wanted:
        raise Reject("the target holds a real zero")
    dims = [dim_element(data, axis) for axis in range(data.shape.rank())]
    settled = _settle(dims, wanted)
    if settled == wanted and (not keeps_zero or 0 not in settled):
        raise Reject(SETTLED)
    constant = new_constant(f"{root.outputs[0].name}_target", np.array(settled, np.int64))
    node = ir.Node("", "Reshape", [data, constant], num_outputs=1)
    return Replacement(nodes=[node], outputs=node.outputs, initializers=[constant])


def _settle(dims: Sequence[Element], wanted: Sequence[Element]) -> tuple[int, ...]:
    """The target in numbers: what can be copied, what is known, and what follows from the rest."""
    settled: list[int | None] = []
    for axis, entry in enumerate(wanted):
        if isinstance(entry, int):
            settled.append(None if entry == -1 else entry)
        else:
            copied = entry is not None and axis < len(dims) and entry == dims[axis]
            settled.append(0 if copied else None)
    open_axes = [axis for axis, entry in enumerate(settled) if entry is None]
    if len(open_axes) > 1:
        raise Reject("two dimensions of the target stay open")
    if open_axes:
        settled[open_axes[0]] = _remaining(dims, settled, open_axes[0])
    return tuple(-1 if entry is None else entry for entry in settled)


def _remaining(dims: Sequence[Element], settled: Sequence[int | None], open_axis: int) -> int:
    """The open dimension, from the number of elements: a number, 0 (a copy), or -1 when it is neither."""
    left = Counter(dims)
    product = 1
    for axis, entry in enumerate(settled):
        if entry == 0 and axis < len(dims):
            left[dims[axis]] -= 1
        elif entry is not None:
            product *= entry
    rest = [dim for dim, count in left.items() for _ in range(max(count, 0))]
    symbols = [dim for dim in rest if not isinstance(dim, int)]
    numbers = int(np.prod([dim for dim in rest if isinstance(dim, int)], dtype=np.int64))
    if min(left.values(), default=0) < 0 or product <= 0 or None in symbols:
        return -1
    if not symbols and numbers and numbers % product == 0:
        return numbers // product
    copied = open_axis < len(dims) and symbols == [dims[open_axis]] and numbers == product
    return 0 if copied else -1
