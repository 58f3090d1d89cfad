"""Values that a rewrite took out of a graph, and what has come in their place.

Later steps know places of the clean model by names of its values (the cut an exit sits at). A rewrite that
removes such a value (a Relu that a conversion to unsigned numbers does anyway) notes its name on the node
that reads what stands in for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnx_ir as ir

STANDS_IN: Final = "adapass.stands_in_for"
"""Metadata key of a node: its first input stands in for the value of that name."""


def note_stand_in(reader: ir.Node, removed: str) -> None:
    """The first input of ``reader`` stands in for the value ``removed``."""
    reader.metadata_props[STANDS_IN] = removed


def stand_ins(model: ir.Model) -> Mapping[str, str]:
    """For each removed value the name of the one in its place."""
    found: dict[str, str] = {}
    for node in model.graph:
        removed = node.metadata_props.get(STANDS_IN)
        value = node.inputs[0] if removed is not None and node.inputs else None
        if removed is not None and value is not None and value.name:
            found[removed] = value.name
    return found
