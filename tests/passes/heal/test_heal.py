"""heal: a cut model learns to do what the original does, as a step of a plan."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Choice
from adapass.errors import DataError, RecipeError, UsageError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.text import clone, parse
from adapass.passes.heal.heal import MARK, Heal
from adapass.passes.prune.remove_blocks import RemoveBlocks
from adapass.search.plan import Part, Plan, apply_plan, plan_from_recipe, plan_to_recipe
from tests.passes.rows import Rows, literal, weight

pytest.importorskip("torch")


def _constant(name: str, array: npt.NDArray[np.float32]) -> str:
    return f"float[{', '.join(map(str, array.shape))}] {name} = {literal(array)}"


def _net() -> ir.Model:
    """Three residual blocks on [N, 8] and a product."""
    constants: list[str] = []
    body: list[str] = []
    source = "x"
    for i in range(3):
        constants += [
            _constant(f"w{i}", weight(10 * i, 8, 12, scale=0.4)),
            _constant(f"v{i}", weight(10 * i + 1, 12, 8, scale=0.3)),
        ]
        body += [f"a{i} = MatMul({source}, w{i})", f"h{i} = Relu(a{i})"]
        body += [f"f{i} = MatMul(h{i}, v{i})", f"s{i} = Add({source}, f{i})"]
        if i == 0:  # the stream of the first block is computed as well
            body.insert(0, "r = Relu(x)")
            body[1], body[4] = "a0 = MatMul(r, w0)", "s0 = Add(r, f0)"
        source = f"s{i}"
    constants.append(_constant("wy", weight(99, 8, 4)))
    lines = "\n".join([*body, f"y = MatMul({source}, wy)"])
    return parse(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"net (float[N, 8] x) => (float[N, 4] y) <{', '.join(constants)}> {{ {lines} }}"
    )


DATA = Rows({"x": weight(7, 160, 8)})
FRESH = Rows({"x": weight(8, 64, 8)})
CUT = Part(RemoveBlocks(layers=False), (Choice("remove-blocks", "f1", "remove"),))
STEP = Heal(steps=60)
HEALED = Part(STEP, (Choice("heal", "weights", "distill"),))


def _error(model: ir.Model, original: ir.Model) -> float:
    feeds = FRESH.batch(range(len(FRESH)))
    one, two = (Session(m).run(feeds)["y"].astype(np.float64) for m in (original, model))
    return float(np.mean((one - two) ** 2) / np.mean(one**2))


def test_a_healed_plan_is_closer_to_the_original() -> None:
    net = _net()
    cut = apply_plan(net, Plan((CUT,)), fit=DATA)
    healed = apply_plan(net, Plan((CUT, HEALED)), fit=DATA)

    assert _error(healed, net) < 0.8 * _error(cut, net)
    assert [node.op_type for node in healed.graph] == [node.op_type for node in cut.graph]
    assert healed.metadata_props[MARK] == "1"


def test_a_plan_with_healing_repeats_from_its_recipe() -> None:
    net, plan = _net(), Plan((CUT, HEALED))
    again = plan_from_recipe(plan_to_recipe(plan))

    first, second = (apply_plan(net, each, fit=DATA) for each in (plan, again))

    for name, value in first.graph.initializers.items():
        other = second.graph.initializers[name].const_value
        assert value.const_value is not None
        assert other is not None
        assert np.array_equal(value.const_value.numpy(), other.numpy())


def test_healing_needs_the_original_and_data() -> None:
    net = _net()
    model = clone(net)

    with pytest.raises(UsageError, match="needs the original"):
        STEP.fit(model, DATA)
    with pytest.raises(DataError, match="no data was given"):
        STEP.fit_to(model, None, net)


def test_there_is_one_thing_to_heal() -> None:
    net = _net()
    choices = STEP.propose(net, FactCache(net)).choices

    assert [choice.key for choice in choices] == ["heal:weights=distill"]
    assert STEP.apply(clone(net), FactCache(net), ()).applied == 0
    with pytest.raises(UsageError, match="no choice heal:f1=distill"):
        STEP.apply(clone(net), FactCache(net), [Choice("heal", "f1", "distill")])


@pytest.mark.parametrize("options", [{"steps": 0}, {"threads": 0}])
def test_refuses_options_that_make_no_sense(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Heal(**options)


def test_healing_is_not_searched_for() -> None:
    from adapass.driver.clean import split_passes
    from adapass.driver.request import Request

    with pytest.raises(RecipeError, match="--heal TIME"):
        split_passes(Request(passes="remove-dead-code, heal"))
