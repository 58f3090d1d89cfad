"""prune-structures: offers widths, cuts for real, fits from inputs alone, measures damage cheaply."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Choice, Samples
from adapass.errors import DataError, ModelError, UsageError, VerificationError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.digest import digest
from adapass.graph.text import clone
from adapass.passes.prune.importance import Importance
from adapass.passes.prune.linear_ops import linear_ops, store, stored
from adapass.passes.prune.pending import NOTE, read_note
from adapass.passes.prune.prune_structures import PruneStructures
from adapass.passes.prune.refit import Refit
from adapass.passes.prune.widths import Kind
from adapass.pipeline import Pipeline
from adapass.search.damage import damage_of
from adapass.search.plan import Part, Plan, apply_plan, plan_from_recipe, plan_to_recipe
from tests.passes.prune.nets import CONVS, TOKENS, Images, Sentences, network

STEP = PruneStructures(multiple=2, samples=64, rows=16)
NETS: dict[str, tuple[Callable[[], ir.Model], Samples]] = {
    "convs": (lambda: network(CONVS), Images()),
    "tokens": (lambda: network(TOKENS), Sentences()),
}


def _outputs(model: ir.Model, data: Samples) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    session = Session(model, outputs=["y"])
    rows = [session.run(data.feeds(index))["y"] for index in range(len(data))]
    return np.concatenate(rows).astype(np.float64)


def _choices(model: ir.Model, step: PruneStructures = STEP) -> tuple[Choice, ...]:
    return step.propose(model, FactCache(model)).choices


def _halves(model: ir.Model) -> tuple[Choice, ...]:
    """Every group cut to half."""
    return tuple(c for c in _choices(model) if c.setting == f"keep-{int(str(c.detail['units'])) // 2}")


def _pruned(
    model: ir.Model, data: Samples | None, step: PruneStructures, choices: tuple[Choice, ...]
) -> ir.Model:
    copy = clone(model)
    step.apply(copy, FactCache(copy), choices)
    step.fit(copy, data)
    return copy


def _distortion(model: ir.Model, changed: ir.Model, data: Samples) -> float:
    return damage_of(_outputs(model, data), _outputs(changed, data)).distortion


def test_offers_the_inner_dimensions_in_falling_widths() -> None:
    found = _choices(network(CONVS))

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
    found = {choice.site: choice.excludes for choice in _choices(network(CONVS))}

    assert found["w1:0"] == {("factorize", "h1"), ("factorize", "c1")}
    assert found["w3:0"] == {("factorize", "h2"), ("factorize", "c2")}


def test_offers_heads_and_neurons_of_a_transformer() -> None:
    kinds = {choice.detail["kind"] for choice in _choices(network(TOKENS))}

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
    choices = _halves(model)

    result = STEP.apply(cut, FactCache(cut), choices)
    before = {name: value.shape for name, value in cut.graph.initializers.items()}
    check_structure(cut)
    assert np.isfinite(_outputs(cut, data)).all()
    STEP.fit(cut, data)

    check_structure(cut)
    assert result.applied == len(choices) == len(result.sites)
    assert {name: value.shape for name, value in cut.graph.initializers.items()} == before
    assert sum(v.const_value.size for v in cut.graph.initializers.values() if v.const_value) < sum(
        v.const_value.size for v in model.graph.initializers.values() if v.const_value
    )


@pytest.mark.parametrize("net", NETS)
def test_fitting_makes_up_for_most_of_the_loss(net: str) -> None:
    build, data = NETS[net]
    model = build()
    choices = _halves(model)
    unfitted = clone(model)
    STEP.apply(unfitted, FactCache(unfitted), choices)

    fitted = _pruned(model, data, STEP, choices)

    assert _distortion(model, fitted, data) < 0.6 * _distortion(model, unfitted, data)


def _with_copies(model: ir.Model) -> ir.Model:
    """Channels 4..7 of both inner convolutions repeat 0..3: half the channels say all."""
    for name in ("w1", "b1", "w3", "b3"):
        array = stored(model, name).copy()
        array[4:] = array[:4]
        store(model, name, array)
    return model


def test_what_others_say_as_well_is_removed_without_loss() -> None:
    model, data = _with_copies(network(CONVS)), Images()

    fitted = _pruned(model, data, PruneStructures(multiple=2, samples=64, ridge=1e-9), _halves(model))

    note = read_note(fitted)
    assert note is not None
    for units in note.kept.values():
        assert sorted(unit % 4 for unit in units) == [0, 1, 2, 3]
    assert _distortion(model, fitted, data) < 2e-3


@pytest.mark.parametrize("importance", list(Importance))
@pytest.mark.parametrize("which", list(Refit))
def test_every_option_fits_better_than_cutting(importance: Importance, which: Refit) -> None:
    model, data = network(CONVS), Images()
    choices = tuple(c for c in _choices(model) if c.setting == "keep-6")
    step = PruneStructures(multiple=2, samples=64, rows=16, importance=importance, refit=which)
    cut = clone(model)
    step.apply(cut, FactCache(cut), choices)

    fitted = _pruned(model, data, step, choices)

    assert _distortion(model, fitted, data) < _distortion(model, cut, data)


def test_second_order_beats_magnitude() -> None:
    model, data = network(CONVS, seed=5), Images()
    choices = tuple(c for c in _choices(model) if c.setting == "keep-4")
    errors = {
        how: _distortion(
            model, _pruned(model, data, PruneStructures(multiple=2, importance=how), choices), data
        )
        for how in (Importance.SECOND_ORDER, Importance.MAGNITUDE)
    }

    assert errors[Importance.SECOND_ORDER] < errors[Importance.MAGNITUDE]


@pytest.mark.parametrize("net", NETS)
def test_the_same_bits_every_time(net: str) -> None:
    build, data = NETS[net]
    model = build()
    choices = _halves(model)

    first, second = (_pruned(model, data, STEP, choices) for _ in range(2))

    assert digest(first) == digest(second)


def test_labels_are_never_asked_for() -> None:
    model = network(CONVS)
    choices = _choices(model)[:1]
    plain = _pruned(model, Images(), STEP, choices)

    labelled = _pruned(model, Images(labels=np.arange(96)), STEP, choices)

    assert digest(plain) == digest(labelled)


@pytest.mark.parametrize("net", NETS)
def test_damage_grows_with_what_is_removed_and_is_near_what_comes_true(net: str) -> None:
    build, data = NETS[net]
    model = build()
    choices = _choices(model)
    before = digest(model)

    found = STEP.damages(model, FactCache(model), choices, data)

    assert found is not None
    assert digest(model) == before
    assert set(found) == {choice.key for choice in choices}
    for site in {choice.site for choice in choices}:
        curve = [found[c.key].distortion for c in choices if c.site == site]
        assert curve == sorted(curve)
        assert all((found[c.key].divergence or 0.0) > 0.0 for c in choices if c.site == site)
    hardest = choices[-1]
    true = _distortion(model, _pruned(model, data, STEP, (hardest,)), data)
    assert found[hardest.key].distortion == pytest.approx(true, rel=0.6)


def test_what_products_do_not_read_alone_is_measured_by_fitting() -> None:
    model, data = network(TOKENS), Sentences(24)
    step = PruneStructures(multiple=2, samples=24, kinds=(Kind.HEAD_WIDTH, Kind.HEADS))
    choices = tuple(c for c in _choices(model, step) if c.setting in ("keep-2", "keep-1"))

    found = step.damages(model, FactCache(model), choices, data)

    assert found is not None
    assert set(found) == {choice.key for choice in choices}
    assert all(0.0 < damage.distortion < 5.0 for damage in found.values())


def test_a_plan_from_a_recipe_is_applied_fitted_and_checked() -> None:
    model, data = network(CONVS), Images()
    plan = Plan((Part(STEP, tuple(c for c in _choices(model) if c.setting == "keep-6")),))

    again = plan_from_recipe(plan_to_recipe(plan))
    found = apply_plan(model, again, fit=data)

    assert stored(found, "w1").shape == (6, 8, 3, 3)
    assert str(again.parts[0].step) == str(STEP)


def test_naming_the_pass_prunes_every_group() -> None:
    result = Pipeline([STEP]).run(network(CONVS), data=Images())

    assert stored(result.model, "w1").shape[0] == stored(result.model, "w3").shape[0] == 6


def test_without_data_it_refuses_or_fits_on_noise_and_says_so() -> None:
    model = network(CONVS)
    choices = tuple(c for c in _choices(model) if c.setting == "keep-6")

    with pytest.raises(DataError, match="2 groups must be fitted and no data was given"):
        _pruned(model, None, STEP, choices)
    fitted = _pruned(model, None, PruneStructures(multiple=2, generated=32), choices)

    note = read_note(fitted)
    assert note is not None
    assert note.generated
    assert np.isfinite(_outputs(fitted, Images())).all()


def test_nothing_pending_needs_no_data() -> None:
    model = network(CONVS)
    before = digest(model)

    STEP.fit(model, None)

    assert digest(model) == before
    assert not STEP.apply(model, FactCache(model), ()).changed


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
        STEP.apply(model, FactCache(model), _choices(model)[:2])


def test_unfitted_models_are_neither_pruned_again_nor_fitted_after_saving() -> None:
    model = network(CONVS)
    choices = _choices(model)[:1]
    STEP.apply(model, FactCache(model), choices)

    with pytest.raises(ModelError, match="not fitted yet"):
        STEP.apply(model, FactCache(model), tuple(c for c in _choices(model) if c.site == "w3:0")[:1])
    saved = ir.from_proto(ir.to_proto(model))
    with pytest.raises(ModelError, match="saved in between"):
        STEP.fit(saved, Images())


def test_fitted_models_can_be_pruned_again() -> None:
    model, data = network(CONVS), Images()
    once = _pruned(model, data, STEP, _choices(model)[:1])

    twice = _pruned(once, data, STEP, tuple(c for c in _choices(once) if c.setting == "keep-2"))

    assert stored(twice, "w1").shape[0] == stored(twice, "w3").shape[0] == 2


@pytest.mark.parametrize("text", ["{", '{"kept": 3}', '{"kept": {}, "more": 1}', "x" * 16_000_001])
def test_a_damaged_note_is_an_error(text: str) -> None:
    model = network(CONVS)
    model.metadata_props[NOTE] = text

    with pytest.raises(ModelError, match="prune again"):
        STEP.fit(model, Images())


def test_check_names_what_is_wrong() -> None:
    model, data = network(CONVS), Images()
    good = _pruned(model, data, STEP, _choices(model)[:1])
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


def test_only_what_reads_less_is_fitted_when_so_asked() -> None:
    model, data = network(CONVS), Images()
    step = PruneStructures(multiple=2, refit=Refit.READERS)
    fitted = _pruned(model, data, step, _choices(model)[:1])

    assert digest(fitted) != digest(model)
    changed = [
        op.weight
        for op in linear_ops(fitted)
        if stored(fitted, op.weight).shape != stored(model, op.weight).shape
        or not np.array_equal(stored(fitted, op.weight), stored(model, op.weight))
    ]
    assert changed == ["w1", "w2"]
