"""The judge of the zoo notices what it is there to notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
import pytest

from adapass.coupling.groups import find_coupling
from adapass.coupling.remove import RemovalCounts, remove
from adapass.graph.inputs import generate_feeds
from adapass.graph.text import clone
from adapass.verification import compare_outputs, run_all
from tests.coupling.zoo import judge as judging
from tests.coupling.zoo.averages import recount
from tests.coupling.zoo.weights import blanked

Build = Callable[..., ir.Model]
Kept = Mapping[str, Sequence[int]]
BODY = "h = MatMul(x, a) n = LayerNormalization(h, scale, b) m = MatMul(n, c) r = Relu(m) y = MatMul(r, d)"
WEIGHTS = {"a": (6, 10), "scale": (10,), "b": (10,), "c": (10, 12), "d": (12, 5)}


@pytest.fixture
def model(build: Build) -> ir.Model:
    return build("float[batch, 6] x", "float[batch, 5] y", WEIGHTS, BODY)


def judged(model: ir.Model) -> judging.Verdict:
    return judging.judge(model, generate_feeds(model, seed=1, cases=2))


def test_finds_nothing_wrong_with_a_right_removal(model: ir.Model) -> None:
    verdict = judged(model)

    assert verdict.problems == ()
    assert (verdict.groups, verdict.exact, verdict.removed) == (2, 1, 7)
    assert verdict.prunable > 0.95
    assert max(verdict.difference, verdict.independent) < 1e-5 < verdict.effect


def other_units(model: ir.Model, kept: Kept) -> RemovalCounts:
    """As many units, but others."""
    units = {group.key: group.units for group in find_coupling(model).groups}
    return remove(model, {key: sorted((unit + 1) % units[key] for unit in kept[key]) for key in kept})


def nothing(model: ir.Model, kept: Kept) -> RemovalCounts:
    del model, kept
    return RemovalCounts(0, 0, 0, 0)


def a_fixed_batch(model: ir.Model, kept: Kept) -> RemovalCounts:
    counts = remove(model, kept)
    model.graph.outputs[0].shape = ir.Shape([2, 5])
    return counts


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        pytest.param(other_units, "numbers of 'y' are off", id="wrong-units"),
        pytest.param(other_units, "blanked weights, all groups: numbers of 'y'", id="wrong-units-by-weights"),
        pytest.param(other_units, "blanked weights, exact groups: numbers of 'y'", id="wrong-exact-units"),
        pytest.param(nothing, "'a' has shape [6, 10], promised [6, 7]", id="nothing-removed"),
        pytest.param(a_fixed_batch, "output 'y' was", id="dynamic-no-longer"),
    ],
)
def test_notices(
    model: ir.Model,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[ir.Model, Kept], RemovalCounts],
    complaint: str,
) -> None:
    monkeypatch.setattr(judging, "remove", broken)

    assert any(complaint in problem for problem in judged(model).problems)


def test_notices_a_reference_that_masks_nothing(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmasked(model: ir.Model, kept: Kept) -> ir.Model:
        return clone(model)

    monkeypatch.setattr(judging, "zeroed", unmasked)

    assert any("equal numbers show nothing" in problem for problem in judged(model).problems)


def test_counts_only_what_stays(model: ir.Model) -> None:
    """Without the correction the mean of a layer norm counts the zeros."""
    groups = find_coupling(model).groups
    kept = judging.choose(groups)
    smaller = clone(model)
    remove(smaller, kept)
    reference = blanked(model, groups, kept)
    feeds = generate_feeds(model, seed=1, cases=2)
    results = run_all(smaller, feeds)

    before = compare_outputs(run_all(reference, feeds), results).worst().relative_max
    assert recount(reference, smaller, groups, kept) == 1
    after = compare_outputs(run_all(reference, feeds), results).worst().relative_max

    assert after < 1e-5 < 1e-2 < before
