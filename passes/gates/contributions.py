"""How far a branch moves the result of a model at each token: the slope of the result along the branch.

    y(m),  stream + m * f(x) at one token   ->   contribution = |dy / dm| at m = 1

How long ``f(x)`` is says little about it: what most tokens get is never looked at again. The slopes of
all tokens and branches come out of one backward pass of the FX twin, for a random direction of the result
(its mean square over directions is that of the whole slope). No labels are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.analyses.axes import Axes
from adapass.analyses.dataflow import name_of
from adapass.analyses.shapes import Shapes
from adapass.budgeted import Feeds, Samples
from adapass.executor.threads import one_thread
from adapass.facts import FactCache
from adapass.graph.digest import digest
from adapass.graph.edit import insert_before
from adapass.graph.text import clone
from adapass.moments import CrossMoments
from adapass.moments.batches import Batches, feed_names, spread
from adapass.moments.second import CrossSums
from adapass.moments.sources import Selection
from adapass.passes.gates.row_branches import RowBranch, find_row_branches

if TYPE_CHECKING:
    from adapass.twin.twin import Twin

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
POWER = 0.25
"""Contributions are told by their fourth roots: they differ by factors of a million."""
DRAWS = 2
BATCH = 16
_KNOWN = "adapass.gates.scores"
"""Where graphs keep the scores that were fitted; not serialised."""


@dataclass(frozen=True, slots=True)
class Slopes:
    """One batch: what goes into each branch, and how much it contributes, by site."""

    selection: Selection
    streams: Mapping[str, Doubles]
    """[B, T, C]."""
    contributions: Mapping[str, Doubles]
    """[B, T], not negative."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A copy of a model in which what each branch adds is multiplied by an input, [B, T, 1]."""

    model: ir.Model
    rows: tuple[RowBranch, ...]
    """Of the original, in execution order."""
    streams: Mapping[str, str]
    """Name of the stream of each site."""
    shapes: Shapes
    axes: Axes

    @classmethod
    def of(cls, model: ir.Model, facts: FactCache) -> Probe:
        rows = find_row_branches(model, facts)[0]
        copy = clone(model)
        nodes = {name_of(node.outputs[0]): node for node in copy.graph}
        for row in rows:
            add = nodes[name_of(row.branch.sum)]
            place = 1 - row.branch.place
            share = ir.Value(
                name=share_input(row.site),
                type=ir.TensorType(row.branch.dtype),
                shape=ir.Shape([f"{row.site}_samples", f"{row.site}_tokens", 1]),
            )
            copy.graph.inputs.append(share)
            scaled = ir.node("Mul", [add.inputs[place], share])
            insert_before(add, [scaled])
            add.replace_input_with(place, scaled.outputs[0])
        streams = {row.site: name_of(row.stream) for row in rows}
        return cls(copy, rows, streams, facts.get(Shapes), facts.get(Axes))

    def sizes(self, feeds: Feeds) -> dict[str, tuple[int, int]]:
        """Samples and tokens of each stream."""
        lengths = [
            array.shape[axis]
            for name, array in feeds.items()
            if (axis := self.axes.token_axis(name)) is not None
        ]
        count, length = len(next(iter(feeds.values()))), max(lengths, default=1)
        shapes = {site: self.shapes.at(name, count, length) for site, name in self.streams.items()}
        return {site: shape[:2] for site, shape in shapes.items() if shape is not None and len(shape) == 3}


def share_input(site: str) -> str:
    return f"{site}_share"


def slopes(probe: Probe, batches: Batches, *, seed: int = 0) -> Iterator[Slopes]:
    """Contributions on ``batches``, batch by batch; each batch draws its own directions.

    Raises:
        UsageError: torch is not installed.
        ModelError: an operator has no twin.

    """
    from adapass.twin.build import build_twin

    output = name_of(probe.model.graph.outputs[0])
    with one_thread():
        twin = build_twin(probe.model, outputs=[output, *dict.fromkeys(probe.streams.values())])
        for number, (selection, feeds) in enumerate(batches):
            random = np.random.default_rng([seed, number])
            yield _slopes(twin, probe, feed_names(probe.model, feeds), selection, random)


