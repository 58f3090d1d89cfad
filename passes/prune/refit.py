"""Fit what remains, front to back, so that it says what the original said: least squares, no labels.

    x' -> product -> y'         x' flows through the pruned, already fitted part before it
    x  -> product -> y          the original

The weights that bring ``y'`` closest to ``y`` (in a residual sum: that bring the sum closest) are solved for
in closed form. Later products see what earlier ones really deliver, so errors do not pile up unseen. Both
models are walked once, piece by piece; memory does not grow with the samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.coupling.groups import Group
from adapass.executor.threads import one_thread
from adapass.graph.shapes import infer_shapes
from adapass.moments.batches import Batches
from adapass.moments.second import CrossSums
from adapass.moments.sources import Doubles, Selection, Source, take_rows
from adapass.moments.walk import Values, Walk, read_by
from adapass.passes.prune.least_squares import fitted
from adapass.passes.prune.linear_ops import LinearOp, linear_ops, store, stored

Integers = npt.NDArray[np.int64]


class Refit(StrEnum):
    """Which products are fitted again."""

    FOLLOWING = "following"
    """Those that read something pruned and all behind them, which see other inputs than before."""
    READERS = "readers"
    """Those that read something pruned."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The same product in both models."""

    before: LinearOp
    after: LinearOp
    inputs: Integers
    """Columns of the original's x that are left."""
    outputs: Integers
    """Outputs of the original that are left."""
    narrowed: bool
    """Whether any column is gone."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What a product should come close to: a value of the original, less what is added to it by then."""

    pair: Pair
    target: str
    residual: str | None


def refit(
    original: ir.Model,
    pruned: ir.Model,
    groups: Sequence[Group],
    kept: Mapping[str, Sequence[int]],
    batches: Batches,
    *,
    which: Refit,
    ridge: float,
) -> tuple[str, ...]:
    """Fit the weights of ``pruned`` in place; the names of the initializers that were fitted.

    ``pruned`` is ``original`` with the units in ``kept`` left of each group.
    """
    infer_shapes(original)  # residual sums are told by their shapes
    wanted = _wanted(pruned, _pairs(original, pruned, groups, kept), which)
    starts = {node.outputs[0].name: node for node in original.graph}
    ahead = {node.outputs[0].name: node for node in pruned.graph}
    names: list[str] = []
    with one_thread(), Walk(original, batches) as given, Walk(pruned, batches) as made:
        while wanted:
            stage = _stage(pruned, wanted)
            wanted = wanted[len(stage) :]
            following = wanted[0].after.node if wanted else None
            shown = given.advance(starts.get(following), [aim.target for aim in stage])
            names += _fit_stage(original, pruned, stage, batches, shown, made, ridge)
            if following is not None:
                _exhaust(made.advance(ahead[following]))
    return tuple(names)


def _fit_stage(
    original: ir.Model,
    pruned: ir.Model,
    stage: Sequence[Aim],
    batches: Batches,
    shown: Iterator[tuple[Selection, Values]],
    made: Walk,
    ridge: float,
) -> list[str]:
    sums = [CrossSums() for _ in stage]
    found = made.look([name for aim in stage for name in (aim.pair.after.source.value, aim.residual) if name])
    for (selection, wants), (_, has) in zip(shown, found, strict=True):
        for aim, sum_ in zip(stage, sums, strict=True):
            _add(sum_, aim, batches, selection, wants, has)
    names: list[str] = []
    for aim, sum_ in zip(stage, sums, strict=True):
        op = aim.pair.after
        before = aim.pair.before
        matrix = before.matrix(stored(original, before.weight))[np.ix_(aim.pair.inputs, aim.pair.outputs)]
        best, bias = fitted(sum_.done(op.node), matrix, ridge=ridge, bias=op.bias is not None)
        store(pruned, op.weight, op.tensor(best, stored(pruned, op.weight)))
        names.append(op.weight)
        if op.bias is not None:
            store(pruned, op.bias, bias.astype(stored(pruned, op.bias).dtype))
            names.append(op.bias)
    return names


def _exhaust(steps: Iterator[object]) -> None:
    deque(steps, maxlen=0)


