"""Merge chains of operators that only move data.

    y = Transpose<perm=[1,0,2]>(Transpose<perm=[0,2,1]>(x))   ->   y = Transpose<perm=[2,0,1]>(x)

Transpose after Transpose, Reshape after Reshape, Unsqueeze after Unsqueeze. Two Transposes that undo each
other become an Identity, which ``remove-identities`` removes. Each removed operator saves a dispatch and a
copy; no number is computed, so none changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

from adapass.passes.clean.adopted import AdoptedRules, Rule
from adapass.rewrite import Exactness


@dataclass(frozen=True, kw_only=True)
class MergeLayoutChains(AdoptedRules):
    """One Transpose, Reshape or Unsqueeze where there are two in a row."""

    name: ClassVar[str] = "merge-layout-chains"
    exactness: ClassVar[Exactness] = Exactness.BITWISE
    root_ops: ClassVar[frozenset[str]] = frozenset({"Reshape", "Transpose", "Unsqueeze"})

    def rules(self) -> Sequence[Rule]:
        common = import_module("onnxscript.rewriter.rules.common")
        return (
            common.reshape_reshape_rule,
            common.transpose_transpose_rule,
            common.unsqueeze_unsqueeze_rule,
            common.squeeze_reshape_1d_rule,
        )
