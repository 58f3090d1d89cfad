"""Fit the heads of inserted exits to the original model's own outputs.

Queries of attentive heads are learned first, on a bounded part of the samples. One pass over all
samples then computes every candidate's features with the nodes that would run, and each exit keeps
the candidate that follows the original best on held-out fit samples. Only pooled features are
kept, in groups of exits that stay below a bound on memory (one pass a group).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.special import expit, softmax

from adapass.budgeted import Array, Samples
from adapass.errors import DataError, ModelError
from adapass.graph.edit import remove_dead_nodes
from adapass.ops import read_exits
from adapass.passes.exits.attentive import QueryOptions, fit_queries, query_samples
from adapass.passes.exits.heads import ATTENTIVE, HeadKind, HeadSpec, candidates, head_features, width_of
from adapass.passes.exits.nodes import Builder
from adapass.passes.exits.output_form import Activation, Task
from adapass.passes.exits.record import ExitsRecord, HeadRecord
from adapass.passes.exits.solvers import (
    PENALTIES,
    SHRINKAGES,
    Fitted,
    Problem,
    best_fit,
    gda,
    logistic,
    screen,
)
from adapass.passes.exits.streaming import collect_rows, has_image

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

HELD_EVERY = 5
"""Every fifth fit sample is held out to choose penalties, temperatures and features."""
MEMORY_BYTES = 1 << 30
"""Bound on the features held at once."""
BETTER = 0.99
"""A costlier candidate must lower the held-out cross-entropy below this share of the cheaper one's."""
MAX_CONVEX_WORK = 4e9
"""Samples x features x classes above which ``auto`` fits in closed form only."""
MIN_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class FitOptions:
    """The options of ``insert-exits`` that fitting needs."""

    features: str
    queries: int
    label_weight: float
    mirror: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Winner:
    """The head an exit gets."""

    spec: HeadSpec
    fitted: Fitted
    queries: Floats | None


@dataclass(frozen=True, slots=True)
class Material:
    """What all exits share: what the samples should say, and which of them are held out."""

    targets: Floats
    held: npt.NDArray[np.bool_]
    exclusive: bool


@dataclass(frozen=True, slots=True)
class _Data:
    samples: Samples
    mirrored: bool
    """Every sample comes a second time, mirrored, after all others."""

    @property
    def copies(self) -> int:
        return 2 if self.mirrored else 1

    @property
    def rows(self) -> int:
        return len(self.samples) * self.copies

    def values(self, model: ir.Model, wanted: Sequence[ir.Value]) -> Mapping[str, Array]:
        """Run ``model``, cut down to the values wanted, on all samples and their mirror images."""
        model.graph.outputs.clear()
        model.graph.outputs.extend(wanted)
        remove_dead_nodes(model)
        names = [value.name or "" for value in wanted]
        everything = range(len(self.samples))
        runs = [
            collect_rows(model, names, self.samples, everything, mirrored=mirrored)
            for mirrored in (False, True)[: self.copies]
        ]
        if len(runs) == 1:
            return runs[0]
        return {name: np.concatenate([rows[name] for rows in runs]) for name in names}


def fit_all(model: ir.Model, record: ExitsRecord, samples: Samples, options: FitOptions) -> list[Winner]:
    """The best head of every exit of ``model``, which is not changed.

    Raises:
        DataError: too few samples, or labels that do not fit the output.

    """
    if len(samples) < MIN_SAMPLES:
        raise DataError(
            f"exits need at least {MIN_SAMPLES} samples to fit on, found {len(samples)}; give more data"
        )
    base = without_exits(model)
    data = _Data(samples, mirrored=options.mirror and has_image(samples.feeds(0)))
    queries = _queries(base, record, data, options)
    material: Material | None = None
    winners: list[Winner] = []
    for group in _groups(record.heads, options, data.rows):
        features, output = _features(base, group, data, options, queries, with_output=material is None)
        material = material or _material(output, record, data, options)
        for head, found in zip(group, features, strict=True):
            winners.append(_fit_one(head, found, material, options, queries.get(head.cut)))
            logger.debug("exit at %s: %s", head.cut, winners[-1].spec)
    return winners


