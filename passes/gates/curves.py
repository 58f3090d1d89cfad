"""What skipping feed-forward parts could save at best, before anything is changed.

    share of the tokens that go without  ->  damage to the result

for three ways to tell who: by the true contribution to this very result (the oracle: no gate can know it,
and no gate should be expected to do much better), by the learned score, and by saturation, which needs no
fitting. Each curve is measured on a copy whose branches are multiplied by 0 or 1, nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.analyses.dataflow import name_of
from adapass.budgeted import Array, Damage, Feeds, Samples
from adapass.execution import Session
from adapass.executor.threads import one_thread
from adapass.facts import FactCache
from adapass.moments.batches import Batches, feed_names
from adapass.moments.sources import Selection
from adapass.passes.gates.calibrate import cut
from adapass.passes.gates.contributions import Probe, fitted_scores, real_rows, share_input, slopes
from adapass.passes.gates.row_branches import RowBranch
from adapass.search.damage import damage_of

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
FRACTIONS = (0.25, 0.5, 0.75)
BATCH = 16
DAMPING = 0.1


class Sign(StrEnum):
    """What tells which tokens can go without."""

    ORACLE = "oracle"
    LEARNED = "learned"
    SATURATION = "saturation"


ALL_SIGNS = (Sign.ORACLE, Sign.LEARNED, Sign.SATURATION)


@dataclass(frozen=True, slots=True)
class Point:
    """One share of the tokens left out."""

    skipped: float
    """Share of the real tokens that went without, as it came out."""
    damage: Damage
    agreement: float | None
    """Share of the samples with the class they had; ``None`` without classes."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Damage against the share left out, at one site or at all of them together."""

    site: str | None
    """Result of the last product of the part; ``None`` for all parts together."""
    sign: Sign
    points: tuple[Point, ...]


def skipping_curves(
    model: ir.Model,
    facts: FactCache,
    fit: Samples,
    samples: Samples,
    *,
    signs: Sequence[Sign] = ALL_SIGNS,
    fractions: Sequence[float] = FRACTIONS,
    together: bool = True,
    apart: bool = True,
    score_samples: int = 256,
) -> tuple[Curve, ...]:
    """Curves of every part (``apart``) and of all parts (``together``) of a model without gates.

    Nothing is fitted on ``samples``. Parts where a sign says nothing have no curve of it; with all parts
    together those are left whole. Costs a run a sample for each point, and a backward one for the oracle.

    Raises:
        UsageError: torch, which the oracle and learned scores are computed with, is not installed.

    """
    probe = Probe.of(model, facts)
    if not probe.rows:
        return ()
    runner = _Runner.of(model, probe, Batches.of(model, samples, size=BATCH, facts=facts))
    curves: list[Curve] = []
    for sign in signs:
        scores = runner.scores(sign, fit, model, score_samples)
        if apart:
            curves += [
                Curve(site, sign, runner.points({site: scores[site]}, fractions)) for site in sorted(scores)
            ]
        if together and scores:
            curves.append(Curve(None, sign, runner.points(scores, fractions)))
    return tuple(curves)


