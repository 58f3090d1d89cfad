"""Matrix products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from adapass.twin.torch_import import Tensor, torch


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803  (names of ONNX)
    transB: int = 0,  # noqa: N803
) -> Tensor:
    product = torch.matmul(a.t() if transA else a, b.t() if transB else b)
    if alpha != 1.0:
        product = product * alpha
    if c is None:
        return product.to(a.dtype)
    return (product + (c if beta == 1.0 else c * beta)).to(a.dtype)


def einsum(*inputs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *inputs)


def determinant(x: Tensor) -> Tensor:
    return torch.det(x)


def fused_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """``com.microsoft.FusedMatMul`` without its batch transpositions."""
    return torch.matmul(a.mT if transA else a, b.mT if transB else b) * alpha


OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "Det": determinant,
    "Einsum": einsum,
    "Gemm": gemm,
    "MatMul": matmul,
    "com.microsoft::FusedMatMul": fused_matmul,
}
