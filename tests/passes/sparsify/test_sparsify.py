"""sparsify as a budgeted pass: propose, apply, fit, and the compact form of the result."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Choice
from adapass.errors import UsageError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.text import parse
from adapass.passes.sparsify.sparsify import PATTERN, Saliency, Sparsify, packed_weights
from adapass.passes.sparsify.storage import unpack
from adapass.pipeline import Pipeline
from tests.passes.rows import Rows, literal, weight

SMALL = Sparsify(min_elements=64)


@pytest.fixture(scope="module")
def net() -> ir.Model:
    """A convolution, a product with a bias, one without, and a Gemm: [N, 4, 6, 6] -> [N, 8]."""
    return parse(
        f"""
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[N, 4, 6, 6] x) => (float[N, 8] y)
        <float[8, 4, 3, 3] cw = {literal(weight(1, 8, 4, 3, 3))}, float[8] cb = {literal(weight(2, 8))},
         float[8, 16] w1 = {literal(weight(3, 8, 16))}, float[16] b1 = {literal(weight(4, 16))},
         float[16, 16] w2 = {literal(weight(5, 16, 16))},
         float[8, 16] w3 = {literal(weight(6, 8, 16))}, float[8] b3 = {literal(weight(7, 8))},
         int64[2] axes = {{2, 3}}>
        {{
            c = Conv<pads = [1, 1, 1, 1]>(x, cw, cb)
            r = Relu(c)
            m = ReduceMean<keepdims = 0>(r, axes)
            p1 = MatMul(m, w1)
            s1 = Add(p1, b1)
            h = Relu(s1)
            p2 = MatMul(h, w2)
            g = Relu(p2)
            y = Gemm<transB = 1, alpha = 0.5>(g, w3, b3)
        }}
        """
    )


@pytest.fixture(scope="module")
def images() -> Rows:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 2, 6, 6))
    mixed = np.einsum("ck,nkhw->nchw", rng.normal(size=(4, 2)), base) + 0.2 * rng.normal(size=(200, 4, 6, 6))
    return Rows({"x": mixed.astype(np.float32)})


def error(a: ir.Model, b: ir.Model, data: Rows) -> float:
    feeds = data.batch(range(len(data)))
    one, two = (Session(m).run(feeds)["y"].astype(np.float64) for m in (a, b))
    return float(np.mean((one - two) ** 2) / np.mean(one**2))


def sparse(step: Sparsify, model: ir.Model, data: Rows | None) -> ir.Model:
    return Pipeline([step]).run(model, data=data, verify=False).model


def test_proposes_every_pattern_that_fits(net: ir.Model) -> None:
    proposal = Sparsify(min_elements=64, settings=("2:4", "1x16-0.5")).propose(net, FactCache(net))

    assert [(c.site, c.setting) for c in proposal.choices] == [
        ("c", "2:4"),
        ("p1", "2:4"),
        ("p2", "2:4"),
        ("p2", "1x16-0.5"),
        ("y", "2:4"),
        ("y", "1x16-0.5"),
    ]
    assert proposal.refusals == ()


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        pytest.param(Sparsify(), "the weight is too small", id="small"),
        pytest.param(
            SMALL.__class__(min_elements=64, skip_sites=("p1",)), "listed in skip_sites", id="skipped"
        ),
        pytest.param(
            Sparsify(min_elements=64, settings=("1:5",)),
            "the number of inputs is not a multiple of the pattern's",
            id="inputs",
        ),
        pytest.param(
            Sparsify(min_elements=64, settings=("3x4-0.5",)),
            "the number of outputs is not a multiple of the pattern's",
            id="outputs",
        ),
    ],
)
def test_refuses_and_says_why(net: ir.Model, step: Sparsify, reason: str) -> None:
    refusals = {refusal.site: refusal.reason for refusal in step.propose(net, FactCache(net)).refusals}

    assert refusals["p1"] == reason


def test_refuses_shared_and_broken_weights() -> None:
    model = parse(
        f"""
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[N, 16] x) => (float[N, 16] y, float[N, 16] z)
        <float[16, 16] w = {literal(weight(1, 16, 16))}, float[16, 16] v = {literal(weight(2, 16, 16))}>
        {{ a = MatMul(x, w)
           y = MatMul(a, w)
           z = MatMul(x, v) }}
        """
    )
    broken = np.full((16, 16), np.inf, np.float32)
    model.graph.initializers["v"].const_value = ir.tensor(broken, name="v")

    proposal = SMALL.propose(model, FactCache(model))

    assert not proposal.choices
    assert [refusal.reason for refusal in proposal.refusals] == [
        "another product reads the same weight",
        "another product reads the same weight",
        "the weight has numbers that are not finite",
    ]


@pytest.mark.parametrize("setting", ["2:4", "4:8", "4x4-0.5", "unstructured-0.5"])
def test_with_data_the_output_moves_less(net: ir.Model, images: Rows, setting: str) -> None:
    step = Sparsify(min_elements=64, settings=(setting,), damping=1e-3)
    by_norm = Sparsify(min_elements=64, settings=(setting,), saliency=Saliency.NORM)

    plain, normed, fitted = (
        error(net, sparse(s, net, d), images) for s, d in ((step, None), (by_norm, images), (step, images))
    )

    assert fitted < 0.7 * plain
    assert fitted < normed


def test_zeros_stay_in_dense_tensors_and_are_named(net: ir.Model, images: Rows) -> None:
    model = sparse(SMALL, net, images)
    check_structure(model)

    marked = {
        n.outputs[0].name: n.metadata_props[PATTERN] for n in model.graph if PATTERN in n.metadata_props
    }
    matrix = model.graph.initializers["w2"].const_value
    assert matrix is not None
    assert marked == {"c": "2:4", "p1": "2:4", "p2": "2:4", "y": "2:4"}
    assert (np.count_nonzero(matrix.numpy().reshape(4, 4, 16), axis=1) == 2).all()


@pytest.mark.parametrize("setting", ["2:4", "4x4-0.5", "unstructured-0.9"])
def test_the_compact_form_is_smaller_and_exact(net: ir.Model, images: Rows, setting: str) -> None:
    model = sparse(Sparsify(min_elements=64, settings=(setting,)), net, images)

    packed = packed_weights(model)

    assert set(packed) == {"cw", "w1", "w2", "w3"}
    for name, weights in packed.items():
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        assert unpack(weights).tobytes() == tensor.numpy().tobytes()
        assert weights.stored_bytes < 0.6 * tensor.nbytes


def test_refuses_unknown_and_repeated_choices(net: ir.Model) -> None:
    model = net.clone()
    twice = [Choice("sparsify", "p2", "2:4"), Choice("sparsify", "p2", "4:8")]

    for choices in ([Choice("sparsify", "nowhere", "2:4")], [Choice("sparsify", "p2", "1:2")], twice):
        with pytest.raises(UsageError):
            SMALL.apply(model, FactCache(model), choices)
    assert error(net, model, Rows({"x": weight(1, 3, 4, 6, 6)})) == 0.0


@pytest.mark.parametrize(
    "options", [{"settings": ()}, {"settings": ("2:4", "2:4")}, {"damping": 0.0}, {"calibration_samples": 0}]
)
def test_refuses_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Sparsify(**options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
