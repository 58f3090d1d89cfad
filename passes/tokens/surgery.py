"""Leave tokens behind in a graph, site after site.

    x  ->  SelectTokens(score, count) -> kept, valid ; GatherTokens(x, kept) -> x'

and from there everything reads x' (which takes the name of x), masks and positions are taken at the tokens
that stay, and where all tokens are wanted back ``ScatterTokens`` puts those that went on among the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from adapass.analyses.dataflow import Dataflow, name_of
from adapass.analyses.shapes import Shapes
from adapass.facts import FactCache
from adapass.graph.edit import fresh_name, replace_uses
from adapass.ops import EXPECTED_SHARE
from adapass.passes.tokens.counts import Tokens, count_tokens, ranking, share_of
from adapass.passes.tokens.follow import Chosen, Follower
from adapass.passes.tokens.nodes import PREFIX, TokenBuilder
from adapass.passes.tokens.scores import attention_score, key_metric, learned_score
from adapass.passes.tokens.settings import Rule, Score, Setting
from adapass.passes.tokens.side import Kind
from adapass.passes.tokens.sites import Site, Sites, Way
from adapass.passes.tokens.walk import Read

RECORD = "adapass.tokens"
"""Metadata of a ``SelectTokens``: JSON, texts by name. What is not there is empty."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A part of the model that runs on fewer tokens."""

    way: Way
    live: ir.Value | None
    length: int | None
    size: ir.Value | None
    """float ``[B, K]``: how many tokens each stands for; ``None`` where all stand for themselves."""
    places: tuple[ir.Value, ir.Value] | None = None
    """Positions and validity of the tokens that are left; ``None`` where all are there."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to do at a site."""

    site: Site
    setting: Setting
    score: Score

    @property
    def way(self) -> Way:
        return self.site.way_of(self.setting)


