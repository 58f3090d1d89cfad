"""Values beside the stream, taken at the tokens that stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from adapass.analyses.dataflow import fixed_shape
from adapass.analyses.shapes import Dim
from adapass.graph.edit import constant_array
from adapass.passes.tokens.nodes import TokenBuilder
from adapass.passes.tokens.side import Kind
from adapass.passes.tokens.walk import FOLDED, Read, Walk

LOWEST = -3.4e38
"""Added to the score of a token that is not there. Finite: where nothing else is there either (padding
that asks) the softmax must not become a NaN that its value spreads to others."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The tokens that stay at one site."""

    kept: ir.Value
    valid: ir.Value | None
    """``None`` where all places of all samples are valid."""
    places: ir.Value | int
    """Their number K: int64 ``[1]``, or fixed."""
    grown: ir.Value | None
    """float ``[B, K]`` to be added to the scores of keys: log of how much more each stands for."""

    @property
    def tells_keys(self) -> bool:
        """Whether attentions behind must hear of it."""
        return self.valid is not None or self.grown is not None


@dataclass
class Follower:
    """Keeps the ranks of the values it made."""

    build: TokenBuilder
    clean: Mapping[ir.Value, tuple[Dim, ...]]
    """Of the values of the clean model (whose names may change)."""
    ranks: dict[ir.Value, int] = field(default_factory=dict[ir.Value, int])
    _made: dict[tuple[object, ...], ir.Value] = field(default_factory=dict[tuple[object, ...], ir.Value])

    def follow(self, read: Read, kind: Kind, walk: Walk, chosen: Chosen, *, bias: bool) -> ir.Value:
        """What ``read.node`` has to read instead of what it reads now. ``bias``: it tells an attention."""
        now = read.node.inputs[read.slot]
        assert now is not None
        if kind is Kind.SIZES:
            places = tuple(sorted(walk.axes[read.node.outputs[0]] - {FOLDED}))
            return self._once((1, read.value, chosen, *places), lambda: self._sizes(read, places, chosen))
        rank = self._rank(read.node.outputs[0])
        key = (2, now, chosen, rank, bias, *read.axes)
        return self._once(key, lambda: self._taken(now, read, kind, rank, chosen, bias=bias))

    def penalty(self, chosen: Chosen) -> ir.Value:
        """What attentions without a mask of their own add to their scores: ``[B, 1, 1, K]``."""
        return self._once((3, chosen), lambda: self._told(None, chosen))

    def told(self, now: ir.Value, chosen: Chosen) -> ir.Value:
        """A penalty of an earlier site, taken at the tokens that stay."""

        def make() -> ir.Value:
            row = self.build.gather(self.build.squeeze(now, 1, 2), chosen.kept)
            return self._told(row, chosen)

        return self._once((4, now, chosen), make)

    def _once(self, key: tuple[object, ...], make: Callable[[], ir.Value]) -> ir.Value:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _sizes(self, read: Read, places: tuple[int, ...], chosen: Chosen) -> ir.Value:
        """The list of sizes with the number of tokens that stay where that of all tokens was."""
        array = constant_array(read.value)
        rank = self._rank(read.node.outputs[0])
        count = rank if array is None else array.size
        shifted = [place - rank + count for place in places]
        wanted = [p for p in shifted if p >= 0 and (array is None or int(array.ravel()[p]) > 0)]
        if not wanted:
            return read.value
        if array is not None and isinstance(chosen.places, int):
            changed = array.copy()
            changed[wanted] = chosen.places
            return self.build.constant(changed)
        return self._patched(read.value, count, wanted, chosen)

    def _patched(self, sizes: ir.Value, count: int, wanted: list[int], chosen: Chosen) -> ir.Value:
        build = self.build
        number = build.integers(chosen.places) if isinstance(chosen.places, int) else chosen.places
        pieces: list[ir.Value] = []
        start = 0
        for place in [*wanted, count]:
            if start < place:
                pieces.append(build.slice(sizes, 0, start, place))
            if place < count:
                pieces.append(number)
            start = place + 1
        return build.op("Concat", *pieces, axis=0)

    def _taken(
        self, now: ir.Value, read: Read, kind: Kind, rank: int, chosen: Chosen, *, bias: bool
    ) -> ir.Value:
        build = self.build
        is_new = now not in self.ranks
        has = self._rank(read.value) if is_new else self.ranks[now]
        axes = [axis + rank - self._rank(read.value) for axis in read.axes]
        value = now if has == rank else build.unsqueeze(now, *range(rank - has))
        batched = not is_new or self._leads_with_samples(read.value, rank)
        if kind is Kind.KEYS and len(axes) == 2 and is_new:
            value = build.first_along(value, axes[0])
        for axis in axes[-1:] if kind is Kind.KEYS else axes:
            value = self._along(value, rank, axis, chosen.kept, batched=batched)
            batched = True
        if bias and kind is Kind.KEYS:
            value = self._told_like(value, rank, chosen)
        value.type = read.value.type
        value.shape = ir.Shape([None] * rank)
        self.ranks[value] = rank
        return value

    def _along(self, value: ir.Value, rank: int, axis: int, kept: ir.Value, *, batched: bool) -> ir.Value:
        build = self.build
        others = [other for other in range(1, rank) if other != axis]
        back = [0, *(1 + (others.index(place) + 1 if place != axis else 0) for place in range(1, rank))]
        if batched:
            return build.turned(build.gather(build.turned(value, [0, axis, *others]), kept), back)
        row = build.squeeze(value, 0)
        turned = build.turned(row, [axis - 1, *(other - 1 for other in others)])
        return build.turned(build.op("Gather", turned, kept, axis=0), back)

    def _told_like(self, value: ir.Value, rank: int, chosen: Chosen) -> ir.Value:
        build = self.build
        middle = tuple(range(1, rank - 1))
        if chosen.grown is not None:
            value = build.op("Add", value, build.unsqueeze(chosen.grown, *middle))
        if chosen.valid is not None:
            value = build.op("Where", build.unsqueeze(chosen.valid, *middle), value, build.number(LOWEST))
        return value

    def _told(self, row: ir.Value | None, chosen: Chosen) -> ir.Value:
        """A row ``[B, K]`` of penalties, laid out for scores."""
        build = self.build
        if chosen.grown is not None:
            row = chosen.grown if row is None else build.op("Add", row, chosen.grown)
        if chosen.valid is not None:
            there = build.number(0.0) if row is None else row
            row = build.op("Where", chosen.valid, there, build.number(LOWEST))
        assert row is not None
        return build.unsqueeze(row, 1, 2)

    def _rank(self, value: ir.Value) -> int:
        if (dims := self.clean.get(value)) is not None:
            return len(dims)
        shape = fixed_shape(value)
        assert shape is not None
        return len(shape)

    def _leads_with_samples(self, value: ir.Value, rank: int) -> bool:
        dims = self.clean.get(value)
        return dims is not None and len(dims) == rank and dims[0].is_batch
