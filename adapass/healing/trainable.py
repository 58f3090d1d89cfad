"""What is trained: the weights themselves, or low-rank corrections to frozen weights.

A correction of rank r to a weight seen as a matrix [rows, columns] is B A with B [rows, r] and A [r, columns]
(Hu et al. 2021); B starts at zero, so training starts from the model as it is. ``fold`` adds it to the
weight. Vectors (biases, scales) are small and trained themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod

import numpy as np

from adapass.budgeted import Array
from adapass.twin.dtypes import to_array, to_tensor
from adapass.twin.torch_import import Tensor, torch
from adapass.twin.twin import Twin

MASKED_SHARE = 0.2
"""From this share of exact zeros on, a weight counts as masked: trained weights have almost none."""

SMALLEST_SIZE = 1e-3


class Trainable:
    """The free tensors of a twin, by name, and how they act."""

    def __init__(
        self,
        twin: Twin,
        *,
        rank: int = 0,
        keep_zeros: bool = True,
        frozen: Collection[str] = (),
        seed: int = 0,
    ) -> None:
        self.twin = twin
        self._masks: dict[str, Tensor] = {}
        self._bases: dict[str, Tensor] = {}
        self.free: dict[str, Tensor] = {}
        self.sizes: dict[str, float] = {}
        """By free tensor, what counts as its size: steps are taken relative to it."""
        random = np.random.default_rng([seed, 3])
        for name in twin.weights:
            weight = twin.parameter(name)
            if name in frozen:
                weight.requires_grad_(False)
                continue
            zero = weight.detach() == 0
            if keep_zeros and weight.ndim > 1 and float(zero.float().mean()) >= MASKED_SHARE:
                self._masks[name] = ~zero
            if rank and weight.ndim > 1 and min(weight.shape[0], prod(weight.shape[1:])) > rank:
                self._add_correction(name, weight, rank, random)
            else:
                self.free[name] = weight
                self.sizes[name] = _size(weight)

    def _add_correction(self, name: str, weight: Tensor, rank: int, random: np.random.Generator) -> None:
        rows, columns = weight.shape[0], prod(weight.shape[1:])
        weight.requires_grad_(False)
        start = random.standard_normal((rank, columns)) / np.sqrt(columns)
        self._bases[name] = weight
        self.free[f"{name}/A"] = to_tensor(start).to(weight.dtype).requires_grad_()
        self.free[f"{name}/B"] = torch.zeros(rows, rank, dtype=weight.dtype, requires_grad=True)
        # A has rows of length 1, so B of this size makes a correction of the size of the weight.
        self.sizes[f"{name}/A"] = 1 / float(np.sqrt(columns))
        self.sizes[f"{name}/B"] = _size(weight) * float(np.sqrt(columns / rank))

    def corrected(self) -> Mapping[str, Tensor] | None:
        """Weights that stand in for parameters of the module; ``None`` where none do."""
        if not self._bases:
            return None
        return {self.twin.weights[name]: self._sum(name) for name in self._bases}

    def _sum(self, name: str) -> Tensor:
        base = self._bases[name]
        weight = base + (self.free[f"{name}/B"] @ self.free[f"{name}/A"]).reshape(base.shape)
        return weight * self._masks[name] if name in self._masks else weight

    def compute(self, feeds: Mapping[str, Array]) -> dict[str, Tensor]:
        return self.twin.compute(feeds, self.corrected())

    def restore_zeros(self) -> None:
        """After a step: what a mask holds at zero goes back to it."""
        with torch.no_grad():
            for name, mask in self._masks.items():
                if name in self.free:
                    self.free[name].mul_(mask)

    def fold(self) -> None:
        """Add the corrections to their weights; they start again from nothing."""
        with torch.no_grad():
            for name, base in self._bases.items():
                base.copy_(self._sum(name))
                self.free[f"{name}/B"].zero_()

    def state(self) -> dict[str, Array]:
        """Copies of all free tensors."""
        return {name: to_array(tensor).copy() for name, tensor in self.free.items()}

    def load(self, state: Mapping[str, Array]) -> None:
        with torch.no_grad():
            for name, tensor in self.free.items():
                tensor.copy_(to_tensor(state[name]))


def _size(weight: Tensor) -> float:
    """Root mean square, with a floor for weights that begin at zero."""
    return max(float(weight.detach().float().square().mean().sqrt()), SMALLEST_SIZE)
