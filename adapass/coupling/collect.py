"""Groups from the leaves that a walk over a model left free, and refusals from those it fixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Refusal
from adapass.coupling.dims import SINGLE, Dim, Form, find, leaves
from adapass.coupling.flow import SEVERAL, Dims, Flow, Owned, Role
from adapass.coupling.groups import Group, Kind, Place
from adapass.coupling.rules.convolutions import KERNEL
from adapass.graph.constants import constant_tensor

Labels = npt.NDArray[np.int64]
Spot = tuple[ir.Value, int]
"""An axis of a value."""
Roles = dict[tuple[Dim, ir.Value, int], Role]
STRENGTH: Mapping[Role, int] = {"writes": 0, "reads": 1, "follows": 2, "carries": 3}


@dataclass
class Found:
    """Where one leaf occurs, or a family of single entries that the same weights write."""

    members: dict[Dim, int]
    """The leaves, with the number of the first unit of each."""
    places: dict[Spot, tuple[Dim, ir.Node]] = field(default_factory=dict[Spot, tuple[Dim, ir.Node]])

    @property
    def units(self) -> int:
        return sum(dim.size[0] for dim in self.members)

    @property
    def reason(self) -> str | None:
        return next(iter(self.members)).reason

    @property
    def marks(self) -> set[str]:
        return {word for dim in self.members for word in dim.marks}


def collect(flow: Flow) -> tuple[tuple[Group, ...], tuple[Refusal, ...]]:
    """All groups in order of what writes them, and all refusals."""
    named = leaves_by_key(flow)
    roles = _roles(flow, {dim: found for found in named.values() for dim in found.members})
    labels = _Labels()
    groups = [_group(flow, key, found, roles, labels) for key, found in named.items() if found.reason is None]
    refusals = [Refusal(key, found.reason) for key, found in named.items() if found.reason is not None]
    return tuple(groups), tuple(refusals)


def leaves_by_key(flow: Flow) -> dict[str, Found]:
    """Leaves that a weight writes or reads, by a key that stays the same from walk to walk.

    The key is the first stored tensor that writes the leaf (else reads it), its axis, and which leaf of
    that axis it is.
    """
    found = _occurrences(flow)
    roles = _roles(flow, found)
    named: dict[str, Found] = {}
    for each in _with_families(found, roles):
        (dim,) = list(each.members)[:1]
        if len(set(dim.size)) > 1 or each.units < SEVERAL or each.reason == KERNEL:
            continue
        spot = _first_spot(each, dim, roles)
        if spot is None:
            continue
        inside = [id(other) for other in dict.fromkeys(leaves(each.places[spot][0]))]
        suffix = "" if len(inside) == 1 else f".{inside.index(id(dim))}"
        named[f"{spot[0].name}:{spot[1]}{suffix}"] = each
    return named


def _first_spot(found: Found, dim: Dim, roles: Roles) -> Spot | None:
    """The first place that writes the leaf, else the first that reads it."""
    played = [
        (STRENGTH[role], order)
        for order, spot in enumerate(found.places)
        if (role := roles.get((dim, *spot))) in ("writes", "reads")
    ]
    return list(found.places)[min(played)[1]] if played else None


def _with_families(found: Mapping[Dim, Found], roles: Roles) -> list[Found]:
    """Single entries written by the same weights become one group; other leaves stay as they are."""
    result: list[Found] = []
    families: dict[tuple[object, ...], Found] = {}
    for dim, each in found.items():
        if SINGLE not in dim.marks:
            result.append(each)
            continue
        written = tuple(spot for spot in each.places if roles.get((dim, *spot)) == "writes")
        family = families.setdefault((written, dim.reason is None), Found({}))
        if not family.members:
            result.append(family)
        family.members[dim] = len(family.members)
        for spot, place in each.places.items():
            family.places.setdefault(spot, place)
    return result


def _occurrences(flow: Flow) -> dict[Dim, Found]:
    found: dict[Dim, Found] = {}
    for value, dims, node in _uses(flow):
        for axis, dim in enumerate(dims):
            for each in dict.fromkeys(leaves(dim)):
                found.setdefault(each, Found({each: 0})).places.setdefault((value, axis), (dim, node))
    return found


def _uses(flow: Flow) -> Iterator[tuple[ir.Value, Dims, ir.Node]]:
    """Stored tensors by their first reader in the order of the graph, then computed values."""
    own: dict[ir.Value, list[tuple[ir.Node, Dims]]] = {}
    for (node, index), dims in flow.own.items():
        value = node.inputs[index]
        if value is not None:
            own.setdefault(value, []).append((node, dims))
    stored = [value for value in flow.dims if _is_stored(flow, value)]
    for value in stored:
        owner = value.producer() if _makes_itself(flow, value) else next((n for n, _ in value.uses()), None)
        if owner is not None:
            yield value, flow.dims[value], owner
    for value, uses in own.items():
        for node, dims in uses:
            yield value, dims, node
    computed = frozenset(stored)
    for value, dims in flow.dims.items():
        producer = value.producer()
        if value not in computed and producer is not None:
            yield value, dims, producer


def _is_stored(flow: Flow, value: ir.Value) -> bool:
    return constant_tensor(value) is not None or _makes_itself(flow, value)


def _makes_itself(flow: Flow, value: ir.Value) -> bool:
    """A tensor of equal numbers that a node makes from a stored shape: as good as stored."""
    return value in flow.sources.get(value, ())


def _roles(flow: Flow, found: Mapping[Dim, Found]) -> Roles:
    """What the axes of stored tensors are to each leaf; of several roles the strongest."""
    roles: Roles = {}
    for owned in flow.owned:
        for each in leaves(owned.dim):
            for axis in _axes(owned, found[each].places if each in found else {}):
                before = roles.get((each, owned.source, axis), "carries")
                roles[each, owned.source, axis] = min(before, owned.role, key=STRENGTH.__getitem__)
    return roles


def _axes(owned: Owned, places: Mapping[Spot, tuple[Dim, ir.Node]]) -> list[int]:
    if owned.axis is not None:
        return [owned.axis]
    return [axis for value, axis in places if value is owned.source]


def _group(flow: Flow, key: str, found: Found, roles: Roles, labels: _Labels) -> Group:
    (first,) = list(found.members)[:1]
    places: list[Place] = []
    for (value, axis), (dim, node) in found.places.items():
        stored = _is_stored(flow, value)
        role: Role = roles.get((first, value, axis), "follows") if stored else "carries"
        shape = tuple(each.size[0] for each in flow.dims[value]) if stored and value in flow.dims else ()
        if stored and not shape and (tensor := constant_tensor(value)) is not None:
            shape = tuple(tensor.shape.numpy())
        places.append(
            Place(
                value=value.name or "",
                axis=axis,
                positions=labels.positions(dim, found),
                role=role,
                node=node.name or node.outputs[0].name or "",
                shape=shape,
            )
        )
    kind = _kind(found.marks, places)
    return Group(key, kind, found.units, tuple(places), exact="normed" not in found.marks)


def _kind(marks: set[str], places: list[Place]) -> Kind:
    kinds: tuple[tuple[str, Kind], ...] = (
        ("states", "states"),
        ("experts", "experts"),
        ("heads", "heads"),
        ("width", "head-width"),
    )
    for word, kind in kinds:
        if word in marks:
            return kind
    if not marks & {"conv", "linear"} or not _is_made_by_product(places):
        return "embedding"
    if "added" in marks:
        return "stream"
    return "channels" if "conv" in marks else "neurons"


def _is_made_by_product(places: list[Place]) -> bool:
    return any(place.role == "writes" and len(place.shape) > 1 for place in places)


class _Labels:
    """Positions of the units of a group along an axis; equal axes share their tuples."""

    def __init__(self) -> None:
        self._known: dict[tuple[Dim, int], tuple[tuple[int, ...], ...]] = {}

    def positions(self, dim: Dim, found: Found) -> tuple[tuple[int, ...], ...]:
        key = find(dim), id(found)
        if key not in self._known:
            self._known[key] = _positions(dim, found)
        return self._known[key]


def _positions(dim: Dim, found: Found) -> tuple[tuple[int, ...], ...]:
    positions: list[set[int]] = [set() for _ in range(found.units)]
    for labels in _layers(dim, found.members):
        for at in np.flatnonzero(labels >= 0):
            positions[int(labels[at])].add(int(at))
    return tuple(tuple(sorted(unit)) for unit in positions)


def _layers(dim: Dim, members: Mapping[Dim, int]) -> list[Labels]:
    """At each position of ``dim`` the unit it belongs to or -1; a layer for each factor with units."""
    root = find(dim)
    size = root.size[0]
    if root.form is Form.LEAF:
        return [np.arange(size) + members[root]] if root in members else []
    if root.form is Form.SUM:
        return _stacked([(_layers(part, members), find(part).size[0]) for part in root.parts])
    found: list[Labels] = []
    inner = size
    for part in root.parts:
        length = find(part).size[0]
        inner //= length
        where = np.arange(size) // inner % length
        found.extend(labels[where] for labels in _layers(part, members))
    return found


def _stacked(parts: list[tuple[list[Labels], int]]) -> list[Labels]:
    depth = max((len(layers) for layers, _ in parts), default=0)
    return [
        np.concatenate(
            [layers[level] if level < len(layers) else np.full(length, -1) for layers, length in parts]
        )
        for level in range(depth)
    ]
