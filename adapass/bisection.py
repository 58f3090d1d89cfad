"""Find the first pass of a pipeline that breaks a model, the site where it does, and a small reproducer.

The pipeline is run with its checks on, so the first pass whose result differs from its own input is
found directly (a search by halves would need the damage to stay visible to the end). The guilty
pass is then run again limited to ever fewer of its sites, and the model is cut down around the one
that remains.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Feeds, Samples
from adapass.errors import ModelError, UsageError, VerificationError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.extract import extract
from adapass.graph.save import save_model
from adapass.graph.text import clone, to_text
from adapass.pipeline import PassError, Pipeline
from adapass.progress import Progress, Silent
from adapass.rewrite import Pass, PassResult, with_methods
from adapass.verification import usable_feeds

MAX_HOPS = 6


@dataclass(frozen=True, slots=True)
class Guilty:
    """The culprit. ``model`` is the smallest model found that the pass alone still breaks."""

    step: Pass
    index: int
    site: str | None
    why: str
    model: ir.Model
    feeds: tuple[Feeds, ...]

    def write(self, folder: Path) -> None:
        """Write ``model.onnx``, its text, the inputs and the pipeline text: all a bug report needs."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, folder / "model.onnx")
        (folder / "model.onnxtxt").write_text(to_text(self.model))
        (folder / "pipeline.txt").write_text(f"{self.step}\n")
        for number, feed in enumerate(self.feeds):
            arrays = {name: np.asarray(array) for name, array in feed.items()}
            np.savez(folder / f"inputs_{number}.npz", allow_pickle=False, **arrays)
        summary = {"pass": str(self.step), "index": self.index, "site": self.site, "why": self.why}
        (folder / "guilty.json").write_text(json.dumps(summary, indent=2) + "\n")


def bisect(
    model: ir.Model,
    pipeline: Pipeline,
    *,
    data: Samples | None = None,
    feeds: Sequence[Feeds] | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Guilty | None:
    """The first guilty pass of ``pipeline`` on ``model``; ``None`` when every pass keeps its word."""
    watch = progress or Silent()
    watch.phase("find the pass", 1, 3)
    current = clone(model)
    for index, step in enumerate(pipeline.passes):
        failure = _failure(step, current, data, feeds, seed)
        if failure is None:
            current = Pipeline([step]).run(current, data=data, verify=False).model
            watch.step(index + 1, len(pipeline.passes), str(step))
            continue
        watch.phase("find the site", 2, 3)
        site = _guilty_site(step, current, failure, _Case(data, feeds, seed))
        watch.phase("cut the model down", 3, 3)
        small, small_feeds = _cut_down(step, current, site, feeds or usable_feeds(current, seed=seed))
        return Guilty(step, index, site, failure.why, small, tuple(small_feeds))
    return None


@dataclass(frozen=True, slots=True)
class _Case:
    """What a pass is tried on."""

    data: Samples | None
    feeds: Sequence[Feeds] | None
    seed: int

    def fails(self, step: Pass, model: ir.Model) -> bool:
        return _failure(step, model, self.data, self.feeds, self.seed) is not None


def _failure(
    step: Pass, model: ir.Model, data: Samples | None, feeds: Sequence[Feeds] | None, seed: int
) -> PassError | None:
    try:
        Pipeline([step]).run(model, data=data, feeds=feeds, seed=seed)
    except PassError as failure:
        return failure
    return None


def restricted(inner: Pass, only: frozenset[str]) -> Pass:
    """The same pass, limited to some of its sites."""
    kind = type(inner)

    def run(self: Pass, model: ir.Model, facts: FactCache, _: frozenset[str] | None = None) -> PassResult:
        return kind.run(self, model, facts, only)

    return with_methods(inner, run=run)


def _guilty_site(step: Pass, model: ir.Model, failure: PassError, case: _Case) -> str | None:
    """Halve the sites while one half alone still fails."""
    if not failure.sites or case.fails(restricted(step, frozenset()), model):
        return None
    sites = list(failure.sites)
    while len(sites) > 1:
        half = len(sites) // 2
        parts = (sites[:half], sites[half:])
        guilty = next((part for part in parts if case.fails(restricted(step, frozenset(part)), model)), None)
        if guilty is None:
            break
        sites = guilty
    return sites[0]


def _cut_down(
    step: Pass, model: ir.Model, site: str | None, feeds: Sequence[Feeds]
) -> tuple[ir.Model, list[Feeds]]:
    """The smallest neighbourhood upstream of the site in which the pass still goes wrong."""
    whole = list(feeds)
    values = {value.name: value for node in model.graph for value in node.outputs}
    if site is None or site not in values:
        return model, whole
    for hops in range(1, MAX_HOPS + 1):
        inputs = _frontier(values[site], hops)
        try:
            small = extract(model, inputs, [site])
            session = Session(model, outputs=inputs)
            small_feeds: list[Feeds] = [{name: session.run(feed)[name] for name in inputs} for feed in whole]
        except (ModelError, UsageError, VerificationError):
            continue
        if _failure(step, small, None, small_feeds, 0) is not None:
            return small, small_feeds
    return model, whole


def _frontier(value: ir.Value, hops: int) -> list[str]:
    """Names of the values ``hops`` nodes upstream of ``value``; constants stay inside."""
    edge: dict[str, ir.Value] = {}
    level = [value]
    for _ in range(hops):
        following: list[ir.Value] = []
        for reached in level:
            if (producer := reached.producer()) is None:
                edge[reached.name or ""] = reached
                continue
            following += [v for v in producer.inputs if v is not None and not v.is_initializer()]
        level = following
    edge.update({v.name or "": v for v in level})
    return [name for name in edge if name and edge[name].const_value is None]