class Surgery:
    """Changes one model in place; sites must come in execution order."""

    def __init__(self, model: ir.Model, facts: FactCache, sites: Sites) -> None:
        flow, shapes = facts.get(Dataflow), facts.get(Shapes)
        self._flow = flow
        self._build = TokenBuilder(model)
        self._clean = {
            value: dims for value in flow.values() if (dims := shapes.of(name_of(value))) is not None
        }
        self._names = {value: name_of(value) for value in self._clean}
        self._follower = Follower(self._build, self._clean)
        mask = None if sites.mask is None else self._build.value(sites.mask)
        self._mask = mask
        self._frames: list[Frame] = []
        self._now: dict[ir.Value, ir.Value] = {}
        """What stands for a value behind a part on fewer tokens."""
        self._penalties: dict[ir.Node, ir.Node] = {}
        """The sum that tells an attention which keys are there, by its softmax, where the model had none."""

    def leave_behind(self, wanted: Wanted) -> None:
        """Make one choice."""
        site, way, build = wanted.site, wanted.way, self._build
        x = self._now.get(site.value, site.value)
        frame = self._frame(site)
        readers = [
            use for use in x.uses() if use.node in self._old_nodes() or use.node.op_type == "ScatterTokens"
        ]
        tokens = Tokens(x, frame.live, frame.length, first=site.first_token)
        score, threshold, probe = self._score(wanted, tokens, frame)
        count = count_tokens(build, tokens, score, wanted.setting, threshold)
        kept, valid = build.select(ranking(build, tokens, score), count)
        self._record(kept, wanted, probe, threshold)
        even = frame.live is None and wanted.setting.is_even
        chosen = self._chosen(wanted, frame, kept, None if even else valid)
        fewer, size, chosen = self._fewer(wanted, tokens, frame, chosen, valid)
        for use in readers:
            use.node.replace_input_with(use.idx, fewer)
        self._take_name(x, fewer)
        self._tell(way, chosen)
        if way.end is not None:
            self._bring_back(x, way.end, kept, valid)
        length = chosen.places if isinstance(chosen.places, int) else None
        self._frames.append(Frame(way, None if even else valid, length, size, (kept, valid)))

    def _old_nodes(self) -> frozenset[ir.Node]:
        return frozenset(self._flow.nodes)

    def _frame(self, site: Site) -> Frame:
        """The innermost part around a site; the whole model where there is none."""
        for frame in reversed(self._frames):
            if site.value in frame.way.walk.axes and site.value is not frame.way.end:
                return frame
        live = None if self._mask is None else self._build.bools(self._mask)
        return Frame(site.way, live, site.length, None)

    def _frame_of_attention(self, site: Site, around: Frame) -> Frame:
        """That in which the attention before a site runs: a part that ends at the site, or what is around."""
        product = site.core_nodes[0].outputs[0]
        inside = [frame for frame in self._frames if product in frame.way.walk.axes]
        ended = [frame for frame in inside if frame.way.end is site.value]
        return ended[-1] if ended else around

    def _lifted(self, value: ir.Value, inner: Frame, stream: ir.Value, width: int | None) -> ir.Value:
        """Something of the tokens that took part, zero for those that went around."""
        if inner.places is None:
            return value
        build = self._build
        sizes = [build.size(stream, 0), build.size(stream, 1)]
        if width is not None:
            sizes.append(build.integers(width))
        nothing = build.op("Expand", build.number(0.0), build.op("Concat", *sizes, axis=0))
        return build.scatter(nothing, *inner.places, value)

    def _score(
        self, wanted: Wanted, tokens: Tokens, frame: Frame
    ) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
        """The score, and what ``fit`` has to settle."""
        build, site, setting = self._build, wanted.site, wanted.setting
        if wanted.score is not Score.LEARNED:
            inner = self._frame_of_attention(site, frame)
            score = attention_score(build, site.core_nodes, wanted.score, inner.live)
            return score if inner is frame else self._lifted(score, inner, tokens.stream, None), None, None
        channels = self._clean[site.value][2].at(0, 0)
        score = learned_score(build, tokens.stream, channels, f"{PREFIX}_probe_{site.name}")
        maker = score.producer()
        product = None if maker is None or maker.inputs[0] is None else maker.inputs[0].producer()
        probe = None if product is None else product.inputs[1]
        if setting.rule is not Rule.THRESHOLD:
            return score, None, probe
        threshold = build.constant(np.float32(-np.inf), f"{PREFIX}_threshold_{site.name}")
        return score, threshold, probe

    def _record(
        self, kept: ir.Value, wanted: Wanted, probe: ir.Value | None, threshold: ir.Value | None
    ) -> None:
        node = kept.producer()
        assert node is not None
        if not wanted.setting.is_even:
            node.metadata_props[EXPECTED_SHARE] = f"{wanted.setting.share:g}"
        node.metadata_props[RECORD] = json.dumps(
            {
                "site": wanted.site.name,
                "setting": f"{wanted.setting.rule}-{wanted.setting.share:g}",
                "score": wanted.score,
                "first": "yes" if wanted.site.first_token else "no",
                "open": "no" if probe is None else "yes",
                "probe": name_of(probe),
                "threshold": name_of(threshold),
            },
            sort_keys=True,
        )

    def _chosen(self, wanted: Wanted, frame: Frame, kept: ir.Value, valid: ir.Value | None) -> Chosen:
        if frame.length is not None and valid is None:
            return Chosen(kept, None, share_of(frame.length, wanted.setting), None)
        return Chosen(kept, valid, self._build.size(kept, 1), None)

    def _fewer(
        self, wanted: Wanted, tokens: Tokens, frame: Frame, chosen: Chosen, valid: ir.Value
    ) -> tuple[ir.Value, ir.Value | None, Chosen]:
        """The tokens that go on, and how many each of them stands for."""
        build, x = self._build, tokens.stream
        if wanted.setting.rule is not Rule.MERGE:
            size = None if frame.size is None else build.gather(frame.size, chosen.kept)
            return self._typed(build.gather(x, chosen.kept), x), size, chosen
        before = frame.size if frame.size is not None else self._ones(tokens)
        takes = build.op(
            "And", valid, build.op("GreaterOrEqual", chosen.kept, build.integer(int(tokens.first)))
        )
        y, total = build.merge(x, self._metric(wanted.site, frame, x), before, (chosen.kept, valid, takes))
        grown = build.op("Log", total)
        if frame.size is not None:
            grown = build.op("Sub", grown, build.op("Log", build.gather(before, chosen.kept)))
        return self._typed(y, x), total, replace(chosen, grown=grown)

    def _metric(self, site: Site, frame: Frame, stream: ir.Value) -> ir.Value:
        inner = self._frame_of_attention(site, frame)
        keys = key_metric(self._build, site.core_nodes)
        width = self._clean[site.value][2].at(0, 0) if site.core.head_size is None else site.core.head_size
        return keys if inner is frame else self._lifted(keys, inner, stream, width)

    def _ones(self, tokens: Tokens) -> ir.Value:
        """1 for a real token, 0 for padding: float ``[B, T]``."""
        build = self._build
        if tokens.live is not None:
            return build.op("Cast", tokens.live, to=int(ir.DataType.FLOAT))
        any_channel = build.op("Gather", tokens.stream, build.integer(0), axis=2)
        same = build.op("Equal", any_channel, any_channel)
        ones = build.op("Cast", same, to=int(ir.DataType.FLOAT))
        ones.type = ir.TensorType(ir.DataType.FLOAT)
        return ones

    def _typed(self, value: ir.Value, like: ir.Value) -> ir.Value:
        value.type = like.type
        return value

    def _take_name(self, old: ir.Value, new: ir.Value) -> None:
        """``new`` is what others know by the name of ``old``."""
        if old.is_graph_output():
            return
        name = name_of(old)
        old.name = fresh_name(self._build.graph, f"{name}_every")
        new.name = name

    def _tell(self, way: Way, chosen: Chosen) -> None:
        """Masks, positions and sizes follow, and attentions without a mask get one where they need it."""
        told: set[ir.Node] = set()
        for read, kind in way.kinds.items():
            softmax = self._biased(read, kind)
            is_bias = softmax is not None and softmax not in told and chosen.tells_keys
            value = self._follower.follow(read, kind, way.walk, chosen, bias=is_bias)
            read.node.replace_input_with(read.slot, value)
            if softmax is not None and is_bias:
                told.add(softmax)
        for attending in way.walk.attentions:
            softmax = attending.softmax
            if softmax in self._penalties:
                penalty = self._penalties[softmax]
                now = penalty.inputs[1]
                assert now is not None
                bias = self._follower.told(now, chosen)
                penalty.replace_input_with(1, bias)
            elif softmax not in told and chosen.tells_keys:
                self._penalties[softmax] = self._add_penalty(softmax, chosen)

    def _biased(self, read: Read, kind: Kind) -> ir.Node | None:
        """The softmax right behind a sum of scores and a mask."""
        node = read.node
        if kind is not Kind.KEYS or node.op_type != "Add":
            return None
        uses = list(node.outputs[0].uses())
        if len(uses) != 1 or uses[0].node.op_type != "Softmax":
            return None
        return uses[0].node

    def _add_penalty(self, softmax: ir.Node, chosen: Chosen) -> ir.Node:
        scores = softmax.inputs[0]
        assert scores is not None
        summed = self._build.op("Add", scores, self._follower.penalty(chosen))
        summed.type = scores.type
        softmax.replace_input_with(0, summed)
        node = summed.producer()
        assert node is not None
        return node

    def _bring_back(self, rest: ir.Value, end: ir.Value, kept: ir.Value, valid: ir.Value) -> None:
        z = self._build.scatter(rest, kept, valid, end)
        scatter = z.producer()
        name, is_outermost = self._names[end], name_of(end) == self._names[end]
        replace_uses(end, z)
        assert scatter is not None
        scatter.replace_input_with(3, end)
        if is_outermost and name_of(z) != name:
            end.name = fresh_name(self._build.graph, f"{name}_kept")
            z.name = name
        self._now.setdefault(end, z)


def records(model: ir.Model) -> Mapping[ir.Node, Mapping[str, str]]:
    """What was chosen at each ``SelectTokens``."""
    return {
        node: json.loads(node.metadata_props[RECORD]) for node in model.graph if RECORD in node.metadata_props
    }
