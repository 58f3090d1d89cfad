"""Embedding tables: weights that are looked up and never multiplied."""

from __future__ import annotations

import onnx_ir as ir

_RANK = 2


def embedding_tables(model: ir.Model) -> frozenset[str]:
    """Initializers ``[entries, width]`` whose every reader gathers rows of them.

    A rewrite leaves them right where it does not narrow them, and they can be most of a model's numbers:
    training them costs more than the rest, and moves only the rows that the few samples hold.
    """
    return frozenset(
        name
        for name, value in model.graph.initializers.items()
        if value.shape is not None
        and value.shape.rank() == _RANK
        and value.uses()
        and all(
            use.node.op_type == "Gather" and use.idx == 0 and use.node.attributes.get_int("axis", 0) == 0
            for use in value.uses()
        )
    )
