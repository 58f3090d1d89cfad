"""The default pipelines, as names in order. What a pass does is in its file; here is only what runs when."""

from __future__ import annotations

from typing import Final

CLEAN: Final[tuple[str, ...]] = ()

FAMILIES: Final[tuple[str, ...]] = (
    "quantize-8bit",  # before exits: heads are fitted on the activations that will really be there
    "insert-exits",
)
