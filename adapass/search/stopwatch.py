"""Latency of models and of pieces of models, measured on the target through the generator, cached by content.

Two models of equal structure take equally long whatever their weights are, so the twelfth block of
a network is not measured again after the first. Without the target's device a roofline over the
target's description answers instead, and every number that came from it says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from adapass.analyses.work import Work as WorkFact
from adapass.budgeted import Feeds
from adapass.cost.model import Cost, Work
from adapass.cost.roofline import Roofline
from adapass.cost.table import RegionKey, RegionTable, shapes_of
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.generator import Generator, Options
from adapass.graph.digest import structure_key
from adapass.graph.extract import extract
from adapass.target import Target

NUMBER_FORMATS = {
    ir.DataType.DOUBLE: "f64",
    ir.DataType.FLOAT: "f32",
    ir.DataType.FLOAT16: "f16",
    ir.DataType.BFLOAT16: "bf16",
    ir.DataType.INT8: "i8",
    ir.DataType.UINT8: "i8",
}


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
    _activations: dict[tuple[int, tuple[str, ...]], list[Feeds]] = field(
        default_factory=dict[tuple[int, tuple[str, ...]], list[Feeds]]
    )

    @property
    def measures(self) -> bool:
        """Whether numbers are measurements; False means the device is not here and they are modelled."""
        return self.generator.device_present(self.target)

    def seconds(self, model: ir.Model, options: Options) -> Cost:
        """Mean latency over the feeds of a whole model built with ``options``."""
        return self._cost(model, self.feeds, options)

    def piece(self, model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], options: Options) -> Cost:
        """Mean latency of the part of ``model`` from values ``inputs`` to values ``outputs``."""
        return self._cost(extract(model, inputs, outputs), self._inputs_of_piece(model, inputs), options)

    def _inputs_of_piece(self, model: ir.Model, inputs: Sequence[str]) -> Sequence[Feeds]:
        key = (id(model), tuple(inputs))
        if key not in self._activations:
            session = Session(model, outputs=list(inputs), threads=self.threads)
            self._activations[key] = [session.run(feed) for feed in self.feeds]
        return self._activations[key]

    def _cost(self, model: ir.Model, feeds: Sequence[Feeds], options: Options) -> Cost:
        if not self.measures:
            return modelled(model, feeds, self.target, self.threads)
        key = RegionKey(
            content=structure_key(model),
            generator=self.generator.name,
            target=self.target.name,
            machine=self.machine,
            threads=self.threads,
            shapes=shapes_of(feeds),
            options=options,
        )
        if (known := self.table.get(key)) is not None:
            return known
        with TemporaryDirectory(prefix="adapass-") as name:
            folder = Path(name)
            self.generator.build(model, self.target, folder, options)
            return self.table.get_or_measure(
                key, lambda: self.generator.load(folder, threads=self.threads), feeds
            )


def modelled(model: ir.Model, feeds: Sequence[Feeds], target: Target, threads: int) -> Cost:
    """Roofline latency at the size of the first feed; ``Trust.MODEL`` at best."""
    return Roofline().price_all(_works(model, feeds[0]), target, threads)


def _works(model: ir.Model, feed: Feeds) -> Iterator[Work]:
    fact = FactCache(model).get(WorkFact)
    shapes = [array.shape for array in feed.values() if array.ndim]
    batch = shapes[0][0] if shapes else 1
    tokens = next((shape[1] for shape in shapes if len(shape) in (2, 3)), 1)
    for node, work in zip(fact.flow.nodes, fact.at(batch, tokens), strict=True):
        first = node.inputs[0] if node.inputs else None
        dtype = ir.DataType.FLOAT if first is None or first.dtype is None else first.dtype
        form = NUMBER_FORMATS.get(dtype, "f32")
        yield Work(node.op_type, form, work.flops, work.bytes_read + work.weight_bytes, work.bytes_written)
