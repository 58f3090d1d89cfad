"""Let what stays do the work of what was removed: closed-form least squares on calibration activations.

The original and the rewritten model walk side by side over the same samples. In execution order,

1. the map in the place of a branch is regressed on the original's sum (or normalised sum),
2. the first products of a branch that stays, behind a removed one, are refitted so that on the stream as it
   now is they compute what they did,
3. its last product is refitted so that stream plus branch are the original's sum, and where the next
   branches of the stream are removed, the sum behind the last of those.

Each fit sees the activations as the fits before have left them. (Output reconstruction, Frantar and Alistarh
2022, arXiv:2208.11580.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from adapass.analyses.dataflow import name_of
from adapass.budgeted import Array
from adapass.executor.threads import one_thread
from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.moments.batches import Batches
from adapass.moments.second import CrossMoments, CrossSums, Doubles
from adapass.moments.sources import Source, take_rows
from adapass.moments.walk import Walk
from adapass.passes.prune.least_squares import fitted
from adapass.passes.prune.linear_ops import LinearOp, linear_ops, store, stored
from adapass.passes.prune.remove_blocks_branches import Branch, chains, find_branches
from adapass.passes.prune.remove_blocks_rewrite import KIND, MARK, MIXING, Affine, affine_at


class Refit(StrEnum):
    """Which layers of the branches that stay are refitted."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Removal:
    """What was done to a model, in the words of the original."""

    original: ir.Model
    removed: frozenset[str]
    """Sites whose branches went without anything in their place."""
    replaced: frozenset[str]
    """Sites with scale or shift in their place."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """How to fit."""

    refit: Refit
    damping: float
    """Pull towards the weights as they were, relative to the mean square of what they multiply."""
    reach: int
    """So many branches behind a removed one are refitted."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One fit: rows of x in the rewritten model against rows of y (less ``minus``) in the original."""

    before: ir.Node
    """Node of the original up to which it is run."""
    after: ir.Node
    """Node of the rewritten model up to which it is run: the one to fit."""
    x: Source
    y: Source
    minus: Source | None
    what: LinearOp | Affine


def reconstruct(removal: Removal, model: ir.Model, batches: Batches, how: Fitting) -> None:
    """Fit scales, shifts and weights of ``model`` in place."""
    original = clone(removal.original)
    steps = tuple(_Plan.of(original, model, removal, how).steps())
    with one_thread(), Walk(original, batches) as before, Walk(model, batches) as after:
        for step in steps:
            moments = _moments(step, before, after, batches)
            if isinstance(step.what, Affine):
                _fit_affine(model, step.what, moments)
            else:
                _fit_product(model, step.what, moments, how.damping)


def _moments(step: _Step, before: Walk, after: Walk, batches: Batches) -> CrossMoments:
    sums = CrossSums()
    names = [step.x.value, *([step.minus.value] if step.minus is not None else [])]
    given, wanted = after.advance(step.after, names), before.advance(step.before, [step.y.value])
    for (selection, xs), (_, ys) in zip(given, wanted, strict=True):

        def rows(values: Mapping[str, Array], source: Source) -> Doubles:
            return take_rows(values[source.value], source, batches.layout(source.value), selection)  # noqa: B023

        y = rows(ys, step.y)
        sums.add(rows(xs, step.x), y if step.minus is None else y - rows(xs, step.minus))
    return sums.done(step.x.value)


def _fit_product(model: ir.Model, op: LinearOp, moments: CrossMoments, damping: float) -> None:
    weight = stored(model, op.weight)
    matrix, bias = fitted(moments, op.matrix(weight), ridge=damping, bias=op.bias is not None)
    store(model, op.weight, op.tensor(matrix, weight))
    if op.bias is not None:
        old = stored(model, op.bias)
        store(model, op.bias, bias.reshape(old.shape).astype(old.dtype))


def _fit_affine(model: ir.Model, affine: Affine, moments: CrossMoments) -> None:
    """Per channel the line through (x, y), or the mean difference where there is no scale."""
    rows = moments.x.rows
    x_mean, y_mean = moments.x.total / rows, moments.total / rows
    factor = np.ones_like(x_mean)
    if affine.scaled:
        variance = np.diag(moments.x.gram) / rows - x_mean**2
        covariance = np.diag(moments.cross) / rows - x_mean * y_mean
        usual = variance > 1e-9 * max(float(variance.max(initial=0.0)), 1e-30)
        factor = np.where(usual, covariance / np.where(usual, variance, 1.0), 1.0)
        assert affine.scale is not None  # a scaled one has a scale
        _put(model, affine.scale, factor)
    _put(model, affine.shift, y_mean - factor * x_mean)


