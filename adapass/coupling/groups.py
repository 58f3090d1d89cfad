"""Coupling: which tensor dimensions must shrink together, and which cannot be cut and why.

A group is a set of like things (channels, neurons, heads, ...) of which any can be removed, each
everywhere at once: in the weights that write it, the weights that read it, and all that lies between.

    find_coupling(model).groups[0].places
        value="conv1.weight", axis=0, role="writes"     positions[i] = (i,)
        value="bn1.scale",    axis=0, role="follows"
        value="conv2.weight", axis=1, role="reads"

How it works: every axis of every value is a sum of products of leaves (see ``dims``). A group is a leaf.
Functions of the model are inlined first, by ``remove`` as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Literal, Self

import onnx_ir as ir

from adapass.budgeted import Refusal
from adapass.coupling.flow import Role
from adapass.facts import Fact, FactCache
from adapass.graph.text import clone

Kind = Literal["channels", "neurons", "heads", "head-width", "stream", "embedding", "experts", "states"]


@dataclass(frozen=True, slots=True)
class Place:
    """An axis of a stored tensor or of a value that shrinks with the group."""

    value: str
    """Name of an initializer, of a constant's output, or of an activation."""
    axis: int
    positions: tuple[tuple[int, ...], ...] = field(repr=False)
    """For each unit the positions along the axis that belong to it."""
    role: Role
    """writes: output side of a weight that makes the dimension, or its bias; reads: input side of a weight
    that consumes it; follows: norm scale, depthwise weight, per-channel constant; carries: an activation."""
    node: str
    """Name of the node that owns it (of its first output if it has none)."""
    shape: tuple[int, ...] = ()
    """Of a stored tensor; empty for an activation."""

    @property
    def is_stored(self) -> bool:
        return self.role != "carries"


@dataclass(frozen=True, slots=True)
class Group:
    """Things that can be removed independently of each other; at least one must stay."""

    key: str
    """Stable while the clean graph stays the same."""
    kind: Kind
    units: int
    places: tuple[Place, ...]
    exact: bool
    """Whether removal equals zeroing what the units write (no normalisation runs over the dimension)."""

    @property
    def stored(self) -> tuple[Place, ...]:
        """The places in stored tensors."""
        return tuple(place for place in self.places if place.is_stored)

    @property
    def written(self) -> tuple[Place, ...]:
        """The places in the weights that make the dimension."""
        return tuple(place for place in self.places if place.role == "writes")

    @property
    def read(self) -> tuple[Place, ...]:
        """The places in the weights that consume the dimension."""
        return tuple(place for place in self.places if place.role == "reads")

    @property
    def removed_elements(self) -> int:
        """Stored numbers that the first unit takes along when it is removed alone."""
        left: dict[str, list[int]] = {}
        whole: dict[str, int] = {}
        for place in self.stored:
            whole[place.value] = prod(place.shape)
            sizes = left.setdefault(place.value, list(place.shape))
            sizes[place.axis] -= len(place.positions[0])
        return sum(whole[value] - prod(sizes) for value, sizes in left.items())


@dataclass(frozen=True, slots=True)
class Coupling(Fact):
    """All groups of a model, in the order of execution of what writes them first."""

    groups: tuple[Group, ...]
    refusals: tuple[Refusal, ...]
    """Dimensions of weights that cannot be cut, in plain words."""

    def of(self, key: str) -> Group:
        """The group with this key; ``KeyError`` when there is none."""
        return {group.key: group for group in self.groups}[key]

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        # Deferred: the table of rules needs the types of this file.
        from adapass.coupling.collect import collect
        from adapass.coupling.inline import has_functions, inline_functions
        from adapass.coupling.walk import Walked

        if has_functions(model):
            twin = clone(model)
            inline_functions(twin)
            facts = FactCache(twin)
        groups, refusals = collect(facts.get(Walked).flow)
        return cls(groups, refusals)


def find_coupling(model: ir.Model, facts: FactCache | None = None) -> Coupling:
    """Find what must shrink together in ``model``, which stays as it is."""
    return (FactCache(model) if facts is None else facts).get(Coupling)
