"""Groups from the leaves that a walk over a model left free, and refusals from those it fixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Refusal
from adapass.coupling.dims import Dim, Form, find, leaves
from adapass.coupling.flow import Dims, Flow, Role
from adapass.coupling.groups import Group, Kind, Place
from adapass.coupling.rules.convolutions import KERNEL
from adapass.graph.constants import constant_tensor

Labels = npt.NDArray[np.int64]
STRENGTH: Mapping[Role, int] = {"writes": 0, "reads": 1, "follows": 2, "carries": 3}


@dataclass
class Found:
    """Where one leaf occurs."""

    dim: Dim
    places: dict[tuple[ir.Value, int], tuple[Dim, ir.Node]] = field(
        default_factory=dict[tuple[ir.Value, int], tuple[Dim, ir.Node]]
    )


def collect(flow: Flow) -> tuple[tuple[Group, ...], tuple[Refusal, ...]]:
    """All groups in order of what writes them, and all refusals."""
    named = list(leaves_by_key(flow).items())
    labels = _Labels()
    groups = [group for key, found in named if (group := _group(flow, key, found, labels)) is not None]
    refusals = [Refusal(key, found.dim.reason) for key, found in named if found.dim.reason is not None]
    return tuple(groups), tuple(refusals)


def leaves_by_key(flow: Flow) -> dict[str, Found]:
    """Leaves that a weight writes or reads, by a key that stays the same from walk to walk.

    The key is the first stored tensor that writes the leaf (else reads it), its axis, and which leaf of
    that axis it is.
    """
    found = _occurrences(flow)
    roles = _roles(flow)
    named: dict[str, Found] = {}
    for each in found.values():
        if len(set(each.dim.size)) > 1 or each.dim.size[0] < 2 or each.dim.reason == KERNEL:
            continue
        played = [
            (STRENGTH[roles[value, each.dim]], order)
            for order, (value, _) in enumerate(each.places)
            if (value, each.dim) in roles and roles[value, each.dim] in ("writes", "reads")
        ]
        if not played:
            continue
        (value, axis), (dim, _) = list(each.places.items())[min(played)[1]]
        inside = list(dict.fromkeys(leaves(dim)))
        suffix = "" if len(inside) == 1 else f".{inside.index(each.dim)}"
        named[f"{value.name}:{axis}{suffix}"] = each
    return named


def _occurrences(flow: Flow) -> dict[Dim, Found]:
    found: dict[Dim, Found] = {}
    for value, dims, node in _uses(flow):
        for axis, dim in enumerate(dims):
            for each in dict.fromkeys(leaves(dim)):
                found.setdefault(each, Found(each)).places.setdefault((value, axis), (dim, node))
    return found


def _uses(flow: Flow) -> Iterator[tuple[ir.Value, Dims, ir.Node]]:
    """Stored tensors by their first reader in the order of the graph, then computed values."""
    own: dict[ir.Value, list[tuple[ir.Node, Dims]]] = {}
    for (node, index), dims in flow.own.items():
        value = node.inputs[index]
        if value is not None:
            own.setdefault(value, []).append((node, dims))
    stored = [value for value in flow.dims if constant_tensor(value) is not None or _makes_itself(flow, value)]
    for value in stored:
        readers = [node for node, _ in value.uses()]
        if readers:
            yield value, flow.dims[value], value.producer() if _makes_itself(flow, value) else readers[0]  # type: ignore[misc]
    for value, uses in own.items():
        for node, dims in uses:
            yield value, dims, node
    computed = frozenset(stored)
    for value, dims in flow.dims.items():
        producer = value.producer()
        if value not in computed and producer is not None:
            yield value, dims, producer


def _makes_itself(flow: Flow, value: ir.Value) -> bool:
    """A tensor of equal numbers that a node makes from a stored shape: as good as stored."""
    return value in flow.sources.get(value, ())


def _roles(flow: Flow) -> dict[tuple[ir.Value, Dim], Role]:
    roles: dict[tuple[ir.Value, Dim], Role] = {}
    for owned in flow.owned:
        for each in leaves(owned.dim):
            before = roles.get((owned.source, each), "carries")
            roles[owned.source, each] = min(before, owned.role, key=STRENGTH.__getitem__)
    return roles


def _group(flow: Flow, key: str, found: Found, labels: _Labels) -> Group | None:
    if found.dim.reason is not None:
        return None
    roles = _roles_of(flow, found)
    places: list[Place] = []
    for (value, axis), (dim, node) in found.places.items():
        stored = constant_tensor(value) is not None or _makes_itself(flow, value)
        role: Role = roles.get(value, "follows") if stored else "carries"
        shape = tuple(each.size[0] for each in flow.dims[value]) if stored and value in flow.dims else ()
        if stored and not shape and (tensor := constant_tensor(value)) is not None:
            shape = tuple(tensor.shape.numpy())
        places.append(
            Place(
                value=value.name or "",
                axis=axis,
                positions=labels.positions(dim, found.dim),
                role=role,
                node=node.name or node.outputs[0].name or "",
                shape=shape,
            )
        )
    units = found.dim.size[0]
    marks = find(found.dim).marks
    return Group(key, _kind(marks, places), units, tuple(places), exact="normed" not in marks)


def _roles_of(flow: Flow, found: Found) -> dict[ir.Value, Role]:
    roles: dict[ir.Value, Role] = {}
    for owned in flow.owned:
        if found.dim in leaves(owned.dim):
            before = roles.get(owned.source, "carries")
            roles[owned.source] = min(before, owned.role, key=STRENGTH.__getitem__)
    return roles


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
    """Positions of the units of a leaf along an axis; equal axes share their tuples."""

    def __init__(self) -> None:
        self._known: dict[tuple[Dim, Dim], tuple[tuple[int, ...], ...]] = {}

    def positions(self, dim: Dim, leaf: Dim) -> tuple[tuple[int, ...], ...]:
        key = find(dim), leaf
        if key not in self._known:
            self._known[key] = _positions(dim, leaf)
        return self._known[key]


def _positions(dim: Dim, leaf: Dim) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in range(leaf.size[0])]
    for labels in occurrences(dim, leaf):
        for position in np.flatnonzero(labels >= 0):
            unit = found[int(labels[position])]
            if int(position) not in unit:
                unit.append(int(position))
    return tuple(tuple(sorted(unit)) for unit in found)


def occurrences(dim: Dim, leaf: Dim) -> list[Labels]:
    """For every factor that is ``leaf``: at each position of ``dim`` its unit, or -1 where it is absent."""
    root = find(dim)
    size = root.size[0]
    if root is find(leaf):
        return [np.arange(size)]
    if root.form is Form.LEAF:
        return []
    found: list[Labels] = []
    if root.form is Form.SUM:
        start = 0
        for part in root.parts:
            length = find(part).size[0]
            for labels in occurrences(part, leaf):
                whole = np.full(size, -1)
                whole[start : start + length] = labels
                found.append(whole)
            start += length
        return found
    inner = size
    for part in root.parts:
        length = find(part).size[0]
        inner //= length
        where = np.arange(size) // inner % length
        found.extend(labels[where] for labels in occurrences(part, leaf))
    return found
