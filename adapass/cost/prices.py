"""Latency of pieces by number of samples: measured where needed, interpolated where that is good enough.

A piece that was never measured is interpolated between pieces of the same operators whose weights differ in
one size (a narrower layer), if enough of those were measured; else it is measured; and where nothing may be
measured a calibrated roofline answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from adapass.budgeted import Feeds
from adapass.cost.calibrate import NOT_CALIBRATED, Calibration, Features
from adapass.cost.curves import Curve, learn_steps, refine
from adapass.cost.estimate import Estimate
from adapass.cost.model import FREE, Cost, Trust
from adapass.cost.piece_feeds import first_rows, piece_feeds
from adapass.cost.pieces import Layout, Piece
from adapass.cost.work_of import works_of
from adapass.generator import Options
from adapass.search.stopwatch import Stopwatch

ROW_TOLERANCE: Final = 0.04
"""Half-width of the interval between two numbers of samples above which one in between is measured."""
MOST_ROW_POINTS: Final = 5
GRAINS: Final = (4, 8, 16)
"""Channels that 8-bit and blocked kernels may take at once; other sizes run on slower ones."""
FEWEST_SIBLINGS: Final = 3
"""Measured sizes of a layer from which others are interpolated."""

PROFILE_SPREAD: Final = 0.04
"""By how much, relative, a narrower layer may follow the number of samples differently."""
AUDIBLE: Final = 0.05
"""Difference, relative, above which three measurements taken in turns say more than noise."""
PROPORTION_SPREAD: Final = 0.15
SIZE_NOISE: Final = 0.03
ODD_DOUBT: Final = 0.2
"""Share of the penalty of odd sizes by which a particular one may be off."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured piece, as the interpolation over sizes sees it."""

    kind: str
    sizes: tuple[int, ...]
    curve: Curve
    """By number of samples."""


