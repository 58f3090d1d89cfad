"""Let a convolution do its own padding.

    y = Conv<pads=[0,0,0,0]>(Pad(x, {0,0,1,1,0,0,1,1}), w)   ->   y = Conv<pads=[1,1,1,1]>(x, w)

Saves writing and reading the padded copy. Only constant padding by zero, of the spatial axes: then it
is what the convolution itself means by padding. A runtime may pick another kernel, hence rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

from adapass.passes.clean.adopted import AdoptedRules, Rule
from adapass.rewrite import Exactness


@dataclass(frozen=True, kw_only=True)
class FusePadIntoConv(AdoptedRules):
    """Move a zero Pad into the ``pads`` of the Conv that reads it."""

    name: ClassVar[str] = "fuse-pad-into-conv"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    root_ops: ClassVar[frozenset[str]] = frozenset({"Conv"})

    def rules(self) -> Sequence[Rule]:
        return (import_module("onnxscript.rewriter.rules.common").fuse_pad_into_conv_rule,)
