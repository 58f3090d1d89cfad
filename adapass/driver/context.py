"""What every step of a run shares: the request, the material, and the services built on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from adapass.budgeted import Array, BudgetedPass, Feeds
from adapass.cache import Cache
from adapass.certify.choose import choose_metric, decision_threshold
from adapass.certify.losses import Metric
from adapass.cost.table import RegionTable
from adapass.data import Dataset
from adapass.driver.latency_table import LatencyTable
from adapass.driver.material import Material, timing_feeds
from adapass.driver.request import Request
from adapass.driver.time_plan import TimePlan
from adapass.executor import Executor
from adapass.generator import Generator, Options
from adapass.graph.digest import digest
from adapass.machine import fingerprint as machine_fingerprint
from adapass.pipeline import Pipeline
from adapass.progress import Progress
from adapass.search.judge import Judge, predict
from adapass.search.stopwatch import Stopwatch
from adapass.search.store import Store


@dataclass
class Context:
    """One run. Its fields stay what they are once it is made."""

    request: Request
    material: Material
    clean: ir.Model
    steps: Pipeline
    families: Sequence[BudgetedPass]
    store: Store
    scratch: Path
    progress: Progress
    destination: Path
    time: TimePlan
    executor: Executor
    cache: Cache = field(default_factory=Cache)
    """Of measurements; a ``LatencyTable`` where they are replayed."""

    @property
    def primary(self) -> Generator:
        """The generator the search measures with."""
        return self.material.generators[0]

    @property
    def device_present(self) -> bool:
        return self.primary.device_present(self.material.target)

    @property
    def machine(self) -> str:
        if isinstance(self.cache, LatencyTable):
            return self.cache.machine
        return machine_fingerprint(self.request.threads).key

    @property
    def fingerprint(self) -> str:
        """Of everything but the model that the stored results of a run depend on."""
        parts = self.material.parts
        return f"{parts.fingerprint if parts is not None else ''}|{self.request.seed}|{self.request.mode}"

    def feeds(self, times: int = 1) -> list[Feeds]:
        return timing_feeds(self.material, self.request, times * self.request.effort.timing_feeds)

    def stopwatch(self, check: Callable[[], None] = lambda: None) -> Stopwatch:
        """``check`` is called before anything is measured, and may raise ``TimeUpError``."""
        target, threads = self.material.target, self.request.threads
        table = RegionTable(self.cache)
        return Stopwatch(self.primary, target, threads, self.feeds(), table, self.machine, check)

    def plain_options(self, model: ir.Model) -> Options:
        """How the primary generator builds ``model`` when nothing special is asked for."""
        request, target = self.request, self.material.target
        variants = self.primary.variants(model, target, threads=request.threads, batch=request.batch)
        return variants[0].options

    def judge(self, name: str, samples: Dataset) -> Judge:
        """The original on ``samples``, ready to compare with."""
        original, threads = self.material.model, self.request.threads
        key = f"{digest(original)}|{name}|{self.fingerprint}"

        def report(done: int, total: int) -> None:
            self.progress.step(done, total, f"original on the {name} samples")

        def compute() -> Array:
            return predict(original, samples, threads=threads, report=report)

        outputs = self.store.array("original", key).get(compute)
        threshold = decision_threshold(original)
        return Judge(samples, outputs, self._metric(samples, outputs, threshold), threshold)

    def _metric(self, samples: Dataset, outputs: Array, threshold: float) -> Metric:
        if self.request.metric == "auto":
            return choose_metric(outputs, samples.labels, threshold=threshold)
        return Metric(self.request.metric)