@dataclass
class Prices:
    """Prices pieces at one batch size; keeps what it learned."""

    watch: Stopwatch
    options: Options
    """How plain models are built."""
    feeds: Sequence[Feeds]
    """Whole-model inputs at that batch size."""
    batch: int
    tolerance: float
    """Half-width of the interval, relative, up to which a size is interpolated and not measured."""
    tile: int
    may_measure: Callable[[Piece], bool]
    calibration: Calibration = NOT_CALIBRATED
    measured: dict[str, Sample] = field(default_factory=dict[str, Sample])
    """By key of the piece."""
    _known_families: dict[tuple[object, ...], Mapping[tuple[int, ...], Curve]] = field(
        default_factory=dict[tuple[object, ...], Mapping[tuple[int, ...], Curve]]
    )
    """What ``_families`` found, until something is measured."""
    _junctions: dict[tuple[object, ...], float] = field(default_factory=dict[tuple[object, ...], float])

    def piece(self, layout: Layout, piece: Piece, rows: Mapping[int, float]) -> Estimate:
        """Expected seconds of ``piece``, standing alone, for a distribution over numbers of samples."""
        known = self.measured.get(piece.key)
        if known is not None and (found := self._over(known, rows)) is not None:
            return found
        between = None if known is not None else self.interpolated(piece, rows)
        if between is not None and between.spread <= self.tolerance:
            return between
        if self.watch.measures and self.may_measure(piece):
            curve = self._complete(layout, piece, None if known is None else known.curve, rows)
            return self._expected(curve, rows)
        return between if between is not None else self._modelled(layout, piece, rows)

    def interpolated(self, piece: Piece, rows: Mapping[int, float]) -> Estimate | None:
        """From measured pieces of the same operators; ``None`` when too few differ in one size only."""
        places = self._free_places(piece)
        if places is None:
            return None
        asked = (piece.kind, places, *rows.items())
        if asked not in self._known_families:
            self._known_families[asked] = self._families(piece.kind, places, rows)
        families = self._known_families[asked]
        own = families.get(_masked(piece.sizes, places))
        if own is None:
            return None
        steps = learn_steps(families.values(), self.tile, GRAINS)
        size = piece.sizes[places[0]]
        curve = Curve(own.points, steps)
        return curve.estimate(size, noise=SIZE_NOISE + ODD_DOUBT * (steps.penalty - 1.0))

    def junction(self, layout: Layout, left: Piece, right: Piece, rows: int, call_seconds: float) -> float:
        """What two neighbours cost together more than apart: mostly less, by a call and conversions.

        What does not stand out of the noise is taken for the call alone. Zero where nothing may be measured.
        """
        if not self.watch.measures:
            return 0.0
        key = (left.kind, right.kind, _boundary(layout, left, right))
        if (*key, 1) not in self._junctions:
            self._junctions[*key, 1] = self._measure_junction(layout, left, right, 1, call_seconds)
        single = self._junctions[*key, 1]
        if rows == 1 or single == -call_seconds:
            return single
        if (*key, rows) not in self._junctions:
            self._junctions[*key, rows] = self._measure_junction(layout, left, right, rows, call_seconds)
        return self._junctions[*key, rows]

    def _over(self, sample: Sample, rows: Mapping[int, float]) -> Estimate | None:
        """A measured piece over a distribution of samples, if its own curve or a sibling's goes that far."""
        wanted = [n for n in rows if n > 0]
        if not wanted or _covers(sample.curve, wanted):
            return self._expected(sample.curve, rows)
        siblings = [s for s in self.measured.values() if s.kind == sample.kind and _covers(s.curve, wanted)]
        if not siblings:
            return None
        like = min(siblings, key=lambda s: (_distance(s.sizes, sample.sizes), s.sizes))
        profile = self._expected(like.curve, rows)
        ratio = sample.curve.at(self.batch).seconds / like.curve.at(self.batch).seconds
        return replace((profile * ratio).widened(PROFILE_SPREAD), trust=Trust.MODEL)

    def _in_proportion(self, sample: Sample, rows: Mapping[int, float]) -> Estimate:
        """Where no piece of its kind was measured with fewer samples: they share the time of the batch."""
        whole = sample.curve.estimate(self.batch)
        share = sum(count * probability for count, probability in rows.items()) / self.batch
        return replace((whole * share).widened(PROPORTION_SPREAD), trust=Trust.MODEL)

    def _complete(
        self, layout: Layout, piece: Piece, curve: Curve | None, rows: Mapping[int, float]
    ) -> Curve:
        """The curve of a piece with measured points where ``rows`` needs them."""
        wanted = [n for n in rows if n > 0]
        start = curve or Curve({n: self._measure(layout, piece, n) for n in {self.batch}})
        for end in (min(wanted, default=self.batch), max(wanted, default=self.batch)):
            if end < min(start.points) or end > max(start.points):
                start = start.with_point(end, self._measure(layout, piece, end))
        if len(wanted) > 1:
            start = refine(
                start,
                lambda n: self._measure(layout, piece, n),
                tolerance=ROW_TOLERANCE,
                most=MOST_ROW_POINTS,
                candidates=_likely(rows),
            )
        self.measured[piece.key] = Sample(piece.kind, piece.sizes, start)
        self._known_families.clear()
        return start

    def _expected(self, curve: Curve, rows: Mapping[int, float]) -> Estimate:
        total = Estimate.of(FREE)
        for count, probability in rows.items():
            total += curve.estimate(count) * probability
        # Lines between numbers of samples are part of measuring, not of guessing.
        measured = all(cost.trust is Trust.MEASURED for cost in curve.points.values())
        trust = Trust.MEASURED if measured else Trust.MODEL
        return Estimate(total.seconds, total.low, total.high, trust)

    def _measure(self, layout: Layout, piece: Piece, rows: int) -> Cost:
        feeds = piece_feeds(layout.model, piece.inputs, [first_rows(feed, rows) for feed in self.feeds])
        return self.watch.region(f"piece:{piece.key}", lambda: layout.part([piece]), feeds, self.options)

    def _measure_junction(
        self, layout: Layout, left: Piece, right: Piece, rows: int, call_seconds: float
    ) -> float:
        names = dict.fromkeys([*left.inputs, *right.inputs])
        feeds = piece_feeds(layout.model, list(names), [first_rows(feed, rows) for feed in self.feeds])
        found = self.watch.together(
            f"pair:{left.key}+{right.key}",
            lambda: {
                "left": layout.part([left]),
                "right": layout.part([right]),
                "both": layout.part([left, right]),
            },
            feeds,
            self.options,
        )
        more = found["both"] - found["left"] - found["right"]
        return more if abs(more + call_seconds) > AUDIBLE * found["both"] else -call_seconds

    def features(self, layout: Layout, piece: Piece, rows: int | None = None) -> Features:
        """What the roofline sees of a piece."""
        feeds = [first_rows(feed, rows or self.batch) for feed in self.feeds[:1]]
        works = works_of(layout.part([piece]), piece_feeds(layout.model, piece.inputs, feeds)[0])
        return Features.of(works, self.watch.target, self.watch.threads)

    def _modelled(self, layout: Layout, piece: Piece, rows: Mapping[int, float]) -> Estimate:
        total = Estimate.of(Cost(0.0, Trust.MODEL))
        for count, probability in rows.items():
            if count:
                features = self.features(layout, piece, count)
                total += self.calibration.price_of(features, self.watch.target) * probability
        return total

    def _free_places(self, piece: Piece) -> tuple[int, ...] | None:
        """The places of the one size in which most measured siblings differ from the piece."""
        counts: dict[tuple[int, ...], int] = {}
        for sample in self.measured.values():
            places = _differing(piece, sample)
            if places:
                counts[places] = counts.get(places, 0) + 1
        best = max(counts, key=lambda places: (counts[places], places), default=None)
        return best if best is not None and counts[best] >= FEWEST_SIBLINGS else None

    def _families(
        self, kind: str, places: tuple[int, ...], rows: Mapping[int, float]
    ) -> dict[tuple[int, ...], Curve]:
        points: dict[tuple[int, ...], dict[int, Cost]] = {}
        for sample in self.measured.values():
            if sample.kind == kind and len(sample.sizes) > places[-1]:
                found = self._over(sample, rows) or self._in_proportion(sample, rows)
                family = points.setdefault(_masked(sample.sizes, places), {})
                family[sample.sizes[places[0]]] = Cost(found.seconds, Trust.MEASURED)
        return {masked: Curve(found) for masked, found in points.items()}


