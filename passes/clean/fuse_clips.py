"""Merge chains of Relu, Clip, Min and Max.

    y = Clip(Relu(x), {-1}, {6})   ->   y = Clip(x, {0}, {6})

Saves a pass over the activation each. The bounds are combined at compile time; the result is picked
from the same numbers, so not one bit changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

from adapass.passes.clean.adopted import AdoptedRules, Rule
from adapass.rewrite import Exactness


@dataclass(frozen=True, kw_only=True)
class FuseClips(AdoptedRules):
    """One Clip, Relu, Min or Max where there are two in a row."""

    name: ClassVar[str] = "fuse-clips"
    exactness: ClassVar[Exactness] = Exactness.BITWISE

    def rules(self) -> Sequence[Rule]:
        common = import_module("onnxscript.rewriter.rules.common")
        return (
            common.successive_clip_relu_rule,
            common.successive_relu_clip_rule,
            common.successive_clip_rule,
            common.successive_relu_rule,
            common.min_min_rule,
            common.max_max_rule,
            common.min_max_rule,
            common.max_min_rule,
        )
