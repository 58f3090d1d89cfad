"""What each width of each group does to the outputs: one walk over the model serves all of them.

The units that go are cut out of the products that read them, everything else of those products refitted in
closed form; only the part of the model behind them runs again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.analyses.axes import Axes
from adapass.budgeted import Array, Damage, Feeds, Samples
from adapass.coupling.groups import Group
from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.moments.batches import Batches, spread
from adapass.moments.walk import Walk
from adapass.passes.prune.importance import Order, Reading
from adapass.passes.prune.linear_ops import Doubles, linear_ops, store, stored
from adapass.search.damage import damage_of

LEAST_HELD = 16
"""Samples to measure on that are worth taking from those to fit on."""


@dataclass(frozen=True, slots=True)
class Change:
    """Contents of initializers when a group has some width."""

    key: str
    first: str
    """The first node that sees it, by its first output."""
    contents: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Some:
    """Some of the samples, as ``Samples``."""

    samples: Samples
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def feeds(self, index: int) -> Feeds:
        return self.samples.feeds(self.indices[index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        return self.samples.batch([self.indices[index] for index in indices])

    @property
    def labels(self) -> Array | None:
        labels = self.samples.labels
        return None if labels is None else labels[list(self.indices)]


def is_read_by_products_alone(model: ir.Model, group: Group) -> bool:
    """Whether taking units out is the same as zeros in the weights of the products that read them."""
    places = {(op.weight, op.input_axis) for op in linear_ops(model) if not op.shared}
    return group.exact and bool(group.read) and all((p.value, p.axis) in places for p in group.read)


def has_tokens(model: ir.Model, facts: FactCache) -> bool:
    """Whether the first output has a row for every token."""
    return (model.graph.outputs[0].name or "") in facts.get(Axes).tokens


def parted(total: int, fit: int, held: int) -> tuple[list[int], list[int]]:
    """Indices to fit on, and others to measure on, a quarter at most; all for both where these are few."""
    held = min(held, total // 4)
    if held < LEAST_HELD:
        return spread(total, fit), list(range(total))
    apart = spread(total, held)
    rest = [index for index in range(total) if index not in frozenset(apart)]
    return [rest[place] for place in spread(len(rest), fit)], apart


def change(model: ir.Model, key: str, group: Group, order: Order, width: int) -> Change:
    """The weights of all readers with ``width`` units of the group left."""
    gone = [u for u in range(group.units) if u not in order.removal.kept(width, group.units)]
    refitted = order.removal.weights.get(width)
    contents: dict[str, Array] = {}
    for place, reading in enumerate(order.readings):
        op = reading.op
        before = op.matrix(stored(model, op.weight))
        after = _without(before, reading, gone) if refitted is None else refitted[place]
        contents[op.weight] = op.tensor(after, stored(model, op.weight))
        if op.bias is not None:
            bias = stored(model, op.bias)
            contents[op.bias] = (bias + order.means[place] @ (before - after)).astype(bias.dtype)
    return Change(key, order.readings[0].op.node, contents)


def said(model: ir.Model, batches: Batches) -> tuple[Array, ...]:
    """The first output, batch by batch."""
    with Walk(clone(model), batches) as walk:
        output = model.graph.outputs[0].name or ""
        return tuple(values[output] for _, values in walk.look([output]))


def measured(
    model: ir.Model,
    changes: Sequence[Change],
    batches: Batches,
    reference: Sequence[Array] | None = None,
) -> Mapping[str, Damage]:
    """Damage of each change alone to the first output, by its key.

    Against what ``model`` says, or against ``reference`` (``said`` of the original, on the same batches):
    then what ``model`` has lost already is part of it.
    """
    copy = clone(model)
    output = copy.graph.outputs[0].name or ""
    nodes = {node.outputs[0].name: (index, node) for index, node in enumerate(copy.graph)}
    found: dict[str, Damage] = {}
    with Walk(copy, batches) as walk:
        if reference is None:
            reference = [values[output] for _, values in walk.look([output])]
        at = 0
        for each in sorted(changes, key=lambda change: nodes[change.first][0]):
            index, node = nodes[each.first]
            if index > at:
                deque(walk.advance(node), maxlen=0)
                at = index
            before = {name: stored(copy, name) for name in each.contents}
            _write(copy, each.contents)
            changed = [values[output] for _, values in walk.look([output])]
            _write(copy, before)
            found[each.key] = _damage(reference, changed)
    return found


def _without(matrix: Doubles, reading: Reading, gone: Sequence[int]) -> Doubles:
    cut = matrix.copy()
    for unit in gone:
        cut[reading.columns[unit]] = 0.0
    return cut


def _write(model: ir.Model, contents: Mapping[str, Array]) -> None:
    for name, array in contents.items():
        store(model, name, array)


def _damage(reference: Sequence[Array], changed: Sequence[Array]) -> Damage:
    """Outputs may differ in length from batch to batch: then all numbers are one row."""
    if len({array.shape[1:] for array in reference}) == 1:
        return damage_of(np.concatenate(reference), np.concatenate(changed))
    return damage_of(*(np.concatenate([array.ravel() for array in each]) for each in (reference, changed)))
