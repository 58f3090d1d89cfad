"""Networks to cut with prune-structures, and what cutting does to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Choice, Samples
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.passes.prune.prune_structures import PruneStructures
from adapass.search.damage import damage_of
from tests.passes.prune.nets import CONVS, TOKENS, Images, Sentences, network

STEP = PruneStructures(multiple=2, samples=64, rows=16)
NETS: dict[str, tuple[Callable[[], ir.Model], Samples]] = {
    "convs": (lambda: network(CONVS), Images()),
    "tokens": (lambda: network(TOKENS), Sentences()),
}


def outputs(model: ir.Model, data: Samples) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    session = Session(model, outputs=["y"])
    rows = [session.run(data.feeds(index))["y"] for index in range(len(data))]
    return np.concatenate(rows).astype(np.float64)


def choices_of(model: ir.Model, step: PruneStructures = STEP) -> tuple[Choice, ...]:
    return step.propose(model, FactCache(model)).choices


def halves(model: ir.Model) -> tuple[Choice, ...]:
    """Every group cut to half."""
    return tuple(c for c in choices_of(model) if c.setting == f"keep-{int(str(c.detail['units'])) // 2}")


def pruned(
    model: ir.Model, data: Samples | None, step: PruneStructures, choices: tuple[Choice, ...]
) -> ir.Model:
    copy = clone(model)
    step.apply(copy, FactCache(copy), choices)
    step.fit(copy, data)
    return copy


def distortion(model: ir.Model, changed: ir.Model, data: Samples) -> float:
    return damage_of(outputs(model, data), outputs(changed, data)).distortion
