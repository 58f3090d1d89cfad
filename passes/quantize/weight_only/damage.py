"""What each choice alone damages: one model whose stored weights are inputs, run with one of them exchanged.

    y = MatMul(x, w)   ->   y = MatMul(x, w_in)        w_in is fed: as it is, or as a format stores it

Weights are rounded by what some samples show, and judged on others. The model is cut at a few sites, so that
only what lies behind an exchanged weight runs again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Choice, Damage, Feeds, Samples
from adapass.executor.threads import one_thread
from adapass.graph.edit import fresh_name, remove_dead_nodes
from adapass.graph.text import clone
from adapass.moments.batches import Batches, spread
from adapass.moments.second import gather
from adapass.moments.sources import Source
from adapass.passes.quantize.sensitivity import compare
from adapass.passes.quantize.suffixes import Suffixes
from adapass.passes.quantize.weight_only.formats import Format
from adapass.passes.quantize.weight_only.grid import Doubles
from adapass.passes.quantize.weight_only.rounding import Method, Rounding, stored_form
from adapass.passes.quantize.weight_only.sites import Site

PARTS = 4
BATCH = 16
GIVEN = "adapass_given_weight"
_NO_WEIGHTS: Mapping[str, Array] = MappingProxyType({})


def damages_of(
    model: ir.Model,
    choices: Sequence[tuple[Choice, Site, Format]],
    samples: Samples,
    method: Method,
    *,
    calibration_samples: int,
    rows_each: int,
) -> Mapping[str, Damage]:
    """Damage of each choice, by its key."""
    fitted, judged = halves(len(samples))
    sites = list({site.name: site for _, site, _ in choices}.values())
    fed = Fed(model, sites)
    reference = [fed.first(feeds) for feeds in batches_of(samples, judged)]
    formats = [format_ for _, _, format_ in choices]
    grams = grams_of(model, sites, formats, method, samples, fitted[:calibration_samples], rows_each)
    found: dict[str, Damage] = {}
    with one_thread():
        for choice, site, format_ in choices:
            stored = stored_form(site.matrix, grams.get(site.op.source), format_, method)
            array = as_read(site, stored.weights())
            results = [fed.again(known, site.name, array) for known in reference]
            measured = compare(reference, results, fed.outputs)
            found[choice.key] = Damage(measured.distortion, measured.divergence)
    return found


def halves(count: int) -> tuple[list[int], list[int]]:
    """Samples to round by, and samples to judge on; the same ones where there is only one."""
    return (list(range(0, count, 2)), list(range(1, count, 2))) if count > 1 else ([0], [0])


def grams_of(
    model: ir.Model,
    sites: Sequence[Site],
    formats: Sequence[Format],
    method: Method,
    samples: Samples,
    indices: Sequence[int],
    rows_each: int,
) -> dict[Source, Doubles]:
    """Second moments of what the sites read in the float model; none where rounding does not look at them."""
    if not sites or (method.rounding == Rounding.NEAREST and not any(format_.rank for format_ in formats)):
        return {}
    batches = Batches.of(model, samples, indices=indices, rows_each=rows_each, padded=True)
    seen = gather(model, list(dict.fromkeys(site.op.source for site in sites)), batches)
    return {source: moments.gram for source, moments in seen.items()}


def batches_of(samples: Samples, indices: Sequence[int]) -> Iterator[Feeds]:
    """Samples of similar length together: padding is work too."""
    sizes = {i: sum(array.size for array in samples.feeds(i).values()) for i in indices}
    order = sorted(sizes, key=lambda i: (sizes[i], i))
    for at in range(0, len(order), BATCH):
        yield samples.batch(order[at : at + BATCH])


class Fed:
    """The model with the weights of its sites as inputs."""

    def __init__(self, model: ir.Model, sites: Sequence[Site]) -> None:
        copy = clone(model)
        nodes = {node.outputs[0].name: node for node in copy.graph}
        self._names: dict[str, str] = {}
        self._stored: dict[str, Array] = {}
        starts: list[ir.Node] = []
        for site in sites:
            node = nodes[site.name]
            starts.append(node)
            self._names[site.name] = _feed_weight(copy.graph, node)
            self._stored[site.name] = as_read(site, site.matrix)
        remove_dead_nodes(copy)
        cuts = spread(len(starts), PARTS) if starts else []
        self._order = {site.name: place for place, site in enumerate(sites)}
        self._starts = {place: starts[place] for place in cuts}
        self._suffixes = Suffixes(copy, list(self._starts.values()))
        self.outputs = self._suffixes.outputs

    def first(self, feeds: Feeds, weights: Mapping[str, Array] = _NO_WEIGHTS) -> Mapping[str, Array]:
        """Everything later runs start from, with ``weights`` (by site) in the place of the model's."""
        given = {**self._stored, **weights}
        return self._suffixes.first({**feeds, **{self._names[site]: array for site, array in given.items()}})

    def again(self, known: Mapping[str, Array], site: str, weight: Array | None) -> Mapping[str, Array]:
        """The outputs with the weight of one site exchanged; ``None``: for the model's own."""
        place = self._order[site]
        start = self._starts[max(cut for cut in self._starts if cut <= place)]
        array = self._stored[site] if weight is None else weight
        return self._suffixes.again(known, {self._names[site]: array}, start)


def _feed_weight(graph: ir.Graph, node: ir.Node) -> str:
    weight = node.inputs[1]
    assert weight is not None  # a site has a stored weight
    name = fresh_name(graph, GIVEN)
    given = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=weight.shape)
    graph.inputs.append(given)
    node.replace_input_with(1, given)
    return name


def as_read(site: Site, matrix: Doubles) -> Array:
    """A matrix [inputs, outputs] in the shape the product reads."""
    weight = site.node.inputs[1]
    assert weight is not None  # a site has a stored weight
    assert weight.shape is not None
    like = np.zeros([int(size) for size in weight.shape.numpy()], np.float32)
    return site.op.tensor(matrix, like)
