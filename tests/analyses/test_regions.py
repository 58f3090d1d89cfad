"""Regions: whole, equal where they should be, and runnable on their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from adapass.analyses.cut_points import CutPoints
from adapass.analyses.dataflow import Dataflow
from adapass.analyses.regions import Regions
from adapass.analyses.work import Work
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.extract import extract
from adapass.graph.inputs import generate_feeds

Build = Callable[..., FactCache]

MASKED = """
    f = Cast<to = 1>(mask) axis = Constant<value_ints = [2]>() wide = Unsqueeze(f, axis)
    e = MatMul(x, w1)
    m1 = Mul(e, wide) h1 = MatMul(m1, w2) s1 = Shape(h1) g1 = Relu(h1) r1 = Reshape(g1, s1) n1 = Add(r1, e)
    m2 = Mul(n1, wide) h2 = MatMul(m2, w3) s2 = Shape(h2) g2 = Relu(h2) r2 = Reshape(g2, s2) n2 = Add(r2, n1)
    y = MatMul(n2, head)
"""
WEIGHTS = {"w1": (4, 4), "w2": (4, 4), "w3": (4, 4), "head": (4, 2)}


def masked(build: Build) -> FactCache:
    return build("float[B, T, 4] x, int64[B, T] mask", "float[B, T, 2] y", WEIGHTS, MASKED)


def test_equal_layers_have_equal_keys_although_the_first_builds_the_mask(build: Build) -> None:
    _, first, second, _ = masked(build).get(Regions).regions

    assert first.inputs == ("e", "wide")
    assert first.structure == second.structure
    assert first.content == second.content  # the same made-up numbers


def test_what_measures_a_region_lies_in_it(build: Build) -> None:
    facts = masked(build)
    flow, regions = facts.get(Dataflow), facts.get(Regions)

    kinds = [flow.nodes[node].op_type for node in regions.regions[1].nodes]
    assert kinds == ["Mul", "MatMul", "Shape", "Relu", "Reshape", "Add"]
    assert [flow.nodes[node].op_type for node in regions.side_nodes] == ["Cast", "Unsqueeze"]


@pytest.mark.parametrize(
    ("second", "kind", "structure", "content"),
    [
        pytest.param("h2 = MatMul(n1, w2) n2 = Relu(h2)", True, True, True, id="same"),
        pytest.param("h2 = MatMul(n1, other) n2 = Relu(h2)", True, True, False, id="other-weights"),
        pytest.param("h2 = MatMul(n1, wider) n2 = Relu(h2)", True, False, False, id="other-width"),
        pytest.param("h2 = MatMul(n1, w2) n2 = Tanh(h2)", False, False, False, id="other-operator"),
    ],
)
def test_keys_tell_apart(build: Build, second: str, kind: bool, structure: bool, content: bool) -> None:
    body = f"e = MatMul(x, w1) h1 = MatMul(e, w2) n1 = Relu(h1) {second} y = MatMul(n2, last)"
    weights = WEIGHTS | {"wider": (4, 6), "other": (4, 4), "last": (6 if "wider" in second else 4, 2)}
    facts = build("float[B, 4] x", "float[B, 2] y", weights, body)
    if "other" in facts.model.graph.initializers:
        other = np.arange(16, dtype=np.float32).reshape(4, 4)
        facts.model.graph.initializers["other"].const_value = ir.tensor(other)
    _, one, two, _ = facts.get(Regions).regions

    assert (one.kind == two.kind, one.structure == two.structure, one.content == two.content) == (
        kind,
        structure,
        content,
    )


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        pytest.param("t = Identity(w2) h1 = MatMul(e, t)", "h2 = MatMul(n1, w2)", True, id="shared-weight"),
        pytest.param(
            "m1 = MatMul(e, w2) s1 = Shape(m1) c1 = ConstantOfShape<value = float[1] one {1.0}>(s1) "
            "h1 = Add(m1, c1)",
            "m2 = MatMul(n1, w2) s2 = Shape(m2) c2 = ConstantOfShape<value = float[1] two {1.0}>(s2) "
            "h2 = Add(m2, c2)",
            True,
            id="names-of-tensors-in-attributes",
        ),
        pytest.param(
            "c1 = Constant<value_ints = [0, 2, 2]>() m1 = MatMul(e, w2) r1 = Reshape(m1, c1) "
            "d1 = Constant<value_ints = [0, 4]>() h1 = Reshape(r1, d1)",
            "c2 = Constant<value_ints = [0, 1, 4]>() m2 = MatMul(n1, w2) r2 = Reshape(m2, c2) "
            "d2 = Constant<value_ints = [0, 4]>() h2 = Reshape(r2, d2)",
            False,
            id="other-target-shape",
        ),
    ],
)
def test_what_is_the_same_structure(build: Build, first: str, second: str, same: bool) -> None:
    body = f"e = MatMul(x, w1) {first} n1 = Relu(h1) {second} n2 = Relu(h2) y = MatMul(n2, head)"
    facts = build("float[B, 4] x", "float[B, 2] y", WEIGHTS, body)
    filled = [node for node in facts.model.graph if node.op_type == "ConstantOfShape"]
    for number, node in enumerate(filled):
        node.attributes["value"].as_tensor().name = f"tensor_{number}"
    _, one, two, _ = facts.get(Regions).regions

    assert (one.structure == two.structure) is same


def test_names_do_not_count(build: Build) -> None:
    facts, other = masked(build), masked(build)
    for node in other.model.graph:
        for value in node.outputs:
            value.name = f"renamed_{value.name}"

    keys = [region.content for region in facts.get(Regions).regions]
    assert keys == [region.content for region in other.get(Regions).regions]


def test_every_main_node_lies_in_one_region_and_the_work_adds_up(build: Build) -> None:
    facts = masked(build)
    regions = facts.get(Regions)

    nodes = [node for region in regions.regions for node in region.nodes]
    assert sorted([*nodes, *regions.side_nodes]) == list(range(len(facts.get(Dataflow).nodes)))
    assert sum(region.work.flops for region in regions.regions) == facts.get(Work).of(nodes).flops


def test_regions_run_on_their_own(build: Build) -> None:
    facts = masked(build)
    assert_regions_compute_the_model(facts)


def test_everything_behind_a_cut_depends_on_the_cut_alone(build: Build) -> None:
    facts = masked(build)
    assert_cuts_separate(facts)


def assert_regions_compute_the_model(facts: FactCache) -> None:
    regions = facts.get(Regions).regions
    feeds = generate_feeds(facts.model, seed=1)[-1]
    names = sorted({name for region in regions for name in (*region.inputs, *region.outputs)} - set(feeds))
    known = Session(facts.model, outputs=names).run(feeds) | feeds
    for region in regions:
        piece = extract(facts.model, region.inputs, region.outputs)
        result = Session(piece).run({name: known[name] for name in region.inputs})
        for name in region.outputs:
            np.testing.assert_array_equal(result[name], known[name])


def assert_cuts_separate(facts: FactCache) -> None:
    feeds = generate_feeds(facts.model, seed=2)[-1]
    outputs = [value.name or "" for value in facts.model.graph.outputs]
    expected = Session(facts.model).run(feeds)
    for point in facts.get(CutPoints).points:
        crossing = [point.value, *point.side_values]
        rest = extract(facts.model, crossing, outputs)
        names = [name for name in crossing if name not in feeds]
        known = Session(facts.model, outputs=names).run(feeds) | feeds
        result = Session(rest).run({name: known[name] for name in crossing})
        for name in outputs:
            np.testing.assert_array_equal(result[name], expected[name])
