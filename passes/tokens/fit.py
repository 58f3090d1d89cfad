"""Fit learned scores: a linear probe of each token's state to how much of the result goes through the token.

    r = e A_L' ... A_l+1'       A' = (A + 1) / 2,  A the attention of a layer, mean over its heads

is the share that attention, layer over layer, draws from each token behind layer l (e: the first token,
or the mean of all where the result is read from all; Abnar and Zuidema 2020, arXiv:2005.00928). The target
is seen in the original model, so that every probe is fitted at once and none depends on what another one
drops. The closed form (ridge regression on centred states) needs the second moments alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.analyses.attention import AttentionCore, AttentionCores
from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.token_mask import TokenMask
from adapass.budgeted import Array, Feeds, Samples
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.moments.batches import spread
from adapass.passes.tokens.settings import Setting
from adapass.passes.tokens.surgery import RECORD, records

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Probe:
    """One learned score of a model that waits for its weights."""

    site: str
    setting: Setting
    weight: ir.Value
    threshold: ir.Value | None
    first: bool
    """Whether the result is read from the first token."""
    later: tuple[str, ...]
    """Probabilities of the attentions behind the site, in the original."""


def is_open(model: ir.Model) -> bool:
    """Whether scores were asked for that must be fitted."""
    return any(record["open"] == "yes" for record in records(model).values())


def fit_probes(model: ir.Model, original: ir.Model, data: Samples, *, count: int, damping: float) -> None:
    """Settle the learned scores and thresholds of ``model`` in place."""
    facts = FactCache(original)
    probes = _probes(model, facts)
    names = dict.fromkeys([p.site for p in probes] + [name for p in probes for name in p.later])
    session = Session(original, outputs=list(names))
    states: dict[str, list[Array]] = {probe.site: [] for probe in probes}
    targets: dict[str, list[Floats]] = {probe.site: [] for probe in probes}
    inputs = {value.name for value in original.graph.inputs}
    for index in spread(len(data), count):
        feeds = {name: array for name, array in data.feeds(index).items() if name in inputs}
        seen = session.run(feeds)
        for probe in probes:
            live = _live(facts, feeds, seen[probe.site].shape[1])
            states[probe.site].append(seen[probe.site][0, live])
            targets[probe.site].append(_target([seen[name] for name in probe.later], live, first=probe.first))
    for probe in probes:
        rows = np.concatenate(states.pop(probe.site)).astype(np.float64)
        _settle(probe, rows, np.concatenate(targets[probe.site]), damping)
    for node, record in records(model).items():
        node.metadata_props[RECORD] = json.dumps({**record, "open": "no"}, sort_keys=True)


def _probes(model: ir.Model, facts: FactCache) -> list[Probe]:
    cores = facts.get(AttentionCores).cores
    flow = facts.get(Dataflow)
    places = {name_of(value): index for value, index in flow.producer.items()}
    found: list[Probe] = []
    for record in records(model).values():
        if record["open"] != "yes":
            continue
        later = [core for core in cores if core.nodes[0] > places[record["site"]]]
        found.append(
            Probe(
                site=record["site"],
                setting=Setting.parse(record["setting"]),
                weight=model.graph.initializers[record["probe"]],
                threshold=model.graph.initializers.get(record["threshold"]),
                first=record["first"] == "yes",
                later=tuple(_probabilities(flow, core) for core in (later or cores[-1:])),
            )
        )
    return found


def _probabilities(flow: Dataflow, core: AttentionCore) -> str:
    softmax = next(flow.nodes[index] for index in core.nodes if flow.nodes[index].op_type == "Softmax")
    return name_of(softmax.outputs[0])


def _live(facts: FactCache, feeds: Feeds, tokens: int) -> npt.NDArray[np.bool_]:
    mask = facts.get(TokenMask).input
    if mask is None or mask not in feeds:
        return np.ones(tokens, np.bool_)
    return np.asarray(feeds[mask][0], np.bool_)


def _target(layers: Sequence[Array], live: npt.NDArray[np.bool_], *, first: bool) -> Floats:
    """Log of the share of each real token, relative to the same for all."""
    count = int(live.sum())
    row = np.zeros(count)
    row[0] = 1.0
    if not first:
        row[:] = 1.0 / count
    for probabilities in reversed(layers):
        attention = probabilities[0].astype(np.float64).mean(0)
        if attention.shape[0] == 1:  # the last attention may be asked by the first token alone
            row = 0.5 * row + 0.5 * row.sum() * attention[0, live]
            continue
        row = 0.5 * row + 0.5 * row @ attention[np.ix_(live, live)]
    return np.asarray(np.log(np.maximum(row, 1e-9) * count), np.float64)


def _settle(probe: Probe, states: Floats, targets: Floats, damping: float) -> None:
    """Ridge regression on what is centred: a shift of all scores changes no order."""
    centred = states - states.mean(0)
    gram: Floats = np.asarray(centred.T @ centred / len(centred), np.float64)
    gram[np.diag_indices_from(gram)] += damping * np.trace(gram) / len(gram)
    weight: Floats = np.asarray(
        np.linalg.solve(gram, centred.T @ (targets - targets.mean()) / len(centred)), np.float64
    )
    _store(probe.weight, weight.astype(np.float32)[:, None])
    if probe.threshold is not None:
        level = float(np.quantile(np.asarray(states @ weight, np.float64), 1.0 - probe.setting.share))
        _store(probe.threshold, np.asarray(level, np.float32))


def _store(value: ir.Value, array: npt.NDArray[np.float32]) -> None:
    value.const_value = ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=value.name)
