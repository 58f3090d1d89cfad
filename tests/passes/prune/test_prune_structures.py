"""prune-structures: offers widths, cuts for real, and says what it did."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Choice
from adapass.errors import ModelError, UsageError, VerificationError
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.digest import digest
from adapass.graph.text import clone
from adapass.passes.prune.linear_ops import store, stored
from adapass.passes.prune.pending import NOTE
from adapass.passes.prune.prune_structures import PruneStructures
from adapass.passes.prune.widths import Kind
from adapass.pipeline import Pipeline
from adapass.search.plan import Part, Plan, apply_plan, plan_from_recipe, plan_to_recipe
from tests.passes.prune.cut_nets import NETS, STEP, choices_of, halves, outputs, pruned
from tests.passes.prune.nets import CONVS, TOKENS, Images, network


def test_offers_the_inner_dimensions_in_falling_widths() -> None:
    found = choices_of(network(CONVS))

    assert {choice.site for choice in found} == {"w1:0", "w3:0"}
    assert [choice.setting for choice in found if choice.site == "w1:0"] == ["keep-6", "keep-4", "keep-2"]
    assert found[0].detail == {
        "kind": "channels",
        "units": 8,
        "kept": 6,
        "value": "h1",
        "removed_elements": 2 * (72 + 1 + 72),
    }
    assert all(choice.batch_invariant for choice in found)


def test_products_that_become_smaller_are_not_factorized_as_well() -> None:
    found = {choice.site: choice.excludes for choice in choices_of(network(CONVS))}

    assert found["w1:0"] == {("factorize", "h1"), ("factorize", "c1")}
    assert found["w3:0"] == {("factorize", "h2"), ("factorize", "c2")}


def test_offers_heads_and_neurons_of_a_transformer() -> None:
    kinds = {choice.detail["kind"] for choice in choices_of(network(TOKENS))}

    assert kinds == {"heads", "neurons"}


def test_says_why_a_dimension_stays() -> None:
    reasons = {r.site: r.reason for r in STEP.propose(network(CONVS), FactCache(network(CONVS))).refusals}

    assert "output" in reasons["wh:1"]


def test_small_groups_are_refused_and_skipped_ones_not_mentioned() -> None:
    step = PruneStructures(ratios=(0.99,), multiple=2, skip_sites=("w1:0",))
    found = step.propose(network(CONVS), FactCache(network(CONVS)))

    assert not found.choices
    assert {r.site for r in found.refusals if "too small" in r.reason} == {"w3:0"}


@pytest.mark.parametrize("net", NETS)
def test_apply_alone_has_the_final_structure(net: str) -> None:
    build, data = NETS[net]
    model = build()
    cut = clone(model)
    choices = halves(model)

    result = STEP.apply(cut, FactCache(cut), choices)
    before = {name: value.shape for name, value in cut.graph.initializers.items()}
    check_structure(cut)
    assert np.isfinite(outputs(cut, data)).all()
    STEP.fit(cut, data)

    check_structure(cut)
    assert result.applied == len(choices) == len(result.sites)
    assert {name: value.shape for name, value in cut.graph.initializers.items()} == before
    assert sum(v.const_value.size for v in cut.graph.initializers.values() if v.const_value) < sum(
        v.const_value.size for v in model.graph.initializers.values() if v.const_value
    )


def test_a_plan_from_a_recipe_is_applied_fitted_and_checked() -> None:
    model, data = network(CONVS), Images()
    plan = Plan((Part(STEP, tuple(c for c in choices_of(model) if c.setting == "keep-6")),))

    again = plan_from_recipe(plan_to_recipe(plan))
    found = apply_plan(model, again, fit=data)

    assert stored(found, "w1").shape == (6, 8, 3, 3)
    assert str(again.parts[0].step) == str(STEP)


def test_naming_the_pass_prunes_every_group() -> None:
    result = Pipeline([STEP]).run(network(CONVS), data=Images())

    assert stored(result.model, "w1").shape[0] == stored(result.model, "w3").shape[0] == 6


@pytest.mark.parametrize(
    ("site", "setting"), [("w1:0", "keep-5"), ("w9:0", "keep-4"), ("w1:0", "6"), ("w1:0", "keep--6")]
)
def test_unknown_choices_are_refused_before_anything_changes(site: str, setting: str) -> None:
    model = network(CONVS)
    before = digest(model)

    with pytest.raises(UsageError, match="no choice prune-structures:"):
        STEP.apply(model, FactCache(model), (Choice(STEP.name, site, setting),))
    assert digest(model) == before


def test_one_setting_a_site() -> None:
    model = network(CONVS)
    with pytest.raises(UsageError, match="chosen twice"):
        STEP.apply(model, FactCache(model), choices_of(model)[:2])


def test_unfitted_models_are_neither_pruned_again_nor_fitted_after_saving() -> None:
    model = network(CONVS)
    choices = choices_of(model)[:1]
    STEP.apply(model, FactCache(model), choices)

    with pytest.raises(ModelError, match="not fitted yet"):
        STEP.apply(model, FactCache(model), tuple(c for c in choices_of(model) if c.site == "w3:0")[:1])
    saved = ir.from_proto(ir.to_proto(model))
    with pytest.raises(ModelError, match="saved in between"):
        STEP.fit(saved, Images())


def test_fitted_models_can_be_pruned_again() -> None:
    model, data = network(CONVS), Images()
    once = pruned(model, data, STEP, choices_of(model)[:1])

    twice = pruned(once, data, STEP, tuple(c for c in choices_of(once) if c.setting == "keep-2"))

    assert stored(twice, "w1").shape[0] == stored(twice, "w3").shape[0] == 2


@pytest.mark.parametrize("text", ["{", '{"kept": 3}', '{"kept": {}, "more": 1}', "x" * 16_000_001])
def test_a_damaged_note_is_an_error(text: str) -> None:
    model = network(CONVS)
    model.metadata_props[NOTE] = text

    with pytest.raises(ModelError, match="prune again"):
        STEP.fit(model, Images())


def test_check_names_what_is_wrong() -> None:
    model, data = network(CONVS), Images()
    good = pruned(model, data, STEP, choices_of(model)[:1])
    STEP.check(model, good, ())

    touched = clone(good)
    store(touched, "w2", -stored(touched, "w2"))
    with pytest.raises(VerificationError, match="not those that were fitted"):
        STEP.check(model, touched, ())
    other = clone(good)
    store(other, "w0", -stored(other, "w0"))
    with pytest.raises(VerificationError, match="more than what was removed"):
        STEP.check(model, other, ())
    unnoted = clone(good)
    del unnoted.metadata_props[NOTE]
    with pytest.raises(VerificationError, match="note"):
        STEP.check(model, unnoted, ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": ()}, "ratios must be"),
        ({"ratios": (1.0,)}, "ratios must be"),
        ({"kinds": ()}, "kinds must"),
        ({"kinds": (Kind.HEADS, Kind.HEADS)}, "kinds must"),
        ({"multiple": 0}, "multiple must be at least 1, found 0"),
        ({"samples": 0}, "samples"),
        ({"rows": 0}, "rows"),
        ({"generated": -1}, "generated"),
        ({"ridge": 0.0}, "ridge must be above 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneStructures(**options)  # type: ignore[arg-type]  # pyright: ignore
