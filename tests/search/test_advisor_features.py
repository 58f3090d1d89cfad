"""What the recipe advisor counts as similar."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from adapass.facts import FactCache
from adapass.graph.load import load_model
from adapass.graph.text import parse
from adapass.search.advisor import (
    ModelFeatures,
    WorkShares,
    distance,
    features_of,
)
from tests.search.past import (
    BASE,
)

SHARED = Path(os.environ.get("ADAPASS_SHARED", Path(__file__).parents[2].parent / "shared"))

CNN = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 3, 8, 8] image) => (float[N, 4] y)
<float[4, 3, 3, 3] c = {CONV}, float[4, 1, 3, 3] d = {DEPTHWISE}, float[4, 4] w = {FULL}>
{
    a = Conv <pads = [1, 1, 1, 1]> (image, c)
    r = Relu (a)
    b = Conv <group = 4, pads = [1, 1, 1, 1]> (r, d)
    p = GlobalAveragePool (b)
    f = Flatten (p)
    y = MatMul (f, w)
}
"""

TRANSFORMER = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, T, 4] x) => (float[N, T, 4] y) <float[4, 4] w = {FULL}, float s = {0.5}>
{
    q = MatMul (x, w)
    k = MatMul (x, w)
    v = MatMul (x, w)
    kt = Transpose <perm = [0, 2, 1]> (k)
    scores = MatMul (q, kt)
    scaled = Mul (scores, s)
    p = Softmax <axis = -1> (scaled)
    m = MatMul (p, v)
    y = MatMul (m, w)
}
"""

MLP = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 4] x) => (float[N, 4] y) <float[4, 4] w = {FULL}> { h = MatMul (x, w) y = Relu (h) }
"""


def described(text: str, *, scale: float = 1.0, **circumstances: object) -> ModelFeatures:
    counts = {"CONV": 108, "DEPTHWISE": 36, "FULL": 16}
    for name, count in counts.items():
        text = text.replace(name, ", ".join(str(scale * 0.01 * (i + 1)) for i in range(count)))
    given = {"target": "cpu", "generator": "onnxruntime", "threads": 2, "batch": 1, "max_drop": 0.01}
    return features_of(parse(text), **{**given, "metric": "accuracy", **circumstances})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class TestFeatures:
    def test_operators_tell_a_cnn_from_a_transformer(self) -> None:
        cnn, transformer = described(CNN), described(TRANSFORMER)

        # 2 * 4*8*8 * 27 of the convolution, 2 * 4*8*8 * 9 of the one by channel.
        assert cnn.work.conv == pytest.approx(3 * cnn.work.depthwise)
        assert cnn.work.conv > 0.6
        assert cnn.work.attention == 0.0
        assert (cnn.has_image_input, cnn.has_token_axis) == (True, False)
        assert transformer.work.attention > transformer.work.matmul > 0.05
        assert transformer.work.conv == 0.0
        assert (transformer.has_image_input, transformer.has_token_axis) == (False, True)
        assert distance(cnn, transformer) > 2.0

    @pytest.mark.parametrize("text", [CNN, TRANSFORMER, MLP])
    def test_shares_are_shares_and_weights_are_counted(self, text: str) -> None:
        features = described(text)
        work = features.work

        assert work.conv + work.depthwise + work.matmul + work.attention + work.other == pytest.approx(1.0)
        assert 10**features.log_weights == pytest.approx({CNN: 160, TRANSFORMER: 17, MLP: 16}[text])

    def test_values_of_weights_do_not_count(self) -> None:
        for text in (CNN, TRANSFORMER, MLP):
            assert described(text) == described(text, scale=-3.0)

    def test_a_vector_is_neither_an_image_nor_tokens(self) -> None:
        features = described(MLP)

        assert (features.has_vector_input, features.has_image_input, features.has_token_axis) == (
            True,
            False,
            False,
        )

    def test_token_ids_of_fixed_length_count_as_tokens(self) -> None:
        text = """
        <ir_version: 10, opset_import: ["" : 20]>
        g (int64[1, 6] ids) => (float[1, 6, 2] y) <float[3, 2] e = {1, 2, 3, 4, 5, 6}> { y = Gather (e, ids) }
        """

        assert described(text).has_token_axis
        assert described(text).work == WorkShares(other=1.0)

    def test_a_number_for_each_token_is_no_vector(self) -> None:
        text = """
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[N, T] x) => (float[N, T] y) { y = Softmax <axis = -1> (x) }
        """

        assert (described(text).has_token_axis, described(text).has_vector_input) == (True, False)

    def test_a_grey_image_makes_no_depthwise_convolution(self) -> None:
        text = """
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[N, 1, 8, 8] x) => (float[N, 4, 6, 6] y) <float[4, 1, 3, 3] c = {DEPTHWISE}>
        { y = Conv (x, c) }
        """

        assert described(text).work == WorkShares(conv=1.0)

    def test_known_facts_are_used(self) -> None:
        model = parse(MLP.replace("FULL", ", ".join(["1"] * 16)))
        facts = FactCache(model)
        features = features_of(
            model,
            target="cpu",
            generator="tvm",
            threads=1,
            batch=8,
            max_drop=0.0,
            metric="mse",
            facts=facts,
        )

        assert facts.known()
        assert features.circumstances == ("cpu", "tvm", 1, 8, 0.0, "mse")

    @pytest.mark.real_models
    def test_real_models_of_one_kind_are_near_and_others_are_not(self) -> None:
        folder = SHARED / "models"
        if not folder.is_dir():
            pytest.skip(f"{folder} is absent: set ADAPASS_SHARED to the folder with the trained models")
        small, large, words = (
            features_of(
                load_model(folder / f"{name}.onnx"),
                target="cpu",
                generator="onnxruntime",
                threads=2,
                batch=1,
                max_drop=0.01,
                metric="accuracy",
            )
            for name in ("resnet20-cifar10", "resnet56-cifar10", "minilm-sst2")
        )

        assert distance(small, large) < 0.5
        assert min(distance(small, words), distance(large, words)) > 2.0


