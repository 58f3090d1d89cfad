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
from adapass.moments.batches import Batches
from adapass.moments.second import CrossMoments, CrossSums
from adapass.moments.sources import Floats, Selection, Source, stored_rows
from adapass.moments.walk import Values, Walk, read_by
from adapass.passes.prune.least_squares import fitted, joined, tried_ridge
from adapass.passes.prune.linear_ops import LinearOp, linear_ops, store, stored

Integers = npt.NDArray[np.int64]
RIDGES = (1.0, 30.0, 1e3, 3e4)
"""Multiples of the ridge that are tried."""


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
    with one_thread(), Walk(original, batches) as given, Walk(pruned, batches) as made:
        # Residual sums are told by their shapes, which both walks have inferred.
        wanted = _wanted(pruned, _pairs(original, pruned, groups, kept), which)
        return _refitted(original, pruned, wanted, batches, given, made, ridge)


def refit_products(
    original: ir.Model, changed: ir.Model, products: Collection[str], batches: Batches, *, ridge: float
) -> tuple[str, ...]:
    """The same for some products by name (of the first output) of a model whose weights are all there.

    Rows of these products must mean the same in both models. Those whose weight is shared are left alone.
    """
    with one_thread(), Walk(original, batches) as given, Walk(changed, batches) as made:
        wanted = [pair for pair in _pairs(original, changed, (), {}) if pair.after.node in products]
        return _refitted(original, changed, wanted, batches, given, made, ridge)


def _refitted(
    original: ir.Model,
    pruned: ir.Model,
    wanted: Sequence[Pair],
    batches: Batches,
    given: Walk,
    made: Walk,
    ridge: float,
) -> tuple[str, ...]:
    starts = {node.outputs[0].name: node for node in original.graph}
    ahead = {node.outputs[0].name: node for node in pruned.graph}
    names: list[str] = []
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
    """Products that read the same rows share their moments, and are solved for together."""
    together = _together(stage)
    sums = [(CrossSums(), CrossSums()) for _ in together]
    found = made.look([name for aim in stage for name in (aim.pair.after.source.value, aim.residual) if name])
    for number, ((selection, wants), (_, has)) in enumerate(zip(shown, found, strict=True)):
        for aims, halves in zip(together, sums, strict=True):
            y = [_missing(aim, batches, selection, wants, has) for aim in aims]
            halves[number % 2].add(_rows(has, aims[0].pair.after.source, batches, selection), np.hstack(y))
    names: list[str] = []
    for aims, halves in zip(together, sums, strict=True):
        seen = [half.done(aims[0].pair.after.node) for half in halves[: len(batches.groups)]]
        names += _solve(original, pruned, aims, seen, ridge)
    return names


def _together(stage: Sequence[Aim]) -> list[list[Aim]]:
    alike: dict[tuple[Source, bool], list[Aim]] = {}
    for aim in stage:
        alike.setdefault((aim.pair.after.source, aim.pair.after.bias is not None), []).append(aim)
    return list(alike.values())


def _solve(
    original: ir.Model, pruned: ir.Model, aims: Sequence[Aim], seen: Sequence[CrossMoments], ridge: float
) -> list[str]:
    """Fit on all that was ``seen``, with the ridge that does best where one half is fitted for the other."""
    before = [
        aim.pair.before.matrix(stored(original, aim.pair.before.weight))[
            np.ix_(aim.pair.inputs, aim.pair.outputs)
        ]
        for aim in aims
    ]
    op, start_at = aims[0].pair.after, np.hstack(before)
    if len(seen) == 2:
        ridges = [ridge * factor for factor in RIDGES]
        ridge = tried_ridge(seen[0], seen[1], start_at, ridges, bias=op.bias is not None)
    best, bias = fitted(joined(seen), start_at, ridge=ridge, bias=op.bias is not None)
    names: list[str] = []
    start = 0
    for aim, matrix in zip(aims, before, strict=True):
        op, part = aim.pair.after, slice(start, start + matrix.shape[1])
        start = part.stop
        store(pruned, op.weight, op.tensor(best[:, part], stored(pruned, op.weight)))
        names.append(op.weight)
        if op.bias is not None:
            store(pruned, op.bias, bias[part].astype(stored(pruned, op.bias).dtype))
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


def _missing(aim: Aim, batches: Batches, selection: Selection, wants: Values, has: Values) -> Floats:
    """What a product should say at each position."""
    axis = aim.pair.before.output.axis
    y = _rows(wants, Source(aim.target, axis), batches, selection)
    if len(aim.pair.outputs) < y.shape[1]:
        y = y[:, aim.pair.outputs]
    return y if aim.residual is None else y - _rows(has, Source(aim.residual, axis), batches, selection)


def _rows(values: Values, source: Source, batches: Batches, selection: Selection) -> Floats:
    return stored_rows(values[source.value], source, batches.layout(source.value), selection)
