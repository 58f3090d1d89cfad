"""factorize as a budgeted pass: forms, ranks, numbers, and what it refuses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Choice
from adapass.errors import UsageError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.text import parse
from adapass.passes.lowrank.factorize import Factorize
from adapass.pipeline import Pipeline
from adapass.text_form import parse_pass
from tests.passes.rows import Rows, literal, weight

SMALL = Factorize(min_elements=64, multiple=1, shares=(0.6,))


def convolution(attributes: str, shape: tuple[int, int, int, int] = (12, 8, 3, 3)) -> ir.Model:
    outputs, inputs, high, wide = shape
    return parse(
        f"""
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[N, {inputs}, 9, 7] x) => (float[N, {outputs}, H, W] y)
        <float[{outputs}, {inputs}, {high}, {wide}] w = {literal(weight(1, *shape))},
         float[{outputs}] b = {literal(weight(2, outputs))}>
        {{ y = Conv<{attributes}>(x, w, b) }}
        """
    )


@pytest.fixture(scope="module")
def mlp() -> ir.Model:
    """A product with a bias, one without, and a transposed, scaled Gemm: [N, 24] -> [N, 10]."""
    return parse(
        f"""
        <ir_version: 10, opset_import: ["" : 20]>
        net (float[N, 24] x) => (float[N, 10] y)
        <float[24, 32] w1 = {literal(weight(1, 24, 32))}, float[32] b1 = {literal(weight(2, 32))},
         float[32, 16] w2 = {literal(weight(3, 32, 16))},
         float[10, 16] w3 = {literal(weight(4, 10, 16))}, float[10] b3 = {literal(weight(5, 10))}>
        {{
            p1 = MatMul(x, w1)
            s1 = Add(p1, b1)
            h = Tanh(s1)
            p2 = MatMul(h, w2)
            y = Gemm<transB = 1, alpha = 0.5>(p2, w3, b3)
        }}
        """
    )


@pytest.fixture(scope="module")
def rows() -> Rows:
    rng = np.random.default_rng(0)
    low = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 24)) + 2.0 + 0.05 * rng.normal(size=(300, 24))
    return Rows({"x": np.asarray(low, np.float32)})


def images(channels: int = 8) -> Rows:
    rng = np.random.default_rng(0)
    low: npt.NDArray[np.float64] = (
        np.einsum("ck,nkhw->nchw", rng.normal(size=(channels, 3)), rng.normal(size=(60, 3, 9, 7))) + 1.0
    )
    return Rows({"x": (low + rng.normal(size=low.shape)).astype(np.float32)})


def error(a: ir.Model, b: ir.Model, data: Rows) -> float:
    feeds = data.batch(range(len(data)))
    one, two = (Session(m).run(feeds)["y"].astype(np.float64) for m in (a, b))
    assert one.shape == two.shape
    return float(np.mean((one - two) ** 2) / np.mean(one**2))


def applied(step: Factorize, model: ir.Model, choice: Choice, data: Rows | None) -> ir.Model:
    copy = model.clone()
    assert step.apply(copy, FactCache(copy), [choice]).sites == (choice.site,)
    step.fit(copy, data)
    check_structure(copy)
    return copy


def test_ranks_leave_the_share_of_the_work(mlp: ir.Model) -> None:
    step = Factorize(min_elements=64, multiple=4, shares=(0.5, 0.75, 0.1))

    proposal = step.propose(mlp, FactCache(mlp))

    # p1 [24, 32]: 56 a rank of 768; p2 [32, 16]: 48 of 512; y [16, 10]: 26 of 160
    assert [(c.site, c.setting) for c in proposal.choices] == [
        ("p1", "rank-4"),
        ("p1", "rank-8"),
        ("p2", "rank-4"),
        ("p2", "rank-8"),
        ("y", "rank-4"),
    ]
    assert proposal.choices[0].detail["share_of_work"] == pytest.approx(4 * 56 / 768)


@pytest.mark.parametrize(
    ("step", "site", "reason"),
    [
        pytest.param(Factorize(), "p1", "the weight is too small", id="small"),
        pytest.param(
            Factorize(min_elements=64, skip_sites=("p1",)), "p1", "listed in skip_sites", id="skipped"
        ),
        pytest.param(Factorize(min_elements=64), "y", "no rank saves work", id="no-rank"),
    ],
)
def test_refuses_and_says_why(mlp: ir.Model, step: Factorize, site: str, reason: str) -> None:
    refusals = {refusal.site: refusal.reason for refusal in step.propose(mlp, FactCache(mlp)).refusals}

    assert refusals[site] == reason


@pytest.mark.parametrize("site", ["p1", "p2", "y"])
def test_data_makes_factors_of_products_better(mlp: ir.Model, rows: Rows, site: str) -> None:
    choice = Choice("factorize", site, "rank-5")

    plain, fitted = (error(mlp, applied(SMALL, mlp, choice, data), rows) for data in (None, rows))

    assert fitted < 0.4 * plain


def test_the_rank_of_the_inputs_is_enough(mlp: ir.Model, rows: Rows) -> None:
    """All that the inputs vary in is kept, the mean goes through the bias."""
    fitted = applied(SMALL, mlp, Choice("factorize", "p1", "rank-9"), rows)

    assert error(mlp, fitted, rows) < 1e-3


CONVOLUTIONS = [
    "pads = [1, 1, 1, 1]",
    "strides = [2, 1], pads = [0, 1, 2, 0]",
    "dilations = [2, 1], strides = [1, 2], pads = [2, 0, 2, 1]",
    'auto_pad = "SAME_UPPER", strides = [2, 2]',
]


@pytest.mark.parametrize("attributes", CONVOLUTIONS)
def test_convolutions_become_fewer_channels(attributes: str) -> None:
    model, data = convolution(attributes), images()
    choice = Choice("factorize", "y", "channels-5")

    plain, fitted = (error(model, applied(SMALL, model, choice, d), data) for d in (None, data))

    assert fitted < plain < 0.7
    assert error(model, applied(SMALL, model, Choice("factorize", "y", "channels-10"), data), data) < fitted


@pytest.mark.parametrize("attributes", CONVOLUTIONS[:3])
@pytest.mark.parametrize("kernel", [(5, 3), (2, 4)])
def test_convolutions_become_columns_and_rows(attributes: str, kernel: tuple[int, int]) -> None:
    model, data = convolution(attributes, (24, 16, *kernel)), images(16)

    found = [
        error(model, applied(SMALL, model, Choice("factorize", "y", f"spatial-{rank}"), data), data)
        for rank in (4, 8, 12)
    ]
    plain = error(model, applied(SMALL, model, Choice("factorize", "y", "spatial-8"), None), data)

    assert found[0] > found[1] > found[2]
    assert found[1] < plain


def test_both_forms_are_offered_where_both_save() -> None:
    model = convolution("pads = [1, 1, 1, 1]", (24, 16, 3, 3))

    found = {choice.setting for choice in SMALL.propose(model, FactCache(model)).choices}

    # channels: 16 * 9 + 24 = 168 a rank of 3456; spatial: 16 * 3 + 24 * 3 = 120
    assert found == {"channels-12", "spatial-17"}


def test_runs_in_a_pipeline_and_parses_back(mlp: ir.Model, rows: Rows) -> None:
    step = Factorize(min_elements=64, multiple=4)

    result = Pipeline([step]).run(mlp, data=rows)

    assert result.changed
    assert parse_pass(str(step)) == step


@pytest.mark.parametrize(
    "setting", ["rank-0", "rank-24", "rank-14", "spatial-4", "rank", "rank-x", "other-4"]
)
def test_refuses_settings_it_does_not_have(mlp: ir.Model, setting: str) -> None:
    model = mlp.clone()

    with pytest.raises(UsageError, match=f"p1={setting}"):
        SMALL.apply(model, FactCache(model), [Choice("factorize", "p1", setting)])


def test_refuses_unknown_and_repeated_sites(mlp: ir.Model) -> None:
    model = mlp.clone()
    twice = [Choice("factorize", "p1", "rank-4"), Choice("factorize", "p1", "rank-5")]

    for choices in ([Choice("factorize", "nowhere", "rank-4")], twice):
        with pytest.raises(UsageError):
            SMALL.apply(model, FactCache(model), choices)


@pytest.mark.parametrize(
    "options", [{"shares": ()}, {"shares": (1.0,)}, {"multiple": 0}, {"calibration_samples": 0}]
)
def test_refuses_options_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Factorize(**options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
