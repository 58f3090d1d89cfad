"""Dataflow: what runs for a feed, in order."""

from __future__ import annotations

from collections.abc import Callable

from adapass.analyses.dataflow import Dataflow
from adapass.facts import FactCache

Build = Callable[..., FactCache]


def kinds(flow: Dataflow) -> list[str]:
    return [node.op_type for node in flow.nodes]


def test_leaves_out_constants_and_what_is_computed_from_them(build: Build) -> None:
    flow = build(
        "float[B, 2] x", "float[B, 2] y", {"w": (2, 2)}, "v = Neg(w) u = Abs(v) y = MatMul(x, u)"
    ).get(Dataflow)

    assert kinds(flow) == ["MatMul"]
    assert [value.name for value in flow.reads[0]] == ["x"]
    assert [value.name for value in flow.constants[0]] == ["u"]


def test_leaves_out_dead_nodes(build: Build) -> None:
    flow = build("float[B, 2] x", "float[B, 2] y", {}, "dead = Exp(x) more = Neg(dead) y = Relu(x)").get(
        Dataflow
    )

    assert kinds(flow) == ["Relu"]


def test_random_numbers_are_no_constants(build: Build) -> None:
    flow = build(
        "float[B, 2] x", "float[B, 2] y", {}, "r = RandomNormal<shape = [1, 2]>() y = Add(x, r)"
    ).get(Dataflow)

    assert kinds(flow) == ["RandomNormal", "Add"]


def test_counts_what_a_subgraph_captures(build: Build) -> None:
    flow = build(
        "float[B, 2] x, bool c",
        "float[B, 2] y",
        {},
        """
        a = Exp(x)
        y = If(c) <then_branch = yes () => (float[B, 2] t) { t = Neg(a) },
                   else_branch = no () => (float[B, 2] e) { e = Abs(x) }>
        """,
    ).get(Dataflow)

    assert [value.name for value in flow.reads[1]] == ["c", "a", "x"]
    assert flow.ancestors(flow.nodes[1].outputs[0]) == {0, 1}


def test_ancestors_and_descendants(build: Build) -> None:
    body = "a = Exp(x) b = Neg(x) c = Add(a, b) y = Relu(c)"
    flow = build("float[B, 2] x", "float[B, 2] y", {}, body).get(Dataflow)
    a = flow.nodes[0].outputs[0]

    assert flow.ancestors(a) == {0}
    assert flow.descendants(a) == {2, 3}
    assert flow.descendants(flow.inputs[0]) == {0, 1, 2, 3}
    assert flow.ancestors(flow.inputs[0]) == frozenset()