def _pairs(
    original: ir.Model, pruned: ir.Model, groups: Sequence[Group], kept: Mapping[str, Sequence[int]]
) -> list[Pair]:
    """Products of both models whose sizes are as the removal says, in execution order."""
    before = {op.node: op for op in linear_ops(original)}
    gone = _gone(groups, kept)
    found: list[Pair] = []
    for after in linear_ops(pruned):
        op = before.get(after.node)
        if op is None or op.shared or after.shared or (op.bias is None) != (after.bias is None):
            continue
        array = stored(original, op.weight)
        rows, outputs = (
            _left(array.shape[axis], gone.get((op.weight, axis), frozenset()))
            for axis in (op.input_axis, 1 - op.input_axis)
        )
        columns = op.columns(tuple(int(row) for row in rows))
        if after.matrix(stored(pruned, after.weight)).shape == (len(columns), len(outputs)):
            found.append(Pair(op, after, columns, outputs, len(rows) < array.shape[op.input_axis]))
    return found


def _gone(
    groups: Sequence[Group], kept: Mapping[str, Sequence[int]]
) -> dict[tuple[str, int], frozenset[int]]:
    """Positions that are no longer there, by tensor and axis."""
    gone: dict[tuple[str, int], frozenset[int]] = {}
    for group in groups:
        if group.key not in kept:
            continue
        stay = frozenset(kept[group.key])
        for place in group.stored:
            units = (place.positions[unit] for unit in range(group.units) if unit not in stay)
            lost = frozenset(position for unit in units for position in unit)
            gone[place.value, place.axis] = gone.get((place.value, place.axis), frozenset()) | lost
    return gone


def _left(size: int, gone: frozenset[int]) -> Integers:
    return np.array([position for position in range(size) if position not in gone], np.int64)


def _wanted(pruned: ir.Model, pairs: Sequence[Pair], which: Refit) -> list[Pair]:
    """The products to fit, in execution order."""
    nodes = {pair.after.node: pair for pair in pairs}
    touched: set[ir.Value] = set()
    wanted: list[Pair] = []
    for node in pruned.graph:
        pair = nodes.get(node.outputs[0].name or "")
        narrowed = pair is not None and pair.narrowed
        behind = any(value in touched for value in read_by(node))
        if pair is not None and (narrowed or (behind and which is Refit.FOLLOWING)):
            wanted.append(pair)
        if narrowed or behind:
            touched.update(node.outputs)
    return wanted


def _stage(pruned: ir.Model, wanted: Sequence[Pair]) -> list[Aim]:
    """The next products, as many as do not depend on each other, and what they aim for."""
    waiting = {pair.after.node for pair in wanted}
    unsettled: set[ir.Value] = set()
    settled: set[str] = {value.name or "" for value in pruned.graph.inputs}
    for node in pruned.graph:
        if node.outputs[0].name in waiting or any(value in unsettled for value in read_by(node)):
            unsettled.update(node.outputs)
        else:
            settled.update(value.name or "" for value in node.outputs)
    stage: list[Aim] = []
    for pair in wanted:
        if pair.after.source.value not in settled:
            break
        stage.append(_aim(pair, settled))
    return stage


def _aim(pair: Pair, settled: Collection[str]) -> Aim:
    total, residual = pair.before.total, pair.after.residual
    if total is not None and residual is not None and residual in settled:
        return Aim(pair, total, residual)
    return Aim(pair, pair.before.output.value, None)


def _add(
    sum_: CrossSums, aim: Aim, batches: Batches, selection: Selection, wants: Values, has: Values
) -> None:
    source, axis = aim.pair.after.source, aim.pair.before.output.axis
    y = _rows(wants, Source(aim.target, axis), batches, selection)[:, aim.pair.outputs]
    if aim.residual is not None:
        y = y - _rows(has, Source(aim.residual, axis), batches, selection)
    sum_.add(_rows(has, source, batches, selection), y)


def _rows(values: Values, source: Source, batches: Batches, selection: Selection) -> Doubles:
    return take_rows(values[source.value], source, batches.layout(source.value), selection)
