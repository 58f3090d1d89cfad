"""Latency of models and of pieces of models, measured on the target through the generator, cached by content.

Two models of equal structure take equally long whatever their weights are, so the twelfth block of
a network is not measured again after the first. Without the target's device a roofline over the
target's description answers instead, and every number that came from it says so.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from adapass.analyses.work import total_work
from adapass.budgeted import Array, Feeds
from adapass.cache import Cache
from adapass.cost.measure import Timing, interleaved
from adapass.cost.model import Cost, Trust
from adapass.cost.roofline import Roofline
from adapass.execution import Session
from adapass.generator import Generator, Options
from adapass.graph.digest import structure_key
from adapass.graph.extract import extract
from adapass.target import Target

logger = logging.getLogger(__name__)

ROUNDS = 5
WARMUP = 2


@dataclass
class Stopwatch:
    """Measures through one generator on one target, at fixed representative feeds."""

    generator: Generator
    target: Target
    threads: int
    feeds: Sequence[Feeds]
    """Whole-model inputs, at the batch size and length mix of the user's data."""
    cache: Cache
    machine: str
    """Fingerprint of the machine and library versions; part of every cache key."""
    _activations: dict[tuple[int, tuple[str, ...]], list[Feeds]] = field(default_factory=dict)

    @property
    def measures(self) -> bool:
        """Whether numbers are measurements; False means the device is not here and they are modelled."""
        return self.generator.device_present(self.target)

    def seconds(self, model: ir.Model, options: Options) -> Cost:
        """Mean latency over the feeds of a whole model built with ``options``."""
        return self._cost(model, list(self.feeds), options)

    def piece(self, model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], options: Options) -> Cost:
        """Mean latency of the part of ``model`` from values ``inputs`` to values ``outputs``."""
        return self._cost(extract(model, inputs, outputs), self._inputs_of_piece(model, inputs), options)

    def _inputs_of_piece(self, model: ir.Model, inputs: Sequence[str]) -> list[Feeds]:
        key = (id(model), tuple(inputs))
        if key not in self._activations:
            session = Session(model, outputs=list(inputs), threads=self.threads)
            self._activations[key] = [session.run(feed) for feed in self.feeds]
        return self._activations[key]

    def _cost(self, model: ir.Model, feeds: Sequence[Feeds], options: Options) -> Cost:
        if not self.measures:
            return modelled(model, feeds, self.target, self.threads)
        key = "|".join([structure_key(model), _shapes(feeds), self.machine, self._how(options)])
        known = self.cache.get("latency", key)
        if isinstance(known, Mapping) and isinstance(known.get("seconds"), float):
            return Cost(known["seconds"], Trust.MEASURED)
        timing = self._measure(model, feeds, options)
        self.cache.put("latency", key, {"seconds": timing.mean, "spread": timing.spread, "samples": timing.n})
        return Cost(timing.mean, Trust.MEASURED)

    def _measure(self, model: ir.Model, feeds: Sequence[Feeds], options: Options) -> Timing:
        with TemporaryDirectory(prefix="adapass-") as folder:
            self.generator.build(model, self.target, Path(folder), options)
            runner = self.generator.load(Path(folder), threads=self.threads)
            try:
                return interleaved({"piece": runner.run}, feeds, rounds=ROUNDS, warmup=WARMUP)["piece"]
            finally:
                runner.close()

    def _how(self, options: Options) -> str:
        shown = ",".join(f"{key}={options[key]}" for key in sorted(options))
        return f"{self.generator.name}|{self.target.name}|{self.threads}|{shown}"


def modelled(model: ir.Model, feeds: Sequence[Feeds], target: Target, threads: int) -> Cost:
    """Roofline latency, averaged over the feeds; Trust.MODEL at best."""
    costs = [Roofline().price_all(total_work(model, shapes_of(feed)), target, threads) for feed in feeds[:4]]
    return Cost(sum(c.seconds for c in costs) / len(costs), min(c.trust for c in costs))


def shapes_of(feed: Feeds) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in feed.items()}


def _shapes(feeds: Sequence[Mapping[str, Array]]) -> str:
    """The mix of shapes, as a hash: latency depends on it and on nothing else of the inputs."""
    listed = [[list(array.shape) for _, array in sorted(feed.items())] for feed in feeds]
    return hashlib.blake2b(repr(listed).encode(), digest_size=8).hexdigest()
