"""quantize-log: few codes for probabilities and for what comes out of a Gelu."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Choice
from adapass.defaults import EXTENSIVE_FAMILIES, FAMILIES, QUICK_FAMILIES
from adapass.errors import DataError, RecipeError, UsageError, VerificationError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.edit import constant_array
from adapass.graph.save import to_bytes
from adapass.graph.text import parse
from adapass.ops import DOMAIN, LOG_ROUND, add_function
from adapass.passes.quantize.logarithmic.codes import LogCodes
from adapass.passes.quantize.logarithmic.quantize_log import ROUNDS, QuantizeLog
from adapass.pipeline import Pipeline
from adapass.search.damage import damages
from adapass.search.statics import with_choices
from adapass.text_form import parse_pass
from adapass.verification import compare
from tests.passes.quantize.conftest import HEADER
from tests.passes.rows import Rows, literal, weight

STEP = QuantizeLog()


def block(tail: str = "y = Add(p2, b2)", *, opset: int = 20) -> ir.Model:
    """One head of attention, then a feed-forward part: [N, 32, 8] -> [N, 32, 8]."""
    matrices = ", ".join(f"float[8, 8] w{n} = {literal(weight(i, 8, 8))}" for i, n in enumerate("qkv"))
    return parse(
        f"""
        {HEADER.replace("20", str(opset))}
        g (float[N, 32, 8] x) => (float[N, 32, 8] y)
        <{matrices}, float[8, 16] w1 = {literal(weight(4, 8, 16))}, float[16] b1 = {literal(weight(5, 16))},
         float[16, 8] w2 = {literal(weight(6, 16, 8))}, float[8] b2 = {literal(weight(7, 8))}>
        {{
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            v = MatMul(x, wv)
            kt = Transpose<perm = [0, 2, 1]>(k)
            s = MatMul(q, kt)
            p = Softmax(s)
            o = MatMul(p, v)
            p1 = MatMul(o, w1)
            h = Add(p1, b1)
            a = Gelu(h)
            p2 = MatMul(a, w2)
            {tail}
        }}
        """
    )


def rows(seed: int = 1, count: int = 24) -> Rows:
    return Rows({"x": weight(seed, count, 32, 8, scale=0.3) + np.float32(0.3)})


def choice(site: str, setting: str) -> Choice:
    return Choice("quantize-log", site, setting)


def fitted(model: ir.Model, *choices: Choice, step: QuantizeLog = STEP) -> ir.Model:
    result = model.clone()
    step.apply(result, FactCache(result), choices)
    step.fit(result, rows())
    check_structure(result)
    step.check(model, result, [rows(2).batch(range(8))])
    return result


@pytest.mark.parametrize("opset", [15, 18, 21])
@pytest.mark.parametrize("base", [1.3, 2.0])
def test_the_operator_does_what_its_codes_say(opset: int, base: float) -> None:
    model = parse(
        f'<ir_version: 8, opset_import: ["" : {opset}, "adapass" : 1]>\n'
        f"g (float[N] x) => (float[N] y) <float s = {{0.9}}, float b = {{{base}}}, float l = {{6.0}}>"
        "{ y = adapass.LogRound(x, s, b, l) }\n"
        f'<domain: "adapass", opset_import: ["" : {opset}]>\n'
        "LogRound (x, s, b, l) => (y) { y = Identity (x) }"
    )
    model.functions.clear()
    add_function(model, LOG_ROUND)
    numbers = np.concatenate([[0.0, 1e-38, 0.9, 1.0, 7.0], np.geomspace(1e-4, 1.0, 500)]).astype(np.float32)

    found = Session(model).run({"x": numbers})["y"].astype(np.float64)

    expected = LogCodes(float(np.float32(0.9)), float(np.float32(base)), 6).rounded(
        numbers.astype(np.float64)
    )
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_proposes_log_before_uniform_at_attentions_and_gelus() -> None:
    model = block()

    proposal = STEP.propose(model, FactCache(model))

    assert [(c.site, c.setting) for c in proposal.choices] == [
        (site, setting) for site in ("p", "a") for setting in ("log-4", "uniform-4", "log-3", "uniform-3")
    ]
    assert {c.detail["shift"] for c in proposal.choices} == {0.0, 0.17}


@pytest.mark.parametrize("site", ["p", "a"])
@pytest.mark.parametrize("bits", [3, 4])
def test_logarithmic_codes_damage_attention_less_than_equal_steps(site: str, bits: int) -> None:
    model, new = block(), [rows(2).batch(range(24))]

    log, uniform = (
        compare(model, fitted(model, choice(site, f"{kind}-{bits}")), feeds=new).worst().relative_rms
        for kind in ("log", "uniform")
    )

    assert 0.0 < log < 0.5
    if site == "p":
        assert log < uniform


def test_eight_bits_with_a_shift_come_close_to_the_float_model() -> None:
    """The shift of the Gelu is out of the outputs again."""
    step = QuantizeLog(bits=(8,), kinds=("uniform",))
    model = block()

    result = fitted(model, choice("a", "uniform-8"), step=step)

    assert compare(model, result, feeds=[rows(2).batch(range(8))]).worst().relative_rms < 0.02


def test_a_gemm_with_a_transposed_weight_takes_the_shift() -> None:
    model = parse(
        f"""
        {HEADER}
        g (float[N, 8] x) => (float[N, 4] y)
        <float[4, 8] w = {literal(weight(1, 4, 8))}, float[4] b = {literal(weight(2, 4))}>
        {{ a = Gelu(x)
           y = Gemm<transB = 1>(a, w, b) }}
        """
    )
    step, data = QuantizeLog(bits=(8,), kinds=("uniform",)), Rows({"x": weight(3, 64, 8)})

    result = Pipeline([step]).run(model, data=data).model

    assert compare(model, result, feeds=[data.batch(range(64))]).worst().relative_rms < 0.02


def test_masked_positions_stay_zero() -> None:
    """What weighs nothing must not weigh a little: zero has a code of its own."""
    model = block()
    scores = next(node for node in model.graph if node.outputs[0].name == "s")
    mask = ir.node("Add", [scores.outputs[0], None])
    hidden = np.zeros((32, 32), np.float32)
    hidden[:, 4:] = -1e9
    model.graph.insert_after(scores, mask)
    constant = ir.Value(
        name="mask",
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape([32, 32]),
        const_value=ir.tensor(hidden, name="mask"),
    )
    model.graph.register_initializer(constant)
    mask.replace_input_with(1, constant)
    mask.outputs[0].name = "masked"
    next(node for node in model.graph if node.op_type == "Softmax").replace_input_with(0, mask.outputs[0])

    result = fitted(model, choice("p", "log-3"))

    rounded = next(node for node in result.graph if node.op_type == LOG_ROUND).outputs[0].name or ""
    found = Session(result, outputs=[rounded]).run(rows(2).batch(range(4)))[rounded]
    assert not found[..., 4:].any()
    assert found[..., :4].any()


def test_the_base_is_fitted_to_each_tensor() -> None:
    result = fitted(block(), choice("p", "log-4"), choice("a", "log-4"))

    nodes = [node for node in result.graph if node.op_type == LOG_ROUND and node.domain == DOMAIN]
    bases = [constant_array(node.inputs[2]) for node in nodes]
    assert len(nodes) == 2
    assert all(base is not None and 1.0 < float(base.astype(np.float64)) < 2.0 for base in bases)
    assert all(set(node.metadata_props) <= {ROUNDS} for node in nodes)


@pytest.mark.parametrize("setting", ["log-4", "uniform-4"])
def test_codes_are_searched_on_what_the_float_model_computes(setting: str) -> None:
    """Rounding the attention in front, with codes not searched yet, must not show in those of the Gelu."""
    alone = fitted(block(), choice("a", "log-4"))
    together = fitted(block(), choice("p", setting), choice("a", "log-4"))

    scales = [constant_array(model.graph.initializers["a_scale"]) for model in (alone, together)]

    assert scales[0] is not None
    assert scales[0] == scales[1]


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ("y = Identity(p2)", "no bias behind it takes the shift"),
        ("y = Add(p2, x)", "no bias behind it takes the shift"),
        ("z = ReduceSum(a)\nt = Add(p2, b2)\ny = Add(t, z)", "not one product alone reads it"),
    ],
)
def test_refuses_and_says_why(tail: str, reason: str) -> None:
    model = block(tail)

    refusals = STEP.propose(model, FactCache(model)).refusals

    assert [(r.site, r.reason) for r in refusals] == [("a", reason)]


def test_a_softmax_that_is_the_output_is_refused() -> None:
    model = parse(f"{HEADER} g (float[N, 4] x) => (float[N, 4] y) {{ y = Softmax(x) }}")

    assert [r.reason for r in STEP.propose(model, FactCache(model)).refusals] == ["the model returns it"]


def test_an_old_operator_set_is_refused() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 14]> g (float[N, 4, 4] x) => (float[N, 4, 4] y) '
        "{ p = Softmax(x)\n y = MatMul(p, x) }"
    )

    assert [r.reason for r in STEP.propose(model, FactCache(model)).refusals] == [
        "the opset is below 15, which has no CastLike"
    ]


def test_classifier_probabilities_are_no_attention() -> None:
    model = parse(
        f"{HEADER} g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {{1.0, 2.0, 3.0, 4.0}}>"
        "{ p = Softmax(x)\n y = MatMul(p, w) }"
    )

    assert [r.reason for r in STEP.propose(model, FactCache(model)).refusals] == [
        "it does not weigh the values of an attention"
    ]


def test_skipped_sites_are_refused() -> None:
    model, step = block(), QuantizeLog(skip_sites=("p",))

    assert ("p", "listed in skip_sites") in {
        (r.site, r.reason) for r in step.propose(model, FactCache(model)).refusals
    }


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([choice("nowhere", "log-4")], "no choice quantize-log:nowhere=log-4"),
        ([choice("p", "log-5")], "no choice quantize-log:p=log-5"),
        ([choice("p", "log-4"), choice("p", "log-3")], "'p' is chosen twice"),
    ],
)
def test_refuses_choices_before_changing_anything(choices: list[Choice], message: str) -> None:
    model = block()
    before = to_bytes(model)

    with pytest.raises(UsageError, match=message):
        STEP.apply(model, FactCache(model), choices)

    assert to_bytes(model) == before


def test_without_data_there_is_nothing_to_search_on() -> None:
    model = block()
    STEP.run(model, FactCache(model))

    with pytest.raises(DataError, match="2 scales are searched on data"):
        STEP.fit(model, None)


def test_the_check_counts_the_codes() -> None:
    model = block()
    result = fitted(model, choice("p", "log-3"))
    node = next(node for node in result.graph if node.op_type == LOG_ROUND)
    node.domain, node.op_type = "", "Identity"
    node.resize_inputs(1)
    node.metadata_props.clear()
    STEP.check(model, result, [rows(2).feeds(0)])  # nothing to count is left
    broken = fitted(model, choice("p", "log-3"))
    body = next(iter(broken.functions.values()))
    last = body.outputs[0]
    body.outputs[0] = next(n for n in body if n.outputs[0].name == "share").outputs[0]
    assert last is not body.outputs[0]

    with pytest.raises(VerificationError, match="3 bits have codes for 8"):
        STEP.check(model, broken, [rows(2).batch(range(8))])


@pytest.mark.parametrize(
    "options", ["bits=[]", "bits=[1]", 'kinds=["cubic"]', "base=1.0", "calibration-samples=0"]
)
def test_refuses_options_that_make_no_sense(options: str) -> None:
    with pytest.raises(RecipeError):
        parse_pass(f"quantize-log{{{options}}}")


def test_it_is_in_no_default_and_saves_no_bytes() -> None:
    model = block()

    rounded = with_choices(model, STEP, [choice("p", "log-4")], rows())

    assert not any(
        text.startswith("quantize-log") for text in (*FAMILIES, *QUICK_FAMILIES, *EXTENSIVE_FAMILIES)
    )
    assert len(to_bytes(rounded)) > len(to_bytes(model))
    assert len(list(rounded.graph)) > len(list(model.graph))


def test_the_search_can_measure_what_it_damages() -> None:
    model = block()
    wanted = [choice("p", "log-4"), choice("p", "uniform-4")]

    found = damages(model, STEP, wanted, fit=rows(), samples=rows(2, 8))

    assert found["quantize-log:p=log-4"].distortion < found["quantize-log:p=uniform-4"].distortion
