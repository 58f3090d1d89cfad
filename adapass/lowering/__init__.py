"""Three ways to run a model with early exits: branches in one file, stages with a runner, masked compute."""

from __future__ import annotations

from adapass.lowering.branches import lower_to_if
from adapass.lowering.masked import lower_to_masked
from adapass.lowering.stages import lower_to_stages

__all__ = ["lower_to_if", "lower_to_masked", "lower_to_stages"]
