"""Run a model piece by piece over fixed batches, so that pieces can be changed before what follows runs.

    done | piece | rest        only what crosses a border is kept between pieces

One walk over a model costs one run of it, however many pieces there are. What crosses is held in memory
up to a bound, and behind that in a temporary folder; neither grows with the number of pieces.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.execution import Session
from adapass.graph.shapes import infer_shapes
from adapass.graph.tensors import subgraphs_of
from adapass.moments.batches import Batches, feed_names
from adapass.moments.sources import Selection

ROOM_BYTES = 1 << 28

Values = Mapping[str, Array]


class Walk:
    """A model that is run up to ``place`` on all batches. A context manager: it may hold files."""

    def __init__(self, model: ir.Model, batches: Batches, *, room_bytes: int = ROOM_BYTES) -> None:
        infer_shapes(model)
        self._model = model
        self._batches = batches
        self._inputs = frozenset(value.name or "" for value in model.graph.inputs)
        self._kept = _Kept(room_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._kept.close()

    def look(self, names: Sequence[str]) -> Iterator[tuple[Selection, Values]]:
        """Values computed from what is known here, batch by batch; nothing moves."""
        yield from self._run(names)

    def advance(self, node: ir.Node | None, names: Sequence[str] = ()) -> Iterator[tuple[Selection, Values]]:
        """Run on until right before ``node`` (``None``: to the end); ``names`` are shown on the way.

        Nothing is kept before the iterator is exhausted.
        """
        crossing = () if node is None else _crossing(self._model.graph, node)
        fresh = _Kept(self._kept.room_bytes)
        wanted = [name for name in crossing if name not in self._inputs]
        for selection, values in self._run([*names, *wanted]):
            fresh.add({name: values[name] for name in wanted})
            yield selection, {name: values[name] for name in names}
        self._kept.close()
        self._kept = fresh

    def _run(self, names: Sequence[str]) -> Iterator[tuple[Selection, Values]]:
        names = tuple(dict.fromkeys(names))
        session: Session | None = None
        for place, (selection, feeds) in enumerate(self._batches):
            given = {**feed_names(self._model, feeds), **self._kept.get(place)}
            missing = [name for name in names if name not in given]
            if missing and session is None:
                session = Session(_part(self._model, list(given), missing), optimize=True)
            found = session.run(given) if session is not None and missing else {}
            yield selection, {**{name: given[name] for name in names if name in given}, **found}


def _part(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """What computes ``outputs`` from ``inputs``. Types are those of the whole model, not inferred again."""
    graph = ir.convenience.extract(model.graph, inputs, outputs)
    functions = [function.clone() for function in model.functions.values()]
    return ir.Model(graph, ir_version=model.ir_version, functions=functions)


class _Kept:
    """Values of each batch, in memory while there is room, else on disk."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes
        self._held: list[dict[str, Array | Path]] = []
        self._used_bytes = 0
        self._files = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def add(self, values: Values) -> None:
        self._held.append({name: self._put(array) for name, array in values.items()})

    def get(self, place: int) -> dict[str, Array]:
        if place >= len(self._held):
            return {}
        return {
            name: np.load(held, allow_pickle=False) if isinstance(held, Path) else held
            for name, held in self._held[place].items()
        }

    def close(self) -> None:
        self._held = []
        if self._folder is not None:
            self._folder.cleanup()

    def _put(self, array: Array) -> Array | Path:
        if self._used_bytes + array.nbytes <= self.room_bytes:
            self._used_bytes += array.nbytes
            return array
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="adapass-walk-")
        file = Path(self._folder.name) / f"{self._files}.npy"
        self._files += 1
        np.save(file, array, allow_pickle=False)
        return file


def _crossing(graph: ir.Graph, start: ir.Node) -> tuple[str, ...]:
    """Values defined before ``start`` that it or something behind it reads; weights are not among them."""
    nodes = list(graph)
    later = nodes[nodes.index(start) :]
    made = {value for node in later for value in node.outputs}
    read: dict[str, None] = {}
    for value in [*(value for node in later for value in read_by(node)), *graph.outputs]:
        if value not in made and not value.is_initializer() and value.graph is graph:
            read[value.name or ""] = None
    return tuple(read)


def read_by(node: ir.Node) -> list[ir.Value]:
    """What a node and the nodes inside it read; ``None`` inputs are left out."""
    found = [value for value in node.inputs if value is not None]
    for subgraph in subgraphs_of(node):
        found += subgraph.outputs
        for inner in subgraph:
            found += read_by(inner)
    return found
