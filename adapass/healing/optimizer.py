"""How weights move: small matrices by orthogonalised momentum, everything else by Adam. Relative to its size.

    matrix [m, n]   M <- b M + (1 - b) G,   W <- W - rate * size(W) * sqrt(max(m, n)) * orthogonal(M)
    others          Adam (Kingma and Ba 2015), rate * size a step

Adam moves every number by about the learning rate, which would tear layers of small weights apart where it is
right for others; so each tensor has its own (Shazeer and Stern 2018). A network whose normalisation has been
folded into its weights has directions that are thousands of times steeper than others; a step that is as
long in every direction of a matrix gets on in all of them. The orthogonal factor U V^T of M = U S V^T is
approximated by products of matrices alone (Jordan et al. 2024, kellerjordan.github.io/posts/muon); for
wide matrices they cost more than the gradient did, and Adam does.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from typing import Final

from adapass.twin.torch_import import Tensor, torch

WIDEST: Final = 128
"""Matrices whose smaller side is at most this long are orthogonalised."""
_MOMENTUM: Final = 0.95
_BETAS: Final = (0.9, 0.99)
_TINY: Final = 1e-8
_NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
"""Coefficients that bring singular values from anywhere in (0, 1] near 1 within five steps."""
_ITERATIONS: Final = 5


class Optimizer:
    """Moves ``free`` tensors along their gradients."""

    def __init__(
        self, free: Mapping[str, Tensor], sizes: Mapping[str, float], *, weight_decay: float = 0.0
    ) -> None:
        self._free = dict(free)
        self._sizes = dict(sizes)
        self._decay = weight_decay
        self.steps = 0
        self.first = {name: torch.zeros_like(tensor) for name, tensor in free.items()}
        self.second = {
            name: torch.zeros_like(tensor) for name, tensor in free.items() if not is_orthogonalised(tensor)
        }

    def clear(self) -> None:
        """Forget the gradients."""
        for tensor in self._free.values():
            tensor.grad = None

    def step(self, rate: float) -> None:
        self.steps += 1
        with torch.no_grad():
            for name, tensor in self._free.items():
                if tensor.grad is None:
                    continue
                if self._decay:
                    tensor.mul_(1 - rate * self._decay)
                change = (
                    self._adam(name, tensor.grad) if name in self.second else self._whole(name, tensor.grad)
                )
                tensor.sub_(change, alpha=rate * self._sizes[name])

    def _adam(self, name: str, gradient: Tensor) -> Tensor:
        one, two = _BETAS
        first, second = self.first[name], self.second[name]
        first.lerp_(gradient, 1 - one)
        second.mul_(two).addcmul_(gradient, gradient, value=1 - two)
        spread = (second / (1 - two**self.steps)).sqrt_().add_(_TINY)
        return first / spread / (1 - one**self.steps)

    def _whole(self, name: str, gradient: Tensor) -> Tensor:
        first = self.first[name]
        first.lerp_(gradient, 1 - _MOMENTUM)
        ahead = gradient.lerp(first, _MOMENTUM).flatten(1)  # Nesterov
        return (orthogonal(ahead) * sqrt(max(ahead.shape))).reshape(gradient.shape)


def is_orthogonalised(tensor: Tensor) -> bool:
    """Whether a tensor, seen as ``[rows, everything else]``, is a matrix that is narrow one way."""
    if tensor.ndim < 2:
        return False
    rows, columns = tensor.shape[0], prod(tensor.shape[1:])
    return bool(1 < min(rows, columns) <= WIDEST)


def orthogonal(matrix: Tensor) -> Tensor:
    """Roughly U V^T where ``matrix`` is U S V^T: singular values between 0.7 and 1.2; 0 for zeros."""
    a, b, c = _NEWTON_SCHULZ
    turned = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if turned else matrix
    x = x / (x.norm() + 1e-30)
    for _ in range(_ITERATIONS):
        squares = x @ x.T
        x = a * x + (b * squares + c * squares @ squares) @ x
    return x.T if turned else x
