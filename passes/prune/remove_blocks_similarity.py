"""How little a branch moves its stream: the cheap order in which to try removals.

    similarity = mean over positions of  cos(x, x + f(x)),   both normalised where the block is post-norm

One run over the samples serves all branches. What such a change does further behind is not seen, so this
orders, and the measured damage decides (block influence, Men et al. 2024, arXiv:2403.03853).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from adapass.analyses.dataflow import name_of
from adapass.budgeted import Samples
from adapass.facts import FactCache
from adapass.moments.batches import Batches
from adapass.moments.second import Doubles, watch
from adapass.moments.sources import Source, take_rows
from adapass.passes.prune.remove_blocks_branches import Branch, find_branches


def similarities(
    model: ir.Model, facts: FactCache, samples: Samples, *, count: int = 64
) -> Mapping[str, float]:
    """Mean cosine of stream before and behind each branch, by site, on ``count`` evenly spaced samples.

    Raises:
        DataError: there are no samples.

    """
    branches, _ = find_branches(model, facts)
    pairs = {
        branch.site: (_source(branch, branch.stream), _source(branch, _behind(branch))) for branch in branches
    }
    batches = Batches.of(model, samples, count=count)
    sums, rows = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0)
    names = [source.value for pair in pairs.values() for source in pair]
    for selection, values in watch(model, names, batches) if pairs else ():
        for site, pair in pairs.items():
            before, after = (
                take_rows(values[source.value], source, batches.layout(source.value), selection)
                for source in pair
            )
            sums[site] += float(_cosines(before, after).sum())
            rows[site] += len(before)
    return MappingProxyType({site: sums[site] / max(rows[site], 1) for site in pairs})


def _source(branch: Branch, value: ir.Value) -> Source:
    return Source(name_of(value), branch.axis)


def _behind(branch: Branch) -> ir.Value:
    """The sum as the next branch sees it: normalised, or behind its activation."""
    norm = branch.norm
    if norm is not None:
        return norm.outputs[0]
    readers = [use.node for use in branch.sum.uses()]
    is_activated = len(readers) == 1 and readers[0].op_type == "Relu" and not branch.sum.is_graph_output()
    return readers[0].outputs[0] if is_activated else branch.sum


def _cosines(a: Doubles, b: Doubles) -> Doubles:
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    known = sizes > 0.0
    return np.where(known, (a * b).sum(axis=1) / np.where(known, sizes, 1.0), 1.0)
