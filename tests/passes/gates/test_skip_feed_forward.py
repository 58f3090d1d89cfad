"""skip-feed-forward: the rows that go through, and what the others get, against masked computation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Choice, Feeds, Samples
from adapass.errors import DataError, ModelError, UsageError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.edit import insert_before
from adapass.graph.text import clone
from adapass.passes.clean.remove_dead_code import RemoveDeadCode
from adapass.passes.gates import skip_feed_forward as module
from adapass.passes.gates.deciders import Decider, Scope
from adapass.passes.gates.skip_feed_forward import SkipFeedForward
from adapass.passes.prune.remove_unread_positions import RemoveUnreadPositions
from tests.passes.gates.nets import LONGEST, Texts, transformer

Flags = npt.NDArray[np.bool_]
TEXTS = Texts()
SITES = ("ffn1_2_p", "ffn2_2_p")


def gated(
    model: ir.Model, step: SkipFeedForward, setting: str = "skip-50", data: Samples | None = TEXTS
) -> ir.Model:
    """All sites at one setting, fitted."""
    copy = clone(model)
    choices = [c for c in step.propose(model, FactCache(model)).choices if c.setting == setting]
    assert step.apply(copy, FactCache(copy), choices).applied == len(choices)
    check_structure(copy)
    step.fit_to(copy, data, model)
    check_structure(copy)
    return copy


def live_names(model: ir.Model) -> dict[str, str]:
    """What says who is live, by the site whose rows they are."""
    found: dict[str, str] = {}
    for node in model.graph:
        if node.op_type == "LiveRows":
            value = node.inputs[0]
            assert value is not None
            found[(node.outputs[0].name or "").removesuffix("_rows")] = value.name or ""
    return found


def masked(original: ir.Model, fitted: ir.Model) -> ir.Model:
    """The original, with inputs that say at which tokens each branch counts, and the bias elsewhere."""
    copy = clone(original)
    for site in live_names(fitted):
        name = site.removesuffix("_2_p")
        add = next(node for node in copy.graph if node.outputs[0].name == name)
        live = ir.Value(
            name=f"live_{site}", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([None, None, 1])
        )
        copy.graph.inputs.append(live)
        rest = fitted.graph.initializers.get(f"{site}_rest")
        numbers = np.zeros(8, np.float32) if rest is None else rest.const_value
        assert numbers is not None
        bias = ir.Value(name=f"bias_{site}", const_value=ir.tensor(np.asarray(numbers), name=f"bias_{site}"))
        copy.graph.register_initializer(bias)
        chosen = ir.node("Where", [live, add.inputs[1], bias])
        insert_before(add, [chosen])
        add.replace_input_with(1, chosen.outputs[0])
    return copy


def run(model: ir.Model, feeds: Feeds, *names: str) -> dict[str, Array]:
    wanted = {value.name for value in model.graph.inputs}
    given = {name: array for name, array in feeds.items() if name in wanted}
    return Session(model, outputs=names or ["y"]).run(given)


def counted(feeds: Feeds) -> Flags:
    return np.asarray(feeds["mask"], np.bool_)


def assert_close(a: Array, b: Array) -> None:
    assert a.shape == b.shape
    np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-4, atol=2e-4)


def flags(array: Array) -> Flags:
    return array.astype(np.bool_)


def distance(a: Array, b: Array) -> float:
    return float(np.square(a.astype(np.float64) - b.astype(np.float64)).mean())


@pytest.mark.parametrize(
    ("decider", "scope", "bias"),
    [
        (Decider.LEARNED, Scope.TOKEN, True),
        (Decider.LEARNED, Scope.SAMPLE, False),
        (Decider.SATURATION, Scope.TOKEN, False),
        (Decider.SATURATION, Scope.SAMPLE, True),
    ],
)
@pytest.mark.parametrize("head", ["first", "mean", "tokens"])
@pytest.mark.parametrize("post_norm", [False, True], ids=["pre-norm", "post-norm"])
def test_computes_what_masking_would(
    post_norm: bool, head: str, decider: Decider, scope: Scope, bias: bool
) -> None:
    model = transformer(post_norm=post_norm, head=head)
    fitted = gated(model, SkipFeedForward(decider=decider, scope=scope, bias=bias))
    feeds, names = TEXTS.batch(range(2 * LONGEST)), live_names(fitted)

    found = run(fitted, feeds, "y", *names.values())
    lives = {f"live_{site}": flags(found[name])[..., None] for site, name in names.items()}
    expected = run(masked(model, fitted), {**feeds, **lives})["y"]

    assert 0 < sum(int(live.sum()) for live in lives.values()) < len(names) * counted(feeds).sum()
    assert all((live[..., 0] <= counted(feeds)).all() for live in lives.values())  # never padding
    real = counted(feeds) if head == "tokens" else slice(None)
    assert_close(found["y"][real], expected[real])


@pytest.mark.parametrize("decider", list(Decider))
def test_scores_are_as_described(decider: Decider) -> None:
    fitted = gated(transformer(), SkipFeedForward(decider=decider))
    feeds = TEXTS.batch(range(LONGEST))
    site = "ffn2_2_p"
    streams = run(fitted, feeds, "att1", "att2", live_names(fitted)[site])
    x, before = streams["att2"].astype(np.float64), streams["att1"].astype(np.float64)
    stored = {name: np.asarray(value.const_value) for name, value in fitted.graph.initializers.items()}

    if decider is Decider.LEARNED:
        score = (x @ stored[f"{site}_score_weight"])[..., 0]
    else:
        score = 1 - (x * before).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(before, axis=-1)
    over = score > stored[f"{site}_threshold"]
    over[:, 0] = True

    np.testing.assert_array_equal(streams[live_names(fitted)[site]], over & counted(feeds))


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("head", ["first", "mean", "tokens"])
def test_company_and_padding_change_nothing(head: str, scope: Scope) -> None:
    fitted = gated(transformer(head=head), SkipFeedForward(scope=scope))
    session = Session(fitted)
    together = session.run(TEXTS.batch(range(LONGEST)))["y"]
    padded = session.run(TEXTS.batch(range(LONGEST), LONGEST + 5))["y"]

    for index in range(LONGEST):  # lengths 1 to the longest
        alone = session.run(TEXTS.feeds(index))["y"][0]
        for company in (together, padded):
            assert_close(company[index][: len(alone)] if head == "tokens" else company[index], alone)


@pytest.mark.parametrize("setting", ["skip-25", "skip-50", "skip-75"])
@pytest.mark.parametrize("head", ["first", "mean"])
def test_leaves_out_the_wanted_share(head: str, setting: str) -> None:
    data = Texts(fixed=LONGEST)
    fitted = gated(transformer(head=head), SkipFeedForward(settings=(setting,)), setting, data)
    feeds = data.batch(range(len(data)))

    # Of the last part nobody but the first token is read: all others go.
    for name in [name for site, name in live_names(fitted).items() if head == "mean" or site != SITES[-1]]:
        live = run(fitted, feeds, name)[name]
        assert 1 - live.mean() == pytest.approx(int(setting[-2:]) / 100, abs=0.03)


def test_the_first_token_passes_where_it_is_read() -> None:
    fitted = gated(transformer(head="first"), SkipFeedForward(settings=("skip-100",)), "skip-100")
    feeds = TEXTS.batch(range(LONGEST))

    for name in live_names(fitted).values():
        live = run(fitted, feeds, name)[name]
        assert live[:, 0].all()
        assert not live[:, 1:].any()


def test_nobody_is_left_to_go_through() -> None:
    model = transformer(head="mean")
    fitted = gated(model, SkipFeedForward(settings=("skip-100",)), "skip-100")
    feeds = TEXTS.batch(range(LONGEST))
    nobody = {f"live_{site}": np.zeros((LONGEST, LONGEST, 1), np.bool_) for site in SITES}

    found = run(fitted, feeds, "y", "ffn1_1_p")

    assert found["ffn1_1_p"].shape == (0, 24)
    assert_close(found["y"], run(masked(model, fitted), {**feeds, **nobody})["y"])


def test_everybody_goes_through_before_it_is_fitted() -> None:
    model = transformer()
    copy = clone(model)
    step = SkipFeedForward()
    step.run(copy, FactCache(copy))
    feeds = TEXTS.batch(range(LONGEST))

    assert_close(run(copy, feeds)["y"], run(model, feeds)["y"])
    assert run(copy, feeds, "ffn1_1_p")["ffn1_1_p"].shape == (counted(feeds).sum(), 24)


def test_products_run_on_the_live_rows_only() -> None:
    fitted = gated(transformer(), SkipFeedForward())
    feeds = TEXTS.batch(range(LONGEST))
    names = live_names(fitted)

    found = run(fitted, feeds, *names.values(), *SITES, "ffn1_1_p", "ffn2_1_p")

    for site in SITES:
        live = int(found[names[site]].sum())
        assert found[site].shape == (live, 8)
        assert found[site.replace("_2_", "_1_")].shape == (live, 24)


def test_a_fixed_length_without_a_mask() -> None:
    model = transformer(masked=False, tokens="5")
    data = Texts(masked=False, fixed=5)
    fitted = gated(model, SkipFeedForward(), data=data)
    names = live_names(fitted)
    feeds = data.batch(range(6))

    found = run(fitted, feeds, "y", *names.values())
    lives = {f"live_{site}": flags(found[name])[..., None] for site, name in names.items()}

    assert_close(found["y"], run(masked(model, fitted), {**feeds, **lives})["y"])
    assert 0 < sum(int(live.sum()) for live in lives.values()) < 2 * 6 * 5


def test_samples_go_as_a_whole() -> None:
    fitted = gated(transformer(head="mean"), SkipFeedForward(scope=Scope.SAMPLE))
    feeds = TEXTS.batch(range(2 * LONGEST))

    for name in live_names(fitted).values():
        live = run(fitted, feeds, name)[name]
        assert all(
            (row == real).all() or not row.any() for row, real in zip(live, counted(feeds), strict=True)
        )
        assert 0 < live.any(axis=1).sum() < 2 * LONGEST


def test_fits_alike_twice() -> None:
    one, two = (gated(transformer(), SkipFeedForward()) for _ in range(2))

    for name, value in one.graph.initializers.items():
        np.testing.assert_array_equal(
            np.asarray(value.const_value), np.asarray(two.graph.initializers[name].const_value)
        )


def test_learned_scores_do_less_damage_than_their_opposite() -> None:
    model = transformer(head="mean", layers=1)
    fitted = gated(model, SkipFeedForward(bias=False, damping=0.01))
    feeds = TEXTS.batch(range(42))
    names = live_names(fitted)
    reference = run(model, feeds)["y"]
    found = run(fitted, feeds, "y", *names.values())
    others = {
        f"live_{site}": (counted(feeds) & ~flags(found[name]))[..., None] for site, name in names.items()
    }

    damage = distance(found["y"], reference)
    opposite = distance(run(masked(model, fitted), {**feeds, **others})["y"], reference)

    assert damage < 0.8 * opposite


def test_tells_what_is_left_and_what_it_excludes() -> None:
    model = transformer(post_norm=True)
    step = SkipFeedForward()
    choices = {choice.key: choice for choice in step.propose(model, FactCache(model)).choices}
    choice = choices["skip-feed-forward:ffn1_2_p=skip-75"]

    assert len(choices) == 2 * len(step.settings)
    assert choice.excludes == {("remove-blocks", "ffn1_2_p"), ("remove-blocks", "ffn1_n")}
    left = step.remaining(model, FactCache(model), choice, TEXTS)
    assert left is not None
    assert dict(left) == {"ffn1_1_p": 0.25, "ffn1_2_p": 0.25}


@pytest.mark.parametrize(
    ("change", "site", "reason"),
    [
        pytest.param({}, "att1_o_p", "attention looks at other tokens", id="attention"),
        pytest.param({"skip_sites": ("ffn1_2_p",)}, "ffn1_2_p", "listed in skip_sites", id="listed"),
        pytest.param(
            {"decider": Decider.SATURATION},
            "ffn1_2_p",
            "there is no part before it whose saturation could tell",
            id="first-part",
        ),
    ],
)
def test_refuses_and_says_why(change: dict[str, object], site: str, reason: str) -> None:
    model = transformer()

    found = SkipFeedForward(**change).propose(model, FactCache(model))  # type: ignore[arg-type]

    assert (site, reason) in [(refusal.site, refusal.reason) for refusal in found.refusals]
    assert site not in {choice.site for choice in found.choices}


def test_refuses_what_is_left_of_one_position() -> None:
    model = transformer()
    RemoveUnreadPositions().run(model, FactCache(model))
    RemoveDeadCode().run(model, FactCache(model))

    found = SkipFeedForward().propose(model, FactCache(model))

    assert {choice.site for choice in found.choices} == {"ffn1_2_p"}
    assert ("ffn2_2_p", "one position is left of the tokens") in [(r.site, r.reason) for r in found.refusals]


def test_learned_scores_are_not_offered_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", {"numpy": object()}.get)
    model = transformer()

    assert not SkipFeedForward().propose(model, FactCache(model)).choices
    assert SkipFeedForward(decider=Decider.SATURATION).propose(model, FactCache(model)).choices


def test_refuses_choices_it_never_made() -> None:
    model, step = transformer(), SkipFeedForward()
    name = step.name

    with pytest.raises(UsageError, match="no choice"):
        step.apply(model, FactCache(model), [Choice(name, "nowhere", "skip-50")])
    with pytest.raises(UsageError, match="no choice"):
        step.apply(model, FactCache(model), [Choice(name, SITES[0], "skip-51")])
    with pytest.raises(UsageError, match="twice"):
        step.apply(
            model, FactCache(model), [Choice(name, SITES[0], "skip-25"), Choice(name, SITES[0], "skip-50")]
        )


def test_cannot_be_fitted_without_data() -> None:
    model = transformer()
    step = SkipFeedForward()
    step.run(model, FactCache(model))

    with pytest.raises(DataError, match="2 gates"):
        step.fit(model, None)


@pytest.mark.parametrize(
    "options",
    [
        {"settings": ()},
        {"settings": ("skip-25", "skip-25")},
        {"settings": ("skip-0",)},
        {"settings": ("keep-25",)},
        {"settings": ("skip-101",)},
        {"damping": 0.0},
        {"score_samples": 0},
    ],
    ids=str,
)
def test_refuses_options_without_a_meaning(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="found"):
        SkipFeedForward(**options)  # type: ignore[arg-type]


def test_an_old_operator_set_is_refused() -> None:
    model = transformer()
    model.graph.opset_imports[""] = 12

    proposal = SkipFeedForward().propose(model, FactCache(model))

    assert [r.reason for r in proposal.refusals] == ["the operator set is too old for adaptive operators"]


@pytest.mark.parametrize(
    ("decider", "offered"), [(Decider.LEARNED, set[str]()), (Decider.SATURATION, {SITES[1]})]
)
def test_learned_scores_are_offered_where_there_is_a_twin(
    decider: Decider, offered: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(model: ir.Model) -> ir.Model:
        raise ModelError(f"{model.graph.name}: an operator has no torch twin")

    monkeypatch.setattr("adapass.twin.prepare.prepared", none)
    model = transformer()

    proposal = SkipFeedForward(decider=decider).propose(model, FactCache(model))

    assert {choice.site for choice in proposal.choices} == offered
    if not offered:
        reasons = {refusal.reason for refusal in proposal.refusals if refusal.site in SITES}
        assert reasons == {"learned scores need a torch twin of every operator; decider=saturation does not"}
