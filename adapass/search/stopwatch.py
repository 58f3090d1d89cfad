"""Latency of models and of pieces of models, measured on the target through the generator, cached by content.

Two models of equal structure take equally long whatever their weights are, so the twelfth block of
a network is not measured again after the first. Without the target's device a roofline over the
target's description answers instead, and every number that came from it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from adapass.budgeted import Feeds
from adapass.cost.measure import Contestant
from adapass.cost.model import Cost
from adapass.cost.roofline import Roofline
from adapass.cost.table import RegionKey, RegionTable, shapes_of
from adapass.cost.work_of import works_of
from adapass.execution import Session
from adapass.generator import Generator, Options, Runner
from adapass.graph.digest import structure_key
from adapass.graph.extract import extract
from adapass.graph.stand_ins import stand_ins
from adapass.target import Target


@dataclass
class Stopwatch:
    """Measures through one generator on one target, at fixed representative feeds."""

    generator: Generator
    target: Target
    threads: int
    feeds: Sequence[Feeds]
    """Whole-model inputs, at the batch size and length mix of the user's data."""
    table: RegionTable
    machine: str
    """``Fingerprint.key``: part of every cache key."""
    check: Callable[[], None] = lambda: None
    """Called before anything is measured; raises where there is no time for it."""

    @property
    def measures(self) -> bool:
        """Whether numbers are measurements; False means the device is not here and they are modelled."""
        return self.generator.device_present(self.target)

    def seconds(self, model: ir.Model, options: Options) -> Cost:
        """Mean latency over the feeds of a whole model built with ``options``."""
        return self._cost(model, self.feeds, options)

    def piece(self, model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], options: Options) -> Cost:
        """Mean latency of the part of ``model`` from values ``inputs`` to values ``outputs``."""
        return self.pieces(model, [(inputs, outputs)], options)[0]

    def pieces(
        self, model: ir.Model, spans: Sequence[tuple[Sequence[str], Sequence[str]]], options: Options
    ) -> list[Cost]:
        """Mean latency of each part of ``model`` from values to values; the model is run once for all.

        Values that a rewrite took out are known by their stand-ins.
        """
        now = stand_ins(model)
        spans = [([now.get(n, n) for n in start], [now.get(n, n) for n in end]) for start, end in spans]
        wanted = list(dict.fromkeys(name for inputs, _ in spans for name in inputs))
        self.check()
        session = Session(model, outputs=wanted, threads=self.threads)
        rows = [session.run(feed) for feed in self.feeds]
        return [
            self._cost(
                extract(model, inputs, outputs), [{n: row[n] for n in inputs} for row in rows], options
            )
            for inputs, outputs in spans
        ]

    def region(
        self, content: str, build: Callable[[], ir.Model], feeds: Sequence[Feeds], options: Options
    ) -> Cost:
        """Mean latency over ``feeds`` of the model that ``build`` makes; asked only when it is not known yet.

        ``content`` must be equal for models that take equally long, and for no others.
        """
        if not self.measures:
            return modelled(build(), feeds, self.target, self.threads)
        key = self.key(content, feeds, options)
        if (known := self.table.get(key)) is not None:
            return known
        self.check()
        with TemporaryDirectory(prefix="adapass-") as name:
            folder = Path(name)
            self.generator.build(build(), self.target, folder, options)
            return self.table.get_or_measure(
                key, lambda: self.generator.load(folder, threads=self.threads), feeds
            )

    def together(
        self,
        content: str,
        build: Callable[[], Mapping[str, ir.Model]],
        feeds: Sequence[Feeds],
        options: Options,
    ) -> Mapping[str, float]:
        """Mean seconds of several models timed in turns, each fed what it takes of ``feeds``.

        Differences of such numbers are smaller than the noise between two separate measurements.
        """
        key = self.key(content, feeds, options)
        if (known := self.table.get_group(key)) is not None:
            return known
        self.check()
        with TemporaryDirectory(prefix="adapass-") as name, ExitStack() as opened:
            contestants: dict[str, Contestant] = {}
            for label, model in build().items():
                folder = Path(name, label)
                folder.mkdir()
                self.generator.build(model, self.target, folder, options)
                runner = self.generator.load(folder, threads=self.threads)
                opened.callback(runner.close)
                contestants[label] = _taking(runner, frozenset(v.name or "" for v in model.graph.inputs))
            return self.table.measure_group(key, contestants, feeds)

    def key(self, content: str, feeds: Sequence[Feeds], options: Options) -> RegionKey:
        """Under what a measurement of ``content`` on ``feeds`` is stored."""
        return RegionKey(
            content=content,
            generator=self.generator.name,
            target=self.target.name,
            machine=self.machine,
            threads=self.threads,
            shapes=shapes_of(feeds),
            options=options,
        )

    def _cost(self, model: ir.Model, feeds: Sequence[Feeds], options: Options) -> Cost:
        if not self.measures:
            return modelled(model, feeds, self.target, self.threads)
        return self.region(structure_key(model), lambda: model, feeds, options)


def _taking(runner: Runner, names: frozenset[str]) -> Contestant:
    def run(feed: Feeds) -> object:
        return runner.run({name: array for name, array in feed.items() if name in names})

    return run


def modelled(model: ir.Model, feeds: Sequence[Feeds], target: Target, threads: int) -> Cost:
    """Roofline latency at the size of the first feed; ``Trust.MODEL`` at best."""
    return Roofline().price_all(works_of(model, feeds[0]), target, threads)
