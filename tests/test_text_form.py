"""Passes and pipelines print to text that parses back; bad text says where and what was expected."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapass import registry
from adapass.errors import RecipeError
from adapass.facts import FactCache
from adapass.pipeline import Pipeline
from adapass.rewrite import Exactness, Pass, PassResult
from adapass.text_form import parse_pass, parse_passes, pass_to_text


class Shade(StrEnum):
    LIGHT = "light"
    DARK = "dark"


@dataclass(frozen=True, kw_only=True)
class PaintNodes(Pass):
    """Options of every type."""

    name: ClassVar[str] = "paint-nodes"
    exactness: ClassVar[Exactness] = Exactness.BITWISE

    max_count: int = 3
    share: float = 0.5
    wild: bool = False
    shade: Shade = Shade.LIGHT
    label: str = "plain"
    sites: tuple[str, ...] = ()
    limit: int | None = None

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        del model, facts, only
        return PassResult(applied=0)


def _load_paint_nodes(path: str) -> type[Pass]:
    assert path.endswith(":PaintNodes")
    return PaintNodes


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PASSES", {"paint-nodes": f"{__name__}:PaintNodes"})
    monkeypatch.setattr(registry, "_load", _load_paint_nodes)


def test_defaults_are_left_out() -> None:
    assert str(PaintNodes()) == "paint-nodes"


def test_options_that_differ_are_shown() -> None:
    step = PaintNodes(max_count=4, wild=True, shade=Shade.DARK)

    assert pass_to_text(step) == "paint-nodes{max-count=4 wild=true shade=dark}"


@pytest.mark.usefixtures("_registered")
@given(
    count=st.integers(-(2**40), 2**40),
    share=st.floats(allow_nan=False),
    wild=st.booleans(),
    label=st.text(),
    sites=st.lists(st.text(), max_size=3),
    limit=st.none() | st.integers(),
)
def test_round_trip(
    count: int, share: float, wild: bool, label: str, sites: list[str], limit: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "PASSES", {"paint-nodes": "x:PaintNodes"})
        patch.setattr(registry, "_load", _load_paint_nodes)
        step = PaintNodes(
            max_count=count, share=share, wild=wild, label=label, sites=tuple(sites), limit=limit
        )

        assert parse_pass(str(step)) == step
        assert Pipeline.parse(str(Pipeline([step, PaintNodes()]))) == Pipeline([step, PaintNodes()])


def test_the_empty_text_is_the_empty_pipeline() -> None:
    assert parse_passes("  ") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("paint-nodes,", "expected a pass name, found the end", id="trailing-comma"),
        pytest.param("paint-nodes paint-nodes", "expected ',' or the end", id="no-comma"),
        pytest.param("paint-nodes{max-count}", "expected option=value or '}'", id="option-without-value"),
        pytest.param("paint-nodes{max-count=1 max-count=2}", "given twice", id="option-twice"),
        pytest.param("paint-nodes{max-count=many}", "does not fit", id="wrong-type"),
        pytest.param("paint-nodes{shade=green}", "does not fit", id="unknown-word"),
        pytest.param(
            "paint-nodes{colour=1}", "has no option 'colour'; its options: label", id="unknown-option"
        ),
        pytest.param('paint-nodes{label="open}', "a JSON string or list", id="open-string"),
        pytest.param("paint-node", "did you mean paint-nodes", id="unknown-pass"),
        pytest.param("Paint", "expected a pass name, found 'Paint'", id="capital-letter"),
        pytest.param("paint-nodes{", "expected option=value or '}', found the end", id="open-brace"),
    ],
)
def test_bad_text_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_passes(text)
