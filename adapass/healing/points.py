"""Where the two models compute the same thing: cut points that have kept their name and shape."""

from __future__ import annotations

import onnx_ir as ir

from adapass.analyses.cut_points import CutPoint, CutPoints
from adapass.facts import FactCache
from adapass.graph.stand_ins import stand_ins


def shared_points(original: ir.Model, pruned: ir.Model) -> tuple[CutPoint, ...]:
    """Cut points of ``original`` that ``pruned`` has too, with the side values it needs, in order.

    A stream that has become narrower is no shared point: its channels cannot be compared.
    """
    ours = ir.convenience.create_value_mapping(original.graph, include_subgraphs=False)
    theirs = ir.convenience.create_value_mapping(pruned.graph, include_subgraphs=False)
    returned = {value.name for value in original.graph.outputs}
    return tuple(
        point
        for point in FactCache(original).get(CutPoints).points
        if point.value not in returned
        and all(name in theirs for name in (point.value, *point.side_values))
        and _agree(ours[point.value], theirs[point.value])
    )


def block_ends(points: tuple[CutPoint, ...]) -> tuple[CutPoint, ...]:
    """The points at which blocks end; all of them where the model has no blocks."""
    ends = tuple(point for point in points if point.block is not None)
    return ends or points


def compared(original: ir.Model, pruned: ir.Model) -> tuple[tuple[str, str], ...]:
    """Block ends to compare, as pairs of a value of ``pruned`` and one of ``original``, in its order.

    Where blocks were taken out, the value before them does the work of the one behind the last of them: that
    is what it was fitted to, and what the blocks that stay expect.
    """
    points = FactCache(original).get(CutPoints).points
    ours = ir.convenience.create_value_mapping(original.graph, include_subgraphs=False)
    theirs = ir.convenience.create_value_mapping(pruned.graph, include_subgraphs=False)
    replaced = stand_ins(pruned)
    found = {point.value: point.value for point in block_ends(shared_points(original, pruned))}
    for point in points:
        value = replaced.get(point.value)
        if value in found and _agree(ours[point.value], theirs[value]):
            found[value] = point.value
    return tuple(found.items())


def _agree(a: ir.Value, b: ir.Value) -> bool:
    if a.dtype != b.dtype or a.shape is None or b.shape is None or a.shape.rank() != b.shape.rank():
        return False
    # Symbols may be named differently; sizes may not differ.
    pairs = zip(a.shape, b.shape, strict=True)
    return all(x == y for x, y in pairs if isinstance(x, int) and isinstance(y, int))


def float_outputs(model: ir.Model) -> tuple[str, ...]:
    """The outputs there is a distance on."""
    return tuple(
        v.name or "" for v in model.graph.outputs if v.dtype is not None and v.dtype.is_floating_point()
    )
