"""remove-blocks, factorize and sparsify on a trained network; skipped where it is not at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import BudgetedPass, Choice
from adapass.data import Dataset, load_data
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.load import load_model
from adapass.graph.text import clone
from adapass.passes.lowrank.factorize import Factorize
from adapass.passes.prune.remove_blocks import RemoveBlocks
from adapass.passes.prune.remove_blocks_fit import Refit
from adapass.passes.sparsify.sparsify import Sparsify
from adapass.pipeline import Pipeline

SHARED = Path(os.environ.get("ADAPASS_SHARED", Path(__file__).parents[4] / "shared"))

pytestmark = [
    pytest.mark.real_models,
    pytest.mark.skipif(not (SHARED / "models").is_dir(), reason=f"no trained models in {SHARED}"),
]

Doubles = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def net() -> ir.Model:
    model = load_model(SHARED / "models" / "resnet20-cifar10.onnx")
    return Pipeline.parse("fold-constants,fold-batch-norm").run(model, verify=False).model


@pytest.fixture(scope="module")
def images(net: ir.Model) -> Dataset:
    return load_data(SHARED / "data" / "cifar10_fit.npz", net).subset(range(0, 2400, 12))


@pytest.fixture(scope="module")
def others(net: ir.Model) -> Dataset:
    return load_data(SHARED / "data" / "cifar10_eval.npz", net).subset(range(0, 5000, 20))


def outputs(model: ir.Model, data: Dataset) -> Doubles:
    session = Session(model, optimize=True)
    found = [next(iter(session.run(feeds).values())) for _, feeds in data.batches(50)]
    return np.concatenate(found).astype(np.float64)


def agreement(model: ir.Model, changed: ir.Model, data: Dataset) -> float:
    one, two = outputs(model, data), outputs(changed, data)
    return float((one.argmax(1) == two.argmax(1)).mean())


def made(step: BudgetedPass, model: ir.Model, picked: list[Choice], data: Dataset) -> ir.Model:
    copy = clone(model)
    step.apply(copy, FactCache(copy), picked)
    step.fit(copy, data)
    return copy


def test_two_blocks_go_and_the_rest_makes_up_for_them(
    net: ir.Model, images: Dataset, others: Dataset
) -> None:
    step = RemoveBlocks(refit=Refit.LAST)
    choices = [c for c in step.propose(net, FactCache(net)).choices if c.setting == "remove"]
    picked = [choices[1], choices[5]]

    plain, fitted = (
        agreement(net, made(how, net, picked, images), others)
        for how in (RemoveBlocks(refit=Refit.NONE), step)
    )

    assert len(choices) == 9
    assert fitted > 0.85
    assert fitted > plain + 0.05


def test_half_the_weights_go(net: ir.Model, images: Dataset, others: Dataset) -> None:
    step = Sparsify(settings=("2:4",), calibration_samples=100)
    result = Pipeline([step]).run(net, data=images, verify=False).model

    assert agreement(net, result, others) > 0.85


def test_factors_of_real_inputs_are_better(net: ir.Model, images: Dataset, others: Dataset) -> None:
    step = Factorize(shares=(0.75,), calibration_samples=100)

    plain = Pipeline([step]).run(net, verify=False).model
    fitted = Pipeline([step]).run(net, data=images, verify=False).model

    assert agreement(net, fitted, others) > agreement(net, plain, others)