def without_exits(model: ir.Model) -> ir.Model:
    """A copy of ``model`` that returns what it did before exits were inserted."""
    copy = model.clone()
    exits = read_exits(copy)
    if not exits:
        raise ModelError("the model has no early exits; apply insert-exits first")
    last = exits[-1].selects[0].inputs[2]
    if last is None:
        raise ModelError("the last exit of the model selects from nothing; apply insert-exits again")
    copy.graph.outputs.clear()
    copy.graph.outputs.append(last)
    remove_dead_nodes(copy)
    return copy


def _queries(base: ir.Model, record: ExitsRecord, data: _Data, options: FitOptions) -> Mapping[str, Floats]:
    """Queries by cut, where an attentive head is a candidate; learned on samples that are not held out."""
    wanted = [
        (head, spec)
        for head in record.heads
        for spec in _specs(head, options)
        if spec.kind is HeadKind.ATTENTIVE
    ]
    if not wanted:
        return {}
    indices = query_samples([index for index in range(len(data.samples)) if not _is_held(index)])
    name = base.graph.outputs[0].name or ""
    said = _probabilities(collect_rows(base, [name], data.samples, indices)[name], record)
    targets = dict(zip(indices, said, strict=True))
    how = QueryOptions(record.task is Task.CLASSIFICATION, options.seed)
    return {
        head.cut: fit_queries(base, head.site(), spec, data.samples, targets, how) for head, spec in wanted
    }


def _is_held(index: int) -> bool:
    return index % HELD_EVERY == 0


def _material(output: Array, record: ExitsRecord, data: _Data, options: FitOptions) -> Material:
    targets = _probabilities(output, record)
    if options.label_weight > 0.0:
        truth = np.tile(_label_rows(data.samples, record), (data.copies, 1))
        targets = ((1.0 - options.label_weight) * targets + options.label_weight * truth).astype(np.float32)
    held = np.tile([_is_held(index) for index in range(len(data.samples))], data.copies)
    return Material(targets, held, record.task is Task.CLASSIFICATION)


def _probabilities(rows: Array, record: ExitsRecord) -> Floats:
    scores = rows.reshape(len(rows), record.classes).astype(np.float64)
    if record.activation is Activation.LOG_SOFTMAX:
        scores = np.exp(scores)
    elif record.activation is Activation.NONE:
        scores = softmax(scores, axis=1) if record.task is Task.CLASSIFICATION else expit(scores)
    if not np.isfinite(scores).all():
        raise DataError("the model's output is not finite on some fit samples; check the data and the model")
    return np.clip(scores, 0.0, 1.0).astype(np.float32)


def _label_rows(samples: Samples, record: ExitsRecord) -> Floats:
    labels = samples.labels
    if labels is None:
        raise DataError(
            "insert-exits: label-weight is above 0 but the data has no labels; set it to 0 or add 'labels'"
        )
    if record.task is Task.MULTI_LABEL:
        return labels.reshape(len(labels), record.classes).astype(np.float32)
    classes = labels.reshape(len(labels)).astype(np.int64)
    if classes.min() < 0 or classes.max() >= record.classes:
        raise DataError(
            f"labels lie between {classes.min()} and {classes.max()}, the model has {record.classes} classes"
        )
    return np.eye(record.classes, dtype=np.float32)[classes]


def _specs(head: HeadRecord, options: FitOptions) -> tuple[HeadSpec, ...]:
    return candidates(head.site(), head.wanted, options.features, options.queries)


def _by_features(head: HeadRecord, options: FitOptions) -> dict[str, HeadSpec]:
    """One candidate per feature vector, cheapest first."""
    found: dict[str, HeadSpec] = {}
    for spec in _specs(head, options):
        found.setdefault(spec.features, spec)
    return found


def _groups(heads: Sequence[HeadRecord], options: FitOptions, rows: int) -> Iterator[list[HeadRecord]]:
    group: list[HeadRecord] = []
    held_bytes = 0
    for head in heads:
        specs = _by_features(head, options).values()
        needed = 4 * rows * sum(width_of(head.site(), spec) for spec in specs)
        if group and held_bytes + needed > MEMORY_BYTES:
            yield group
            group, held_bytes = [], 0
        group.append(head)
        held_bytes += needed
    if group:
        yield group


