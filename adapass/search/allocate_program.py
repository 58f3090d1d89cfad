"""The allocation problem as a 0/1 linear program.

Variables: one x per option, one z per interaction, where z = x_a x_b. Rows, all of them ``row · v <= upper``:

1. at most one option a slot:               sum over slot of x <= 1
2. exclusions of a with options of slot B:  x_a + sum over them of x_b <= 1
3. a needs one of some options:             x_a - sum over them of x_b <= 0
4. z is at most either factor:              sum over options b of slot B of z_ab <= x_a, and the same for b
5. z is at least what both make it:         sum over a of x_a + sum over b of x_b - sum over both of z <= 1,
   where all these a of one slot interact with all these b of another

2 to 5 put together what one slot's options have in common. That is allowed because of 1, takes fewer rows,
and leaves the relaxation far less room than one row a pair would: at 1 000 slots its optimum is about 1e-5
away instead of 1e-3. With binary x, 4 and 5 leave z exactly one value, so interactions of either sign are
exact and no z needs to be declared integral.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import sparse

from adapass.search.allocate_problem import Interaction, Option, Problem, needed

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Coefficients by variable: the options first, then the interactions among them."""

    options: tuple[Option, ...]
    interactions: tuple[Interaction, ...]
    matrix: sparse.csr_array
    upper: Floats

    @property
    def variables(self) -> int:
        return len(self.options) + len(self.interactions)

    @property
    def parts(self) -> tuple[Option | Interaction, ...]:
        return (*self.options, *self.interactions)

    def saving(self) -> Floats:
        return np.array([part.saving for part in self.parts], np.float64)

    def damage(self) -> Floats:
        return np.array([part.damage for part in self.parts], np.float64)

    def use(self, resource: str) -> Floats:
        return np.array([part.use.get(resource, 0.0) for part in self.parts], np.float64)

    def active(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Values of all variables, from those of the options alone."""
        taken = {option.key for option, is_in in zip(self.options, chosen, strict=True) if is_in}
        pairs = [pair.first in taken and pair.second in taken for pair in self.interactions]
        return np.concatenate([chosen, np.array(pairs, np.bool_)])


@dataclass(slots=True)
class _Rows:
    """Collects rows; the coefficients of one row as variable -> value."""

    values: list[float] = field(default_factory=list[float])
    columns: list[int] = field(default_factory=list[int])
    starts: list[int] = field(default_factory=lambda: [0])
    upper: list[float] = field(default_factory=list[float])

    def add(self, row: Mapping[int, float], upper: float) -> None:
        self.columns.extend(row)
        self.values.extend(row.values())
        self.starts.append(len(self.columns))
        self.upper.append(upper)

    def matrix(self, variables: int) -> sparse.csr_array:
        shape = (len(self.upper), variables)
        return sparse.csr_array((self.values, self.columns, self.starts), shape=shape, dtype=np.float64)


def formulate(problem: Problem, options: Sequence[Option]) -> Program:
    """The program over ``options``, a part of the problem's that holds all options its pairs mention."""
    column = {option.key: number for number, option in enumerate(options)}
    slot = {option.key: option.slot for option in options}
    interactions = tuple(
        sorted(problem.interactions, key=lambda p: sorted((column[p.first], column[p.second])))
    )
    rows = _Rows()
    _add_slots(rows, options)
    _add_exclusions(rows, problem, column, slot)
    _add_implications(rows, problem, column)
    _add_products(rows, interactions, column, slot)
    matrix = rows.matrix(len(options) + len(interactions))
    return Program(tuple(options), interactions, matrix, np.array(rows.upper, np.float64))


def _add_slots(rows: _Rows, options: Sequence[Option]) -> None:
    members: defaultdict[str, list[int]] = defaultdict(list)
    for number, option in enumerate(options):
        members[option.slot].append(number)
    for columns in members.values():
        if len(columns) > 1:
            rows.add(dict.fromkeys(columns, 1.0), 1.0)


def _add_exclusions(
    rows: _Rows, problem: Problem, column: Mapping[str, int], slot: Mapping[str, str]
) -> None:
    grouped: defaultdict[tuple[int, str], set[int]] = defaultdict(set)
    for pair in problem.exclusions:
        first, second = sorted(pair, key=column.__getitem__)
        if slot[first] != slot[second]:
            grouped[column[first], slot[second]].add(column[second])
    for (first_column, _), others in sorted(grouped.items()):
        rows.add(dict.fromkeys([first_column, *sorted(others)], 1.0), 1.0)


def _add_implications(rows: _Rows, problem: Problem, column: Mapping[str, int]) -> None:
    rules = {
        (column[rule[0]], tuple(sorted({column[key] for key in needed(rule)})))
        for rule in problem.implications
    }
    for first, others in sorted(rules):
        if first not in others:
            rows.add({first: 1.0, **dict.fromkeys(others, -1.0)}, 0.0)


def _add_products(
    rows: _Rows, interactions: Sequence[Interaction], column: Mapping[str, int], slot: Mapping[str, str]
) -> None:
    blocks: defaultdict[tuple[str, str], dict[tuple[int, int], int]] = defaultdict(dict)
    for number, pair in enumerate(interactions):
        first, second = sorted((pair.first, pair.second), key=column.__getitem__)
        products = blocks[slot[first], slot[second]]
        products[column[first], column[second]] = len(column) + number
    for _, products in sorted(blocks.items()):
        _add_upper_sides(rows, products)
        _add_lower_sides(rows, products)


def _add_upper_sides(rows: _Rows, products: Mapping[tuple[int, int], int]) -> None:
    grouped: defaultdict[int, list[int]] = defaultdict(list)
    for (first, second), number in products.items():
        grouped[first].append(number)
        grouped[second].append(number)
    for factor, own in sorted(grouped.items()):
        rows.add({**dict.fromkeys(own, 1.0), factor: -1.0}, 0.0)


def _add_lower_sides(rows: _Rows, products: Mapping[tuple[int, int], int]) -> None:
    partners: defaultdict[int, set[int]] = defaultdict(set)
    for first, second in products:
        partners[first].add(second)
    for shared in sorted({tuple(sorted(seconds)) for seconds in partners.values()}):
        firsts = [first for first, seconds in sorted(partners.items()) if seconds.issuperset(shared)]
        block = [products[pair] for pair in product(firsts, shared)]
        rows.add({**dict.fromkeys([*firsts, *shared], 1.0), **dict.fromkeys(block, -1.0)}, 1.0)
