"""prune-tokens: fewer tokens from a site on, as if each sample were alone and without padding."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx_ir as ir
import pytest

from adapass.analyses.shapes import Shapes
from adapass.budgeted import Choice
from adapass.errors import UsageError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.text import clone, parse
from adapass.passes.tokens.prune_tokens import PruneTokens
from adapass.passes.tokens.sites import observe_values
from tests.passes.gates.nets import transformer
from tests.passes.rows import literal, weight
from tests.passes.tokens.nets import LONGEST, Net, Reference, Texts
from tests.passes.tokens.reference import assert_close

SETTINGS = ("keep-0.5", "keep-0.7", "keep-1", "merge-0.6", "mass-0.8", "bypass-0.5")
BERT = Net()
VIT = Net(post_norm=False, masked=False, length=9)
NO_SCORE = "attentions are written in a form that no setting can score tokens by"
NETS = [
    pytest.param(BERT, id="bert"),
    pytest.param(VIT, id="vit"),
    pytest.param(Net(post_norm=False, masked=False), id="pre-norm-any-length"),
    pytest.param(Net(head="tokens"), id="a-result-a-token"),
    pytest.param(Net(head="mean"), id="mean-pooled"),
    pytest.param(Net(post_norm=False, head="mean"), id="pre-norm-mean-pooled"),
    pytest.param(Net(post_norm=False, head="tokens", masked=False, length=9), id="fixed-a-result-a-token"),
    pytest.param(Net(biased=True), id="a-bias-for-each-pair"),
    pytest.param(Net(biased=True, masked=False, length=9), id="a-fixed-bias-for-each-pair"),
]
PLANS = [
    pytest.param({0: "keep-0.5"}, id="one-site"),
    pytest.param({0: "keep-0.7", 1: "keep-0.5"}, id="two-sites"),
    pytest.param({1: "merge-0.6"}, id="merged"),
    pytest.param({0: "merge-0.6", 1: "merge-0.6"}, id="merged-twice"),
    pytest.param({0: "merge-0.6", 1: "keep-0.5"}, id="merged-then-dropped"),
    pytest.param({0: "mass-0.8"}, id="by-mass"),
    pytest.param({0: "mass-0.8", 1: "merge-0.6"}, id="by-mass-then-merged"),
    pytest.param({0: "keep-1", 1: "keep-1"}, id="everything"),
]


def pruned(net: Net, plan: dict[int, str], step: PruneTokens | None = None) -> ir.Model:
    step = step or PruneTokens(settings=SETTINGS)
    model = net.model()
    choices = [Choice(step.name, f"x{layer}", setting) for layer, setting in plan.items()]
    result = step.apply(model, FactCache(model), choices)
    assert result.applied == len(plan)
    step.fit(model, None)
    check_structure(model)
    return model


@cache
def session_of(net: Net, plan: tuple[tuple[int, str], ...]) -> Session:
    return Session(pruned(net, dict(plan)))


def samples(net: Net) -> Texts:
    return Texts(masked=net.masked, length=net.length)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("net", NETS)
def test_computes_what_numpy_does(net: Net, plan: dict[int, str]) -> None:
    session, data = session_of(net, tuple(plan.items())), samples(net)
    reference = Reference(net, plan)

    for index in range(0, len(data), 3):
        found = session.run(dict(data.feeds(index)))["y"][0]
        assert_close(found, reference.run(data.tokens(index)), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("plan", [*PLANS, pytest.param({0: "bypass-0.5", 1: "bypass-0.5"}, id="bypassed")])
@pytest.mark.parametrize("net", NETS)
def test_samples_do_not_see_each_other_nor_padding(net: Net, plan: dict[int, str]) -> None:
    session, data = session_of(net, tuple(plan.items())), samples(net)
    indices = list(range(11))
    width = LONGEST + 3 if net.masked else None
    if not net.masked and net.length is None:
        data = Texts(masked=False, length=7)

    together = session.run(dict(data.batch(indices, width)))["y"]

    for row, index in enumerate(indices):
        alone = session.run(dict(data.feeds(index)))["y"][0]
        batched = together[row, : len(alone)] if net.head == "tokens" else together[row]
        assert_close(batched, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_keeping_everything_changes_nothing(net: Net) -> None:
    data = samples(net)
    before, after = Session(net.model()), Session(pruned(net, {0: "keep-1", 1: "keep-1"}))

    for index in (0, 1, 5):
        feed = dict(data.feeds(index))
        assert_close(after.run(feed)["y"], before.run(feed)["y"], rtol=1e-5, atol=1e-6)


def test_dimensions_stay_as_known_as_they_were() -> None:
    dynamic, fixed = pruned(BERT, {0: "keep-0.5"}), pruned(VIT, {0: "keep-0.5"})
    shapes = {value.name: value.shape for model in (fixed,) for node in model.graph for value in node.outputs}

    assert shapes["h2"] is not None
    assert list(shapes["h2"])[1:] == [5, 8]
    stream = next(value for node in dynamic.graph for value in node.outputs if value.name == "h2")
    assert stream.shape is not None
    samples_dim, tokens_dim, width = stream.shape
    assert str(samples_dim) == "B"
    assert not isinstance(tokens_dim, int)
    assert width == 8


def test_names_stay_what_they_were() -> None:
    before = {value.name for node in Net(head="tokens").model().graph for value in node.outputs}
    after = {
        value.name for node in pruned(Net(head="tokens"), {0: "keep-0.5"}).graph for value in node.outputs
    }

    assert before <= after


def test_sites_settings_and_refusals() -> None:
    model = BERT.model()
    proposal = PruneTokens(settings=SETTINGS).propose(model, FactCache(model))

    assert {choice.site for choice in proposal.choices} == {"x0", "x1", "x2"}
    assert {c.setting for c in proposal.choices if c.site == "x0"} == set(SETTINGS)
    assert {c.setting for c in proposal.choices if c.site == "x2"} == set(SETTINGS) - {"bypass-0.5"}


def test_exits_cannot_sit_where_tokens_go_around() -> None:
    pooled = Net(head="mean").model()
    step = PruneTokens(settings=("keep-0.5", "bypass-0.5"))
    read, back = (step.propose(model, FactCache(model)).choices for model in (BERT.model(), pooled))

    excluded = {choice.key: {site for _, site in choice.excludes} for choice in read}
    assert excluded["prune-tokens:x0=keep-0.5"] == set()
    assert excluded["prune-tokens:x0=bypass-0.5"] == {"x0", "h1"}
    assert {site for _, site in back[0].excludes} >= {"x0", "h1", "x1", "h2"}


def test_a_pruned_model_is_not_pruned_again() -> None:
    model = pruned(BERT, {0: "keep-0.5"})

    proposal = PruneTokens().propose(model, FactCache(model))

    assert not proposal.choices
    assert [refusal.reason for refusal in proposal.refusals] == [
        "tokens are left behind in this model already"
    ]


def test_tokens_in_half_precision_are_refused() -> None:
    model = VIT.model()
    for value in model.graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        if tensor.dtype is ir.DataType.FLOAT:
            value.const_value = ir.tensor(
                np.clip(tensor.numpy(), -6e4, 6e4).astype(np.float16), name=value.name
            )
            value.type = ir.TensorType(ir.DataType.FLOAT16)
    for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    check_structure(model)

    proposal = PruneTokens(settings=SETTINGS).propose(model, FactCache(model))

    assert not proposal.choices
    assert {r.reason for r in proposal.refusals} == {"the tokens are not in single precision"}


def test_attentions_in_one_operator_give_no_score() -> None:
    sizes = {"embed": (8, 8), "wo0": (8, 8), "wf0": (8, 8), "wo1": (8, 8), "wf1": (8, 8), "wy": (8, 5)}
    constants = [
        f"float[{rows}, {columns}] {name} = {literal(weight(seed, rows, columns))}"
        for seed, (name, (rows, columns)) in enumerate(sizes.items())
    ]
    layers = "\n".join(
        f"""a{n} = Attention<q_num_heads = 2, kv_num_heads = 2>(h{n}, h{n}, h{n})
        o{n} = MatMul(a{n}, wo{n})
        x{n} = Add(h{n}, o{n})
        f{n} = MatMul(x{n}, wf{n})
        g{n} = Relu(f{n})
        h{n + 1} = Add(x{n}, g{n})"""
        for n in (0, 1)
    )
    model = parse(
        f"""<ir_version: 10, opset_import: ["" : 23]> net (float[B, 9, 8] x) => (float[B, 5] y)
        <{", ".join(constants)}, int64 first = {{0}}>
        {{ h0 = MatMul(x, embed)
        {layers}
        z = Gather<axis = 1>(h2, first)
        y = MatMul(z, wy) }}"""
    )

    proposal = PruneTokens().propose(model, FactCache(model))

    assert not proposal.choices
    assert {r.site for r in proposal.refusals if r.reason == NO_SCORE} == {"x0", "x1"}


def test_attentions_without_an_axis_of_heads_give_no_score() -> None:
    model = transformer()

    proposal = PruneTokens().propose(model, FactCache(model))

    assert not proposal.choices
    assert {r.site for r in proposal.refusals if r.reason == NO_SCORE} == {"att1", "att2"}


@pytest.mark.parametrize("kind", ["int64[B] kind", "int64 kind"])
def test_masks_are_looked_at_beside_inputs_without_tokens(kind: str) -> None:
    model = parse(
        f"""<ir_version: 10, opset_import: ["" : 20]> net ({kind}, int64[B, T] mask) => (int64[B, T] y)
        <int64[2] column = {{-1, 1}}> {{ k = Reshape(kind, column) y = Add(mask, k) }}"""
    )

    seen = observe_values(model, ["y"], FactCache(model).get(Shapes))

    assert [array.shape for array in seen["y"]] == [(3, 5), (3, 8)]


def test_a_causal_mask_is_refused() -> None:
    net = Net(biased=True, masked=False, length=9)
    model = net.model()
    table = model.graph.initializers["table"]
    mask = np.where(np.tri(9, dtype=np.bool_), 0, -1e9).astype(np.float32)
    table.const_value = ir.tensor(np.broadcast_to(mask, (1, 2, 9, 9)).copy(), name="table")

    proposal = PruneTokens(settings=SETTINGS).propose(model, FactCache(model))

    assert {choice.site for choice in proposal.choices} == {"x2"}  # no attention behind it
    assert {r.reason for r in proposal.refusals} >= {
        "the mask is another one for every token (a causal or windowed attention)"
    }


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([("x0", "keep-0.123")], "has no choice prune-tokens:x0=keep-0.123"),
        ([("nowhere", "keep-0.5")], "has no choice prune-tokens:nowhere=keep-0.5"),
        ([("x0", "keep-0.5"), ("x0", "keep-0.7")], "'x0' is chosen twice"),
        ([("x2", "bypass-0.5")], "has no choice prune-tokens:x2=bypass-0.5"),
    ],
)
def test_unknown_choices_change_nothing(choices: list[tuple[str, str]], message: str) -> None:
    step, model = PruneTokens(settings=SETTINGS), BERT.model()
    names = [value.name for node in model.graph for value in node.outputs]

    with pytest.raises(UsageError, match=message):
        step.apply(model, FactCache(model), [Choice(step.name, site, text) for site, text in choices])

    assert [value.name for node in model.graph for value in node.outputs] == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": ()}, "settings must name each setting once"),
        ({"settings": ("keep-0.5", "keep-0.5")}, "settings must name each setting once"),
        ({"settings": ("drop-0.5",)}, "'drop-0.5' is no setting"),
        ({"settings": ("keep-1.5",)}, "'keep-1.5' is no setting"),
        ({"settings": ("keep-0",)}, "'keep-0' is no setting"),
        ({"damping": 0.0}, "damping must be positive"),
        ({"fit_samples": 0}, "fit_samples must be at least 1"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneTokens(**options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_the_original_is_left_as_it_is_by_proposing() -> None:
    model = BERT.model()
    copy = clone(model)
    PruneTokens(settings=SETTINGS).propose(model, FactCache(model))
    assert [n.op_type for n in model.graph] == [n.op_type for n in copy.graph]
