"""remove-dead-code: only what an output depends on stays."""

from __future__ import annotations

from typing import Any

import pytest

from adapass.facts import FactCache
from adapass.graph.text import parse
from adapass.passes.clean.remove_dead_code import RemoveDeadCode

LIVE = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) z = Exp(x) w = Neg(z) }", id="a-chain"
        ),
        pytest.param(
            "g (float[N,4] x) => (float[N,4] y) <float[2] c = {1, 2}> { y = Relu(x) }", id="an-initializer"
        ),
    ],
)
def test_removes_what_nobody_reads(text: str, fires: Any) -> None:
    fires(RemoveDeadCode(), text, LIVE)


def test_removes_functions_nobody_calls() -> None:
    header = '<ir_version: 10, opset_import: ["" : 20, "f" : 1]>'
    function = '<domain: "f", opset_import: ["" : 20]> twice (a) => (b) { b = Add(a, a) }'
    model = parse(f"{header} {LIVE} {function}")

    result = RemoveDeadCode().run(model, FactCache(model))

    assert result.sites == ("f.twice", "opset f")
    assert not model.functions


def test_looks_into_branches(fires: Any) -> None:
    fires(
        RemoveDeadCode(),
        """g (bool c, float[4] x) => (float[4] y) {
             y = If (c) <then_branch = t () => (float[4] a) { a = Relu(x) dead = Exp(x) },
                         else_branch = e () => (float[4] b) { b = Neg(x) }> }""",
        """g (bool c, float[4] x) => (float[4] y) {
             y = If (c) <then_branch = t () => (float[4] a) { a = Relu(x) },
                         else_branch = e () => (float[4] b) { b = Neg(x) }> }""",
    )


def test_keeps_inputs_nobody_reads(declines: Any) -> None:
    declines(RemoveDeadCode(), "g (float[N,4] x, float[N] unused) => (float[N,4] y) { y = Relu(x) }")
