"""The adaptive operators: what ExitSelect means, and how exits are found in a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.errors import ModelError, UsageError
from adapass.execution import Session
from adapass.graph.text import parse
from adapass.ops import DOMAIN, EXIT_SELECT, add_function, is_adaptive, read_exits

TEXT = """<ir_version: 8, opset_import: ["" : {opset}]>
g (bool[B] stop, {type} taken, {type} rest) => ({type} y) {{ y = Identity (rest) }}"""
CHAIN = """<ir_version: 8, opset_import: ["" : 18, "adapass" : 1]>
g (float[B] c, float[B,2] a, float[B,2] b, float[B,2] z) => (float[B,2] y, int64[B] i)
<float t0 = {0.5}, float t1 = {0.25}, int64 k0 = {0}, int64 k1 = {1}, int64 k2 = {2}> {
  s0 = GreaterOrEqual (c, t0)
  s1 = GreaterOrEqual (c, t1)
  y1 = adapass.ExitSelect (s1, b, z)
  y = adapass.ExitSelect (s0, a, y1)
  i1 = adapass.ExitSelect (SWAP, k1, k2)
  i = adapass.ExitSelect (s0, k0, i1)
}
<domain: "adapass", opset_import: ["" : 18]>
ExitSelect (stop, taken, rest) => (selected) { selected = Identity (rest) }"""


def select_model(kind: str, opset: int = 18) -> ir.Model:
    model = parse(TEXT.format(type=kind, opset=opset))
    add_function(model, EXIT_SELECT)
    node = ir.node(EXIT_SELECT, model.graph.inputs, domain=DOMAIN)
    model.graph.append(node)
    old, new = model.graph.outputs[0], node.outputs[0]
    old.name, new.name, new.type, new.shape = "old", "y", old.type, old.shape
    model.graph.outputs[0] = new
    return model


@pytest.mark.parametrize("opset", [13, 18, 20])
@pytest.mark.parametrize("trailing", [(), (3,), (2, 1, 3)], ids=["one-number", "one-row", "one-block"])
@pytest.mark.parametrize("batch", [0, 1, 4])
def test_takes_row_by_row(opset: int, trailing: tuple[int, ...], batch: int) -> None:
    kind = f"float[{','.join(['B', *(str(size) for size in trailing)])}]"
    model = select_model(kind, opset)
    stop = np.arange(batch) % 2 == 0
    taken, rest = np.ones((batch, *trailing), np.float32), np.zeros((batch, *trailing), np.float32)

    found = Session(model).run({"stop": stop, "taken": taken, "rest": rest})["y"]

    assert found.shape == taken.shape
    assert [bool((row == 1).all()) for row in found] == stop.tolist()
    assert [bool((row == 0).all()) for row in found] == (~stop).tolist()


def test_defining_twice_changes_nothing() -> None:
    model = select_model("float[B,3]")
    before = list(model.functions)

    add_function(model, EXIT_SELECT)

    assert list(model.functions) == before


def test_unknown_operators_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown adaptive operator 'Skip'; known: ExitSelect"):
        add_function(parse(TEXT.format(type="float[B]", opset=18)), "Skip")


def test_old_operator_sets_are_refused() -> None:
    with pytest.raises(ModelError, match="need operator set 13 or newer, the model imports 12"):
        add_function(parse(TEXT.format(type="float[B]", opset=12)), EXIT_SELECT)


def test_adaptive_nodes_are_told_from_others() -> None:
    model = select_model("float[B]")
    assert [is_adaptive(node) for node in model.graph] == [False, True]


def test_reads_exits_in_the_order_of_execution() -> None:
    exits = read_exits(parse(CHAIN.replace("SWAP", "s1")))

    assert [found.stop.name for found in exits] == ["s0", "s1"]
    assert [found.index for found in exits] == [0, 1]
    assert [[node.outputs[0].name for node in found.selects] for found in exits] == [["y", "i"], ["y1", "i1"]]
    assert exits[0].confidence.name == "c"


def test_outputs_that_disagree_on_the_exits_are_refused() -> None:
    with pytest.raises(ModelError, match="outputs 'y' and 'i' select from different exits"):
        read_exits(parse(CHAIN.replace("SWAP", "s0")))


def test_a_model_without_exits_has_none() -> None:
    assert read_exits(parse(TEXT.format(type="float[B]", opset=18))) == ()