def _put(model: ir.Model, name: str, numbers: Doubles) -> None:
    old = stored(model, name)
    store(model, name, numbers.reshape(old.shape).astype(old.dtype))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What has to be fitted, in the order of the original."""

    theirs: tuple[Branch, ...]
    ours: Mapping[str, Branch]
    ops: Mapping[str, LinearOp]
    """Of the rewritten model, by the result of the node."""
    nodes: Mapping[str, ir.Node]
    """Of the rewritten model, by result."""
    outputs: Mapping[str, str]
    """Of the original: result of a product to the same with the bias added."""
    affine: Mapping[str, ir.Node]
    """By the value of the original that they stand for."""
    removal: Removal
    how: Fitting

    @classmethod
    def of(cls, original: ir.Model, model: ir.Model, removal: Removal, how: Fitting) -> _Plan:
        return cls(
            find_branches(original, FactCache(original))[0],
            {branch.site: branch for branch in find_branches(model, FactCache(model))[0]},
            {op.node: op for op in linear_ops(model) if not op.shared},
            {name_of(node.outputs[0]): node for node in model.graph},
            {op.node: op.output.value for op in linear_ops(original)},
            {node.metadata_props[MARK]: node for node in model.graph if MARK in node.metadata_props},
            removal,
            how,
        )

    def steps(self) -> Iterator[_Step]:
        ends = ends_of(self.theirs, self.removal.removed)
        left = 0
        for branch in self.theirs:
            if branch.site in self.removal.removed | self.removal.replaced:
                left = self.how.reach
                yield from self._affine_steps(branch)
                continue
            ours = self.ours.get(branch.site)
            if ours is None or self.how.refit is Refit.NONE:
                continue
            if left > 0 and self.how.refit is Refit.ALL:
                yield from self._first_steps(branch, ours)
            if left > 0 or ends[branch.site] is not branch:
                yield from self._last_step(branch, ours, ends[branch.site])
            left -= 1

    def _affine_steps(self, branch: Branch) -> Iterator[_Step]:
        normed = () if branch.norm is None else branch.norm.outputs
        for end in (branch.sum, *normed):
            node = self.affine.get(name_of(end))
            if node is None:
                continue
            y = Source(name_of(end), branch.axis)
            if node.metadata_props[KIND] in MIXING:
                op = next(op for op in self.ops.values() if op.output.value == name_of(node.outputs[0]))
                yield _Step(branch.add, self.nodes[op.node], op.source, y, None, op)
                continue
            affine = affine_at(node)
            yield _Step(branch.add, affine.first, Source(affine.stream, branch.axis), y, None, affine)

    def _first_steps(self, theirs: Branch, ours: Branch) -> Iterator[_Step]:
        match = {name_of(node.outputs[0]): node for node in theirs.products}
        for node in ours.products[:-1]:
            name = name_of(node.outputs[0])
            op = self.ops.get(name)
            if op is None or name not in self.outputs or self.outputs[name] != op.output.value:
                continue
            yield _Step(match[name], node, op.source, op.output, None, op)

    def _last_step(self, theirs: Branch, ours: Branch, end: Branch) -> Iterator[_Step]:
        node = ours.products[-1]
        op = self.ops.get(ours.site)
        if op is None or op.output.value != name_of(ours.result):
            return
        minus = Source(name_of(ours.stream), op.output.axis)
        y = Source(name_of(end.sum), op.output.axis)
        yield _Step(theirs.products[-1], node, op.source, y, minus, op)


def ends_of(branches: Sequence[Branch], removed: frozenset[str]) -> dict[str, Branch]:
    """For each branch the last of those right behind it on the stream that are removed, or itself.

    Behind a normalised sum the next one cannot be reached by adding more: there it is always the branch.
    """
    ends: dict[str, Branch] = {}
    for chain in chains(branches):
        end: Branch | None = None
        for branch in reversed(chain):
            last = branch if end is None else end
            ends[branch.site] = last
            end = last if branch.site in removed and branch.norm is None else None
    return ends