def _slopes(
    twin: Twin, probe: Probe, feeds: Feeds, selection: Selection, random: np.random.Generator
) -> Slopes:
    from adapass.twin.torch_import import torch

    given = {site: torch.ones((*size, 1), requires_grad=True) for site, size in probe.sizes(feeds).items()}
    found = twin.compute({**feeds, **{share_input(site): share for site, share in given.items()}})
    result = found[twin.outputs[0]]
    squares = {site: np.zeros(tuple(share.shape[:2])) for site, share in given.items()}
    for draw in range(DRAWS):
        direction = _direction(tuple(result.shape), random)
        total = (result * torch.from_numpy(direction).to(result.dtype)).sum()
        gradients = torch.autograd.grad(
            total, list(given.values()), retain_graph=draw + 1 < DRAWS, allow_unused=True
        )
        for site, gradient in zip(given, gradients, strict=True):
            if gradient is not None:
                squares[site] += gradient[..., 0].double().numpy() ** 2 / DRAWS
    kept = len(selection.indices)
    return Slopes(
        selection,
        {site: found[name].detach().double().numpy()[:kept] for site, name in probe.streams.items()},
        {site: np.sqrt(square)[:kept] for site, square in squares.items()},
    )


def _direction(shape: tuple[int, ...], random: np.random.Generator) -> Doubles:
    """Random; of class scores one that moves them against each other: moved together they say the same."""
    drawn = random.standard_normal(shape)
    is_classes = len(shape) == 2 and shape[1] > 1
    return drawn - drawn.mean(axis=-1, keepdims=True) if is_classes else drawn


def real_rows(selection: Selection, shape: tuple[int, ...]) -> Flags:
    """[samples, T]: which tokens of a stream count."""
    count = len(selection.indices)
    mask = selection.mask
    if mask is None or mask.shape[1] != shape[1]:
        return np.ones((count, shape[1]), np.bool_)
    return mask[:count]


def fitted_scores(model: ir.Model, samples: Samples, *, count: int, damping: float) -> Mapping[str, Doubles]:
    """For each branch of ``model`` the weights [C] of the score that best predicts its contribution.

    Kept with the graph of ``model`` by contents: plans that share an original and samples share the fit.
    """
    kept = share_fits(model)
    key = f"{digest(model)} {_digest(samples, count)} {damping}"
    if key not in kept:
        kept[key] = _fit(model, samples, count, damping)
    return kept[key]


def share_fits(model: ir.Model) -> dict[str, Mapping[str, Doubles]]:
    """Let copies of ``model`` made from now on share the scores fitted on any of them."""
    known = cast("dict[str, object]", model.graph.meta)
    return cast("dict[str, Mapping[str, Doubles]]", known.setdefault(_KNOWN, {}))


def _digest(samples: Samples, count: int) -> str:
    told = blake2b(digest_size=16)
    for index in spread(len(samples), count):
        for name, array in sorted(samples.feeds(index).items()):
            told.update(f"{name} {array.dtype} {array.shape}".encode())
            told.update(np.ascontiguousarray(array).tobytes())
    return told.hexdigest()


def _fit(model: ir.Model, samples: Samples, count: int, damping: float) -> Mapping[str, Doubles]:
    facts = FactCache(model)
    probe = Probe.of(model, facts)
    batches = Batches.of(model, samples, size=BATCH, count=count, facts=facts)
    sums = {row.site: CrossSums() for row in probe.rows}
    seen = dict.fromkeys(sums, 0)
    for found in slopes(probe, batches):
        for row in probe.rows:
            stream, contribution = found.streams[row.site], found.contributions[row.site]
            counts: Flags = real_rows(found.selection, stream.shape)
            if row.first_is_read:
                counts = counts.copy()
                counts[:, 0] = False
            seen[row.site] += int(counts.sum())
            sums[row.site].add(stream[counts], contribution[counts][:, None] ** POWER)
    return {
        row.site: _ridge(sums[row.site].done(row.site), damping)
        if seen[row.site]
        else np.zeros(row.branch.channels)
        for row in probe.rows
    }


def _ridge(moments: CrossMoments, damping: float) -> Doubles:
    """Weights of the score of least squares, of columns brought to one size."""
    from scipy.linalg import cho_factor, cho_solve

    x, rows = moments.x, moments.x.rows
    mean, mean_y = x.total / rows, moments.total / rows
    gram = x.gram / rows - np.outer(mean, mean)
    cross = moments.cross[:, 0] / rows - mean * mean_y[0]
    size = np.sqrt(np.maximum(np.diag(gram), 0.0))
    size = np.where(size > 1e-6 * max(float(size.max(initial=0.0)), 1e-30), size, np.inf)
    scaled = gram / np.outer(size, size) + damping * np.eye(len(gram))
    return np.asarray(cho_solve(cho_factor(scaled), cross / size), np.float64) / size
