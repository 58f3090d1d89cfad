"""Early exits on given data: from which depth on the answer is there, and how well a head knows it."""

from __future__ import annotations

import numpy as np

from adapass.budgeted import Array
from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.passes.exits.heads import HeadKind, width_of
from adapass.passes.exits.insert_exits import InsertExits
from adapass.passes.exits.record import ExitsRecord, read_record
from adapass.passes.exits.thresholds import Costs, select
from adapass.passes.exits.tuning import collect
from adapass.passes.prospects.prospect import Doubles, Material, Place, Prospect, oracle_of

NAME = "early exits"
HOW = "linear heads on few samples, one threshold or one each"
EXITS = 8


def look_at_exits(material: Material) -> Prospect:
    """Fit heads spread over the depth of the model, and let samples leave at the best thresholds."""
    step = InsertExits(head=HeadKind.LINEAR, max_exits=EXITS, mirror=False)
    model = clone(material.model)
    proposal = step.propose(model, FactCache(model))
    if not proposal.choices:
        why = proposal.refusals[0].reason if proposal.refusals else "there are no places to leave at"
        return Prospect(NAME, HOW, unavailable=why)
    material.progress.step(0, 2, f"fit {len(proposal.choices)} heads")
    step.apply(model, FactCache(model), proposal.choices)
    step.fit(model, material.fit)
    material.progress.step(1, 2, "ask them")
    table = collect(model, material.check)
    record = read_record(model)
    exits = len(record.cuts)
    losses = np.stack([material.judge.losses(table.outputs[:, e]) for e in range(exits + 1)], axis=1)
    costs = _costs(record, sum(material.amounts.values()))
    found = select(table.confidence, losses, costs, material.tolerance)
    best = found[-1] if found else None
    achievable = 0.0 if best is None else 1.0 - best.expected_seconds / costs.whole
    return Prospect(
        NAME,
        HOW,
        oracle=max(oracle_of(list(losses.T), [*np.cumsum(costs.segments)[:-1], 1.0]), achievable),
        achievable=achievable,
        lost=0.0 if best is None else best.loss,
        divergence=None
        if best is None
        else _divergence(material, table.outputs, table.confidence, best.thresholds),
        places=tuple(
            _place(record, index, table.confidence[:, index], losses[:, index], material.tolerance)
            for index in range(exits)
        ),
        recipe="insert-exits{max-exits=14}",
    )


def _costs(record: ExitsRecord, whole: float) -> Costs:
    """Shares of the work of the model; a head costs one product."""
    depths = np.asarray([head.depth for head in record.heads])
    heads = [2.0 * width_of(head.site(), head.spec()) * record.classes / whole for head in record.heads]
    return Costs(np.diff(depths, prepend=0.0, append=1.0), np.asarray(heads, np.float64))


def _place(record: ExitsRecord, index: int, confidence: Array, losses: Doubles, tolerance: float) -> Place:
    """One exit alone: all whom it serves leave (oracle), or the surest as long as that is harmless."""
    head = record.heads[index]
    rest = 1.0 - head.depth
    order = np.argsort(-confidence.astype(np.float64), kind="stable")
    mean = np.cumsum(losses[order]) / len(losses)
    within = np.flatnonzero(mean <= tolerance)
    leaves = int(within[-1]) + 1 if len(within) else 0
    served = float((losses <= 0.0).mean())
    return Place(
        site=head.cut,
        setting=f"depth {head.depth:.0%}, {served:.0%} could leave, {leaves / len(losses):.0%} do",
        oracle=max(served, leaves / len(losses)) * rest,
        achievable=leaves / len(losses) * rest,
        lost=float(mean[leaves - 1]) if leaves else 0.0,
    )


def _divergence(material: Material, outputs: Array, confidence: Array, thresholds: Array) -> float | None:
    stops = confidence.astype(np.float64) >= thresholds.astype(np.float64)
    stops = np.append(stops, np.ones((len(stops), 1), np.bool_), axis=1)
    leaves = stops.argmax(axis=1)
    return material.damage(outputs[np.arange(len(outputs)), leaves]).divergence
