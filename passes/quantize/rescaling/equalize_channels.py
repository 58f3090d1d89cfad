"""Equalize the ranges of channels across pairs of layers.

    v = Relu (Conv (x, w1, b1))         ->     v = Relu (Conv (x, w1 / s, b1 / s))
    y = Conv (v, w2)                           y = Conv (v, w2 * s)

    p = MatMul (q, Transpose (k))       ->     query weights / s, key weights * s

No faster by itself: one scale for a whole tensor then loses less where 8 or fewer bits follow. Exact over the
reals, because everything between the two layers scales with its input; results differ by rounding. Needs no
data. Pairs: a product and its readers behind activations, pools and depthwise convolutions; queries and keys
(their product sums over the channels of a head; the coupling that Liu et al. 2023, arXiv:2302.02210,
reparameterise); values and the projection behind the attention.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.edit import remove_dead_nodes
from adapass.passes.quantize.rescaling.equalize import equalizing_scales
from adapass.passes.quantize.rescaling.find import find_links
from adapass.passes.quantize.rescaling.links import rescale
from adapass.rewrite import Exactness, Pass, PassResult, Reject


@dataclass(frozen=True, kw_only=True)
class EqualizeChannels(Pass):
    """Cross-layer equalization of weight ranges, iterated until it settles.

    Left alone: channels that are added to other values (a residual stream), clipped at fixed bounds,
    returned by the model, or mixed by anything but a product with constant weights.
    """

    name: ClassVar[str] = "equalize-channels"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    source: ClassVar[str] = "Nagel et al. 2019, arXiv:1906.04721"

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        links, refusals = find_links(model)
        reasons = Counter(refusal.reason for refusal in refusals)
        wanted = [link for link in links if only is None or link.name in only]
        scales = equalizing_scales(wanted)
        done: list[str] = []
        for link in wanted:
            if link.name not in scales:
                reasons["both sides have the same ranges, or one has no weights"] += 1
                continue
            try:
                rescale(model.graph, link, scales[link.name])
            except Reject as reason:
                reasons[str(reason)] += 1
                continue
            done.append(link.name)
        if done:
            remove_dead_nodes(model)
            facts.keep_only(())
        return PassResult(len(done), MappingProxyType(dict(reasons)), tuple(done))
