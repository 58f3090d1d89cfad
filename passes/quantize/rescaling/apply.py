"""Rescale a float model in place before it is quantized, and rename what that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Feeds, Samples
from adapass.errors import VerificationError
from adapass.graph.edit import fresh_name, remove_dead_nodes
from adapass.graph.stand_ins import STANDS_IN, note_stand_in
from adapass.passes.quantize.rescaling.equalize import equalizing_scales
from adapass.passes.quantize.rescaling.find import find_links
from adapass.passes.quantize.rescaling.links import Doubles, Link, rescale
from adapass.passes.quantize.rescaling.migrate import Rounded, migrating_scale, watch_channels
from adapass.rewrite import Reject
from adapass.verification import ROUNDING_TOLERANCE, compare


def equalize(model: ir.Model) -> frozenset[str]:
    """Equalize weight ranges in place; the names of the values that changed."""
    links, _ = find_links(model)
    return _rescale_all(model, links, equalizing_scales(links))


def migrate(
    model: ir.Model,
    products: frozenset[str],
    data: Samples,
    *,
    samples: int,
    alpha: float | None,
    rounded: Rounded,
) -> frozenset[str]:
    """Move outliers of what ``products`` (names of results) read into weights, in place.

    ``alpha=None`` does so where it pays, see ``migrating_scale``. The names of the values that changed.
    """
    links = [
        replace(link, reads=reads)
        for link in find_links(model)[0]
        if (reads := tuple(r for r in link.reads if r.slot.node.outputs[0].name in products))
    ]
    seen = watch_channels(model, links, data, samples=samples)
    scales = {link.name: migrating_scale(link, seen, rounded, alpha) for link in links}
    return _rescale_all(model, links, {name: scale for name, scale in scales.items() if scale is not None})


def rename(model: ir.Model, values: frozenset[str]) -> None:
    """Give values that changed new names: who knows them by the old ones must not take them for the same.

    As places they are the same: they stand in for the old ones.
    """
    for node in model.graph:
        for value in node.outputs:
            if value.name not in values:
                continue
            old, value.name = value.name, fresh_name(model.graph, f"{value.name}_rescaled")
            readers = [node for node in model.graph if node.inputs and node.inputs[0] is value]
            free = [reader for reader in readers if STANDS_IN not in reader.metadata_props]
            if free:
                note_stand_in(free[0], old or "")


def check_rescaled(before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
    """Both compute the same float outputs, up to rounding.

    Raises:
        VerificationError: they do not.

    """
    for difference in compare(before, after, feeds=feeds).differences:
        kind = next(v.dtype for v in before.graph.outputs if v.name == difference.output)
        bound = ROUNDING_TOLERANCE.get(kind.numpy().name if kind is not None else "", np.inf)
        if not difference.relative_max <= bound:
            raise VerificationError(
                f"rescaling channels moved output '{difference.output}' by {difference.relative_max:.3g} of "
                f"its size, at most {bound:g} is rounding"
            )


def _rescale_all(model: ir.Model, links: Sequence[Link], scales: Mapping[str, Doubles]) -> frozenset[str]:
    changed: set[str] = set()
    for link in links:
        if link.name not in scales:
            continue
        try:
            rescale(model.graph, link, scales[link.name])
        except Reject:
            continue  # a number would overflow: as good as no link
        changed.update(link.values)
    if changed:
        remove_dead_nodes(model)
    return frozenset(changed)
