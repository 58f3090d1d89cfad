"""Compare a gated model with the one before: who is live, and what becomes of the rows.

The outputs of a gated model differ from those before in any case; so the model before is run with the same
tokens left out by masking, which must give the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.analyses.dataflow import name_of
from adapass.budgeted import Array, Feeds
from adapass.errors import VerificationError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.constants import constant_array
from adapass.graph.edit import insert_before, mark_roots, new_initializer
from adapass.graph.text import clone
from adapass.moments.batches import feed_names
from adapass.passes.gates.calibrate import Aim
from adapass.passes.gates.row_branches import RowBranch, find_row_branches
from adapass.passes.prune.kept_weights import check_weights

TOLERANCE = 1e-3
"""Relative to the largest number of an output; sums of many products, in another order."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the gates of a model are, and the numbers that were fitted for them, by initializer."""

    aims: Mapping[str, Aim]
    numbers: Mapping[str, Array]

    @classmethod
    def of(cls, model: ir.Model, aims: Mapping[str, Aim]) -> Fitted:
        names = [name for aim in aims.values() for name in aim.gate.fitted]
        return cls(aims, {name: _stored(model, name) for name in names})


def check_gates(
    family: str, before: ir.Model, after: ir.Model, fitted: Fitted, feeds: Sequence[Feeds]
) -> None:
    """Raise ``VerificationError``, naming what is wrong, unless ``after`` is ``before`` with these gates."""
    check_weights(family, before, after, ())
    for name, numbers in fitted.numbers.items():
        there = constant_array(after.graph.initializers.get(name))
        if there is None or there.dtype != numbers.dtype or not np.array_equal(there, numbers):
            raise VerificationError(f"{family}: '{name}' is not what was fitted")
    rows = {row.site: row for row in find_row_branches(before, FactCache(before))[0]}
    outputs = [name_of(value) for value in after.graph.outputs]
    gates = {site: aim.gate.decision for site, aim in fitted.aims.items()}
    seen = [name for gate in gates.values() for name in (name_of(gate.live), gate.score)]
    streams = [name_of(rows[site].stream) for site in gates]
    gated = Session(after, outputs=list(dict.fromkeys([*outputs, *seen, *streams])))
    masked = Session(_masked(before, rows, fitted))
    for feed in feeds:
        found = gated.run(feed_names(after, feed))
        for site, aim in fitted.aims.items():
            _check_decision(family, rows[site], aim, fitted, found)
        lives = {_live_input(site): found[name_of(gate.live)][..., None] for site, gate in gates.items()}
        expected = masked.run({**feed_names(before, feed), **lives})
        for name in outputs:
            _check_close(family, name, found[name], expected[name])


def _check_decision(
    family: str, row: RowBranch, aim: Aim, fitted: Fitted, found: Mapping[str, Array]
) -> None:
    """Whether who is live follows from the score, and a learned score from the stream."""
    decision = aim.gate.decision
    score = found[decision.score].astype(np.float64)
    if decision.weight is not None and score.shape[1] == found[name_of(decision.live)].shape[1]:
        weight = fitted.numbers[decision.weight].astype(np.float64)
        own = (found[name_of(row.stream)].astype(np.float64) @ weight)[..., 0]
        _check_close(family, decision.score, score, own)
    threshold = float(fitted.numbers[decision.threshold].reshape(()))
    over = np.broadcast_to(score > threshold, found[name_of(decision.live)].shape).copy()
    if aim.always:
        over[:, 0] = True
    live = found[name_of(decision.live)].astype(np.bool_)
    if (live & ~over).any() or (row.mask is None and (over & ~live).any()):
        raise VerificationError(f"{family}: who goes through '{row.site}' does not follow from its score")


def _check_close(family: str, name: str, found: Array, expected: npt.NDArray[np.generic]) -> None:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    if a.shape != b.shape or not np.allclose(
        a, b, rtol=0.0, atol=TOLERANCE * max(float(np.abs(b).max(initial=0.0)), 1e-6), equal_nan=True
    ):
        raise VerificationError(f"{family}: '{name}' is not what masking the same tokens gives")


def _masked(before: ir.Model, rows: Mapping[str, RowBranch], fitted: Fitted) -> ir.Model:
    """``before``, with an input for each gate that says who is live; the others get the bias."""
    copy = clone(before)
    mark_roots(copy)
    nodes = {name_of(node.outputs[0]): node for node in copy.graph}
    for site, aim in fitted.aims.items():
        row = rows[site]
        add, place = nodes[name_of(row.branch.sum)], 1 - row.branch.place
        shape = ir.Shape([f"{site}_samples", f"{site}_tokens", 1])
        live = ir.Value(name=_live_input(site), type=ir.TensorType(ir.DataType.BOOL), shape=shape)
        copy.graph.inputs.append(live)
        zeros = np.zeros(row.branch.channels, row.branch.dtype.numpy())
        numbers = zeros if aim.gate.bias is None else fitted.numbers[aim.gate.bias]
        bias = new_initializer(copy.graph, f"{site}_masked_bias", numbers)
        chosen = ir.node("Where", [live, add.inputs[place], bias])
        insert_before(add, [chosen])
        add.replace_input_with(place, chosen.outputs[0])
    return copy


def _live_input(site: str) -> str:
    return f"{site}_is_live"


def _stored(model: ir.Model, name: str) -> Array:
    array = constant_array(model.graph.initializers[name])
    assert array is not None  # it was fitted
    return array.copy()
