"""prune-structures: what is left is fitted from inputs alone, and damage measured cheaply."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.errors import DataError
from adapass.facts import FactCache
from adapass.graph.digest import digest
from adapass.graph.text import clone
from adapass.passes.prune.curves import Some, parted
from adapass.passes.prune.importance import Importance
from adapass.passes.prune.linear_ops import linear_ops, store, stored
from adapass.passes.prune.pending import read_note
from adapass.passes.prune.prune_structures import PruneStructures
from adapass.passes.prune.refit import Refit
from adapass.passes.prune.widths import Kind
from tests.passes.prune.cut_nets import NETS, STEP, choices_of, distortion, halves, outputs, pruned
from tests.passes.prune.nets import CONVS, TOKENS, Images, Sentences, network


@pytest.mark.parametrize("net", NETS)
def test_fitting_makes_up_for_most_of_the_loss(net: str) -> None:
    build, data = NETS[net]
    model = build()
    choices = halves(model)
    unfitted = clone(model)
    STEP.apply(unfitted, FactCache(unfitted), choices)

    fitted = pruned(model, data, STEP, choices)

    assert distortion(model, fitted, data) < 0.6 * distortion(model, unfitted, data)


def _with_copies(model: ir.Model) -> ir.Model:
    """Channels 4..7 of both inner convolutions repeat 0..3: half the channels say all."""
    for name in ("w1", "b1", "w3", "b3"):
        array = stored(model, name).copy()
        array[4:] = array[:4]
        store(model, name, array)
    return model


def test_what_others_say_as_well_is_removed_without_loss() -> None:
    model, data = _with_copies(network(CONVS)), Images()

    fitted = pruned(model, data, PruneStructures(multiple=2, samples=64, ridge=1e-9), halves(model))

    note = read_note(fitted)
    assert note is not None
    for units in note.kept.values():
        assert sorted(unit % 4 for unit in units) == [0, 1, 2, 3]
    assert distortion(model, fitted, data) < 2e-3


@pytest.mark.parametrize("importance", list(Importance))
@pytest.mark.parametrize("which", list(Refit))
def test_every_option_fits_better_than_cutting(importance: Importance, which: Refit) -> None:
    model, data = network(CONVS), Images()
    choices = tuple(c for c in choices_of(model) if c.setting == "keep-6")
    step = PruneStructures(multiple=2, samples=64, rows=16, importance=importance, refit=which)
    cut = clone(model)
    step.apply(cut, FactCache(cut), choices)

    fitted = pruned(model, data, step, choices)

    assert distortion(model, fitted, data) < distortion(model, cut, data)


def test_second_order_beats_magnitude() -> None:
    model, data = network(CONVS, seed=5), Images()
    choices = tuple(c for c in choices_of(model) if c.setting == "keep-4")
    errors = {
        how: distortion(
            model, pruned(model, data, PruneStructures(multiple=2, importance=how), choices), data
        )
        for how in (Importance.SECOND_ORDER, Importance.MAGNITUDE)
    }

    assert errors[Importance.SECOND_ORDER] < errors[Importance.MAGNITUDE]


@pytest.mark.parametrize("net", NETS)
def test_the_same_bits_every_time(net: str) -> None:
    build, data = NETS[net]
    model = build()
    choices = halves(model)

    first, second = (pruned(model, data, STEP, choices) for _ in range(2))

    assert digest(first) == digest(second)


def test_labels_are_never_asked_for() -> None:
    model = network(CONVS)
    choices = choices_of(model)[:1]
    plain = pruned(model, Images(), STEP, choices)

    labelled = pruned(model, Images(labels=np.arange(96)), STEP, choices)

    assert digest(plain) == digest(labelled)


@pytest.mark.parametrize("net", NETS)
def test_damage_grows_with_what_is_removed_and_is_near_what_comes_true(net: str) -> None:
    build, data = NETS[net]
    model = build()
    choices = choices_of(model)
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
    shown, held = (Some(data, tuple(part)) for part in parted(len(data), STEP.samples, STEP.measured))
    true = distortion(model, pruned(model, shown, STEP, (hardest,)), held)
    assert 0.5 * true < found[hardest.key].distortion < 2.0 * true


def test_what_products_do_not_read_alone_is_measured_by_fitting() -> None:
    model, data = network(TOKENS), Sentences(24)
    step = PruneStructures(multiple=2, samples=24, kinds=(Kind.HEAD_WIDTH, Kind.HEADS))
    choices = tuple(c for c in choices_of(model, step) if c.setting in ("keep-2", "keep-1"))

    found = step.damages(model, FactCache(model), choices, data)

    assert found is not None
    assert set(found) == {choice.key for choice in choices}
    assert all(0.0 < damage.distortion < 5.0 for damage in found.values())


def test_without_data_it_refuses_or_fits_on_noise_and_says_so() -> None:
    model = network(CONVS)
    choices = tuple(c for c in choices_of(model) if c.setting == "keep-6")

    with pytest.raises(DataError, match="2 groups must be fitted and no data was given"):
        pruned(model, None, STEP, choices)
    fitted = pruned(model, None, PruneStructures(multiple=2, generated=32), choices)

    note = read_note(fitted)
    assert note is not None
    assert note.generated
    assert np.isfinite(outputs(fitted, Images())).all()


def test_nothing_pending_needs_no_data() -> None:
    model = network(CONVS)
    before = digest(model)

    STEP.fit(model, None)

    assert digest(model) == before
    assert not STEP.apply(model, FactCache(model), ()).changed


def test_only_what_reads_less_is_fitted_when_so_asked() -> None:
    model, data = network(CONVS), Images()
    step = PruneStructures(multiple=2, refit=Refit.READERS)
    fitted = pruned(model, data, step, choices_of(model)[:1])

    assert digest(fitted) != digest(model)
    changed = [
        op.weight
        for op in linear_ops(fitted)
        if stored(fitted, op.weight).shape != stored(model, op.weight).shape
        or not np.array_equal(stored(fitted, op.weight), stored(model, op.weight))
    ]
    assert changed == ["w1", "w2"]


def test_single_choices_are_fitted_on_fewer_samples_than_plans() -> None:
    step = PruneStructures(ridge=0.5)

    assert step.sketch.samples < step.samples
    assert step.sketch.ridge == step.ridge
    assert step.sketch.sketch == step.sketch
    assert PruneStructures(samples=3).sketch.samples == 3
