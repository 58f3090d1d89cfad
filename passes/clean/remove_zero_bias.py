"""Drop a bias that is all zeros.

    y = Conv(x, w, {0, 0, 0})   ->   y = Conv(x, w)

The optional input says nothing; without it a runtime skips the addition. Adding zero may only change
the sign of a zero, hence rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

from adapass.passes.clean.adopted import AdoptedRules, Rule
from adapass.rewrite import Exactness


@dataclass(frozen=True, kw_only=True)
class RemoveZeroBias(AdoptedRules):
    """Remove the zero bias of Conv, ConvTranspose, Gemm and QLinearConv."""

    name: ClassVar[str] = "remove-zero-bias"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    root_ops: ClassVar[frozenset[str]] = frozenset({"Conv", "ConvTranspose", "Gemm", "QLinearConv"})

    def rules(self) -> Sequence[Rule]:
        common = import_module("onnxscript.rewriter.rules.common")
        return (
            common.remove_optional_bias_from_conv_rule,
            common.remove_optional_bias_from_conv_transpose_rule,
            common.remove_optional_bias_from_gemm_rule,
            common.remove_optional_bias_from_qlinear_conv_rule,
        )
