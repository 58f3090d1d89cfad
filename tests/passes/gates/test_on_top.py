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
from adapass.passes.tokens.prune_tokens import PruneTokens
from tests.passes.gates.nets import LONGEST, Texts, transformer
from tests.passes.tokens.nets import LONGEST as LONGEST_OF_MANY
from tests.passes.tokens.nets import Net
from tests.passes.tokens.nets import Texts as ManyTokens

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


@cache
def behind_tokens(head: str) -> ir.Model:
    """Tokens are left behind at the first layer, then all feed-forward parts are gated."""
    net, data = Net(head=head), ManyTokens()
    model = net.model()
    copy, step = clone(model), PruneTokens(settings=("keep-0.7",))
    choices = step.propose(copy, FactCache(copy)).choices
    step.apply(copy, FactCache(copy), choices[:1])
    step.fit_to(copy, data, model)
    gates = SkipFeedForward(settings=("skip-50",))
    gates.run(copy, FactCache(copy))
    gates.fit_to(copy, data, model)
    check_structure(copy)
    return copy


@pytest.mark.parametrize("head", ["first", "mean", "tokens"])
def test_gates_on_the_tokens_that_are_left(head: str) -> None:
    model, data = behind_tokens(head), ManyTokens()
    rows = [node.outputs[0].name or "" for node in model.graph if node.op_type == "LiveRows"]
    session = Session(model, outputs=["y", *rows])
    feeds = data.batch(range(COUNT))

    together, padded = session.run(feeds), session.run(data.batch(range(COUNT), LONGEST_OF_MANY + 4))

    real = int(feeds["mask"].astype(np.int64).sum())
    assert len(rows) == 3
    assert all(0 < together[name].size < 0.6 * real for name in rows)
    for index in range(COUNT):
        alone = session.run(data.feeds(index))["y"]
        for company in (together, padded):
            found = company["y"][index : index + 1]
            assert_close(found[:, : alone.shape[1]] if head == "tokens" else found, alone)


def test_exits_on_gates_on_the_tokens_that_are_left() -> None:
    model = clone(behind_tokens("first"))
    step, data = InsertExits(min_saving=0.0), ManyTokens()
    step.run(model, FactCache(model))
    step.fit(model, data)
    stored = model.graph.initializers[EXIT_THRESHOLDS].const_value
    assert stored is not None
    feeds = {**data.batch(range(COUNT)), EXIT_THRESHOLDS: np.full(stored.numpy().size, 0.5, np.float32)}

    expected = Session(lower_to_masked(model)).run(feeds)

    assert expected[EXIT_INDEX].astype(np.int64).min() < stored.numpy().size
    for result in (Session(lower_to_if(model)).run(feeds), staged(model)(feeds, COUNT)):
        np.testing.assert_array_equal(result[EXIT_INDEX], expected[EXIT_INDEX])
        assert_close(result["y"], expected["y"])
