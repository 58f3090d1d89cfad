"""Density and scale are chosen by answers on data, and reported on other data."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from adapass.data import Dataset, load_data
from adapass.deltas.tune import measured_agreement, tune
from adapass.errors import DataError
from tests.deltas.conftest import MakeFine
from tests.passes.rows import weight


@pytest.fixture
def samples(base: ir.Model) -> Dataset:
    return load_data({"x": weight(7, 400, 32)}, base)


def test_takes_the_sparsest_that_agrees(base: ir.Model, make_fine: MakeFine, samples: Dataset) -> None:
    fine = make_fine(size=0.1)

    loose = tune(base, fine, samples, agreement=0.8)
    tight = tune(base, fine, samples, agreement=0.865)

    assert loose.reached
    assert tight.reached
    assert (loose.packed.delta.density, tight.packed.delta.density) == (0.02, 0.05)
    assert max(t.agreement for t in loose.tried) < 0.865
    assert tight.agreement > tight.base_agreement
    assert tight.agreement == measured_agreement(fine, tight.packed.model, samples)
    assert tight.samples == 200


def test_reports_on_samples_that_were_not_chosen_on(base: ir.Model, make_fine: MakeFine) -> None:
    """Every other sample is the same one: on those that are chosen on, all agree or none does."""
    rows = weight(7, 200, 32)
    rows[0::2] = rows[0].copy()
    samples = load_data({"x": rows}, base)

    found = tune(base, make_fine(size=0.1), samples, densities=(0.05,), alphas=(1.0,))

    assert found.tried[0].agreement in (0.0, 1.0)
    assert 0.0 < found.agreement < 1.0


def test_says_when_nothing_agrees(base: ir.Model, make_fine: MakeFine, samples: Dataset) -> None:
    found = tune(base, make_fine(size=1.0), samples, densities=(0.01,), alphas=(1.0,), agreement=1.0)

    assert not found.reached
    assert len(found.tried) == 1
    assert found.packed.delta.density == 0.01


def test_the_best_tried_is_the_one_kept(base: ir.Model, make_fine: MakeFine, samples: Dataset) -> None:
    found = tune(base, make_fine(size=0.3), samples, densities=(0.02, 0.1), agreement=1.0)

    best = max(found.tried, key=lambda t: (t.agreement, -t.density))
    assert (found.packed.delta.density, found.packed.delta.alpha) == (best.density, best.alpha)


def test_one_sample_is_too_few(base: ir.Model, make_fine: MakeFine, samples: Dataset) -> None:
    with pytest.raises(DataError, match="at least 2"):
        tune(base, make_fine(), samples.subset([0]))