def _masked(sizes: tuple[int, ...], places: tuple[int, ...]) -> tuple[int, ...]:
    free = frozenset(places)
    return tuple(0 if place in free else size for place, size in enumerate(sizes))


def _differing(piece: Piece, sample: Sample) -> tuple[int, ...] | None:
    """The places in which two pieces of one kind differ, when it is the same size everywhere."""
    if sample.kind != piece.kind or len(sample.sizes) != len(piece.sizes):
        return None
    pairs = list(zip(piece.sizes, sample.sizes, strict=True))
    places = tuple(place for place, (ours, theirs) in enumerate(pairs) if ours != theirs)
    if not places or len({pairs[place] for place in places}) > 1:
        return None
    return places


def _covers(curve: Curve, wanted: Sequence[int]) -> bool:
    return min(curve.points) <= min(wanted) and max(wanted) <= max(curve.points)


def _distance(ours: tuple[int, ...], theirs: tuple[int, ...]) -> int:
    return sum(abs(a - b) for a, b in zip(ours, theirs, strict=False))


def _boundary(layout: Layout, left: Piece, right: Piece) -> tuple[object, ...]:
    made = frozenset(left.outputs)
    values = {v.name: v for index in right.nodes for v in layout.flow.reads[index] if v.name in made}
    return tuple(
        (str(v.dtype), str(v.shape)) for _, v in sorted(values.items(), key=lambda item: str(item[0]))
    )


def _likely(rows: Mapping[int, float]) -> tuple[int, ...]:
    """Numbers of samples worth measuring: the powers of two among the probable ones, and the likeliest."""
    probable = [n for n, probability in rows.items() if n and probability > 0.01]
    powers = [n for n in probable if n & (n - 1) == 0]
    return tuple(sorted({*powers, max(rows, key=lambda n: (rows[n] if n else 0.0, n))} - {0}))
