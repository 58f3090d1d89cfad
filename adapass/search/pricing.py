"""What a change saves: the regions that differ from the clean model, measured before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from adapass.analyses.cut_points import CutPoints
from adapass.analyses.dataflow import Dataflow
from adapass.facts import FactCache
from adapass.generator import Options
from adapass.graph.digest import structure_key
from adapass.graph.extract import extract
from adapass.search.stopwatch import Stopwatch

Region = tuple[Sequence[str], Sequence[str]]
"""Names of the values at its beginning and at its end."""


@dataclass
class Savings:
    """Called with a rewritten model, gives the predicted seconds it saves per call against the clean one.

    The model is cut where the clean one has single-entry cut points; regions of equal structure are
    measured once, so pricing the fifty blocks of a network takes as many measurements as it has kinds
    of blocks. What a region costs alone includes one call of the runtime, which cancels in the difference.
    """

    watch: Stopwatch
    clean: ir.Model
    options: Options

    def __call__(self, changed: ir.Model, sites: Sequence[str]) -> float:
        """``sites`` are names of values of the clean model whose computation may differ in ``changed``."""
        touched = sorted({self._place[site] for site in sites if site in self._place})
        return sum((self._saved(changed, *self._regions[index]) for index in touched), start=0.0)

    def _saved(self, changed: ir.Model, starts: Sequence[str], ends: Sequence[str]) -> float:
        before, after = extract(self.clean, starts, ends), extract(changed, starts, ends)
        if structure_key(before) == structure_key(after):
            return 0.0
        return self._seconds(before, starts) - self._seconds(after, starts)

    def _seconds(self, piece: ir.Model, starts: Sequence[str]) -> float:
        return self.watch.extracted(self.clean, piece, starts, self.options).seconds

    @cached_property
    def _place(self) -> dict[str, int]:
        """For each value, the region that computes it."""
        index = 0
        places: dict[str, int] = {}
        ends = [end for _, end in self._regions]
        for node in FactCache(self.clean).get(Dataflow).nodes:
            names = [value.name or "" for value in node.outputs]
            places |= dict.fromkeys(names, index)
            index += any(name in ends[index] for name in names) and index < len(ends) - 1
        return places

    @cached_property
    def _regions(self) -> list[Region]:
        points = FactCache(self.clean).get(CutPoints).points
        inputs = [value.name or "" for value in self.clean.graph.inputs if not value.is_initializer()]
        output = self.clean.graph.outputs[0].name or ""
        starts = [inputs, *([point.value, *point.side_values] for point in points)]
        ends = [[point.value] for point in points] + [[output]]
        return list(zip(starts, ends, strict=True))