class TestDistance:
    def test_is_zero_for_the_same_and_symmetric(self) -> None:
        other = replace(BASE, batch=8, cut_points=3, work=WorkShares(conv=1.0), log_weights=5.0)

        assert distance(BASE, BASE) == 0.0
        assert distance(BASE, other) == distance(other, BASE) > 0.0

    @pytest.mark.parametrize(
        ("other", "expected"),
        [
            pytest.param(replace(BASE, work=WorkShares(matmul=0.4, attention=0.6)), 1.0, id="half-the-work"),
            pytest.param(replace(BASE, log_weights=8.0), 0.25, id="ten-times-the-weights"),
            pytest.param(replace(BASE, log_flops=8.0), 0.25, id="a-tenth-of-the-flops"),
            pytest.param(replace(BASE, cut_points=31), 0.1, id="twice-the-cuts"),
            pytest.param(replace(BASE, has_image_input=True), 0.25, id="an-image"),
            pytest.param(replace(BASE, has_vector_input=True), 0.25, id="a-vector"),
            pytest.param(replace(BASE, has_token_axis=False), 0.25, id="no-tokens"),
            pytest.param(replace(BASE, metric="mse"), 0.25, id="another-metric"),
            pytest.param(replace(BASE, threads=4), 0.15, id="twice-the-threads"),
            pytest.param(replace(BASE, batch=32), 0.75, id="batch-32"),
            pytest.param(replace(BASE, max_drop=0.1), 0.5, id="ten-times-the-budget"),
            pytest.param(replace(BASE, max_drop=0.0), 1.0, id="no-budget"),
        ],
    )
    def test_each_term_counts_as_documented(self, other: ModelFeatures, expected: float) -> None:
        assert distance(BASE, other) == pytest.approx(expected)
