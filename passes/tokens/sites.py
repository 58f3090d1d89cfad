"""Where tokens can be left behind: after an attention, before what reads its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.analyses.attention import AttentionCore, AttentionCores
from adapass.analyses.blocks import is_residual_add
from adapass.analyses.cut_sites import CutSite, CutSites, Layout
from adapass.analyses.cuts import Cut, sweep
from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.shapes import Dim, Shapes
from adapass.analyses.side_values import SideValues
from adapass.analyses.token_mask import TokenMask
from adapass.budgeted import Array, Refusal
from adapass.errors import VerificationError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.edit import remove_dead_nodes
from adapass.graph.text import clone
from adapass.ops import DOMAIN, GATHER_TOKENS, SELECT_TOKENS
from adapass.passes.tokens.settings import Rule, Setting
from adapass.passes.tokens.side import Kind, kinds_of, watched_values
from adapass.passes.tokens.walk import ALONG_LAST, Read, Walk, Walker

LENGTHS = (5, 8)
"""Numbers of tokens at which masks are looked at."""


@dataclass(frozen=True, slots=True)
class Way:
    """The part of a model that runs on fewer tokens."""

    walk: Walk
    kinds: Mapping[Read, Kind]
    end: ir.Value | None
    """Where all tokens are wanted back; ``None`` where the first one is read in the end."""


@dataclass(frozen=True, slots=True)
class Site:
    """One place: the value whose tokens are chosen from, and the way they go from there."""

    name: str
    value: ir.Value
    position: int
    core: AttentionCore
    core_nodes: tuple[ir.Node, ...]
    way: Way
    """To the end."""
    bypass: Way | None
    """To the next site."""
    first_token: bool
    """Whether the first token must stay."""
    length: int | None
    """Number of tokens, where it is fixed."""
    teachable: bool
    """Whether attentions show the probabilities that learned scores are fitted to."""

    def way_of(self, setting: Setting) -> Way:
        """The part that runs on fewer tokens."""
        return self.bypass if setting.rule is Rule.BYPASS and self.bypass is not None else self.way


@dataclass(frozen=True, slots=True)
class Sites:
    """All sites of a model, in execution order."""

    sites: tuple[Site, ...]
    refusals: tuple[Refusal, ...]
    mask: str | None
    """Graph input ``[B, T]`` that is 0 for padding."""


def find_sites(model: ir.Model, facts: FactCache) -> Sites:
    """The sites of ``model``, and where tokens cannot be left behind, with the reason."""
    if any(node.domain == DOMAIN and node.op_type in (SELECT_TOKENS, GATHER_TOKENS) for node in model.graph):
        return Sites((), (Refusal("", "tokens are left behind in this model already"),), None)
    mask = facts.get(TokenMask)
    if mask.input is not None and (mask.batch_axis, mask.token_axis) != (0, 1):
        return Sites((), (Refusal(mask.input, "the mask does not lead with samples, then tokens"),), None)
    return Sites(*_Finder(model, facts).find(), mask.input)


class _Finder:
    def __init__(self, model: ir.Model, facts: FactCache) -> None:
        self._model = model
        self._flow = facts.get(Dataflow)
        self._shapes = facts.get(Shapes)
        self._main = facts.get(SideValues).main
        self._sites = facts.get(CutSites).sites
        self._cores = facts.get(AttentionCores).cores
        self._walker = Walker.of(facts)
        self._mask = facts.get(TokenMask).input
        self._cuts, _ = sweep(self._flow, self._main)
        self._values = {name_of(value): value for value in self._flow.values()}

    def find(self) -> tuple[tuple[Site, ...], tuple[Refusal, ...]]:
        refusals: list[Refusal] = []
        places = [(core, self._after(core, index)) for index, core in enumerate(self._cores)]
        walks: list[tuple[AttentionCore, CutSite, Walk]] = []
        for core, place in places:
            if place is None:
                refusals.append(Refusal(core.context, "more than the stream of tokens crosses behind it"))
            elif not self._has_tokens(place):
                refusals.append(Refusal(place.value, "there are no tokens here to choose from"))
            elif self._shapes.dtypes.get(place.value, ir.DataType.FLOAT) != ir.DataType.FLOAT:
                refusals.append(Refusal(place.value, "the tokens are not in single precision"))
            else:
                walks.append((core, place, self._walker.walk(self._values[place.value], 1)))
        seen = self._observed(walks)
        found: list[Site] = []
        for number, (core, place, walk) in enumerate(walks):
            following = walks[number + 1][1] if number + 1 < len(walks) else None
            site = self._site(core, place, walk, following, seen)
            if isinstance(site, Refusal):
                refusals.append(site)
            else:
                found.append(site)
        return tuple(found), tuple(refusals)

    def _after(self, core: AttentionCore, index: int) -> CutSite | None:
        """The first cut behind an attention, if the next attention is not before it."""
        end = self._cores[index + 1].nodes[0] if index + 1 < len(self._cores) else len(self._flow.nodes)
        return next((site for site in self._sites if core.nodes[-1] < site.position < end), None)

    def _has_tokens(self, place: CutSite) -> bool:
        dims = self._shapes.of(place.value)
        arranged = place.layout is Layout.TOKENS and (place.batch_axis, place.token_axis) == (0, 1)
        if dims is None or not arranged:
            return False
        if self._shapes.dynamic_tokens:
            return dims[1].follows_tokens
        return not (dims[1].batch or dims[1].both) and dims[1].constant > 1

    def _observed(self, walks: list[tuple[AttentionCore, CutSite, Walk]]) -> Mapping[str, list[Array]]:
        wanted = dict.fromkeys(name for _, _, walk in walks for name in watched_values(walk))
        return observe_values(self._model, list(wanted), self._shapes) if wanted else {}

    def _site(
        self,
        core: AttentionCore,
        place: CutSite,
        walk: Walk,
        following: CutSite | None,
        seen: Mapping[str, list[Array]],
    ) -> Site | Refusal:
        value, end = self._values[place.value], None
        if walk.stop is not None:
            cut = self._end(value, place, walk.stop.position)
            if cut is None:
                return Refusal(place.value, f"all tokens are wanted back: {walk.stop.reason}")
            end, walk = cut.value, self._walker.walk(value, 1, cut.position)
        elif not walk.first_token:
            return Refusal(place.value, "no token is read behind it")
        kinds = kinds_of(walk, seen)
        if isinstance(kinds, str):
            return Refusal(place.value, kinds)
        dims: list[Dim] = [*(self._shapes.of(place.value) or ())]
        if self._mask is not None and [*(self._shapes.of(self._mask) or ())][1:] != dims[1:2]:
            return Refusal(place.value, "the mask is not about these tokens")
        return Site(
            name=place.value,
            value=value,
            position=place.position,
            core=core,
            core_nodes=tuple(self._flow.nodes[index] for index in core.nodes),
            way=Way(walk, kinds, end),
            bypass=self._bypass(value, walk, following, seen),
            first_token=walk.first_token,
            length=None if self._shapes.dynamic_tokens else int(dims[1].constant),
            teachable=all(self._shows(each) for each in self._cores),
        )

    def _shows(self, core: AttentionCore) -> bool:
        """Whether there are probabilities by samples, heads, queries and keys."""
        return core.heads is not None and any(
            self._flow.nodes[index].op_type == "Softmax" for index in core.nodes
        )

    def _end(self, value: ir.Value, place: CutSite, before: int) -> Cut | None:
        """The last value of the same stream before the node at ``before``."""
        alike = [
            cut
            for cut in self._cuts
            if place.position < cut.position < before and self._same_stream(value, cut.value)
        ]
        return alike[-1] if alike else None

    def _same_stream(self, value: ir.Value, other: ir.Value) -> bool:
        """Both are sums, or both normalised: a token that stayed behind at one fits in at the other."""
        first, second = value.producer(), other.producer()
        if first is None or second is None or first.op_type != second.op_type:
            return False
        if self._shapes.of(name_of(value)) != self._shapes.of(name_of(other)):
            return False
        return second.op_type in ALONG_LAST or is_residual_add(
            self._flow, self._main, self._flow.producer[other]
        )

    def _bypass(
        self, value: ir.Value, walk: Walk, following: CutSite | None, seen: Mapping[str, list[Array]]
    ) -> Way | None:
        if following is None or following.value not in {name_of(met) for met in walk.axes}:
            return None
        other = self._values[following.value]
        if not self._same_stream(value, other):
            return None
        part = self._walker.walk(value, 1, self._flow.producer[other])
        kinds = kinds_of(part, seen)
        return None if isinstance(kinds, str) else Way(part, kinds, other)


def observe_values(model: ir.Model, names: list[str], shapes: Shapes) -> dict[str, list[Array]]:
    """Values beside the stream on made-up samples; nothing of a value where they cannot be computed."""
    part = clone(model)
    values = {name_of(value): value for node in part.graph for value in node.outputs}
    wanted = [name for name in names if name in values]
    part.graph.outputs.clear()
    part.graph.outputs.extend(values[name] for name in wanted)
    remove_dead_nodes(part)
    found: dict[str, list[Array]] = {name: [] for name in wanted}
    if not wanted:
        return found
    try:
        session = Session(part)
        for length in LENGTHS if shapes.dynamic_tokens else LENGTHS[:1]:
            results = session.run(_feeds(part.graph.inputs, shapes, length))
            for name in wanted:
                found[name].append(results[name])
    except VerificationError:
        return {}
    return found


def _feeds(inputs: Sequence[ir.Value], shapes: Shapes, length: int) -> dict[str, Array]:
    """Three samples; whole numbers and truths are drawn from 0 and 1, the first of each row is 1."""
    random = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for value in inputs:
        size = shapes.at(name_of(value), 3, length)
        if size is None or value.is_initializer():
            continue
        dtype = ir.DataType.FLOAT if value.dtype is None else value.dtype
        if dtype.is_floating_point():
            feeds[name_of(value)] = random.standard_normal(size).astype(dtype.numpy())
            continue
        numbers: npt.NDArray[np.int64] = np.asarray(random.integers(0, 2, size))
        if numbers.ndim > 1:
            numbers[:, :1] = 1
        feeds[name_of(value)] = numbers.astype(dtype.numpy())
    return feeds
