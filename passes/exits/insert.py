"""Put exits into a graph: heads, confidence, thresholds, and the chain of selects (see ``adapass.ops``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.graph.edit import fresh_name
from adapass.ops import DOMAIN, EXIT_INDEX, EXIT_SELECT, EXIT_THRESHOLDS, add_function
from adapass.passes.exits.features import Site
from adapass.passes.exits.heads import HeadKind, HeadSpec, HeadValues, as_output, insert_head
from adapass.passes.exits.nodes import Builder
from adapass.passes.exits.output_form import OutputForm
from adapass.passes.exits.record import ExitsRecord, HeadRecord, write_record
from adapass.passes.exits.rules import Rule, Verdict, confidence, cumulated, patience


@dataclass(frozen=True, slots=True)
class Planned:
    """One exit to insert."""

    site: Site
    spec: HeadSpec
    wanted: HeadKind


def insert_exits(model: ir.Model, form: OutputForm, rule: Rule, planned: Sequence[Planned]) -> None:
    """Insert the exits in the given order (that of execution), unfitted, with thresholds that never stop."""
    add_function(model, EXIT_SELECT)
    build = Builder(model)
    thresholds = _thresholds(model, len(planned))
    heads = [
        insert_head(build, plan.site, plan.spec, form.classes, f"{EXIT_INDEX}_{index}")
        for index, plan in enumerate(planned)
    ]
    readiness = [_readiness(build, rule, f"{EXIT_INDEX}_{index}") for index in range(len(planned))]
    certain = _confidences(build, form, rule, heads, readiness)
    stops: list[ir.Value] = []
    for index, value in enumerate(certain):
        threshold = build.op("Gather", thresholds, build.constant(np.int64(index)))
        stops.append(build.op("GreaterOrEqual", value, threshold, name=f"{EXIT_INDEX}_{index}_stop"))
    _select_output(model, build, form, stops, [as_output(build, head.logits, form) for head in heads])
    _select_index(model, build, form, stops)
    record = _record(form, rule, planned, heads)
    named = [
        head.model_copy(update={"readiness": "" if value is None else value.name or ""})
        for head, value in zip(record.heads, readiness, strict=True)
    ]
    write_record(model, record.model_copy(update={"heads": tuple(named)}))


def _readiness(build: Builder, rule: Rule, name: str) -> ir.Value | None:
    """An exit probability of one half, until it is fitted."""
    return build.constant(np.zeros(2, np.float32), f"{name}_readiness") if rule is Rule.QUANTILE else None


def _thresholds(model: ir.Model, count: int) -> ir.Value:
    tensor = ir.tensor(np.full(count, np.inf, np.float32), name=EXIT_THRESHOLDS)
    value = ir.Value(
        name=EXIT_THRESHOLDS,
        shape=ir.Shape([count]),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=tensor,
    )
    model.graph.inputs.append(value)
    model.graph.register_initializer(value)
    return value


def _confidences(
    build: Builder,
    form: OutputForm,
    rule: Rule,
    heads: Sequence[HeadValues],
    readiness: Sequence[ir.Value | None],
) -> list[ir.Value]:
    if rule is Rule.QUANTILE:
        return _cumulated(build, form, heads, [value for value in readiness if value is not None])
    if rule is not Rule.PATIENCE:
        return [confidence(build, rule, form.task, head.logits, form.classes) for head in heads]
    verdicts: list[Verdict] = []
    for head in heads:
        verdicts.append(patience(build, form.task, head.logits, verdicts[-1] if verdicts else None))
    return [verdict.count for verdict in verdicts]


def _cumulated(
    build: Builder, form: OutputForm, heads: Sequence[HeadValues], readiness: Sequence[ir.Value]
) -> list[ir.Value]:
    nines: list[ir.Value] = []
    for head, ready in zip(heads, readiness, strict=True):
        nines.append(cumulated(build, form.task, head.logits, ready, nines[-1] if nines else None))
    return nines


def _select_output(
    model: ir.Model, build: Builder, form: OutputForm, stops: Sequence[ir.Value], taken: Sequence[ir.Value]
) -> None:
    """Chain from the last exit to the first; the first select takes over the name of the output."""
    original = form.value
    name, original.name = original.name, fresh_name(model.graph, f"{original.name}_without_exits")
    rest = original
    for stop, value in zip(reversed(stops), reversed(taken), strict=True):
        rest = build.op(EXIT_SELECT, stop, value, rest, domain=DOMAIN)
        rest.type, rest.shape = original.type, original.shape
    rest.name = name
    model.graph.outputs[0] = rest


def _select_index(model: ir.Model, build: Builder, form: OutputForm, stops: Sequence[ir.Value]) -> None:
    rest = build.constant(np.int64(len(stops)))
    batch = None if form.value.shape is None else form.value.shape[0]
    for index in reversed(range(len(stops))):
        rest = build.op(EXIT_SELECT, stops[index], build.constant(np.int64(index)), rest, domain=DOMAIN)
        rest.type, rest.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([batch])
    rest.name = EXIT_INDEX
    model.graph.outputs.append(rest)


def _record(
    form: OutputForm, rule: Rule, planned: Sequence[Planned], heads: Sequence[HeadValues]
) -> ExitsRecord:
    return ExitsRecord(
        cuts=tuple(plan.site.cut.value for plan in planned),
        rule=rule,
        thresholds=(None,) * len(planned),
        task=form.task,
        activation=form.activation,
        classes=form.classes,
        heads=tuple(head_record(plan, head) for plan, head in zip(planned, heads, strict=True)),
    )


def head_record(plan: Planned, head: HeadValues) -> HeadRecord:
    """What has to be known about an inserted head later."""
    cut = plan.site.cut
    named = (head.features, head.logits, head.weight, head.bias)
    return HeadRecord(
        cut=cut.value,
        side_values=cut.side_values,
        layout=cut.layout,
        batch_axis=cut.batch_axis,
        token_axis=cut.token_axis,
        channel_axis=cut.channel_axis,
        channels=cut.channels or 0,
        depth=cut.depth,
        block=cut.block,
        height=plan.site.height,
        width=plan.site.width,
        mask=plan.site.mask,
        wanted=plan.wanted,
        kind=plan.spec.kind,
        features=plan.spec.features,
        queries=plan.spec.queries,
        values=(
            named[0].name or "",
            named[1].name or "",
            named[2].name or "",
            named[3].name or "",
            "" if head.queries is None else head.queries.name or "",
        ),
    )
