"""Pipelines verify every pass: what breaks, lies or raises is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from adapass.bisection import bisect
from adapass.facts import FactCache
from adapass.graph.digest import digest
from adapass.graph.edit import new_initializer, nodes_everywhere
from adapass.graph.load import load_model
from adapass.graph.text import clone, parse
from adapass.observe import DumpText, Observer, Step, TimeEachPass
from adapass.pipeline import PassError, Pipeline
from adapass.rewrite import Exactness, Pass, PassResult, Reject, Replacement, Rewrite
from adapass.testing.faults import Fault, corrupting
from adapass.verification import Comparison, compare, usable_feeds

MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 4] x) => (float[N, 3] y)
<float[4, 5] w = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
                1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0},
 float[5] b = {1, 2, 3, 4, 5},
 float[5, 3] v = {1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12, 13, -14, 15}>
{
    h = MatMul (x, w)
    c = Add (h, b)
    r = Relu (c)
    s = Softmax <axis = -1> (r)
    t = Add (s, b)
    p = MatMul (t, v)
    y = Add (p, p)
}
"""


@dataclass(frozen=True, kw_only=True)
class SwapAdd(Rewrite):
    """Swap the operands of Add: exact to the bit."""

    name: ClassVar[str] = "swap-add"
    exactness: ClassVar[Exactness] = Exactness.BITWISE
    root_ops: ClassVar[frozenset[str]] = frozenset({"Add"})

    def rewrite(self, root: ir.Node, facts: FactCache) -> Replacement:
        first, second = root.inputs
        if first is second:
            raise Reject("both operands are the same value")
        node = ir.node("Add", [second, first])
        return Replacement([node], node.outputs)


@dataclass(frozen=True, kw_only=True)
class SubtractAtOnce(SwapAdd):
    """Like ``SwapAdd``, except at ``t``, where it subtracts."""

    name: ClassVar[str] = "subtract-at-once"

    def rewrite(self, root: ir.Node, facts: FactCache) -> Replacement:
        if root.outputs[0].name != "t":
            return super().rewrite(root, facts)
        node = ir.node("Sub", list(root.inputs))
        return Replacement([node], node.outputs)


@dataclass(frozen=True, kw_only=True)
class Liar(Pass):
    name: ClassVar[str] = "liar"
    exactness: ClassVar[Exactness] = Exactness.BITWISE

    claims: int = 0
    changes: bool = True

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        if self.changes:
            model.graph.initializers["b"].const_value = ir.tensor(np.zeros(5, np.float32), name="b")
        return PassResult(applied=self.claims)


@dataclass(frozen=True, kw_only=True)
class Thrower(Pass):
    name: ClassVar[str] = "thrower"
    exactness: ClassVar[Exactness] = Exactness.BITWISE

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        raise KeyError("surprise")


def test_leaves_its_argument_alone_and_counts() -> None:
    model = parse(MODEL)
    before = digest(model)

    result = Pipeline([SwapAdd()]).run(model)

    assert digest(model) == before != digest(result.model)
    assert result.results[0].applied == 2
    assert result.results[0].rejected == {"both operands are the same value": 1}
    assert result.results[0].sites == ("c", "t")
    assert compare(model, result.model).worst().relative_max == 0.0


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("pick", range(3))
def test_names_the_corrupted_pass(fault: Fault, pick: int) -> None:
    broken = corrupting(SwapAdd(), fault, pick)

    with pytest.raises(
        PassError, match=r"pass 'swap-add' \(number 2 of 3\).*Passes before it: swap-add"
    ) as caught:
        Pipeline([SwapAdd(), broken, SwapAdd()]).run(parse(MODEL))

    assert caught.value.culprit is broken


@pytest.mark.parametrize(
    ("step", "message"),
    [
        pytest.param(Liar(), "says it changed nothing, but the graph is different", id="hidden-change"),
        pytest.param(Liar(claims=3, changes=False), "says it applied 3 times", id="false-claim"),
        pytest.param(Thrower(), "raised KeyError: 'surprise'", id="raises"),
    ],
)
def test_names_the_pass_that_lies_or_raises(step: Pass, message: str) -> None:
    with pytest.raises(PassError, match=message):
        Pipeline([step]).run(parse(MODEL))


def test_bisection_finds_pass_site_and_a_small_model(tmp_path: Path) -> None:
    passes: list[Pass] = [*(SwapAdd() for _ in range(7)), SubtractAtOnce(), *(SwapAdd() for _ in range(4))]

    guilty = bisect(parse(MODEL), Pipeline(passes))

    assert guilty is not None
    assert (guilty.index, guilty.site, guilty.step.name) == (7, "t", "subtract-at-once")
    assert len(list(guilty.model.graph)) == 1
    guilty.write(tmp_path / "repro")
    reread = load_model(tmp_path / "repro" / "model.onnx")
    with pytest.raises(PassError):
        Pipeline([SubtractAtOnce()]).run(reread, feeds=guilty.feeds)


def test_bisection_finds_nothing_in_a_sound_pipeline() -> None:
    assert bisect(parse(MODEL), Pipeline([SwapAdd()] * 3)) is None


def test_observers_see_every_pass(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    class Watch(Observer):
        def checked(self, step: Step, comparison: Comparison | None) -> None:
            seen.append((step.index, comparison is not None))

    clock: Callable[[], float] = iter(range(100)).__next__
    timer = TimeEachPass(clock=clock)

    Pipeline([SwapAdd(), Liar(changes=False)]).run(
        parse(MODEL), observers=[Watch(), timer, DumpText(tmp_path)]
    )

    assert seen == [(0, True), (1, False)]
    assert timer.seconds == [1, 1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00-input.onnxtxt", "01-swap-add.onnxtxt"]


def test_a_clone_names_new_values_after_its_own() -> None:
    """Marks on graphs must not point into the model the clone was made from."""
    original = parse(MODEL)
    nodes_everywhere(original)
    copy = clone(original)

    names = [new_initializer(copy.graph, "fresh", np.zeros(1)).name for _ in range(2)]

    assert names == ["fresh", "fresh_1"]


def test_generated_inputs_a_model_refuses_are_left_out() -> None:
    """Only even batches fit here: that others fail is no failure of the model."""
    model = parse(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N, 3] x) => (float[M, 6] y)'
        " <int64[2] s = {-1, 6}> { y = Reshape (x, s) }"
    )

    assert [feed["x"].shape[0] % 2 for feed in usable_feeds(model)] == [0]
