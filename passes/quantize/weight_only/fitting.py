"""Round weights anew when there is data, one product after the other in execution order.

    run the model up to a product  ->  second moment of its inputs  ->  round its weight  ->  run on

What a product reads then already carries the errors of the products before it, as it will when it runs. The
target may be moved too: the weight W' for which x' W' comes nearest to the x W of the float model, x' being
what is read now (Li et al. 2025, GPTAQ, arXiv:2504.02692, in closed form).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Samples
from adapass.executor.threads import one_thread
from adapass.graph.constants import RESTORES
from adapass.moments.batches import Batches
from adapass.moments.second import CrossSums, MomentSums
from adapass.moments.sources import Source, stored_rows
from adapass.moments.walk import Walk
from adapass.passes.quantize.weight_only.grid import Doubles
from adapass.passes.quantize.weight_only.second_order import damp


@dataclass(frozen=True, slots=True)
class Seen:
    """Second moments of what a product reads."""

    gram: Doubles
    """[K, K], of the inputs as they are now."""
    cross: Doubles | None
    """[K, K], of the inputs now with those of the float model; ``None``: not looked at."""

    def target(self, matrix: Doubles, damping: float) -> Doubles:
        """The weight that does now what ``matrix`` did on float inputs, no further away than data demands."""
        if self.cross is None:
            return matrix
        from scipy.linalg import cho_factor, cho_solve

        damped = damp(self.gram, damping)
        moved = cho_solve(cho_factor(damped, lower=True), (self.cross - self.gram) @ matrix)
        return matrix + np.asarray(moved, np.float64)


Install = Callable[[str, Seen], None]
"""Round the weight of a site and put it into the model that is being walked."""


def walk_sites(
    model: ir.Model,
    original: ir.Model,
    sources: Mapping[str, Source],
    data: Samples,
    install: Install,
    *,
    samples: int,
    rows_each: int,
    corrected: bool,
) -> None:
    """Visit the sites of ``sources`` in execution order; ``original`` is the float model."""
    batches = Batches.of(original, data, count=samples, rows_each=rows_each, padded=True)
    starts = _starts(model, frozenset(sources))
    products = {node.outputs[0].name: node for node in original.graph}
    seen: dict[Source, Seen] = {}
    with one_thread(), Walk(model, batches) as now, Walk(original, batches) as before:
        for site, start in starts.items():
            source = sources[site]
            if source not in seen:
                seen[source] = _look(
                    (now, start), (before, products[site]) if corrected else None, source, batches
                )
            install(site, seen[source])


def _starts(model: ir.Model, sites: frozenset[str]) -> dict[str, ir.Node]:
    """The first of the nodes that restore each weight, in execution order."""
    found: dict[str, ir.Node] = {}
    for node in model.graph:
        site = node.metadata_props.get(RESTORES)
        if site in sites:
            found.setdefault(site, node)
    return found


def _look(
    now: tuple[Walk, ir.Node], before: tuple[Walk, ir.Node] | None, source: Source, batches: Batches
) -> Seen:
    layout, names = batches.layout(source.value), (source.value,)
    if before is None:
        sums = MomentSums()
        for selection, values in now[0].advance(now[1], names):
            sums.add(stored_rows(values[source.value], source, layout, selection))
        return Seen(sums.done(source.value).gram, None)
    pairs = CrossSums()
    both = zip(now[0].advance(now[1], names), before[0].advance(before[1], names), strict=True)
    for (selection, values), (_, first) in both:
        pairs.add(
            stored_rows(values[source.value], source, layout, selection),
            stored_rows(first[source.value], source, layout, selection),
        )
    found = pairs.done(source.value)
    return Seen(found.x.gram, found.cross)
