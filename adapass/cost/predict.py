"""Predicted latency of a whole rewritten model, without building or running it.

The model is cut into pieces (``cost.pieces``). A call costs

    sum over sections of  P(n samples reach it) * ( sum of pieces(n) + junctions(n) )
        - calls that pieces measured alone pay for and the whole does not
        + what the generator adds where it leaves a section (branches, rows gathered and put back)

Pieces of equal structure share one measurement, so of the 27 blocks of a network some seven are measured.
Alone, a piece finds its weights in the caches; in a whole model the others have pushed them out. That is
corrected by factors from models that were measured whole and by half (``anchor``), by batch size, precision
and bytes of weights: on one machine 42 MB of float weights cost a third more than their pieces, 21 MB none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Feeds
from adapass.cache import Json
from adapass.cost.anchors import Anchor, factor_between
from adapass.cost.calibrate import NOT_CALIBRATED, Calibration, Features, calibrate, load, store
from adapass.cost.estimate import NOTHING, Estimate, Share
from adapass.cost.expected import reach_error, reach_of, rows_reaching
from adapass.cost.model import Cost, Trust
from adapass.cost.overheads import NARROW, empty_model, measure_overhead, tiny_feed, width_for
from adapass.cost.piece_feeds import bytes_a_sample, piece_feeds, rows_of
from adapass.cost.pieces import Layout, Piece, Section, joined, lay_out
from adapass.cost.prices import Prices
from adapass.errors import UsageError
from adapass.generator import Options
from adapass.graph.digest import structure_key
from adapass.lowering.exits import has_exits
from adapass.search.stopwatch import Stopwatch
from adapass.target import Target, TargetKind

TOLERANCE: Final = 0.12
BASE_SPREAD: Final = 0.04
"""What neither noise nor interpolation explains, relative: alignment of memory, the state of caches."""
UNANCHORED_SPREAD: Final = 0.1
ANCHOR_TAKES: Final = 3
"""Separate measurements of an anchor; the median counts."""
ANCHOR_DOUBT: Final = 0.5
"""Share of an anchor's correction by which another model may need a different one."""
OVERHEAD_DOUBT: Final = 0.5
JUNCTION_DOUBT: Final = 0.3
FEWEST_TO_HALVE: Final = 4
"""Pieces from which half of a model tells something of its own."""

Exits = npt.NDArray[np.int64]


