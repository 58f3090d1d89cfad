"""Which cut points can carry an exit, and which are left out, with the reason."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from adapass.analyses.cut_points import CutPoint, CutPoints, Layout
from adapass.analyses.kept_tokens import KeptTokens
from adapass.analyses.shapes import Shapes
from adapass.analyses.token_mask import TokenMask
from adapass.budgeted import Refusal
from adapass.facts import FactCache
from adapass.passes.exits.features import Site


def find_sites(
    model: ir.Model, facts: FactCache, *, min_saving: float, max_exits: int
) -> tuple[tuple[Site, ...], tuple[Refusal, ...]]:
    """Sites in execution order, at most ``max_exits`` of them, spread over the depth of the model."""
    known = facts.get(CutPoints)
    refusals = [Refusal(value, reason) for value, reason in known.refusals]
    usable: list[CutPoint] = []
    for cut in known.points:
        if cut.channels is None:
            refusals.append(
                Refusal(cut.value, "the number of channels here is not fixed, so no head can be built")
            )
        elif 1.0 - cut.depth < min_saving:
            refusals.append(Refusal(cut.value, "almost no work is left after it (see min-saving)"))
        else:
            usable.append(cut)
    kept = _spread(usable, max_exits)
    refusals += [
        Refusal(cut.value, "enough exits lie nearby (see max-exits)") for cut in usable if cut not in kept
    ]
    return tuple(make_site(model, facts, cut) for cut in kept), tuple(refusals)


def make_site(model: ir.Model, facts: FactCache, cut: CutPoint) -> Site:
    """``cut`` with the size of its image, or the mask of its tokens."""
    dims = facts.get(Shapes).of(cut.value)
    if cut.layout is Layout.IMAGE:
        height, width = _image_size(model, cut)
        return Site(cut, height=height, width=width)
    kept = facts.get(KeptTokens).masks
    if cut.layout is Layout.TOKENS and cut.value in kept:
        return Site(cut, mask=kept[cut.value])
    mask = facts.get(TokenMask)
    if cut.layout is not Layout.TOKENS or mask.input is None or dims is None or cut.token_axis is None:
        return Site(cut)
    mask_dims = facts.get(Shapes).of(mask.input)
    fits = mask_dims is not None and mask_dims[mask.token_axis] == dims[cut.token_axis]
    return Site(cut, mask=mask.input if fits and mask.batch_axis == 0 else None)


def _image_size(model: ir.Model, cut: CutPoint) -> tuple[int | None, int | None]:
    shape = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)[cut.value].shape
    if shape is None:
        return None, None
    height, width = (
        shape[axis] for axis in range(shape.rank()) if axis not in (cut.batch_axis, cut.channel_axis)
    )
    return (height if isinstance(height, int) else None, width if isinstance(width, int) else None)


def _spread(cuts: Sequence[CutPoint], limit: int) -> list[CutPoint]:
    """At most ``limit`` cuts, near evenly spaced depths; ends of blocks win over their insides."""
    if len(cuts) <= limit:
        return list(cuts)
    left = list(cuts)
    kept: list[CutPoint] = []
    for index in range(limit):
        target = (index + 0.5) / limit
        nearest = min(
            left, key=lambda cut: (abs(cut.depth - target) + (cut.block is None) * 0.5 / limit, cut.depth)
        )
        left.remove(nearest)
        kept.append(nearest)
    return [cut for cut in cuts if cut in kept]
