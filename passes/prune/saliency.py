"""Which units linear readers miss least: optimal brain surgeon, greedily.

A reader computes ``y = x @ weight`` from the moments ``gram = sum x x^T``. Without the columns S of x, and
with everything else refitted, its squared error grows by

    trace( weight[S]^T  (gram^-1[S, S])^-1  weight[S] )

(Hassibi and Stork 1993; over structures Kurtic et al. 2023, ZipLM, arXiv:2302.04089). Taking S out, weight
and inverse are updated, so the errors along the way add up to the exact error of the least-squares fit
on what is left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from adapass.passes.prune.least_squares import factored

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

DAMPING = 1e-4
"""Added to the diagonal of a Gram matrix, as a share of its mean: what is hardly ever seen stays put."""
ONE_BY_ONE = 32
"""With more units than this left, one in so many goes at a time: what they cost together is exact still."""


@dataclass(slots=True)
class Reader:
    """One reader of the units, with what is left of it."""

    weight: Doubles
    """[width, outputs]: row i belongs to column i of x; zero where columns are gone."""
    inverse: Doubles
    """[width, width], inverse of the damped Gram matrix of the columns left; zero where they are gone."""
    columns: tuple[Integers, ...]
    """For every unit the columns of x that it writes."""
    scale: float
    """Weight of this reader's error among all readers of the units."""


@dataclass(frozen=True, slots=True)
class Removal:
    """Units in the order they should go, and what each costs when those before it are gone."""

    order: tuple[int, ...]
    errors: tuple[float, ...]
    """Growth of the scaled squared error, summed over readers."""
    weights: Mapping[int, tuple[Doubles, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Of each reader, refitted, by how many units were left."""

    def kept(self, count: int, units: int) -> tuple[int, ...]:
        """The units that stay when ``count`` of ``units`` do, rising."""
        gone = frozenset(self.order[: units - count])
        return tuple(unit for unit in range(units) if unit not in gone)


def reader_of(
    weight: Doubles, gram: Doubles, columns: Sequence[Integers], *, relative: bool = True
) -> Reader:
    """A reader ready to lose units; ``relative`` counts its error as a share of the size of its output."""
    energy = float(np.sum(weight * (gram @ weight)))
    scale = 1.0 / energy if relative and energy > 0.0 else 1.0
    return Reader(weight.copy(), _inverse(gram), tuple(columns), scale)


def greedy_removal(
    readers: Sequence[Reader], units: int, *, least: int = 1, stops: Collection[int] = ()
) -> Removal:
    """Take out the units that cost least until ``least`` are left. The readers are used up.

    ``stops`` are counts of units left at which the refitted weights are noted. Ties go to the lower
    number, so the order is the same everywhere.
    """
    left = np.arange(units, dtype=np.int64)
    order: list[int] = []
    errors: list[float] = []
    weights: dict[int, tuple[Doubles, ...]] = {}
    while len(left) > max(least, 1):
        costs = np.sum([_costs(reader, left) for reader in readers], axis=0)
        most = max(1, len(left) // ONE_BY_ONE) if len(left) > ONE_BY_ONE else 1
        until = max([stop for stop in (*stops, least) if stop < len(left)], default=least)
        cheapest: Integers = np.argsort(costs, kind="stable")[: min(most, len(left) - until)]
        gone = [int(unit) for unit in left[cheapest]]
        cost = sum(_take_out(reader, gone) for reader in readers)
        order += gone
        errors += [cost / len(gone)] * len(gone)
        left = np.delete(left, cheapest)
        if len(left) in stops:
            weights[len(left)] = tuple(reader.weight.copy() for reader in readers)
    return Removal(tuple(order), tuple(errors), MappingProxyType(weights))


def by_score(scores: Doubles) -> Removal:
    """The order of rising scores, which stand for what a unit costs alone; ties go to the lower number."""
    order = np.argsort(scores, kind="stable")
    return Removal(tuple(int(unit) for unit in order), tuple(float(scores[unit]) for unit in order))


def _inverse(gram: Doubles) -> Doubles:
    """Of the damped matrix, through its Cholesky factor, by columns (Fortran) as the updates want it."""
    from scipy.linalg.lapack import dpotri

    mean = float(np.trace(gram)) / len(gram)
    factor, _ = factored(gram, DAMPING * mean if mean > 0.0 else 1.0)
    half, _ = dpotri(factor, lower=1)
    lower = np.tril(half)
    return np.asfortranarray(lower + np.tril(lower, -1).T)


def _costs(reader: Reader, left: Integers) -> Doubles:
    """What each of the units left costs alone."""
    groups = [reader.columns[int(unit)] for unit in left.tolist()]
    if len({len(group) for group in groups}) > 1:
        return np.array([_joint_cost(reader, group) for group in groups])
    places = np.stack(groups)
    if places.shape[1] == 1:
        single = places[:, 0]
        sizes = (reader.weight[single] ** 2).sum(axis=1)
        return np.asarray(reader.scale * sizes / reader.inverse[single, single])
    blocks = reader.inverse[places[:, :, None], places[:, None, :]]
    weight = reader.weight[places]
    solved = np.linalg.solve(blocks, weight)
    return np.asarray(reader.scale * np.maximum(np.einsum("uco,uco->u", weight, solved), 0.0))


def _joint_cost(reader: Reader, places: Integers) -> float:
    if len(places) == 0:
        return 0.0
    block = reader.inverse[np.ix_(places, places)]
    weight = reader.weight[places]
    return reader.scale * max(float(np.sum(weight * np.linalg.solve(block, weight))), 0.0)


def _take_out(reader: Reader, units: Sequence[int]) -> float:
    """Remove the columns of the units, refit the rest; what that cost."""
    from scipy.linalg.blas import dgemm

    gone = np.concatenate([reader.columns[unit] for unit in units])
    if len(gone) == 0:
        return 0.0
    cost = _joint_cost(reader, gone)
    columns = reader.inverse[:, gone]
    share = np.linalg.solve(columns[gone], columns.T)
    reader.weight -= share.T @ reader.weight[gone]
    reader.inverse = dgemm(-1.0, columns, share, beta=1.0, c=reader.inverse, overwrite_c=1)
    reader.weight[gone] = 0.0
    reader.inverse[gone] = 0.0
    reader.inverse[:, gone] = 0.0
    return cost
