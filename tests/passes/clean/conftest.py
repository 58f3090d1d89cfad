"""Text in, text out, and what has to hold for every clean pass besides."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.digest import digest
from adapass.graph.text import clone, parse, to_text
from adapass.rewrite import Pass, PassResult
from adapass.verification import bound_of, compare

Fires = Callable[..., PassResult]
Declines = Callable[..., PassResult]


def model_of(body: str, opset: int) -> ir.Model:
    """A model from the text of its graph; a text that starts with ``<`` is a whole model."""
    text = body.strip()
    return parse(text if text.startswith("<") else f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')


def _fires(step: Pass, before: str, after: str, *, opset: int = 20, runs: bool = True) -> PassResult:
    original = model_of(before, opset)
    model = clone(original)

    result = step.run(model, FactCache(model))

    assert to_text(model) == to_text(model_of(after, opset))
    assert result.changed
    assert len(result.sites) == result.applied
    check_structure(model)
    if runs:
        worst = compare(original, model).worst()
        assert worst.within(step.exactness, bound_of(step, "float32")), worst
    _settles(step, model)
    _honours_only(step, original, result)
    return result


def _settles(step: Pass, model: ir.Model) -> None:
    digest_before = digest(model)
    assert not step.run(model, FactCache(model)).changed
    assert digest(model) == digest_before


def _honours_only(step: Pass, original: ir.Model, result: PassResult) -> None:
    elsewhere, everywhere = clone(original), clone(original)
    assert not step.run(elsewhere, FactCache(elsewhere), frozenset({"no such value"})).changed
    assert digest(elsewhere) == digest(original)
    assert step.run(everywhere, FactCache(everywhere), frozenset(result.sites)).applied == result.applied


def _declines(step: Pass, text: str, reason: str | None = None, *, opset: int = 20) -> PassResult:
    model = model_of(text, opset)
    before = digest(model)

    result = step.run(model, FactCache(model))

    assert digest(model) == before
    assert not result.changed
    if reason is not None:
        assert reason in result.rejected, dict(result.rejected)
    return result


@pytest.fixture
def fires() -> Fires:
    """``fires(step, before, after)``: the text changes as said, the numbers stay, a second run does
    nothing.
    """
    return _fires


@pytest.fixture
def declines() -> Declines:
    """``declines(step, text, reason)``: nothing changes, and the reason is counted."""
    return _declines
