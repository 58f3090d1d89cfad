"""Samples made from batch normalisations: nearer to real data than noise, and marked."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Samples
from adapass.data import Dataset, load_data
from adapass.data.generated import generated_data
from adapass.errors import UsageError
from adapass.execution import Session
from adapass.graph.edit import insert_after, new_initializer, replace_uses
from adapass.graph.load import load_model
from adapass.graph.text import parse
from adapass.passes.quantize.fitting import observe
from adapass.passes.quantize.ranges import RangeMethod
from adapass.synthetic.statistics import remembered
from tests.passes.rows import literal, weight

pytest.importorskip("torch", reason="synthetic samples need torch")
from adapass.synthetic.synthesize import class_targets, synthesize

HEADER = '<ir_version: 10, opset_import: ["" : 20]>'
SHARED = Path(os.environ.get("ADAPASS_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
RESNET = SHARED / "models" / "resnet20-cifar10.onnx"
Floats = npt.NDArray[np.float32]


def network() -> ir.Model:
    """Three convolutions without normalisations; real images have a mean and a spread that noise has not."""
    model = parse(
        f"""
        {HEADER}
        net (float[N, 3, 12, 12] image) => (float[N, 4] logits)
        <float[8, 3, 3, 3] w1 = {literal(weight(1, 8, 3, 3, 3, scale=0.3))},
         float[8, 8, 3, 3] w2 = {literal(weight(2, 8, 8, 3, 3, scale=0.2))},
         float[8, 8, 3, 3] w3 = {literal(weight(3, 8, 8, 3, 3, scale=0.2))},
         float[8, 4] w4 = {literal(weight(4, 8, 4))}, float[4] b4 = {{0.0, 0.0, 0.0, 0.0}}>
        {{
            c1 = Conv<pads = [1, 1, 1, 1]>(image, w1)
            r1 = Relu(c1)
            c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2)
            r2 = Relu(c2)
            c3 = Conv<pads = [1, 1, 1, 1]>(r2, w3)
            r3 = Relu(c3)
            g = GlobalAveragePool(r3)
            f = Flatten(g)
            logits = Gemm(f, w4, b4)
        }}
        """
    )
    usual = Session(model).run({"image": images()})["logits"].astype(np.float64).mean(axis=0)
    model.graph.initializers["b4"].const_value = ir.tensor(-usual.astype(np.float32), name="b4")
    return model


def images(count: int = 128) -> Floats:
    """Smooth patches with their own brightness and contrast."""
    random = np.random.default_rng(3)
    coarse = random.normal(size=(count, 3, 4, 4)).repeat(3, axis=2).repeat(3, axis=3)
    brightness = random.normal(size=(count, 1, 1, 1))
    return np.asarray(2.0 * coarse + 1.5 * brightness + 1.0, np.float32)


def with_statistics(model: ir.Model, data: Samples, count: int = 128) -> ir.Model:
    """Batch normalisations behind convolutions that store what ``data`` is there, and change nothing."""
    copy = model.clone()
    nodes = [node for node in copy.graph if node.op_type == "Conv"]
    session = Session(model, outputs=[node.outputs[0].name or "" for node in nodes])
    runs = [session.run(data.feeds(index)) for index in range(min(count, len(data)))]
    for node in nodes:
        name = node.outputs[0].name or ""
        numbers = np.concatenate([run[name].astype(np.float64) for run in runs])
        mean, variance = numbers.mean((0, 2, 3)), numbers.var((0, 2, 3))
        arrays = (np.sqrt(variance + 1e-5), mean, mean, variance)
        stored = [
            new_initializer(copy.graph, f"{name}_{place}", array.astype(np.float32))
            for place, array in enumerate(arrays)
        ]
        normal = ir.node("BatchNormalization", [node.outputs[0], *stored])
        normal.outputs[0].name = f"{name}_normal"
        normal.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        insert_after(node, [normal])
        replace_uses(node.outputs[0], normal.outputs[0])
        normal.replace_input_with(0, node.outputs[0])
    return copy


def off(model: ir.Model, made: Samples, real: Samples, names: list[str]) -> float:
    """Mean factor, as a logarithm, between upper ends of calibrated ranges."""
    ends: list[npt.NDArray[np.float64]] = []
    for data in (made, real):
        seen = observe(model, names, data, samples=128)
        ends.append(np.array([seen[name].range(RangeMethod.MSE, 99.99)[1] for name in names]))
    return float(np.abs(np.log(ends[0] / ends[1])).mean())


@pytest.fixture(scope="module")
def real() -> Dataset:
    return load_data({"image": images()}, network())


@pytest.fixture(scope="module")
def remembering(real: Dataset) -> ir.Model:
    return with_statistics(network(), real)


def test_ranges_on_synthetic_samples_are_nearer_than_on_noise(remembering: ir.Model, real: Dataset) -> None:
    names = ["r1", "r2", "r3"]

    found = synthesize(remembering, count=32, steps=60)
    noise = generated_data(remembering, count=32)

    assert found.values == 3
    assert found.after < 0.2 * found.before
    synthetic_off = off(remembering, found.samples, real, names)
    noise_off = off(remembering, noise, real, names)
    assert synthetic_off < 0.5 * noise_off


def test_samples_lie_near_and_far_from_decisions(remembering: ir.Model) -> None:
    found = synthesize(remembering, count=32, steps=80)

    logits = Session(remembering).run(found.samples.batch(range(32)))["logits"].astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    entropy = -(shares * np.log(shares + 1e-12)).sum(axis=1)
    assert entropy[1::2].mean() > entropy[0::2].mean() + 0.1
    assert len(set(logits.argmax(axis=1))) > 1


def test_targets_are_one_class_or_the_middle_of_two() -> None:
    assert class_targets(6, 3).tolist() == [
        [1.0, 0.0, 0.0],
        [0.5, 0.5, 0.0],
        [0.0, 1.0, 0.0],
        [0.0, 0.5, 0.5],
        [0.0, 0.0, 1.0],
        [0.5, 0.0, 0.5],
    ]


def test_the_same_seed_gives_the_same_samples(remembering: ir.Model) -> None:
    first, again, other = (synthesize(remembering, count=4, steps=3, seed=s) for s in (1, 1, 2))

    assert np.array_equal(first.samples.arrays["image"], again.samples.arrays["image"])
    assert not np.array_equal(first.samples.arrays["image"], other.samples.arrays["image"])


def test_they_are_marked(remembering: ir.Model) -> None:
    samples = synthesize(remembering, count=3, steps=1).samples

    assert len(samples) == 3
    assert samples.synthetic
    assert samples.subset([0, 1]).synthetic
    assert "no data" in samples.source


def test_statistics_are_those_stored(remembering: ir.Model, real: Dataset) -> None:
    entries = remembered(remembering)

    c1 = Session(network(), outputs=["c1"]).run(real.batch(range(128)))["c1"].astype(np.float64)
    assert [entry.value for entry in entries] == ["c1", "c2", "c3"]
    assert np.allclose(entries[0].mean, c1.mean((0, 2, 3)), atol=1e-4)
    assert np.allclose(entries[0].deviation, c1.std((0, 2, 3)), rtol=1e-3)


def test_a_model_without_statistics_is_refused() -> None:
    assert remembered(network()) == ()
    with pytest.raises(UsageError, match="stores no statistics"):
        synthesize(network())


def test_a_normalisation_in_training_mode_has_none(remembering: ir.Model) -> None:
    copy = remembering.clone()
    for node in copy.graph:
        if node.op_type == "BatchNormalization":
            node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)

    assert remembered(copy) == ()


def test_inputs_that_are_no_floats_are_refused(remembering: ir.Model) -> None:
    copy = remembering.clone()
    copy.graph.inputs[0].type = ir.TensorType(ir.DataType.UINT8)

    with pytest.raises(UsageError, match="input 'image' is UINT8"):
        synthesize(copy)


@pytest.mark.skipif(not RESNET.is_file(), reason="needs the shared models")
def test_a_real_network_is_calibrated_nearer_to_real_images() -> None:
    """Its normalisations are folded: they are put back, with the statistics of training images."""
    plain = load_model(RESNET)
    fit = load_data(str(SHARED / "data" / "cifar10_fit.npz"), plain)
    model = with_statistics(plain, fit, count=32)
    names = [node.outputs[0].name or "" for node in model.graph if node.op_type == "Relu"]

    found = synthesize(model, count=8, steps=60)
    noise = generated_data(model, count=8)

    real = fit.subset(range(64, 104))
    assert found.values == 19
    assert off(model, found.samples, real, names) < 0.8 * off(model, noise, real, names)
