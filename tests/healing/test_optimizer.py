"""How weights move: as far as asked, in every direction of a matrix, and the same after a break."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch", reason="torch is an extra")

from adapass.healing.optimizer import WIDEST, Optimizer, is_orthogonalised, orthogonal  # noqa: E402


def matrix(rows: int, columns: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32))


@pytest.mark.parametrize(("rows", "columns"), [(6, 20), (20, 6), (8, 8)])
def test_orthogonal_factors_have_singular_values_near_one(rows: int, columns: int) -> None:
    steep = matrix(rows, columns) * torch.logspace(0, -1.5, columns)

    found = orthogonal(steep)

    u, _, v = np.linalg.svd(steep.numpy(), full_matrices=False)
    sizes = np.linalg.svd(found.numpy(), compute_uv=False)
    assert sizes.max() < 1.3
    assert sizes.min() > 0.6
    assert np.trace(found.numpy().T @ (u @ v)) > 0.9 * np.linalg.norm(found.numpy()) * np.linalg.norm(u @ v)


def test_nothing_to_follow_is_no_step() -> None:
    assert float(orthogonal(torch.zeros(3, 5)).abs().max()) == 0.0


def test_small_matrices_are_orthogonalised_and_nothing_else() -> None:
    assert is_orthogonalised(torch.zeros(WIDEST, 999))
    assert is_orthogonalised(torch.zeros(16, 4, 3, 3))
    assert not is_orthogonalised(torch.zeros(WIDEST + 1, WIDEST + 1))
    assert not is_orthogonalised(torch.zeros(64))
    assert not is_orthogonalised(torch.zeros(1, 64))  # depthwise filters seen from one side, biases


@pytest.mark.parametrize("shape", [(4, 9), (200, 300), (7,)])
def test_the_first_step_is_as_long_as_asked(shape: tuple[int, ...]) -> None:
    weight = torch.zeros(shape, requires_grad=True)
    optimizer = Optimizer({"w": weight}, {"w": 0.5})
    weight.grad = torch.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(np.float32)) * 30

    optimizer.step(0.01)

    moved = float(weight.detach().square().mean().sqrt())
    assert 0.7 * 0.005 < moved < 1.3 * 0.005
    assert float((weight.detach() * weight.grad).sum()) < 0


def test_decay_shrinks() -> None:
    weight = torch.ones(3, requires_grad=True)
    optimizer = Optimizer({"w": weight}, {"w": 1.0}, weight_decay=0.5)
    weight.grad = torch.zeros(3)

    optimizer.step(0.1)

    assert weight.detach().numpy() == pytest.approx(0.95)


def test_an_ill_conditioned_matrix_is_learned_in_all_directions() -> None:
    """Least squares with inputs whose directions differ in size a hundredfold."""
    x = matrix(256, 12) * torch.logspace(0, -2, 12)
    wanted = matrix(12, 12, seed=1)
    weight = torch.zeros(12, 12, requires_grad=True)
    optimizer = Optimizer({"w": weight}, {"w": 1.0})

    for step in range(200):
        optimizer.clear()
        ((x @ weight - x @ wanted) ** 2).mean().backward()
        optimizer.step(0.05 * (1 - step / 200))

    error = (weight.detach() - wanted).square().mean(1) / wanted.square().mean(1)
    assert float(error.max()) < 0.1
