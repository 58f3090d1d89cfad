"""A walk over a model shows the values that a run of all of it shows, and sees changes made on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Feeds
from adapass.execution import Session
from adapass.graph.text import parse
from adapass.moments.batches import Batches
from adapass.moments.walk import Walk

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 3] x) => (float[N, 3] y, float[N, 3] early)
<float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 10}, float[3] b = {1, -1, 2}>
{
    a = MatMul (x, w)
    early = Add (a, b)
    c = Relu (early)
    d = MatMul (c, w)
    y = Add (d, a)
}
"""


@dataclass(frozen=True)
class Rows:
    rows: Array
    labels: Array | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        return {"x": self.rows[list(indices)]}


DATA = Rows(np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32))


def _node(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.outputs[0].name == name)


@pytest.mark.parametrize("room_bytes", [1 << 20, 100], ids=["in-memory", "on-disk"])
def test_piece_by_piece_is_all_at_once(room_bytes: int) -> None:
    model = parse(TEXT)
    batches = Batches.of(model, DATA, size=4)
    names = ["a", "c", "d", "y", "early"]
    expected = {n: _wide(v) for n, v in Session(model, outputs=names).run({"x": DATA.rows}).items()}
    seen: dict[str, list[npt.NDArray[np.float64]]] = {}

    with Walk(model, batches, room_bytes=room_bytes) as walk:
        for node, shown in (("early", ["a"]), ("d", ["c", "early"]), ("d", []), (None, ["y", "d", "early"])):
            for _, values in walk.advance(_node(model, node) if node else None, shown):
                for name, array in values.items():
                    seen.setdefault(name, []).append(_wide(array))

    for name in ("a", "c", "d", "y"):
        np.testing.assert_allclose(np.concatenate(seen[name]), expected[name], rtol=1e-6)
    np.testing.assert_allclose(np.concatenate(seen["early"][3:]), expected["early"], rtol=1e-6)


def test_looking_moves_nothing_and_changes_ahead_are_seen() -> None:
    model = parse(TEXT)
    before = _wide(Session(model, outputs=["c"]).run({"x": DATA.rows})["c"])

    with Walk(model, Batches.of(model, DATA)) as walk:
        list(walk.advance(_node(model, "d")))
        for _ in range(2):
            (_, values), *_ = walk.look(["d", "c"])
            np.testing.assert_allclose(_wide(values["d"]), before @ _weight(model), rtol=1e-5)
        model.graph.initializers["w"].const_value = ir.tensor(np.eye(3, dtype=np.float32), name="w")
        ((_, values),) = walk.look(["d"])

    np.testing.assert_allclose(_wide(values["d"]), before, rtol=1e-6)


def _weight(model: ir.Model) -> npt.NDArray[np.float64]:
    stored = model.graph.initializers["w"].const_value
    assert stored is not None
    return _wide(stored.numpy())


def _wide(array: Array) -> npt.NDArray[np.float64]:
    return np.asarray(array, np.float64)
