"""Fit what computes one row a sample again, once tokens are left behind: closed form, no labels.

    y = MatMul(x [N, C], w)      x' flows through fewer tokens      y' = MatMul(x', w')

Behind the place where the result is read from one token, every sample has one row in both models, and what a
product should say is what it says in the original (optimal brain surgeon's lineage, as in
``adapass.passes.prune.refit``). Products before it see other rows than in the original, and are left alone.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from adapass.analyses.axes import Axes
from adapass.analyses.shapes import Shapes
from adapass.budgeted import Samples
from adapass.facts import FactCache
from adapass.moments.batches import Batches
from adapass.passes.prune.linear_ops import linear_ops
from adapass.passes.prune.refit import refit_products
from adapass.passes.tokens.walk import SAMPLES, TOKENS


def refit_result(
    original: ir.Model, changed: ir.Model, data: Samples, *, count: int, ridge: float
) -> tuple[str, ...]:
    """Fit the products of ``changed`` with one row a sample in place; names of the fitted weights."""
    products = row_products(original)
    if not products:
        return ()
    return refit_products(original, changed, products, Batches.of(original, data, count=count), ridge=ridge)


def row_products(model: ir.Model) -> Collection[str]:
    """Products of which the result has the batch, the channels, and nothing between that is not one."""
    facts = FactCache(model)
    shapes, axes = facts.get(Shapes), facts.get(Axes)
    found: list[str] = []
    for op in linear_ops(model):
        dims = shapes.of(op.node)
        if dims is None or len(dims) < 2 or op.source.window is not None or axes.batch_axis(op.node) != 0:
            continue
        if all(dim.at(SAMPLES, TOKENS) == 1 for dim in dims[1:-1]):
            found.append(op.node)
    return found
