"""fisher: squared gradients of what the model itself would say, sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapass.data import load_data
from adapass.errors import DataError
from adapass.graph.text import parse

torch: Any = pytest.importorskip("torch", reason="torch is an extra")

from adapass.twin.build import build_twin  # noqa: E402
from adapass.twin.fisher import fisher  # noqa: E402

SCORES = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 0, 0, -1}, float[2] idle = {1, 1}> {
        y = MatMul(x, w)
    }
"""
NUMBER = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N, 2] x) => (float[N, 1] y) <float[2, 1] w = {1, 3}> { y = MatMul(x, w) }
"""
X = np.array([[1.0, 0.5], [-2.0, 1.0], [0.0, 2.0]], np.float32)


def test_of_class_scores_is_the_expected_one() -> None:
    model = parse(SCORES)

    found = fisher(build_twin(model), load_data({"x": X}, model), draws=1500)["w"]

    # log p(c) has the slope x_i ([j = c] - p_j) in w_ij; its square averages to x_i^2 p_j (1 - p_j).
    scores = X @ np.array([[1.0, 0.0], [0.0, -1.0]])
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    expected = np.einsum("ni,nj->ij", X**2, share * (1 - share)) / len(X)
    np.testing.assert_allclose(found, expected, rtol=0.1)


def test_of_numbers_is_the_squared_slope() -> None:
    model = parse(NUMBER)

    found = fisher(build_twin(model), load_data({"x": X}, model), draws=1000)["w"]

    np.testing.assert_allclose(found, (X**2).mean(0)[:, None], rtol=0.1)


def test_probabilities_give_what_their_scores_give() -> None:
    model = parse(SCORES)
    soft = parse(SCORES.replace("y = MatMul(x, w)", "s = MatMul(x, w) y = Softmax(s)"))
    data = load_data({"x": X}, model)

    np.testing.assert_allclose(
        fisher(build_twin(soft), data)["w"], fisher(build_twin(model), data)["w"], rtol=1e-4
    )


def test_the_seed_decides() -> None:
    model = parse(SCORES)
    twin, data = build_twin(model), load_data({"x": X}, model)

    first, again, other = (fisher(twin, data, draws=20, seed=seed)["w"] for seed in (1, 1, 2))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_needs_samples() -> None:
    model = parse(SCORES)
    with pytest.raises(DataError, match="0 samples"):
        fisher(build_twin(model), load_data({"x": X}, model).subset([]))
