"""What later families do to a gated model: 8 bits on the gathered products, exits in every lowering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Feeds
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.save import to_bytes
from adapass.graph.text import clone
from adapass.lowering.branches import lower_to_if
from adapass.lowering.exits import prepare, standard_only
from adapass.lowering.masked import lower_to_masked
from adapass.lowering.stages import lower_to_stages
from adapass.lowering.wiring import run_stages
from adapass.ops import EXIT_INDEX, EXIT_THRESHOLDS
from adapass.passes.exits.insert_exits import InsertExits
from adapass.passes.gates.deciders import Scope
from adapass.passes.gates.skip_feed_forward import SkipFeedForward
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from tests.passes.gates.nets import LONGEST, Texts, transformer

TEXTS = Texts()
COUNT = 2 * LONGEST


def assert_close(a: Array, b: Array) -> None:
    np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-4, atol=2e-4)


@cache
def gated(*, head: str = "mean", post_norm: bool = True, scope: Scope = Scope.TOKEN) -> ir.Model:
    model = transformer(head=head, post_norm=post_norm, layers=3)
    copy = clone(model)
    step = SkipFeedForward(scope=scope, settings=("skip-50",))
    step.run(copy, FactCache(copy))
    step.fit_to(copy, TEXTS, model)
    return copy


def in_8_bits(model: ir.Model, setting: str) -> ir.Model:
    copy, step = clone(model), Quantize8bit(min_matmul_elements=65)
    choices = [c for c in step.propose(copy, FactCache(copy)).choices if c.setting == setting]
    step.apply(copy, FactCache(copy), choices)
    step.fit(copy, TEXTS)
    check_structure(copy)
    return copy


def with_exits(model: ir.Model) -> ir.Model:
    copy, step = clone(model), InsertExits()
    step.run(copy, FactCache(copy))
    step.fit(copy, TEXTS)
    check_structure(copy)
    return copy


def test_8_bit_sites_keep_their_names() -> None:
    step = Quantize8bit(min_matmul_elements=65)
    plain, model = transformer(post_norm=True, layers=3), gated()

    sites = [{c.site for c in step.propose(m, FactCache(m)).choices} for m in (plain, model)]

    assert "ffn2_1_p" in sites[0]
    assert sites[0] == sites[1]


@pytest.mark.parametrize("setting", ["static", "dynamic"])
@pytest.mark.parametrize("scope", list(Scope))
def test_8_bits_on_gathered_products(scope: Scope, setting: str) -> None:
    model = gated(scope=scope)
    small = in_8_bits(model, setting)
    feeds = TEXTS.batch(range(COUNT))
    reference = Session(model).run(feeds)["y"].astype(np.float64)

    for optimize in (False, True):
        found = Session(small, optimize=optimize).run(feeds)["y"].astype(np.float64)
        assert np.sqrt(np.mean((found - reference) ** 2) / np.mean(reference**2)) < 0.1


def staged(model: ir.Model) -> Callable[[Feeds, int], dict[str, Array]]:
    stages = lower_to_stages(model)
    sessions = [Session(each) for each in stages.models]

    def runner(session: Session) -> Callable[[Sequence[str], Feeds], list[Array]]:
        return lambda outputs, feeds: [session.run(feeds)[name] for name in outputs]

    return lambda feeds, count: (
        run_stages(stages.wiring, [runner(session) for session in sessions], feeds, count).outputs
    )


def spreading(session: Session, exits: int) -> npt.NDArray[np.float32]:
    """Thresholds at which some samples leave, and not all of them at one exit."""
    for threshold in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99):
        thresholds = np.full(exits, threshold, np.float32)
        taken = session.run({**TEXTS.batch(range(COUNT)), EXIT_THRESHOLDS: thresholds})[EXIT_INDEX]
        if taken.min() < exits and np.unique(taken).size > 1:
            return thresholds
    raise AssertionError("samples leave all together")


@pytest.mark.parametrize(
    ("head", "post_norm", "setting", "scope"),
    [
        ("mean", True, None, Scope.TOKEN),
        ("mean", True, None, Scope.SAMPLE),
        ("first", False, None, Scope.TOKEN),
        ("first", False, "static", Scope.TOKEN),
    ],
)
def test_exits_on_top_in_every_lowering(
    head: str, post_norm: bool, setting: str | None, scope: Scope
) -> None:
    model = gated(head=head, post_norm=post_norm, scope=scope)
    model = with_exits(in_8_bits(model, setting) if setting is not None else model)
    stored = model.graph.initializers[EXIT_THRESHOLDS].const_value
    assert stored is not None
    branches, whole, run = Session(lower_to_if(model)), Session(lower_to_masked(model)), staged(model)
    thresholds = spreading(whole, stored.numpy().size)
    feeds = {**TEXTS.batch(range(COUNT)), EXIT_THRESHOLDS: thresholds}

    expected = whole.run(feeds)

    for result in (branches.run(feeds), run(feeds, COUNT)):
        np.testing.assert_array_equal(result[EXIT_INDEX], expected[EXIT_INDEX])
        assert_close(result["y"], expected["y"])
    for index in range(COUNT):
        alone = {**TEXTS.feeds(index), EXIT_THRESHOLDS: thresholds}
        for result in (branches.run(alone), run(alone, 1)):
            assert result[EXIT_INDEX][0] == expected[EXIT_INDEX][index]
            assert_close(result["y"][:1], expected["y"][index : index + 1])


@pytest.mark.parametrize("scope", list(Scope))
def test_openvino_runs_it(scope: Scope) -> None:
    openvino = pytest.importorskip("openvino")
    model = gated(scope=scope)
    core = openvino.Core()
    portable = standard_only(prepare(model, keep_selects=False))
    compiled = core.compile_model(
        core.read_model(to_bytes(portable)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    for index in range(LONGEST):  # of some samples nobody goes through
        feeds = TEXTS.feeds(index)
        assert_close(compiled(dict(feeds))[0], Session(model).run(feeds)["y"])