@dataclass
class Predictor:
    """Prices rewritten models from measured pieces; every measurement goes to the watch's table."""

    watch: Stopwatch
    options: Options
    """How models without exits are built (threads and the like)."""
    exit_options: Options | None = None
    """How models with exits are built; ``None``: the generator's first variant for each."""
    feeds_of: Callable[[int], Sequence[Feeds]] | None = None
    """Whole-model inputs at a batch size; ``None``: only the watch's own feeds."""
    tolerance: float = TOLERANCE
    """Half-width of the interval, relative, up to which a new size of a known layer is interpolated."""
    may_measure: Callable[[Piece], bool] = lambda _: True
    calibration: Calibration = NOT_CALIBRATED
    """For pieces that cannot be measured."""
    _prices: dict[int, Prices] = field(default_factory=dict[int, Prices])
    _anchors: dict[int, tuple[Anchor, ...]] = field(default_factory=dict[int, tuple["Anchor", ...]])
    _calls: dict[int, float] = field(default_factory=dict[int, float])
    _overheads: dict[tuple[int, int, str], float] = field(default_factory=dict[tuple[int, int, str], float])

    def estimate(self, model: ir.Model, *, taken: Exits | None = None, batch: int | None = None) -> Estimate:
        """Expected seconds of a call. ``taken`` [N] says which exit samples took; ``None``: none does.

        Raises:
            UsageError: no feeds of that batch size are at hand.
            ModelError: the exits are malformed.

        """
        prices = self.prices(batch)
        layout = lay_out(model)
        reach = self._reach(model, layout, taken)
        touched = sum(weight_bytes(part) * p for part, p in zip(layout.sections, reach, strict=True))
        total = NOTHING
        for index, (section, share) in enumerate(zip(layout.sections, reach, strict=True)):
            if share:
                rows = rows_reaching(prices.batch, share)
                found = self._section(prices, layout, section.pieces, rows, touched)
                found += self._entering(prices, model, layout, index, rows)
                total += found.widened(0.0 if taken is None else reach_error(share, len(taken)))
        total = total.widened(BASE_SPREAD + (0.0 if prices.batch in self._anchors else UNANCHORED_SPREAD))
        return replace(total, low=max(0.0, total.low))

    def saving(
        self, model: ir.Model, changed: ir.Model, *, taken: Exits | None = None, batch: int | None = None
    ) -> Estimate:
        """How much less ``changed`` takes than ``model``; pieces they share do not add uncertainty.

        ``taken`` holds for each of the two that has exits.
        """
        before = self.estimate(model, batch=batch, taken=taken if has_exits(model) else None)
        return before.minus(self.estimate(changed, taken=taken, batch=batch))

    def anchor(self, model: ir.Model, *, batch: int | None = None) -> tuple[Anchor, ...]:
        """Measure a model without exits whole and by half, and correct later estimates by what pieces miss.

        Worth it for the clean model and for the one with 8 bits everywhere: models in between get a factor
        between theirs, or that of one with 8 bits in every second layer, if there is one.
        """
        prices = self.prices(batch)
        layout = lay_out(model)
        first, *later = layout.sections
        if later:
            raise UsageError("an anchor must not have exits: its latency would depend on the samples")
        pieces = first.pieces
        halves = [pieces] if len(pieces) < FEWEST_TO_HALVE else [pieces[: len(pieces) // 2], pieces]
        others = self._anchors.pop(prices.batch, ())
        found = tuple(self._anchor(prices, layout, part) for part in halves)
        self._anchors[prices.batch] = (*others, *found)
        return found

    def _anchor(self, prices: Prices, layout: Layout, pieces: Sequence[Piece]) -> Anchor:
        said = self._section(prices, layout, pieces, {prices.batch: 1.0}, 0.0).seconds
        inputs, _ = joined(pieces, layout.flow)
        feeds = piece_feeds(layout.model, inputs, prices.feeds)
        key = "|".join(piece.key for piece in pieces)
        # Everything priced later hangs on this number: one bad moment of the machine must not decide it.
        takes = [
            self.watch.region(f"whole:{take}:{key}", lambda: layout.part(pieces), feeds, self.options).seconds
            for take in range(ANCHOR_TAKES)
        ]
        found = float(np.median(takes))
        size = sum(piece.weight_bytes for piece in pieces)
        share = sum(piece.share_8bit * piece.weight_bytes for piece in pieces) / max(1, size)
        return Anchor(round(2 * share) / 2, size, found / said)

    def calibrate(self, models: Sequence[ir.Model], *, batch: int | None = None) -> Calibration:
        """Fit the roofline to the measured pieces of ``models`` and use it for what cannot be measured.

        Pieces that are not known yet are measured. Kept in the cache for this generator, target, machine and
        number of threads; ``load_calibration`` finds it there.
        """
        prices = self.prices(batch)
        features: dict[str, Features] = {}
        seconds: dict[str, float] = {}
        for layout in map(lay_out, models):
            for piece in (piece for section in layout.sections for piece in section.pieces):
                if piece.key in features:
                    continue
                found = prices.piece(layout, piece, {prices.batch: 1.0})
                if found.trust is Trust.MEASURED and found.seconds > 0:
                    features[piece.key] = prices.features(layout, piece)
                    seconds[piece.key] = found.seconds
        self.calibration = calibrate(list(features.values()), list(seconds.values()))
        store(self.watch.table.cache, self._calibration_key, self.calibration)
        return self.calibration

    def load_calibration(self) -> Calibration:
        """Use what an earlier ``calibrate`` found for this generator, target, machine and threads."""
        self.calibration = load(self.watch.table.cache, self._calibration_key)
        return self.calibration

    @property
    def _calibration_key(self) -> Mapping[str, Json]:
        watch = self.watch
        names = {"generator": watch.generator.name, "target": watch.target.name, "machine": watch.machine}
        return {**names, "threads": watch.threads}

    def prices(self, batch: int | None = None) -> Prices:
        """What is known at a batch size; by default that of the watch's feeds."""
        size = rows_of(self.watch.feeds[0]) if batch is None else batch
        if size not in self._prices:
            self._prices[size] = Prices(
                watch=self.watch,
                options=self.options,
                feeds=self._feeds(size),
                batch=size,
                tolerance=self.tolerance,
                tile=tile_of(self.watch.target),
                may_measure=self.may_measure,
                calibration=self.calibration,
            )
        prices = self._prices[size]
        prices.may_measure, prices.calibration = self.may_measure, self.calibration
        prices.tolerance = self.tolerance
        return prices

    def _feeds(self, batch: int) -> Sequence[Feeds]:
        if batch == rows_of(self.watch.feeds[0]):
            return self.watch.feeds
        if self.feeds_of is None:
            raise UsageError(
                f"the feeds at hand have {rows_of(self.watch.feeds[0])} samples, an estimate for batches of"
                f" {batch} needs others; give the predictor feeds_of"
            )
        return self.feeds_of(batch)

    def _reach(self, model: ir.Model, layout: Layout, taken: Exits | None) -> Sequence[float]:
        sections = len(layout.sections)
        everything = (1.0,) * sections
        if sections == 1 or taken is None or self._options_for(model).get("lowering") == "masked":
            return everything
        return reach_of(taken, sections)

    def _section(
        self,
        prices: Prices,
        layout: Layout,
        pieces: Sequence[Piece],
        rows: Mapping[int, float],
        touched_bytes: float,
    ) -> Estimate:
        total, anchors = NOTHING, self._anchors.get(prices.batch, ())
        for piece in pieces:
            found = prices.piece(layout, piece, rows)
            factor = factor_between(anchors, piece.share_8bit, touched_bytes)
            total += _corrected(_as_share(found, piece), factor)
        if not self.watch.measures:
            return total
        call = self._call(prices)
        ends = sorted({min(_some(rows)), max(_some(rows))})
        for left, right in pairwise(pieces):
            known = {n: prices.junction(layout, left, right, n, call) for n in ends}
            seconds = _on_line(known, rows)
            width = JUNCTION_DOUBT * abs(seconds)
            key = f"{left.kind}+{right.kind}"
            share = Share(key, "junction", seconds, seconds - width, seconds + width, Trust.MEASURED)
            factor = factor_between(anchors, left.share_8bit, touched_bytes)
            total += _corrected(_alone(share), factor)
        return total

    def _entering(
        self, prices: Prices, model: ir.Model, layout: Layout, index: int, rows: Mapping[int, float]
    ) -> Estimate:
        """What it costs to go on after an exit, less the call the section's pieces were measured with."""
        if index == 0 or not self.watch.measures:
            return NOTHING
        runs = sum(probability for count, probability in rows.items() if count)
        left = sum(count * probability for count, probability in rows.items()) / runs
        carried = bytes_a_sample(layout.model, layout.carried[index], prices.feeds[0])
        added = runs * self._overhead(prices, model, max(1, round(left)), width_for(carried))
        seconds = added - runs * self._call(prices)
        width = OVERHEAD_DOUBT * added
        name = f"exit {index - 1}"
        return _alone(Share(name, name, seconds, seconds - width, seconds + width, Trust.MEASURED))

    def _overhead(self, prices: Prices, model: ir.Model, rows: int, width: int) -> float:
        """At 1 sample and a full batch, straight between them."""
        ends = {n: self._measured_overhead(model, n, width) for n in {1, prices.batch}}
        return float(np.interp(rows, sorted(ends), [ends[n] for n in sorted(ends)]))

    def _measured_overhead(self, model: ir.Model, rows: int, width: int) -> float:
        options = self._options_for(model)
        key = (rows, width, repr(sorted(options.items())))
        if key not in self._overheads:

            def measure(tiny: ir.Model, feed: Feeds, leaves: bool) -> Cost:
                built = options if leaves else self.options
                return self.watch.region(f"tiny:{structure_key(tiny)}", lambda: tiny, [feed], built)

            self._overheads[key] = measure_overhead(measure, rows, width)
        return self._overheads[key]

    @property
    def call_seconds(self) -> float:
        """What a call costs that computes nothing, at the batch size of the watch's feeds."""
        return self._call(self.prices()) if self.watch.measures else 0.0

    def _call(self, prices: Prices) -> float:
        """Seconds of a call that computes nothing."""
        if prices.batch not in self._calls:
            model, feed = empty_model(prices.batch), tiny_feed(prices.batch, NARROW)
            cost = self.watch.region(f"tiny:{structure_key(model)}", lambda: model, [feed], self.options)
            self._calls[prices.batch] = cost.seconds
        return self._calls[prices.batch]

    def _options_for(self, model: ir.Model) -> Options:
        if self.exit_options is not None:
            return self.exit_options
        watch = self.watch
        size = rows_of(watch.feeds[0])
        return watch.generator.variants(model, watch.target, threads=watch.threads, batch=size)[0].options


def tile_of(target: Target) -> int:
    """Numbers of 32 bits in a vector register: the width in which kernels take channels."""
    if target.kind is TargetKind.GPU:
        return 32
    widths = {"avx512f": 16, "avx2": 8}
    return next((width for flag, width in widths.items() if flag in target.isa), 4)


def weight_bytes(section: Section) -> int:
    """Stored weights that a section reads."""
    return sum(piece.weight_bytes for piece in section.pieces)


def _some(rows: Mapping[int, float]) -> list[int]:
    return [count for count in rows if count] or [1]


def _on_line(ends: Mapping[int, float], rows: Mapping[int, float]) -> float:
    """Expected value of what is known at the ends of a range and straight between them."""
    counts = sorted(ends)
    values = np.interp(list(rows), counts, [ends[count] for count in counts])
    weights = [probability if count else 0.0 for count, probability in rows.items()]
    return float(np.dot(values, weights))


def _as_share(found: Estimate, piece: Piece) -> Estimate:
    name = piece.outputs[0] if piece.outputs else ""
    return _alone(Share(piece.key, name, found.seconds, found.low, found.high, found.trust))


def _alone(share: Share) -> Estimate:
    return Estimate(share.seconds, share.low, share.high, share.trust, (share,))


def _corrected(found: Estimate, factor: float) -> Estimate:
    wide = (found * factor).widened(ANCHOR_DOUBT * abs(1 - factor))
    return replace(wide, parts=tuple(replace(part, low=wide.low, high=wide.high) for part in wide.parts))
