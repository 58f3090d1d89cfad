"""From a fitted model with exits to settings of its thresholds: run, judge, measure, search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, OperatingPoint, Samples, Services, Span
from adapass.errors import ModelError
from adapass.ops import EXIT_THRESHOLDS, Exit, read_exits
from adapass.passes.exits.record import ExitsRecord, read_record
from adapass.passes.exits.rules import Rule
from adapass.passes.exits.streaming import collect_rows
from adapass.passes.exits.thresholds import Costs, Setting, select


@dataclass(frozen=True, slots=True)
class ExitTable:
    """What every exit would say about every sample."""

    confidence: npt.NDArray[np.float32]
    """[N, E]"""
    outputs: Array
    """[N, E + 1, ...]: the output of each exit; the last is that of the whole model."""


def collect(model: ir.Model, samples: Samples) -> ExitTable:
    """Run all exits and the whole model on ``samples``, one run.

    Raises:
        ModelError: the model has no exits.

    """
    exits = read_exits(model)
    if not exits:
        raise ModelError("the model has no early exits; apply insert-exits first")
    certain = [_name(found.confidence) for found in exits]
    said = [_name(found.selects[0].inputs[1]) for found in exits]
    said.append(_name(exits[-1].selects[0].inputs[2]))
    rows = collect_rows(model, [*dict.fromkeys([*certain, *said])], samples, range(len(samples)))
    confidence = np.stack([rows[name].astype(np.float32) for name in certain], axis=1)
    return ExitTable(confidence, np.stack([rows[name] for name in said], axis=1))


def tune_thresholds(
    model: ir.Model, services: Services, max_loss: float, known: Sequence[OperatingPoint] = ()
) -> tuple[OperatingPoint, ...]:
    """Operating points from the safest to the most aggressive; empty when no exit pays.

    ``known`` are points of another model with the same exits.

    Raises:
        UsageError: a known point has thresholds for another number of exits.

    """
    record = read_record(model)
    table = collect(model, services.samples)
    exits = len(record.cuts)
    losses = np.stack([services.losses(table.outputs[:, e]) for e in range(exits + 1)], axis=1)
    costs = measure_costs(model, record, services)
    elsewhere = [np.asarray(point.knobs[EXIT_THRESHOLDS], np.float32) for point in known]
    settings = select(table.confidence, losses.astype(np.float64), costs, max_loss, elsewhere)
    return tuple(_point(record, setting) for setting in settings)


def measure_costs(model: ir.Model, record: ExitsRecord, services: Services) -> Costs:
    """Latency of every segment between cuts and of every head, through ``services``."""
    exits = read_exits(model)
    final = _name(exits[-1].selects[0].inputs[2])
    starts: list[Sequence[str]] = [_graph_inputs(model)]
    starts += [_unique(head.cut, *head.side_values) for head in record.heads]
    ends = [*record.cuts, final]
    spans: list[Span] = [(start, [end]) for start, end in zip(starts, ends, strict=True)]
    spans += [_head(record, found) for found in exits]
    seconds = np.asarray(services.seconds(model, spans))
    return Costs(
        seconds[: len(ends)],
        seconds[len(ends) :],
        removable=not record.rule.is_carried,
        counts=record.rule is Rule.PATIENCE,
    )


def _head(record: ExitsRecord, found: Exit) -> Span:
    """Inputs and outputs of the piece that is one head. What is carried is left out: one number a sample."""
    head = record.heads[found.index]
    start = _unique(head.cut, *([] if head.mask is None else [head.mask]))
    outputs = [_name(found.selects[0].inputs[1])]
    if not record.rule.is_carried:
        outputs.append(_name(found.confidence))
    return start, _unique(*outputs)


def _point(record: ExitsRecord, setting: Setting) -> OperatingPoint:
    kept = range(max(setting.kept) + 1) if record.rule.is_carried else setting.kept
    return OperatingPoint(
        knobs=MappingProxyType({EXIT_THRESHOLDS: setting.thresholds}),
        sites=frozenset(record.cuts[index] for index in kept),
        expected_seconds=setting.expected_seconds,
        loss=setting.loss,
        changed=setting.changed,
        reach=_reach(record, setting),
        leaves=tuple(float(share) for share in setting.shares),
        detail=MappingProxyType(
            {
                "leave": [round(float(share), 4) for share in setting.shares],
                "depths": [round(head.depth, 4) for head in record.heads],
            }
        ),
    )


def _reach(record: ExitsRecord, setting: Setting) -> tuple[tuple[float, float], ...]:
    """How many samples go on behind each exit that some sample takes."""
    left = 1.0 - np.cumsum(setting.shares[:-1])
    steps = zip(record.heads, left, setting.shares[:-1], strict=True)
    return tuple((head.depth, max(float(share), 0.0)) for head, share, taken in steps if taken > 0)


def _graph_inputs(model: ir.Model) -> list[str]:
    return [_name(value) for value in model.graph.inputs if not value.is_initializer()]


def _unique(*names: str) -> list[str]:
    return list(dict.fromkeys(names))


def _name(value: ir.Value | None) -> str:
    if value is None or not value.name:
        raise ModelError("an exit selects a value without a name; apply insert-exits again")
    return value.name