def _features(
    base: ir.Model,
    heads: Sequence[HeadRecord],
    data: _Data,
    options: FitOptions,
    queries: Mapping[str, Floats],
    *,
    with_output: bool,
) -> tuple[list[dict[str, Floats]], Array]:
    """For every head its candidates' features by name; and the model's output, empty unless wanted."""
    probe = base.clone()
    build = Builder(probe, "probe")
    output = probe.graph.outputs[0]
    found: list[dict[str, ir.Value]] = []
    for head in heads:
        asked = queries.get(head.cut)
        stored = None if asked is None else build.constant(asked, "probe_queries")
        made = {
            name: head_features(build, head.site(), spec, stored if spec.queries else None)
            for name, spec in _by_features(head, options).items()
        }
        found.append({name: build.op("Identity", value) for name, value in made.items()})
    values = [value for features in found for value in features.values()]
    rows = data.values(probe, [*values, output] if with_output else values)
    kept = [{name: _finite(rows, value, name) for name, value in features.items()} for features in found]
    return kept, rows[output.name or ""] if with_output else np.zeros(0, np.float32)


def _finite(rows: Mapping[str, Array], value: ir.Value, what: str) -> Floats:
    features = rows[value.name or ""].astype(np.float32, copy=False)
    if not np.isfinite(features).all():
        raise DataError(f"the {what} features of an exit are not finite on some fit samples; check the data")
    return features


def _fit_one(
    head: HeadRecord,
    features: Mapping[str, Floats],
    material: Material,
    options: FitOptions,
    queries: Floats | None,
) -> Winner:
    """The best pooled head, unless the attentive one (which costs more to run) is clearly better."""
    problems = {name: Problem(rows, material.targets, material.exclusive) for name, rows in features.items()}
    best = _best_pooled(head, problems, material, options)
    if queries is not None:
        spec = _by_features(head, options)[ATTENTIVE]
        fitted = best_fit(problems[ATTENTIVE], material.held, logistic, PENALTIES)
        clearly = best is None or fitted.cross_entropy < BETTER * best.fitted.cross_entropy
        best = Winner(spec, fitted, queries) if clearly else best
    if best is None:
        raise ModelError(f"no head fits at cut '{head.cut}'; apply insert-exits again with other features")
    return best


def _best_pooled(
    head: HeadRecord, problems: Mapping[str, Problem], material: Material, options: FitOptions
) -> Winner | None:
    """Choose the features in closed form, then the kind of head on them."""
    specs = [spec for spec in _specs(head, options) if spec.kind is not HeadKind.ATTENTIVE]
    if not specs:
        return None
    chosen = _best_features({spec.features: problems[spec.features] for spec in specs}, material)
    specs = [spec for spec in specs if spec.features == chosen]
    wide = problems[chosen].features.size * material.targets.shape[1] > MAX_CONVEX_WORK
    if wide and head.wanted is HeadKind.AUTO:
        specs = [spec for spec in specs if spec.kind is HeadKind.GDA]
    winners = [_solve(spec, problems[chosen], material) for spec in specs]
    return min(winners, key=lambda winner: winner.fitted.cross_entropy)


def _best_features(problems: Mapping[str, Problem], material: Material) -> str:
    """The first (cheapest) features that no costlier ones clearly beat."""
    names = list(problems)
    best = names[0]
    if len(names) == 1:
        return best
    losses = {name: screen(problems[name], material.held) for name in names}
    for name in names[1:]:
        best = name if losses[name] < BETTER * losses[best] else best
    return best


def _solve(spec: HeadSpec, problem: Problem, material: Material) -> Winner:
    if spec.kind is HeadKind.GDA:
        return Winner(spec, best_fit(problem, material.held, gda, SHRINKAGES), None)
    return Winner(spec, best_fit(problem, material.held, logistic, PENALTIES), None)
