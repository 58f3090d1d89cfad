"""Recognise a layer normalisation written out.

    m = ReduceMean(x); d = Sub(x, m); v = ReduceMean(Mul(d, d)); n = Div(d, Sqrt(Add(v, eps))); y = Mul(n, g)
    ->
    y = LayerNormalization<epsilon=eps>(x, g)

Six passes over the activation become one. The same mean and variance, summed in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

from adapass.passes.clean.adopted import AdoptedRules, Rule
from adapass.rewrite import Exactness


@dataclass(frozen=True, kw_only=True)
class FuseLayerNorm(AdoptedRules):
    """Replace written-out layer normalisation over the last axis, with and without bias."""

    name: ClassVar[str] = "fuse-layer-norm"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING

    def rules(self) -> Sequence[Rule]:
        return tuple(import_module("onnxscript.rewriter.rules.fusion._layer_norm").layer_normalization_rules)
