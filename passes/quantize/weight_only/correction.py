"""A thin float branch for what coarse weights lost.

    y = x Q  ->  y = x Q + (x A) B        minimise  | x (W - Q) - x A B |^2   over A [K, r], B [r, N]

Not the singular value decomposition of W - Q itself: what counts is the error of the outputs, so the factors
are those of ``lowrank.factors`` for the error under the second moment of the inputs. Rounding and branch are
settled in turns: the next rounding is that of W - A B. (Chai et al. 2023, INT2.1, arXiv:2306.08162; Li et al.
2023, LoftQ, arXiv:2310.08659.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from adapass.passes.lowrank.factors import factorize
from adapass.passes.quantize.weight_only.grid import Doubles
from adapass.passes.quantize.weight_only.second_order import squared_error

ROUNDS = 3
Form = TypeVar("Form")


@dataclass(frozen=True, slots=True)
class Branch:
    """Factors [K, r] and [r, N], as single precision holds them."""

    left: Doubles
    right: Doubles

    def product(self) -> Doubles:
        return self.left @ self.right


def branch_of(error: Doubles, gram: Doubles | None, rank: int) -> Branch:
    """The best factors of ``error`` [K, N]; columns behind its full rank are zero."""
    factors = factorize(error, gram, rank)
    left, right = np.zeros((len(error), rank)), np.zeros((rank, error.shape[1]))
    left[:, : factors.left.shape[1]] = factors.left
    right[: len(factors.right)] = factors.right
    return Branch(*(side.astype(np.float32).astype(np.float64) for side in (left, right)))


def with_branch(
    matrix: Doubles,
    gram: Doubles | None,
    rank: int,
    rounded: Callable[[Doubles], tuple[Form, Doubles]],
) -> tuple[Form, Branch]:
    """Round and correct in turns; what left the smallest error of the outputs is kept.

    ``rounded`` gives a stored form of a matrix and the numbers it stands for.
    """
    weigh = np.eye(len(matrix)) if gram is None else gram
    branch: Branch | None = None
    best: tuple[float, Form, Branch] | None = None
    for _ in range(ROUNDS):
        form, numbers = rounded(matrix if branch is None else matrix - branch.product())
        branch = branch_of(matrix - numbers, gram, rank)
        left_over = squared_error(matrix - numbers - branch.product(), weigh)
        if best is None or left_over < best[0]:
            best = (left_over, form, branch)
    assert best is not None  # there was a round
    return best[1], best[2]
