"""What every part of one healing run shares."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from adapass.budgeted import Samples
from adapass.healing.batches import Integers, Split
from adapass.healing.settings import Settings
from adapass.healing.variations import NOTHING, Variations
from adapass.healing.watch import Watch


@dataclass(frozen=True, eq=False, slots=True)
class Course:
    """The teacher, its data, and how to learn from it."""

    original: ir.Model
    samples: Samples
    parts: Split
    sizes: Integers
    """How large each sample is (``batches.lengths``)."""
    settings: Settings
    seed: int
    watch: Watch
    variations: Variations = NOTHING
    frozen: frozenset[str] = frozenset()
    """Weights that stay as they are."""