@dataclass(frozen=True, slots=True)
class _Runner:
    """A probe, open, and what it says when nothing is left out."""

    probe: Probe
    batches: Batches
    session: Session
    output: str
    reference: Array
    streams: tuple[Mapping[str, Array], ...]
    """Of each batch by site."""
    real: Mapping[str, tuple[Flags, ...]]
    """Of each site by batch, [samples, T]."""

    @classmethod
    def of(cls, model: ir.Model, probe: Probe, batches: Batches) -> _Runner:
        output = name_of(model.graph.outputs[0])
        with one_thread():
            seeing = Session(
                probe.model, outputs=[output, *dict.fromkeys(probe.streams.values())], optimize=True
            )
            results: list[Array] = []
            streams: list[Mapping[str, Array]] = []
            for selection, feeds in batches:
                count = len(selection.indices)
                found = seeing.run({**feed_names(probe.model, feeds), **_whole(probe.rows)})
                results.append(found[output][:count])
                streams.append({site: found[name][:count] for site, name in probe.streams.items()})
            session = Session(probe.model, outputs=[output], optimize=True)
        real = {
            row.site: tuple(
                real_rows(selection, batch[row.site].shape)
                for (selection, _), batch in zip(batches, streams, strict=True)
            )
            for row in probe.rows
        }
        return cls(probe, batches, session, output, _joined(results), tuple(streams), real)

    def scores(self, sign: Sign, fit: Samples, model: ir.Model, count: int) -> dict[str, tuple[Doubles, ...]]:
        """Of each site by batch, [samples, T]; sites of which the sign knows nothing are missing."""
        if sign is Sign.ORACLE:
            found = [each.contributions for each in slopes(self.probe, self.batches)]
            return {row.site: tuple(each[row.site] for each in found) for row in self.probe.rows}
        if sign is Sign.LEARNED:
            weights = fitted_scores(model, fit, count=count, damping=DAMPING)
            return {
                row.site: tuple(
                    each[row.site].astype(np.float64) @ weights[row.site] for each in self.streams
                )
                for row in self.probe.rows
            }
        last = {name: site for site, name in self.probe.streams.items()}
        before = {row.site: last[name_of(row.before)] for row in self.probe.rows if row.before is not None}
        return {
            site: tuple(_unsettled(each[site], each[other]) for each in self.streams)
            for site, other in before.items()
        }

    def points(
        self, scores: Mapping[str, Sequence[Doubles]], fractions: Sequence[float]
    ) -> tuple[Point, ...]:
        return tuple(self._point(scores, fraction) for fraction in fractions)

    def _point(self, scores: Mapping[str, Sequence[Doubles]], fraction: float) -> Point:
        always = {row.site: row.first_is_read for row in self.probe.rows}
        live = {
            site: _live(batches, self.real[site], fraction, always=always[site])
            for site, batches in scores.items()
        }
        results: list[Array] = []
        with one_thread():
            for number, (selection, feeds) in enumerate(self.batches):
                shares = {site: flags[number] for site, flags in live.items()}
                found = self.session.run(self._feeds(feeds, selection, shares))
                results.append(found[self.output][: len(selection.indices)])
        result = _joined(results)
        real = sum(int(flags.sum()) for site in live for flags in self.real[site])
        kept = sum(
            int((flags & ok).sum())
            for site in live
            for flags, ok in zip(live[site], self.real[site], strict=True)
        )
        return Point(1.0 - kept / real, damage_of(self.reference, result), agreement(self.reference, result))

    def _feeds(self, feeds: Feeds, selection: Selection, live: Mapping[str, Flags]) -> dict[str, Array]:
        given = {**feed_names(self.probe.model, feeds), **_whole(self.probe.rows)}
        for site, flags in live.items():
            filling = len(next(iter(feeds.values()))) - len(selection.indices)
            shares = np.concatenate([flags, np.ones((filling, flags.shape[1]), np.bool_)])
            row = next(row for row in self.probe.rows if row.site == site)
            given[share_input(site)] = shares[..., None].astype(row.branch.dtype.numpy())
        return given


def _whole(rows: Sequence[RowBranch]) -> dict[str, Array]:
    """Nobody goes without."""
    return {share_input(row.site): np.ones((1, 1, 1), row.branch.dtype.numpy()) for row in rows}


def _unsettled(stream: Array, before: Array) -> Doubles:
    """1 - cosine, [samples, T]."""
    x, y = stream.astype(np.float64), before.astype(np.float64)
    lengths = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1) + 1e-12)
    cosine: Doubles = 1.0 - (x * y).sum(axis=-1) / lengths
    return cosine


def _live(
    scores: Sequence[Doubles], real: Sequence[Flags], fraction: float, *, always: bool
) -> tuple[Flags, ...]:
    """Who stays, by batch."""
    may_go = [flags.copy() for flags in real]
    for flags in may_go:
        flags[:, 0] &= not always
    passing = sum(int((all_ & ~some).sum()) for all_, some in zip(real, may_go, strict=True))
    threshold = cut(
        np.concatenate([each[flags] for each, flags in zip(scores, may_go, strict=True)]), fraction, passing
    )
    return tuple(
        flags & (~some | (each > threshold)) for each, flags, some in zip(scores, real, may_go, strict=True)
    )


def _joined(results: Iterator[Array] | Sequence[Array]) -> Array:
    """All samples below each other; results with an axis for tokens of any length, token below token."""
    arrays = list(results)
    if len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    return np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])


def agreement(reference: Array, result: Array) -> float | None:
    """Share of the samples with the class they had; ``None`` without classes."""
    if reference.ndim != 2 or reference.shape[1] < 2:
        return None
    before, after = (np.asarray(each.argmax(axis=1), np.int64) for each in (reference, result))
    return int((before == after).sum()) / len(before)
