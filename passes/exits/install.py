"""Put fitted heads into a model whose exits are already inserted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.errors import ModelError
from adapass.graph.edit import remove_dead_nodes
from adapass.graph.shapes import infer_shapes
from adapass.ops import EXIT_INDEX
from adapass.passes.exits.check_exits import head_digest
from adapass.passes.exits.fit_heads import Winner
from adapass.passes.exits.heads import HeadValues, insert_head
from adapass.passes.exits.insert import Planned, head_record
from adapass.passes.exits.nodes import Builder
from adapass.passes.exits.record import ExitsRecord, HeadRecord, write_record

Floats = npt.NDArray[np.float32]


def install(model: ir.Model, record: ExitsRecord, winners: Sequence[Winner]) -> None:
    """Set the weights of every head; where another structure won, put it in the place of the first one."""
    build = Builder(model, f"{EXIT_INDEX}_head")
    heads: list[HeadRecord] = []
    for index, (head, winner) in enumerate(zip(record.heads, winners, strict=True)):
        same = winner.spec == head.spec()
        placed = (
            head if same else _replace(build, head, winner, record.classes, f"{EXIT_INDEX}_{index}_fitted")
        )
        _, _, weight, bias, queries = placed.values
        _set(model, weight, winner.fitted.head.weight)
        _set(model, bias, winner.fitted.head.bias)
        if placed.readiness:
            _set(model, placed.readiness, np.asarray(winner.fitted.readiness, np.float32))
        if winner.queries is not None:
            _set(model, queries, winner.queries)
        digest = head_digest(model, placed)
        heads.append(
            placed.model_copy(update={"fitted": True, "digest": digest, "quality": _quality(winner)})
        )
    remove_dead_nodes(model)
    infer_shapes(model)
    write_record(model, record.model_copy(update={"heads": tuple(heads)}))


def _replace(build: Builder, head: HeadRecord, winner: Winner, classes: int, name: str) -> HeadRecord:
    new: HeadValues = insert_head(build, head.site(), winner.spec, classes, name)
    build.value(head.values[1]).replace_all_uses_with(new.logits)
    made = head_record(Planned(head.site(), winner.spec, head.wanted), new)
    return made.model_copy(update={"readiness": head.readiness})


def _set(model: ir.Model, name: str, array: Floats) -> None:
    value = model.graph.initializers.get(name)
    if value is None or value.shape is None or tuple(value.shape) != array.shape:
        raise ModelError(
            f"weight '{name}' of an exit is missing or not {list(array.shape)}; insert the exits again"
        )
    value.const_value = ir.tensor(np.ascontiguousarray(array), name=name)


def _quality(winner: Winner) -> dict[str, float]:
    fitted = winner.fitted
    return {
        "held_out_cross_entropy": round(fitted.cross_entropy, 6),
        "held_out_disagreement": round(fitted.disagreement, 6),
        "strength": fitted.strength,
    }
