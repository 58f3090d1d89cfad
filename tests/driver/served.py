"""A small adaptive model, certified for real and shipped, for the tests that need one.

How certain each head is comes with the inputs, so thresholds decide exactly which samples leave early.
The heads know nothing: a sample that leaves gets another answer in about two of three cases.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.artifact.manifest import Trust
from adapass.budgeted import Feeds, OperatingPoint
from adapass.certify.losses import Metric
from adapass.cost.model import Cost
from adapass.cost.model import Trust as CostTrust
from adapass.data import Dataset
from adapass.driver.comparing import Comparison, Final, compare, final_build
from adapass.driver.context import Context
from adapass.driver.finals import Build
from adapass.driver.material import Material
from adapass.driver.proof import Proof, prove, sequence
from adapass.driver.report import FrontPoint, Result
from adapass.driver.request import Request
from adapass.driver.shipping import ship
from adapass.execution import Session
from adapass.graph.save import save_model
from adapass.ops import EXIT_THRESHOLDS, EXITS_METADATA
from adapass.pipeline import Pipeline
from adapass.progress import Silent
from adapass.registry import generator
from adapass.search.judge import Judge
from adapass.search.plan import Plan
from adapass.target import load_target
from tests.lowering.conftest import FAMILIES

if TYPE_CHECKING:
    from adapass.search.trials import Candidate

EXITS, SAMPLES, MAX_DROP = 2, 120, 0.4
THRESHOLDS = (0.98, 0.9, 0.75, 0.0)
"""The last one lets every sample leave at once and fails."""


@dataclass(frozen=True)
class Served:
    """What a run of the main job ends with."""

    folder: Path
    result: Result
    adaptive: ir.Model
    build: Build
    proof: Proof
    final: Final
    comparison: Comparison
    context: Context
    judge: Judge
    feeds: dict[str, npt.NDArray[np.generic]]
    """All samples in one batch."""


def serve(scratch: Path, *, variant: str = "if", folder: str = "out.adapass") -> Served:
    """Certify, build and ship; ``variant`` is one of ONNX Runtime's."""
    make = FAMILIES["chosen"]
    adaptive = make(EXITS).clone()
    heads = [{"depth": 0.3}, {"depth": 0.6}]
    adaptive.metadata_props[EXITS_METADATA] = json.dumps({"rule": "certainty", "heads": heads})
    original = make(0)
    original.graph.inputs[1].shape = ir.Shape(["B", EXITS])  # the same inputs as the adaptive model
    save_model(original, scratch / "original.onnx")
    feeds = _feeds()
    data = Dataset(feeds, None, np.arange(SAMPLES))
    target, backend = load_target("cpu"), generator("onnxruntime")
    variants = backend.variants(adaptive, target, threads=1, batch=1)
    chosen = next(v for v in variants if v.name == variant)
    built = scratch / "candidate"
    built.mkdir()
    points = tuple(_point(t, 1e-5 * (len(THRESHOLDS) - k)) for k, t in enumerate(THRESHOLDS))
    backend.build(adaptive, target, built, chosen.options)
    seconds = Cost(1e-5, CostTrust.MEASURED)
    candidate = SimpleNamespace(plan=Plan(), model=adaptive, points=points, seconds=seconds, loss=0.0)
    build = Build(cast("Candidate", candidate), backend, chosen, built)

    def few(times: int) -> list[Feeds]:
        return [data.feeds(i) for i in range(4 * times)]

    context = cast(
        "Context",
        SimpleNamespace(
            request=Request(max_drop=MAX_DROP, threads=1),
            material=Material(scratch / "original.onnx", original, target, (backend,), None),
            steps=Pipeline([]),
            progress=Silent(),
            scratch=scratch,
            destination=scratch / folder,
            device_present=True,
            feeds=few,
        ),
    )
    judge = Judge(data, Session(adaptive, outputs=["logits"]).run(feeds)["logits"], Metric.AGREEMENT, 0.0)
    proof = prove(context, sequence(build, None, None), judge)
    final = final_build(context, build, proof.contestant.point)
    comparison = compare(context, final, proof.steps)
    front = (
        FrontPoint(build.name, 1e-4, Trust.MEASURED, 0.01, {"schema": 1, "families": [], "knobs": {}}),
        FrontPoint("original", 2e-4, Trust.MEASURED, None),
        FrontPoint("another", 1.5e-4, Trust.MODELLED, 0.02, {"schema": 1, "families": []}),
    )
    result = ship(
        context,
        final,
        comparison.latency,
        comparison.ratio,
        proof=proof,
        judge=judge,
        front=front,
        points=comparison.points,
    )
    return Served(scratch / folder, result, adaptive, build, proof, final, comparison, context, judge, feeds)


def _feeds() -> dict[str, npt.NDArray[np.generic]]:
    random = np.random.default_rng(3)
    return {
        "x": random.standard_normal((SAMPLES, 8)).astype(np.float32),
        "certain": random.random((SAMPLES, EXITS)).astype(np.float32),
    }


def _point(threshold: float, seconds: float) -> OperatingPoint:
    knobs = {EXIT_THRESHOLDS: np.full(EXITS, threshold, np.float32)}
    return OperatingPoint(knobs, frozenset({"a"}), seconds, 0.0)
